import { createHmac, timingSafeEqual } from 'node:crypto';
import { AppError } from '../errors.ts';

const MAC_BYTES = 12;

export type Cursors = ReturnType<typeof createCursors>;

/**
 * Cursors are opaque to clients and signed with SECRET_KEY, so that nobody can step to a position
 * of their own making. Without SECRET_KEY the signature is only a checksum.
 */
export function createCursors(secretKey: string) {
  const macOf = (list: string, text: string) =>
    createHmac('sha256', secretKey).update(`${list}\n${text}`).digest().subarray(0, MAC_BYTES);

  return {
    encode(list: string, position: string[]): string {
      const text = JSON.stringify(position);
      return Buffer.concat([macOf(list, text), Buffer.from(text)]).toString('base64url');
    },

    /** Throws `bad_request` for a cursor that this service did not make for this list. */
    decode(list: string, cursor: string): string[] {
      const bytes = Buffer.from(cursor, 'base64url');
      const text = bytes.subarray(MAC_BYTES).toString();
      if (bytes.length <= MAC_BYTES || !timingSafeEqual(bytes.subarray(0, MAC_BYTES), macOf(list, text))) {
        throw new AppError('bad_request', 'This cursor is not from this list; start again without one');
      }
      return JSON.parse(text) as string[];
    },
  };
}
