import { closeSync, openSync, readFileSync, statSync } from 'node:fs';

/** Reads a secret from a file, without the one line end that editors and `echo` leave. */
export function readSecretFile(path: string): { text: string } | { fault: string } {
  const fault = findFileFault(path);
  if (fault !== undefined) return { fault };
  const text = readFileSync(path, 'utf8').replace(/\r?\n$/, '');
  return text === '' ? { fault: `${showPath(path)} is empty` } : { text };
}

/** Why a file cannot be read, or undefined when it can. */
export function findFileFault(path: string): string | undefined {
  try {
    if (!statSync(path).isFile()) return `${showPath(path)} is not a file`;
    closeSync(openSync(path, 'r'));
    return undefined;
  } catch (err) {
    return `${showPath(path)} cannot be read (${err instanceof Error && 'code' in err ? String(err.code) : 'unknown reason'})`;
  }
}

/** The path for a message. Whoever puts the secret itself where its path belongs must not find it in the log. */
export function showPath(path: string): string {
  if (/^(\.{0,2}\/|[A-Za-z]:\\)/.test(path) && !/[\n@]/.test(path)) return path;
  return `(a path of ${path.length} characters, not shown: it does not look like one)`;
}
