import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';

/** Query parameters in which people put keys; URLs end in logs, histories and Referer headers. */
const KEY_IN_URL = /[?&](?:api[_-]?key|access_token)=/i;

/** Refuses what no route should have to look at: ambiguous hosts, keys in URLs, plain HTTP, answers that cannot be read. */
export const requestGuard = fp<{ enforceHttps: boolean }>(
  async (app, { enforceHttps }) => {
    app.addHook('onRequest', (request, _reply, done) => {
      done(objectionTo(request, enforceHttps));
    });
  },
  { name: 'request-guard' },
);

function objectionTo(request: FastifyRequest, enforceHttps: boolean): AppError | undefined {
  if (hostCount(request.raw.rawHeaders) > 1) return new AppError('bad_request', 'Send one Host header');
  if (enforceHttps && request.protocol !== 'https' && !request.routeOptions.config.quiet) {
    return new AppError(
      'https_required',
      'Use https: a key sent over plain HTTP must be considered known to others',
    );
  }
  if (KEY_IN_URL.test(request.url)) {
    return new AppError('bad_request', 'Send the API key in a header, never in the URL, and rotate this one');
  }
  const { accept } = request.headers;
  if (accept !== undefined && !acceptsJson(accept)) {
    return new AppError('not_acceptable', 'This API answers application/json');
  }
  return undefined;
}

/** Node keeps the first of several Host headers silently; a proxy in front may have read another one. */
function hostCount(rawHeaders: string[]): number {
  let count = 0;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i];
    if (name?.length === 4 && name.toLowerCase() === 'host') count++;
  }
  return count;
}

/** RFC 9110, 12.5.1, as far as it can say that JSON is not wanted. */
function acceptsJson(accept: string): boolean {
  if (accept === '*/*' || accept === 'application/json') return true;
  return accept.split(',').some((part) => {
    const [range = '', ...parameters] = part.split(';').map((text) => text.trim().toLowerCase());
    if (parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter))) return false;
    return ['*/*', 'application/*', 'application/json', 'application/problem+json'].includes(range);
  });
}
