import { z } from 'zod';

export type Json = Record<string, unknown>;

/** `input`: what a client may send; `output`: what zod makes of it, or what the service answers. */
export type Direction = 'input' | 'output';

export type Schemas = ReturnType<typeof createSchemas>;

/**
 * Turns zod schemas into JSON Schema 2020-12, which OpenAPI 3.1 takes as it is. A schema with an
 * `id` becomes a component under that name, and what uses it a reference.
 */
export function createSchemas() {
  const components: Record<string, Json> = {};

  function toSchema(zodSchema: z.ZodType, io: Direction): Json {
    const { $schema: _, $defs = {}, ...root } = z.toJSONSchema(zodSchema, { io, override: override(io) });
    for (const [id, { id: _id, ...definition }] of Object.entries($defs)) {
      const component = referToComponents(definition);
      if (components[id] && JSON.stringify(components[id]) !== JSON.stringify(component)) {
        throw new Error(`The schema ${id} differs between requests and answers: give them two ids`);
      }
      components[id] = component;
    }
    return referToComponents(root);
  }

  return { components, toSchema };
}

/**
 * Clients must live with fields that a newer release adds, so answers are never closed; and the
 * bounds that zod gives every integer are those of JSON itself and tell nothing.
 */
function override(io: Direction) {
  return ({ jsonSchema }: { jsonSchema: Json }): void => {
    if (io === 'output' && jsonSchema.additionalProperties === false) delete jsonSchema.additionalProperties;
    if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
    if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
  };
}

function referToComponents(schema: object): Json {
  return JSON.parse(JSON.stringify(schema), (key, value: unknown) =>
    key === '$ref' ? String(value).replace('#/$defs/', '#/components/schemas/') : value,
  ) as Json;
}
