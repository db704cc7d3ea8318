import { z } from 'zod';
import { AppError } from '../../errors.ts';

/** Stated for the document; absence is 428 and told by `requireIfMatch`, not 400. */
export const IfMatchHeader = z.looseObject({
  'if-match': z.string().optional().describe('ETag of what you change, as you know it; required'),
});

export const IfNoneMatchHeader = z.looseObject({
  'if-none-match': z.string().optional().describe('ETag of what you read, as you know it'),
});

/** Entity tags over a version number: RFC 9110, 8.8.3 and 13.1. */
export function versionEtag(version: number): string {
  return `"${version}"`;
}

/** Whether `If-None-Match` names this tag; weak comparison, as the RFC asks for reads. */
export function matchesEtag(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  return ifNoneMatch === etag || names(ifNoneMatch, (tag) => tag.replace(/^W\//, '') === etag);
}

/** Whether a writer knows what has this tag. */
export type Precondition = (etag: string) => boolean;

/**
 * What a writer knows, by strong comparison. Throws `precondition_required` if the writer says nothing: a blind
 * write would lose somebody's change.
 */
export function requireIfMatch(ifMatch: string | undefined): Precondition {
  if (ifMatch !== undefined) return (etag) => names(ifMatch, (tag) => tag === etag);
  throw new AppError(
    'precondition_required',
    'Send the ETag of what you change, as you know it, as If-Match',
  );
}

const TAG = /(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"/;
const TAGS = new RegExp(`^[\\s,]*${TAG.source}(?:\\s*,[\\s,]*${TAG.source})*[\\s,]*$`);

/** `*`, or a list of tags (RFC 9110, 8.8.3 and 13.1); anything else names nothing. */
function names(header: string, isMeant: (tag: string) => boolean): boolean {
  if (header.trim() === '*') return true;
  return TAGS.test(header) && (header.match(new RegExp(TAG, 'g')) ?? []).some(isMeant);
}
