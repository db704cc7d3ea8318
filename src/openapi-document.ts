import type { RouteOptions } from 'fastify';
import { STATUS_CODES } from 'node:http';
import { z } from 'zod';
import { createFailures, failuresOf, type Problems } from './openapi-failures.ts';
import { describeHeaders, type AnswerHeader } from './openapi-headers.ts';
import { createSchemas, type Json, type Schemas } from './openapi-schemas.ts';

/** OpenAPI 3.1 of these routes, made from nothing but what they state; the same for the same routes. */
export function describeApi(
  routes: RouteOptions[],
  info: { title: string; version: string },
  problems: Problems,
): Json {
  const schemas = createSchemas();
  const failures = createFailures(problems, schemas);
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const path = route.url.replace(/:(\w+)/g, '{$1}');
    const operation = {
      ...describeOperation(route, schemas),
      responses: { ...failures.describe(failuresOf(route)), ...describeAnswers(route, schemas) },
    };
    paths[path] = { ...paths[path], [String(route.method).toLowerCase()]: operation };
  }
  return {
    openapi: '3.1.0',
    info: { ...info, description: DESCRIPTION.trim() },
    tags: [...new Set(routes.flatMap(({ schema }) => schema?.tags ?? []))].map((name) => ({ name })),
    paths,
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'The API key as `Authorization: Bearer`' },
        apiKey: {
          type: 'apiKey',
          in: 'header',
          name: 'X-API-Key',
          description: 'The same in its own header',
        },
      },
      ...failures.components,
      schemas: schemas.components,
    },
  };
}

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

function describeOperation({ config, schema = {} }: RouteOptions, schemas: Schemas): Json {
  const { operationId, tags, summary, description, body } = schema;
  const scope = config?.scope;
  const needs = scope === undefined ? undefined : `Needs the scope \`${scope}\`.`;
  return {
    operationId,
    tags,
    summary,
    description: [description, needs].filter(Boolean).join('\n\n') || undefined,
    security: scope === undefined ? [] : [{ bearer: [scope] }, { apiKey: [scope] }],
    parameters: [
      ...describeParameters('path', schema.params, schemas),
      ...describeParameters('query', schema.querystring, schemas),
      ...describeParameters('header', schema.headers, schemas),
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
    // Optional to the validator, whose answer would be 400: the handler's is 428.
    required: required.includes(name) || name === 'if-match',
    description,
    schema,
  }));
}

function describeAnswers({ config, schema = {} }: RouteOptions, { toSchema }: Schemas): Json {
  const headers: AnswerHeader[] = ['X-Request-Id', ...(schema.answerHeaders ?? [])];
  if (config?.scope !== undefined) headers.push('RateLimit-Policy', 'RateLimit');
  if (config?.idempotent) headers.push('Idempotency-Replayed');
  const answers = Object.entries((schema.response ?? {}) as Record<string, z.ZodType>);
  return Object.fromEntries(
    answers.map(([status, answer]) => [
      status,
      {
        description: answer.description ?? STATUS_CODES[status],
        headers: describeHeaders(headers),
        content:
          answer instanceof z.ZodNull
            ? undefined
            : { 'application/json': { schema: toSchema(answer, 'output') } },
      },
    ]),
  );
}
