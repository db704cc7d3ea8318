import type { FastifyError, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import { PROBLEM_TYPE, renderProblem } from './failures.ts';
import type { Metrics } from '../observability/metrics.ts';

/** Register first: scopes inherit only the handlers that exist when they are made. */
export const errorHandler = fp<{ metrics: Metrics }>(
  async (app, { metrics }) => {
    app.setErrorHandler((thrown: unknown, request, reply) => {
      // The request timeout has responded; the rest of the work fails because of that.
      if (reply.sent) return;
      const { status, headers, body } = reportFailure(metrics, request, thrown);
      reply.code(status).headers(headers).send(body);
    });
  },
  { name: 'error-handler' },
);

/** Counts a failure, logs its cause under the id that the client gets, and returns the response. */
export function reportFailure(metrics: Metrics, { id, log }: FastifyRequest, thrown: unknown) {
  const error = toAppError(thrown);
  const { code, headers, retryAfterSeconds } = error;
  const { status, body } = renderProblem(error, id);
  metrics.errors.inc({ code });
  if (status >= 500) log.error({ error: error.cause ?? error, code }, 'request failed');
  return {
    status,
    headers: {
      ...headers,
      ...(retryAfterSeconds === undefined ? {} : { 'retry-after': String(retryAfterSeconds) }),
      'content-type': PROBLEM_TYPE,
      'cache-control': 'no-store',
    },
    body,
  };
}

/** What Fastify and its plugins throw, in our own words: their messages may echo input or tell of the inside. */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  if (!(thrown instanceof Error)) return internal(thrown);
  const { code, statusCode = 500 } = thrown as Partial<FastifyError>;
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new AppError('payload_too_large', 'The body is larger than this service accepts');
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new AppError('unsupported_media_type', 'Send the body as application/json');
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new AppError('malformed_json', 'The body is not valid JSON');
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new AppError('bad_request', 'Content-Length does not fit the body');
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new AppError('uri_too_long', 'A part of the URL is too long');
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_ASYNC_CONSTRAINT':
      return new AppError('bad_request', 'The URL is not valid');
  }
  // secure-json-parse and JSON.parse throw a plain SyntaxError with statusCode 400 for a bad body.
  if (thrown instanceof SyntaxError && statusCode === 400) {
    return new AppError('malformed_json', 'The body is not valid JSON');
  }
  if (statusCode >= 400 && statusCode < 500) {
    return new AppError('bad_request', 'The request is not valid', { cause: thrown });
  }
  return internal(thrown);
}

function internal(cause: unknown): AppError {
  return new AppError('internal', 'Something went wrong here; quote the instance when you report it', {
    cause,
  });
}
