import type { Json } from './openapi-schemas.ts';

export type AnswerHeader = keyof typeof HEADERS;

/** What the headers of answers mean; `required` ones are on every answer that names them. */
const HEADERS = {
  Age: {
    description: 'Seconds since this was read from the database',
    required: true,
    schema: { type: 'integer', minimum: 0 },
  },
  ETag: {
    description: 'The version; send it as If-Match to change or as If-None-Match to read again',
    required: true,
    schema: { type: 'string', examples: ['"1"'] },
  },
  'Idempotency-Replayed': {
    description: 'Present when this is the answer that the first request with the same Idempotency-Key got',
    required: false,
    schema: { type: 'string', enum: ['true'] },
  },
  Location: {
    description: 'Where it is to be read',
    required: true,
    schema: { type: 'string', format: 'uri-reference' },
  },
  'Propagation-Delay': {
    description:
      'Seconds within which every process goes by the change; absent if all do already. The change itself is made',
    required: false,
    schema: { type: 'integer', minimum: 1 },
  },
  RateLimit: {
    description: 'Requests left (`r`) and seconds until there are more (`t`); absent without a limit',
    required: false,
    schema: { type: 'string', examples: ['"minute";r=99;t=60'] },
  },
  'RateLimit-Policy': {
    description: 'Requests (`q`) in so many seconds (`w`); absent without a limit',
    required: false,
    schema: { type: 'string', examples: ['"minute";q=100;w=60'] },
  },
  'Retry-After': {
    description: 'Seconds until another try makes sense',
    required: true,
    schema: { type: 'integer', minimum: 1 },
  },
  'WWW-Authenticate': {
    description: 'How to authenticate, RFC 9110',
    required: true,
    schema: { type: 'string' },
  },
  'X-Request-Id': {
    description: 'Id of the request; quote it when you report a problem',
    required: true,
    schema: { type: 'string' },
  },
};

export function describeHeaders(names: readonly AnswerHeader[]): Record<string, Json> {
  return Object.fromEntries(names.map((name) => [name, HEADERS[name]]));
}
