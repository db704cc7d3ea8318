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

/** One line of text for people: Postgres takes no NUL, and control characters spoil logs and terminals. */
export function text(maxLength: number) {
  return (
    z
      .string()
      .min(1)
      .max(maxLength)
      // oxlint-disable-next-line no-control-regex -- which is the point
      .regex(/^[^\x00-\x1f\x7f-\x9f]*$/, 'text without control characters')
  );
}

/** Years of four digits begin with 0000, which neither our calendar nor Postgres has. */
const hasYear = (moment: string) => !moment.startsWith('0000');
const NO_YEAR = 'there is no year 0';

export const timestamp = z.iso
  .datetime()
  .refine(hasYear, NO_YEAR)
  .describe('UTC, RFC 3339')
  .meta({ examples: ['2026-01-31T12:00:00.000Z'] });

export const date = z.iso
  .date()
  .refine(hasYear, NO_YEAR)
  .meta({ examples: ['2026-01-31'] });
