import type { RouteOptions } from 'fastify';
import { z } from 'zod';
import { ERROR_CODES, type ErrorCode } from './errors.ts';
import { describeHeaders, type AnswerHeader } from './openapi-headers.ts';
import type { Json, Schemas } from './openapi-schemas.ts';

/** HTTP status and title of every code. */
export type Problems = Record<ErrorCode, readonly [status: number, title: string]>;

const Problem = z
  .object({
    type: z.string().describe('`urn:problem:` and the code'),
    title: z.string(),
    status: z.int().describe('The HTTP status again'),
    detail: z.string().describe('What went wrong, for people'),
    instance: z.string().describe('Id of the request; quote it when you report a problem'),
    code: z.enum(ERROR_CODES).describe('What went wrong, for programs: the list is closed'),
    errors: z
      .array(
        z.object({
          in: z.enum(['body', 'query', 'path', 'header']),
          path: z.string().describe('JSON Pointer, RFC 6901'),
          message: z.string(),
        }),
      )
      .optional()
      .describe('The fields that did not pass validation'),
  })
  .meta({ id: 'Problem', description: 'Every failure, by RFC 9457' });

/** Failures that a client is told more about in a header. */
const HEADERS: Partial<Record<ErrorCode, AnswerHeader>> = {
  unauthorized: 'WWW-Authenticate',
  idempotency_in_progress: 'Retry-After',
  idempotency_response_gone: 'Location',
  rate_limited: 'Retry-After',
  unavailable: 'Retry-After',
  overloaded: 'Retry-After',
};

/** What can go wrong on a route: what its parts bring with them, and what it declares itself. */
export function failuresOf({ method, config, schema = {} }: RouteOptions): ErrorCode[] {
  const { params, querystring, headers, body, failures = [] } = schema;
  const when = (applies: unknown, ...codes: ErrorCode[]) => (applies ? codes : []);
  const takes = (header: string) => headers instanceof z.ZodObject && header in headers.shape;
  return [
    ...when(true, 'bad_request', 'request_timeout', 'headers_too_large', 'internal'),
    ...when(!config?.quiet, 'https_required', 'not_acceptable', 'unsupported_media_type', 'timeout'),
    ...when(config?.scope, 'unauthorized', 'forbidden', 'rate_limited', 'unavailable', 'overloaded'),
    ...when(params, 'not_found', 'uri_too_long'),
    // A well-formed cursor that is not from the list.
    ...when(querystring instanceof z.ZodObject && 'cursor' in querystring.shape, 'not_found'),
    ...when(params ?? querystring ?? headers ?? body, 'validation_failed'),
    // A body that nobody asked for is read all the same.
    ...when(method !== 'GET', 'malformed_json', 'payload_too_large'),
    ...when(config?.idempotent, 'idempotency_in_progress', 'idempotency_key_reused'),
    ...when(config?.idempotent === 'sealed', 'idempotency_response_gone'),
    ...when(takes('if-match'), 'precondition_failed', 'precondition_required'),
    ...failures,
  ];
}

/** Collects the answers of failures as components: many routes fail in the same ways. */
export function createFailures(problems: Problems, { toSchema }: Schemas) {
  const responses: Record<string, Json> = {};
  const examples: Record<string, Json> = {};
  const schema = toSchema(Problem, 'output');

  function describeStatus(codes: ErrorCode[]): Json {
    const names = codes.map((code) => HEADERS[code]).filter((name) => name !== undefined);
    const headers = describeHeaders(['X-Request-Id', ...new Set(names)]);
    for (const name of names) {
      const required = codes.every((code) => HEADERS[code] === name);
      headers[name] = { ...headers[name], required };
    }
    for (const code of codes) examples[code] = { value: exampleOf(code) };
    return {
      description: codes.map((code) => `${problems[code][1]} (\`${code}\`)`).join(' or '),
      headers,
      content: {
        'application/problem+json': {
          schema,
          examples: Object.fromEntries(
            codes.map((code) => [code, { $ref: `#/components/examples/${code}` }]),
          ),
        },
      },
    };
  }

  function exampleOf(code: ErrorCode): Json {
    const [status, title] = problems[code];
    return { type: `urn:problem:${code}`, title, status, detail: title, instance: 'f81d4fae-1', code };
  }

  return {
    components: { responses, examples },
    /** References to the answers of these failures, by status. */
    describe(failures: ErrorCode[]): Json {
      const codes = ERROR_CODES.filter((code) => failures.includes(code));
      const byStatus: Record<string, Json> = {};
      for (const status of new Set(codes.map((code) => problems[code][0]))) {
        const same = codes.filter((code) => problems[code][0] === status);
        const name = same.join('-');
        responses[name] ??= describeStatus(same);
        byStatus[status] = { $ref: `#/components/responses/${name}` };
      }
      return byStatus;
    },
  };
}
