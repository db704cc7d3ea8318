import { z } from 'zod';
import { ERROR_CODES, type ErrorCode } from '../errors.ts';
import { PROBLEMS } from '../http/problems.ts';
import { describeHeaders, type ResponseHeader } from './headers.ts';
import type { Json, Schemas } from './schemas.ts';

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
const HEADERS: Partial<Record<ErrorCode, ResponseHeader>> = {
  unauthorized: 'WWW-Authenticate',
  idempotency_in_progress: 'Retry-After',
  idempotency_response_gone: 'Location',
  rate_limited: 'Retry-After',
  unavailable: 'Retry-After',
  overloaded: 'Retry-After',
};

/** Collects the responses of failures as components: many routes fail in the same ways. */
export function createFailures({ toSchema }: Schemas) {
  const schema = toSchema(Problem, 'output');
  const responses: Record<string, Json> = {};
  const examples: Record<string, Json> = {};

  function describeStatus(codes: ErrorCode[]): Json {
    const names = codes.map((code) => HEADERS[code]).filter((name) => name !== undefined);
    const headers = describeHeaders(['X-Request-Id', ...names]);
    for (const name of names) {
      const required = codes.every((code) => HEADERS[code] === name);
      headers[name] = { ...headers[name]!, required };
    }
    for (const code of codes) {
      const [status, title] = PROBLEMS[code];
      const type = `urn:problem:${code}`;
      examples[code] = { value: { type, title, status, detail: title, instance: 'f81d4fae-1', code } };
    }
    const references = codes.map((code) => [code, { $ref: `#/components/examples/${code}` }]);
    return {
      description: codes.map((code) => `${PROBLEMS[code][1]} (\`${code}\`)`).join(' or '),
      headers,
      content: { 'application/problem+json': { schema, examples: Object.fromEntries(references) } },
    };
  }

  return {
    components: { responses, examples },
    /** References to the responses of these failures, by status. */
    describe(failures: ErrorCode[]): Json {
      const codes = ERROR_CODES.filter((code) => failures.includes(code));
      return Object.fromEntries(
        codes.map((code) => {
          const [status] = PROBLEMS[code];
          const same = codes.filter((other) => PROBLEMS[other][0] === status);
          const name = same.join('-');
          responses[name] ??= describeStatus(same);
          return [status, { $ref: `#/components/responses/${name}` }];
        }),
      );
    },
  };
}
