import { createHmac, timingSafeEqual } from 'node:crypto';
import { AppError } from '../errors.ts';

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
    encode(list: string, id: string): string {
      return Buffer.concat([macOf(list, id), Buffer.from(id)]).toString('base64url');
    },

    /** The id. Throws `bad_request` for a cursor that this service did not make for this list. */
    decode(list: string, cursor: string, idPattern: RegExp): string {
      const bytes = Buffer.from(cursor, 'base64url');
      const id = bytes.subarray(MAC_BYTES).toString();
      if (!idPattern.test(id) || !timingSafeEqual(bytes.subarray(0, MAC_BYTES), macOf(list, id))) {
        throw new AppError('bad_request', 'This cursor is not from this list; start again without one');
      }
      return id;
    },
  };
}

/** Ids of most lists. */
export const UUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/;
