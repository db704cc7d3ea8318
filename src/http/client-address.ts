import { BlockList, isIP } from 'node:net';

const IPV4_WITH_PORT = /^(\d+\.\d+\.\d+\.\d+):\d+$/;
const IN_BRACKETS = /^\[([^\]]+)\](?::\d+)?$/;

/**
 * An address as everything here writes it, whoever wrote it before: without port, brackets, quotes and zone, IPv6 in
 * its short form, and an IPv4 address in IPv6 form as IPv4. Undefined for what is no address, such as `unknown`.
 */
export function plainAddress(text: string | undefined): string | undefined {
  const bare = text?.trim().replaceAll('"', '') ?? '';
  const address = (IN_BRACKETS.exec(bare) ?? IPV4_WITH_PORT.exec(bare))?.[1] ?? bare;
  if (isIP(address) !== 6) return isIP(address) === 4 ? address : undefined;
  const short = new URL(`http://[${address.replace(/%.*$/, '')}]`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/.exec(short) ?? [];
  if (high === undefined || low === undefined) return short;
  const bits = [high, low].map((half) => parseInt(half, 16));
  return bits.flatMap((half) => [half >> 8, half & 0xff]).join('.');
}

/** The last hop that has an address: from the socket over the trusted proxies to the client. */
export function clientAddress(hops: readonly (string | undefined)[]): string {
  return plainAddress(hops.findLast((hop) => plainAddress(hop) !== undefined)) ?? '';
}

/** What counts as one client: an IPv4 address, or the /64 of an IPv6 address, of which one client has all. */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address;
  const [head = '', tail = ''] = address.split('::');
  const groups = head.split(':').filter(Boolean);
  const rest = tail.split(':').filter(Boolean);
  const zeros = Array<string>(Math.max(0, 8 - groups.length - rest.length)).fill('0');
  return `${[...groups, ...zeros, ...rest].slice(0, 4).join(':')}::/64`;
}

/** Whether an address, in any of its forms, is one of these addresses and CIDRs. */
export function createTrust(proxies: string[]): (address: string | undefined) => boolean {
  const list = new BlockList();
  for (const proxy of proxies) {
    const [address = '', bits] = proxy.split('/');
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  // Proxies are few and send everything, and a look into the list costs more than the rest of an id.
  let last: string | undefined;
  let trusted = false;
  return (address) => {
    if (address !== last) {
      const plain = plainAddress(address);
      trusted = plain !== undefined && list.check(plain, plain.includes(':') ? 'ipv6' : 'ipv4');
      last = address;
    }
    return trusted;
  };
}
