import { readFileSync } from 'node:fs';

/** Version of package.json, which lies one folder up from src/ and from dist/ alike. */
export function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
