import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { IncomingMessage } from 'node:http';
import { AppError } from '../errors.ts';

/** More headers than any client has reason to send; Node itself counts to 2,000 and then drops the rest silently. */
const MAX_HEADERS = 100;

/** Query parameters in which people put keys; URLs end in logs, histories and Referer headers. */
const KEY_IN_URL = /[?&](?:api[_-]?key|access_token)=/i;

/** RFC 9110, 4.2: a name or an address, with or without a port. */
const HOST = /^(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?$/i;

/** Refuses what no route should have to look at: ambiguous requests, keys in URLs, plain HTTP, what cannot be read. */
export const requestChecks = fp<{ enforceHttps: boolean }>(
  async (app, { enforceHttps }) => {
    app.addHook('onRequest', (request, _reply, done) => {
      done(checkFraming(request.raw) ?? checkRequest(request, enforceHttps));
    });
  },
  { name: 'request-checks' },
);

/** What a proxy in front may have read otherwise (RFC 9112, 3.2 and 6.1). Nothing more is read from such a connection. */
function checkFraming(raw: IncomingMessage): AppError | undefined {
  const { httpVersion, rawHeaders } = raw;
  const { host, 'transfer-encoding': encoding } = raw.headers;
  if (rawHeaders.length > 2 * MAX_HEADERS) {
    return new AppError('headers_too_large', `More than ${MAX_HEADERS} headers`, CLOSE);
  }
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return ambiguous('Speak HTTP/1.1');
  if (host === undefined ? httpVersion === '1.1' : !HOST.test(host))
    return ambiguous('Send a valid Host header');
  const repeated = findRepeated(rawHeaders);
  if (repeated !== undefined) return ambiguous(`Send one ${repeated} header`);
  if (encoding !== undefined && (httpVersion === '1.0' || encoding.toLowerCase() !== 'chunked')) {
    return ambiguous('The only transfer encoding is chunked, in HTTP/1.1');
  }
  return undefined;
}

const CLOSE = { headers: { connection: 'close' } };

function ambiguous(message: string): AppError {
  return new AppError('bad_request', message, CLOSE);
}

const ONCE = new Set(['host', 'authorization', 'content-type']);

/** Node keeps the first of these silently; whoever is in front may have read the last. */
function findRepeated(rawHeaders: string[]): string | undefined {
  const seen: string[] = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? '';
    // Looked at before it is copied in lower case: this runs for every header of every request.
    if (name.length !== 4 && name.length !== 12 && name.length !== 13) continue;
    const known = name.toLowerCase();
    if (!ONCE.has(known)) continue;
    if (seen.includes(known)) return known;
    seen.push(known);
  }
  return undefined;
}

function checkRequest(request: FastifyRequest, enforceHttps: boolean): AppError | undefined {
  if (KEY_IN_URL.test(request.url)) {
    return new AppError('bad_request', 'Send the API key in a header, never in the URL, and rotate this one');
  }
  const objection = checkManner(request, enforceHttps);
  // Probes are not asked how they came or what they like to read.
  return objection && !request.routeOptions.config.skipLogging ? objection : undefined;
}

function checkManner(request: FastifyRequest, enforceHttps: boolean): AppError | undefined {
  if (enforceHttps && request.protocol !== 'https') {
    return new AppError(
      'https_required',
      'Use https: a key sent over plain HTTP must be considered known to others',
    );
  }
  const { accept, 'content-type': type, 'content-encoding': coding } = request.headers;
  if (accept !== undefined && !acceptsJson(accept)) {
    return new AppError('not_acceptable', 'This API answers application/json');
  }
  // GET and HEAD have no body that it could be the type of.
  if (type !== undefined && request.method !== 'GET' && request.method !== 'HEAD' && !isUtf8(type)) {
    return new AppError('unsupported_media_type', 'JSON is sent in UTF-8 (RFC 8259)');
  }
  if (coding !== undefined && coding !== 'identity') {
    return new AppError('unsupported_media_type', 'Send the body as it is, without Content-Encoding', {
      headers: { 'accept-encoding': 'identity' },
    });
  }
  return undefined;
}

function isUtf8(type: string): boolean {
  if (type === 'application/json') return true;
  const charset = /;\s*charset\s*=\s*"?([^\s";]*)/i.exec(type)?.[1]?.toLowerCase();
  return charset === undefined || ['utf-8', 'utf8', 'us-ascii'].includes(charset);
}

/** From the most exact range to the least: the first that the client names decides (RFC 9110, 12.5.1). */
const RANGES = ['application/json', 'application/problem+json', 'application/*', '*/*'];

function acceptsJson(accept: string): boolean {
  if (accept === '*/*' || accept === 'application/json' || accept.trim() === '') return true;
  const wanted = new Map<string, boolean>();
  for (const part of accept.split(',')) {
    const [range = '', ...parameters] = part.split(';').map((text) => text.trim().toLowerCase());
    wanted.set(range, !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter)));
  }
  return RANGES.map((range) => wanted.get(range)).find((answer) => answer !== undefined) ?? false;
}
