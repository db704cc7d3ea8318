import { BlockList, isIP } from 'node:net';

/** True when traffic to `host` cannot leave this machine: loopback addresses, localhost, a socket's path. */
export function isLoopback(host: string): boolean {
  return host.startsWith('/') || host.toLowerCase() === 'localhost' || contains(loopback, host);
}

/**
 * True for names and addresses that only mean something inside a private network: container and
 * service names, cluster and `.internal` domains, RFC 1918 and unique local (RFC 4193) addresses.
 * Other names may resolve to anywhere, so a connection to them has to prove whom it reached.
 */
export function isPrivateHost(host: string): boolean {
  return isLoopback(host) || contains(privateNetworks, host) || isPrivateName(host.toLowerCase());
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

const privateNetworks = new BlockList();
privateNetworks.addSubnet('10.0.0.0', 8, 'ipv4');
privateNetworks.addSubnet('172.16.0.0', 12, 'ipv4');
privateNetworks.addSubnet('192.168.0.0', 16, 'ipv4');
privateNetworks.addSubnet('fc00::', 7, 'ipv6');

function contains(networks: BlockList, host: string): boolean {
  const version = isIP(host);
  return version !== 0 && networks.check(host, version === 4 ? 'ipv4' : 'ipv6');
}

function isPrivateName(host: string): boolean {
  if (/^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.(svc|internal|local)$/.test(host)) return true;
  // Resolvers read 134744072 and 0x08080808 as the public address 8.8.8.8.
  return /^[a-z0-9_-]+$/.test(host) && !/^(\d+|0x[0-9a-f]*)$/.test(host);
}
