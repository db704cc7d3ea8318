import { createHmac, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { AppError } from '../../errors.ts';

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

const MAC_BYTES = 12;

export type Cursors = ReturnType<typeof createCursors>;

/**
 * A cursor names the last row of a page: opaque to clients and signed with SECRET_KEY, so that nobody steps to
 * a position of their own making. Without SECRET_KEY the signature is only a checksum, which is why the id must
 * look like one of this list all the same.
 */
export function createCursors(secretKey: string) {
  const macOf = (list: string, id: string) =>
    createHmac('sha256', secretKey).update(`${list}\n${id}`).digest().subarray(0, MAC_BYTES);

  return {
    /** The pages of the list of this name, newest first; `idPattern` is what an id of its rows looks like. */
    of(list: string, idPattern: RegExp) {
      return {
        /** The id that a page starts before. Throws `not_found` for a cursor that was not made for this list. */
        before(cursor: string | undefined): string | undefined {
          if (cursor === undefined) return undefined;
          const bytes = Buffer.from(cursor, 'base64url');
          const id = bytes.subarray(MAC_BYTES).toString();
          if (!idPattern.test(id) || !timingSafeEqual(bytes.subarray(0, MAC_BYTES), macOf(list, id))) {
            throw new AppError('not_found', 'This cursor is not from this list; start again without one');
          }
          return id;
        },

        /** Cursor of the page after these rows; null when they do not fill a page of `limit`. */
        next(rows: { id: string }[], limit: number): string | null {
          const last = rows.at(-1);
          if (!last || rows.length < limit) return null;
          return Buffer.concat([macOf(list, last.id), Buffer.from(last.id)]).toString('base64url');
        },
      };
    },
  };
}

/** Ids of most lists. */
export const UUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/;
