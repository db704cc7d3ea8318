import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { BlockList, isIPv6 } from 'node:net';

declare module 'node:http' {
  interface IncomingMessage {
    /** For those who see the raw request alone. */
    id?: string;
  }
}

/** What an id from outside must look like to enter a log line. */
const ACCEPTED = /^[A-Za-z0-9._-]{1,64}$/;

/**
 * Ids for requests: the one that a trusted proxy sent, if it is harmless, else one of our own. A
 * random prefix a process and a counter are unique enough and cost less than a UUID.
 */
export function createRequestIds(trustedProxies: string[]) {
  const isTrusted = createTrust(trustedProxies);
  const prefix = randomBytes(8).toString('base64url').replaceAll('_', '.');
  let counter = 0;
  const next = () => `${prefix}-${(counter++).toString(36)}`;
  return {
    next,
    of(request: IncomingMessage): string {
      const sent = request.headers['x-request-id'];
      const accepted =
        typeof sent === 'string' && ACCEPTED.test(sent) && isTrusted(request.socket.remoteAddress ?? '');
      return (request.id = accepted ? sent : next());
    },
  };
}

/** Whether an address is one of these addresses and CIDRs; a mapped IPv4 address counts as IPv4. */
function createTrust(proxies: string[]): (address: string) => boolean {
  const list = new BlockList();
  for (const proxy of proxies) {
    const [address = '', bits] = proxy.split('/');
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return (address) =>
    list.check(address.replace(/^::ffff:(?=\d+\.)/, ''), address.includes('.') ? 'ipv4' : 'ipv6');
}
