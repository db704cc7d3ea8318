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

const dropLengthOf304: onSendHookHandler = (_request, reply, _payload, done) => {
  if (reply.statusCode === 304) reply.removeHeader('content-length');
  done();
};

/** Many routes answer with the same schema, all of them with that of a problem: each is compiled once. */
const serializers = new WeakMap<z.ZodType, (data: unknown) => string>();

/**
 * Routes state zod schemas; requests are checked by zod itself (no coercion, unknown fields are an
 * error), answers are written by a serializer compiled from the same schema, which leaves out what
 * the schema does not name.
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
    // Fastify gives every answer to HEAD a length; that of a 304 would be the one of the 200 (RFC 9110, 8.6).
    app.addHook('onRoute', (route) => {
      if (route.method !== 'HEAD') return;
      route.onSend = [...[route.onSend ?? []].flat(), dropLengthOf304];
    });
    app.setSerializerCompiler<z.ZodType>(({ schema }) => {
      const serialize = serializers.get(schema) ?? compileSerializer(schema);
      serializers.set(schema, serialize);
      return serialize;
    });
  },
  { name: 'validation' },
);

function compileSerializer(schema: z.ZodType): (data: unknown) => string {
  const shape = z.toJSONSchema(schema, { io: 'output', target: 'draft-7' });
  return fastJsonStringify(withoutConstraints(shape) as object);
}

function validationError(part: FieldError['in'], { issues }: z.ZodError): AppError {
  // Bounded: zod names unknown fields, and a client may have sent a megabyte of them.
  const errors = issues.slice(0, 20).map((issue) => ({
    in: part,
    path: pointer(issue.path).slice(0, 200),
    message: issue.message.slice(0, 200),
  }));
  const names = errors.map(({ path }) => `${part}${path}`).join(', ');
  return new AppError('validation_failed', `Not what this route takes: ${names.slice(0, 500)}`, { errors });
}

/** JSON Pointer, RFC 6901. */
function pointer(path: PropertyKey[]): string {
  return path.map((step) => `/${String(step).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/**
 * Only the shape matters for writing. fast-json-stringify would throw for a row that breaks a
 * pattern or a bound, and `additionalProperties: false` makes it refuse instead of leaving out.
 */
function withoutConstraints(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withoutConstraints);
  if (typeof schema !== 'object' || schema === null) return schema;
  const dropped = [
    'pattern',
    'format',
    'minLength',
    'maxLength',
    'minimum',
    'maximum',
    'minItems',
    'maxItems',
    'examples',
    '$schema',
  ];
  return Object.fromEntries(
    Object.entries(schema)
      .filter(
        ([key, value]) => !dropped.includes(key) && !(key === 'additionalProperties' && value === false),
      )
      .map(([key, value]) => [
        key,
        key === 'properties' ? mapValues(value as object) : withoutConstraints(value),
      ]),
  );
}

/** A property may be called `format` or `pattern`; only its schema is stripped. */
function mapValues(properties: object): object {
  return Object.fromEntries(
    Object.entries(properties).map(([name, schema]) => [name, withoutConstraints(schema)]),
  );
}
