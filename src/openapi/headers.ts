export type ResponseHeader = keyof typeof HEADERS;

/** Headers of responses; a `required` one is in every response that names it. */
const HEADERS = {
  Age: header('Seconds since this was read from the database', { type: 'integer', minimum: 0 }),
  ETag: header('The version; send it as If-Match to change or as If-None-Match to read again', {
    type: 'string',
    examples: ['"1"'],
  }),
  'Idempotency-Replayed': optional(
    'Present when this is the answer that the first request with the same Idempotency-Key got',
    { type: 'string', enum: ['true'] },
  ),
  Location: header('Where it is to be read', { type: 'string', format: 'uri-reference' }),
  'Propagation-Delay': optional(
    'Seconds within which every process goes by the change; absent if all do already. The change itself is made',
    { type: 'integer', minimum: 1 },
  ),
  RateLimit: optional('Requests left (`r`) and seconds until there are more (`t`); absent without a limit', {
    type: 'string',
    examples: ['"minute";r=99;t=60'],
  }),
  'RateLimit-Policy': optional('Requests (`q`) in so many seconds (`w`); absent without a limit', {
    type: 'string',
    examples: ['"minute";q=100;w=60'],
  }),
  'Retry-After': header('Seconds until another try makes sense', { type: 'integer', minimum: 1 }),
  'WWW-Authenticate': header('How to authenticate, RFC 9110', { type: 'string' }),
  'X-Request-Id': header('Id of the request; quote it when you report a problem', { type: 'string' }),
};

export function describeHeaders(names: readonly ResponseHeader[]) {
  return Object.fromEntries(names.map((name) => [name, HEADERS[name]]));
}

function header(description: string, schema: object) {
  return { description, required: true, schema };
}

function optional(description: string, schema: object) {
  return { description, required: false, schema };
}
