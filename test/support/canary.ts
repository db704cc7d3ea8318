import { VARIABLES } from '../../src/config/variables.ts';

/** Stands in what tests send where nobody else may read it: bodies, query strings, cookies. */
export const CANARY = 'c4n4ry';

/** Shorter ones stand in any text by chance. */
const SECRET_CHARS_MIN = 12;

/** The secrets of a configuration: whole values, and the passwords in URLs. */
export function secretsIn(env: Record<string, string | undefined>): string[] {
  return [...VARIABLES.values()].flatMap(({ name, secret }) => {
    const value = env[name] ?? '';
    if (!secret) return [];
    if (!value.includes('://')) return value.split(/[,:=]/);
    const password = /:\/\/[^:/@]*:([^@/]+)@/.exec(value)?.[1];
    return password === undefined ? [] : [decodeURIComponent(password)];
  });
}

/** What of a header or a key nobody else may see: of a key its last part, for its id is public. */
export function secretsOf(credential: string): string[] {
  return [credential, credential.replace(/^\w+ /, ''), credential.split('_').at(-1) ?? ''];
}

/**
 * For the end of every test that runs the service, so that the whole suite is the proof: no secret, and not
 * the canary, is in what the service said. The error does not show the secret either.
 * @throws Error with the kind of text and what stands before the secret there
 */
export function refuseLeaks(secrets: Iterable<string>, said: Record<string, string>): void {
  for (const secret of [CANARY, ...secrets]) {
    if (secret !== CANARY && secret.length < SECRET_CHARS_MIN) continue;
    for (const [where, text] of Object.entries(said)) {
      const at = text.indexOf(secret);
      if (at === -1) continue;
      const before = text.slice(Math.max(0, at - 200), at);
      throw new Error(`A secret is in the ${where}, after: ${before}`);
    }
  }
}
