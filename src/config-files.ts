import { closeSync, openSync, readFileSync, statSync } from 'node:fs';

export type Text = { text: string; fault?: undefined } | { text?: undefined; fault: string };

/**
 * A value without what editors, shells and Windows leave around it: a byte order mark and white space. The same for
 * environment and files, so that a secret has one value however it arrives; scripts/secret.sh has the same rules.
 */
export function cleanText(given: string): Text {
  const text = given.replace(/^\uFEFF/, '').replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, '');
  if (/\0|\uFFFD/.test(text)) {
    return { fault: 'is not UTF-8 text; save it as UTF-8 (not UTF-16), without NUL characters' };
  }
  if (/[\r\n]/.test(text)) return { fault: 'has more than one line; write one' };
  if (/[\p{Cc}\uFEFF]/u.test(text)) {
    return { fault: 'holds a control character, which copying brings along; type it anew' };
  }
  return { text };
}

export function readSecretFile(path: string): Text {
  const fault = findFileFault(path);
  if (fault !== undefined) return { fault };
  const file = cleanText(readFileSync(path, 'utf8'));
  if (file.fault !== undefined) return { fault: `${showPath(path)} ${file.fault}` };
  return file.text === '' ? { fault: `${showPath(path)} is empty` } : file;
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
