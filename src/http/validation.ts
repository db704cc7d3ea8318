import fastJsonStringify from 'fast-json-stringify';
import type { FastifyInstance, onSendHookHandler } from 'fastify';
import fp from 'fastify-plugin';
import { z } from 'zod';
import { AppError, type FieldError } from '../errors.ts';

const PARTS: Record<string, FieldError['in']> = {
  body: 'body',
  querystring: 'query',
  params: 'path',
  headers: 'header',
};
const BODY_NEEDED = 'This route takes a JSON body: send one, as application/json';
/** Bounds of the errors in a problem: zod names unknown fields, and a client may have sent a megabyte of them. */
const MAX_ERRORS = 20;
const MAX_ERROR_CHARS = 200;

/**
 * Routes state zod schemas. zod itself checks requests: no coercion, and unknown fields are an error. A serializer
 * compiled from the same schema writes responses and leaves out what the schema does not name.
 */
export const validation = fp(
  async (app: FastifyInstance) => {
    app.setValidatorCompiler<z.ZodType>(({ schema, httpPart = 'body' }) => (data) => {
      const result = schema.safeParse(data);
      if (result.success) return { value: result.data };
      if (httpPart === 'body' && data === null) {
        const errors: FieldError[] = [{ in: 'body', path: '', message: BODY_NEEDED }];
        return { error: new AppError('validation_failed', BODY_NEEDED, { errors }) };
      }
      // The router gives /things/ to /things/:id; a trailing slash is another URL, not a bad id.
      if (httpPart === 'params' && Object.values(data as object).includes('')) {
        return { error: new AppError('not_found', 'There is nothing at this URL') };
      }
      return { error: validationError(PARTS[httpPart] ?? 'body', result.error) };
    });
    // Clients send the type of a body that they leave out (axios, Angular, generated ones).
    const parseJson = app.getDefaultJsonParser('error', 'error');
    app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
      if (body !== '') void parseJson(request, String(body), done);
      else if (request.routeOptions.schema?.body) done(new AppError('malformed_json', BODY_NEEDED));
      else done(null, undefined);
    });
    // Fastify gives every response to HEAD a length; that of a 304 would be the one of the 200 (RFC 9110, 8.6).
    app.addHook('onRoute', (route) => {
      if (route.method === 'HEAD') route.onSend = [...[route.onSend ?? []].flat(), dropLengthOf304];
    });
    app.setSerializerCompiler<z.ZodType>(({ schema }) => {
      const serialize = serializers.get(schema) ?? compileSerializer(schema);
      serializers.set(schema, serialize);
      return serialize;
    });
  },
  { name: 'validation' },
);

/** Many routes respond with the same schema, and all of them with that of a problem: each is compiled once. */
const serializers = new WeakMap<z.ZodType, (data: unknown) => string>();

const dropLengthOf304: onSendHookHandler = (_request, reply, _payload, done) => {
  if (reply.statusCode === 304) reply.removeHeader('content-length');
  done();
};

/**
 * Only the shape matters for writing: fast-json-stringify would throw for a row that breaks a pattern or a bound,
 * and refuse an undeclared field instead of leaving it out.
 */
const CONSTRAINTS = [
  'pattern',
  'format',
  'minLength',
  'maxLength',
  'minimum',
  'maximum',
  'minItems',
  'maxItems',
];

function compileSerializer(schema: z.ZodType): (data: unknown) => string {
  const shape = z.toJSONSchema(schema, {
    io: 'output',
    target: 'draft-7',
    override({ jsonSchema }) {
      const node = jsonSchema as Record<string, unknown>;
      for (const name of [...CONSTRAINTS, 'examples']) delete node[name];
      if (node.additionalProperties === false) delete node.additionalProperties;
    },
  });
  return fastJsonStringify(shape as object);
}

function validationError(part: FieldError['in'], { issues }: z.ZodError): AppError {
  const errors = issues.slice(0, MAX_ERRORS).map((issue) => ({
    in: part,
    path: pointer(issue.path).slice(0, MAX_ERROR_CHARS),
    message: issue.message.slice(0, MAX_ERROR_CHARS),
  }));
  const names = errors.map(({ path }) => `${part}${path}`).join(', ');
  return new AppError('validation_failed', `Validation failed: ${names.slice(0, 500)}`, { errors });
}

/** JSON Pointer, RFC 6901. */
function pointer(path: PropertyKey[]): string {
  return path.map((step) => `/${String(step).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}
