import { readFileSync, statSync } from 'node:fs';

/**
 * A value without what editors, shells and Windows leave around it: a byte order mark and white space. The same for
 * the environment and for files, so that a secret has one value however it arrives; scripts/secret.sh has the same
 * rules. @throws Error with the reason, which shows nothing of the value
 */
export function cleanText(given: string): string {
  const text = given.replace(/^\uFEFF/, '').replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, '');
  if (/\0|\uFFFD/.test(text)) {
    throw new Error('is not UTF-8 text; save it as UTF-8 (not UTF-16), without NUL characters');
  }
  if (/[\r\n]/.test(text)) throw new Error('has more than one line; write one');
  if (/[\p{Cc}\uFEFF]/u.test(text)) {
    throw new Error('holds a control character, which copying brings along; type it anew');
  }
  return text;
}

/** The text of a file that holds a secret and nothing else. @throws Error with the path and the reason */
export function readSecretFile(path: string): string {
  return namePlace(showPath(path), () => {
    const text = cleanText(readTextFile(path));
    if (text === '') throw new Error('is empty');
    return text;
  });
}

/** @throws Error with the reason, without the path */
export function readTextFile(path: string): string {
  let reason = 'is not a file';
  try {
    // A pipe or a device would never end.
    if (statSync(path).isFile()) return readFileSync(path, 'utf8');
  } catch (error) {
    reason = `cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown reason'})`;
  }
  throw new Error(reason);
}

/** What `read` returns. The message of an error that it throws gets `place` in front. */
export function namePlace<T>(place: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new Error(`${place} ${(error as Error).message}`, { cause: error });
  }
}

/** The path for a message. An operator who puts the secret itself where its path belongs must not find it in the log. */
export function showPath(path: string): string {
  if (/^(\.{0,2}\/|[A-Za-z]:\\)/.test(path) && !/[\n@]/.test(path)) return path;
  return `(a path of ${path.length} characters, not shown: it does not look like one)`;
}
