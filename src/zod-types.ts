import { z } from 'zod';

/**
 * The id of a thing, as clients send it. RFC 9562 lets them write it in either case; from here on it has one
 * spelling, in cache keys, locks and invalidations.
 */
export const uuid = z.uuid().toLowerCase();
