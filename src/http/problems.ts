/**
 * What every request passes, and what a response to a failed one looks like.
 *
 * The hooks are in the order of `app.ts`: request id, access log, timeout, security headers, checks, 404 and 405.
 * Health checks and the shutdown are here too; `resource/` has what a feature imports: pages, ETags, zod types.
 *
 * This file has the codes of errors with their HTTP statuses; no other folder knows a failure status. A failure of
 * any kind is an RFC 9457 problem. From 500 on the client learns nothing of the cause; the log has the cause once,
 * under the request id.
 *
 * Nothing here may be deleted but `load-shedding`, with its line in `app.ts`.
 */

import type { FastifyError, FastifyRequest, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { z } from 'zod';
import { AppError, type ErrorCode } from '../errors.ts';
import type { Metrics } from '../observability/metrics.ts';

/** The only place that turns a code into an HTTP status: [status, title]. */
export const PROBLEMS: Record<ErrorCode, readonly [status: number, title: string]> = {
  bad_request: [400, 'Bad request'],
  malformed_json: [400, 'Malformed JSON'],
  validation_failed: [400, 'Validation failed'],
  unauthorized: [401, 'Unauthorized'],
  forbidden: [403, 'Forbidden'],
  https_required: [403, 'HTTPS required'],
  not_found: [404, 'Not found'],
  method_not_allowed: [405, 'Method not allowed'],
  not_acceptable: [406, 'Not acceptable'],
  request_timeout: [408, 'Request timeout'],
  conflict: [409, 'Conflict'],
  illegal_transition: [409, 'Illegal transition'],
  idempotency_in_progress: [409, 'Idempotent request in progress'],
  idempotency_response_gone: [409, 'Response no longer available'],
  precondition_failed: [412, 'Precondition failed'],
  payload_too_large: [413, 'Payload too large'],
  uri_too_long: [414, 'URI too long'],
  unsupported_media_type: [415, 'Unsupported media type'],
  idempotency_key_reused: [422, 'Idempotency key reused'],
  result_too_large: [422, 'Result too large'],
  precondition_required: [428, 'Precondition required'],
  rate_limited: [429, 'Too many requests'],
  headers_too_large: [431, 'Request header fields too large'],
  internal: [500, 'Internal server error'],
  unavailable: [503, 'Service unavailable'],
  overloaded: [503, 'Service overloaded'],
  timeout: [504, 'Timeout'],
};

export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

/** Status and body of a failure by RFC 9457; `instance` names the request whose log lines tell more. */
export function renderProblem(error: AppError, requestId: string): { status: number; body: string } {
  const [status, title] = PROBLEMS[error.code];
  const { code, message: detail, errors } = error;
  const type = `urn:problem:${code}`;
  return { status, body: JSON.stringify({ type, title, status, detail, instance: requestId, code, errors }) };
}

/** What can fail on a route: what its parts bring with them, and what it declares itself. */
export function failuresOf({ method, config, schema = {} }: RouteOptions): ErrorCode[] {
  const { params, querystring, headers, body, failures = [] } = schema;
  const when = (applies: unknown, ...codes: ErrorCode[]) => (applies ? codes : []);
  const takes = (part: unknown, name: string) => part instanceof z.ZodObject && name in part.shape;
  return [
    ...when(true, 'bad_request', 'request_timeout', 'headers_too_large', 'internal'),
    ...when(!config?.skipLogging, 'https_required', 'not_acceptable', 'unsupported_media_type', 'timeout'),
    ...when(config?.scope, 'unauthorized', 'forbidden', 'rate_limited', 'unavailable', 'overloaded'),
    ...when(params, 'not_found', 'uri_too_long'),
    // A well-formed cursor that is not from the list.
    ...when(takes(querystring, 'cursor'), 'not_found'),
    ...when(params ?? querystring ?? headers ?? body, 'validation_failed'),
    // The parser reads the body of a route that takes none as well.
    ...when(method !== 'GET', 'malformed_json', 'payload_too_large'),
    ...when(config?.idempotent, 'idempotency_in_progress', 'idempotency_key_reused'),
    ...when(config?.idempotent === 'sealed', 'idempotency_response_gone'),
    ...when(takes(headers, 'if-match'), 'precondition_failed', 'precondition_required'),
    ...failures,
  ];
}

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
