import type { RouteOptions } from 'fastify';
import { z } from 'zod';
import type { AppError, ErrorCode } from '../errors.ts';

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
    ...when(!config?.quiet, 'https_required', 'not_acceptable', 'unsupported_media_type', 'timeout'),
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
