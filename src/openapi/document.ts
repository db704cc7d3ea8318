import type { RouteOptions } from 'fastify';
import { STATUS_CODES } from 'node:http';
import { z } from 'zod';
import { failuresOf } from '../http/problems.ts';
import { createFailures } from './failures.ts';
import { describeHeaders, type ResponseHeader } from './headers.ts';
import { createSchemas, type Json, type Schemas } from './schemas.ts';

const DESCRIPTION = `
Send an API key as \`Authorization: Bearer <key>\` or as \`X-API-Key: <key>\`, never in a URL. Each operation
names the scope that the key needs.

Every failure is \`application/problem+json\` (RFC 9457). Programs look at its \`code\`; people quote its
\`instance\`. 429 and 503 say in \`Retry-After\` when to come again.

A \`POST\` with an \`Idempotency-Key\` may be repeated until it is answered: it has one effect. Operations that do
not name this header among their parameters refuse it with 400. Changes need
the \`ETag\` of what was read as \`If-Match\`, so that nobody's change is lost. Lists are read page by page
with the \`next\` of the page before as \`cursor\`.
`;

const BEARER = { type: 'http', scheme: 'bearer', description: 'The API key as `Authorization: Bearer`' };
const API_KEY = {
  type: 'apiKey',
  in: 'header',
  name: 'X-API-Key',
  description: 'The same in its own header',
};

/** OpenAPI 3.1 of these routes, made from nothing but what they state; the same for the same routes. */
export function describeApi(routes: RouteOptions[], info: { title: string; version: string }): Json {
  const schemas = createSchemas();
  const failures = createFailures(schemas);
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const responses = { ...failures.describe(failuresOf(route)), ...describeResponses(route, schemas) };
    const path = (paths[route.url.replace(/:(\w+)/g, '{$1}')] ??= {});
    path[String(route.method).toLowerCase()] = { ...describeRequest(route, schemas), responses };
  }
  return {
    openapi: '3.1.0',
    info: { ...info, description: DESCRIPTION.trim() },
    tags: [...new Set(routes.flatMap(({ schema }) => schema?.tags ?? []))].map((name) => ({ name })),
    paths,
    components: {
      securitySchemes: { bearer: BEARER, apiKey: API_KEY },
      ...failures.components,
      schemas: schemas.components,
    },
  };
}

function describeRequest({ config, schema = {} }: RouteOptions, schemas: Schemas): Json {
  const { operationId, tags, summary, description, body, params, querystring, headers } = schema;
  const scope = config?.scope;
  return {
    operationId,
    tags,
    summary,
    description:
      [description, scope && `Needs the scope \`${scope}\`.`].filter(Boolean).join('\n\n') || undefined,
    security: scope === undefined ? [] : [{ bearer: [scope] }, { apiKey: [scope] }],
    parameters: [
      ...describeParameters('path', params, schemas),
      ...describeParameters('query', querystring, schemas),
      ...describeParameters('header', headers, schemas),
    ],
    requestBody: body instanceof z.ZodType ? describeBody(body, schemas) : undefined,
  };
}

function describeBody(body: z.ZodType, { toSchema }: Schemas): Json {
  const [example] = (body.meta()?.examples ?? []) as unknown[];
  return { required: true, content: { 'application/json': { schema: toSchema(body, 'input'), example } } };
}

/** The schema of a parameter is that of its value, not of the text that carries it: `20` is an integer. */
function describeParameters(where: 'path' | 'query' | 'header', part: unknown, { toSchema }: Schemas) {
  if (!(part instanceof z.ZodType)) return [];
  const { required = [] } = toSchema(part, 'input') as { required?: string[] };
  const { properties } = toSchema(part, 'output') as { properties: Record<string, Json> };
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name: where === 'header' ? name.replace(/\b[a-z]/g, (letter) => letter.toUpperCase()) : name,
    in: where,
    // Optional to the validator, which would respond 400: the handler responds 428.
    required: required.includes(name) || name === 'if-match',
    description,
    schema,
  }));
}

function describeResponses({ config, schema = {} }: RouteOptions, { toSchema }: Schemas): Json {
  const names: ResponseHeader[] = ['X-Request-Id', ...(schema.responseHeaders ?? [])];
  if (config?.scope !== undefined) names.push('RateLimit-Policy', 'RateLimit');
  if (config?.idempotent) names.push('Idempotency-Replayed');
  const headers = describeHeaders(names);
  const stated = Object.entries((schema.response ?? {}) as Record<string, z.ZodType>);
  return Object.fromEntries(
    stated.map(([status, response]) => {
      const description = response.description ?? STATUS_CODES[status];
      if (response instanceof z.ZodNull) return [status, { description, headers }];
      const content = { 'application/json': { schema: toSchema(response, 'output') } };
      return [status, { description, headers, content }];
    }),
  );
}
