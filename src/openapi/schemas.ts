import { z } from 'zod';

export type Json = Record<string, unknown>;
export type Schemas = ReturnType<typeof createSchemas>;

/**
 * Turns zod schemas into JSON Schema 2020-12, which OpenAPI 3.1 takes as it is. A schema with an `id` becomes a
 * component of that name. `input` is what a client may send, `output` what zod makes of it or the service sends.
 */
export function createSchemas() {
  const components: Record<string, Json> = {};

  function toSchema(zodSchema: z.ZodType, io: 'input' | 'output'): Json {
    const { $schema: _, $defs = {}, ...root } = z.toJSONSchema(zodSchema, { io, override });
    for (const [id, { id: _id, ...definition }] of Object.entries($defs)) {
      const component = referToComponents(definition);
      if (components[id] && JSON.stringify(components[id]) !== JSON.stringify(component)) {
        throw new Error(`The schema ${id} differs between requests and responses: give them two ids`);
      }
      components[id] = component;
    }
    return referToComponents(root);

    function override({ jsonSchema }: { jsonSchema: Json }): void {
      // A newer release may add fields to a response, and clients must accept them.
      if (io === 'output' && jsonSchema.additionalProperties === false)
        delete jsonSchema.additionalProperties;
      // zod bounds every integer by what JSON itself can hold.
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
    }
  }

  return { components, toSchema };
}

function referToComponents(schema: object): Json {
  return JSON.parse(JSON.stringify(schema).replaceAll('"$ref":"#/$defs/', '"$ref":"#/components/schemas/'));
}
