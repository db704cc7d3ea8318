import type { FastifyTypeProvider } from 'fastify';
import type { z } from 'zod';

/** Tells TypeScript what a handler gets and may answer, from the zod schemas of its route. */
export interface ZodProvider extends FastifyTypeProvider {
  validator: this['schema'] extends z.ZodType ? z.output<this['schema']> : unknown;
  /** `z.null()` states an answer without a body: nothing is sent, not the word null. */
  serializer: this['schema'] extends z.ZodNull
    ? undefined
    : this['schema'] extends z.ZodType
      ? z.input<this['schema']>
      : unknown;
}
