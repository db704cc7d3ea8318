import { AppError } from '../errors.ts';

/** Entity tags over a version number: RFC 9110, 8.8.3 and 13.1. */
export function versionEtag(version: number): string {
  return `"${version}"`;
}

/** Whether `If-None-Match` names this tag; weak comparison, as the RFC asks for reads. */
export function matchesEtag(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  if (ifNoneMatch === etag || ifNoneMatch === '*') return true;
  return ifNoneMatch.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
}

/** What a writer says that it knows. Throws `precondition_required` when it says nothing: a blind write would lose somebody's change. */
export function requireIfMatch(ifMatch: string | undefined): string {
  if (ifMatch !== undefined) return ifMatch.trim();
  throw new AppError(
    'precondition_required',
    'Send the ETag of what you change, as you know it, as If-Match',
  );
}

/** The same as a version number. Throws `precondition_failed` for a tag that is none of ours. */
export function ifMatchVersion(ifMatch: string | undefined): number {
  const version = /^"(\d{1,9})"$/.exec(requireIfMatch(ifMatch))?.[1];
  if (version === undefined) {
    throw new AppError('precondition_failed', 'If-Match takes the one ETag that the last read answered');
  }
  return Number(version);
}
