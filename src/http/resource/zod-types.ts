import type { FastifyTypeProvider } from 'fastify';
import { z } from 'zod';

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

/**
 * The id of a thing, as clients send it. RFC 9562 lets them write it in either case; from here on it has one
 * spelling, in cache keys, locks and invalidations.
 */
export const uuid = z.uuid().toLowerCase();
