import { z } from 'zod';

/** Query parameters of every list. Query strings are text: digits become a number here and nowhere else. */
export const paging = {
  limit: z
    .string()
    .regex(/^\d{1,3}$/, 'a whole number')
    .transform(Number)
    .pipe(z.int().min(1).max(100))
    .default(20)
    .describe('Rows of one page, 1 to 100')
    .meta({ examples: [20] }),
  cursor: z
    .string()
    .regex(/^[A-Za-z0-9_-]{18,64}$/, '`next` of the page before, as it is')
    .optional()
    .describe('`next` of the page before, as it is; 404 for one that this list did not give'),
};

/** Cursor of the next page; a page that is not full is the last one. */
export const nextCursor = z.string().nullable().describe('Cursor of the next page; null on the last');
