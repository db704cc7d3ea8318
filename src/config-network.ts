import { isIP } from 'node:net';
import { splitList, textSchema, type Kind } from './config-kinds.ts';

/**
 * Proxies whose X-Forwarded-For is believed. Fastify would also take `true` (believes everybody)
 * and a number (silently ignored since 5.12), so only addresses and networks pass.
 */
export const proxyList: Kind<string[]> = {
  schema: textSchema((text, refuse) => {
    const proxies = splitList(text);
    for (const proxy of proxies) {
      const reason = findProxyFault(proxy);
      if (reason !== undefined) refuse(`${JSON.stringify(proxy)} ${reason}`);
    }
    return proxies;
  }),
  allowed: 'IP addresses and CIDR networks (IPv4 prefix from 8, IPv6 from 7), separated by commas',
  example: '10.0.0.0/8,fd00::/8',
};

const FORGED = 'would let every client forge X-Forwarded-For, and with it its address and its rate limit';

function findProxyFault(proxy: string): string | undefined {
  if (proxy === '*' || proxy.toLowerCase() === 'true') return FORGED;
  if (/^\d+$/.test(proxy)) return `is a hop count: it ${FORGED}`;
  const [address = '', prefix, ...rest] = proxy.split('/');
  const version = isIP(address);
  if (version === 0 || address.includes('%')) return 'is not an IP address or CIDR network';
  if (version === 6 && new URL(`http://[${address}]`).hostname.startsWith('[::ffff:')) {
    return 'is an IPv4 address in IPv6 form; write the IPv4 address';
  }
  if (prefix === undefined) return undefined;
  if (rest.length > 0 || !/^\d{1,3}$/.test(prefix) || Number(prefix) > (version === 4 ? 32 : 128)) {
    return 'has no valid prefix length';
  }
  if (Number(prefix) < (version === 4 ? 8 : 7)) return `is too wide: it ${FORGED}`;
  return undefined;
}

/** Browser origins that may read answers. They are compared as text, so each must be what a browser sends. */
export const originList: Kind<string[]> = {
  schema: textSchema((text, refuse) => {
    const origins = splitList(text);
    for (const origin of origins) {
      const reason = findOriginFault(origin);
      if (reason !== undefined) refuse(`${JSON.stringify(origin)} ${reason}`);
    }
    return origins;
  }),
  allowed: 'exact origins scheme://host[:port], separated by commas; http:// for localhost only',
  example: 'https://app.example.com',
};

function findOriginFault(origin: string): string | undefined {
  if (origin.includes('*')) return 'is a wildcard: any site could read answers; name each origin';
  if (origin === 'null') return 'is sent by sandboxed pages of any site; name each origin';
  const url = URL.canParse(origin) ? new URL(origin) : undefined;
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:') return 'is not an origin';
  if (url.protocol === 'http:' && !['localhost', '127.0.0.1'].includes(url.hostname)) {
    return 'is not encrypted: http:// is for localhost and 127.0.0.1';
  }
  if (url.origin !== origin) return `is not what a browser sends, which is ${url.origin}`;
  return undefined;
}

/** Names of HTTP headers, in lower case. */
export const headerNames: Kind<string[]> = {
  schema: textSchema((text, refuse) => {
    const names = splitList(text.toLowerCase());
    for (const name of names) {
      // A wildcard would not hold for Authorization (Fetch, 3.3.5).
      if (!/^[a-z0-9-]+$/.test(name)) refuse(`${JSON.stringify(name)} is not the name of a header`);
    }
    return names;
  }),
  allowed: 'names of headers, separated by commas',
  example: 'x-client-version',
};
