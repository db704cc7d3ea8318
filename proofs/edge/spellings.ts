const BEFORE = [
  '/',
  '//',
  '///',
  '/./',
  '/x/../',
  '/%2e/',
  '/%2e%2e/',
  '/..%2f',
  '/v1/',
  '/V1/',
  '/api/',
  '/api/v1/',
];
BEFORE.push(
  '/v1/../',
  '/v1//',
  '/v1/%2e%2e/',
  '/%2f',
  '/;/',
  '/;x/',
  '/\\',
  '/%5c',
  '/v1/api-keys/../../',
  '/?/../',
  '/#/../',
);
const AFTER = [
  '',
  '/',
  '//',
  '/.',
  '/..;/',
  '?',
  '?x=1',
  '#',
  ';',
  ';x=1',
  '.',
  '.json',
  '%00',
  '%20',
  '%2f',
  '%3b',
  '%3f',
  '%23',
];
const WORDS = ['metrics', 'internal', 'internal/status', 'stub_status', '.problem'];

const upper = (word: string) => word.toUpperCase();
const mixed = (word: string) => word.replace(/^./, upper);
const hex = (character: string) => `%${character.charCodeAt(0).toString(16)}`;
const first = (word: string) => word.replace(/^./, hex);
const every = (word: string) => word.replaceAll(/[a-z]/g, hex);
const twice = (word: string) => first(word).replace('%', '%25');
const same = (word: string) => word;

/** Internal paths, as somebody would spell them who wants to get past a list. */
export const SPELLINGS: readonly string[] = [
  ...new Set(
    WORDS.flatMap((word) => [
      ...BEFORE.flatMap((before) =>
        [same, upper, mixed, first, every, twice].map((spell) => before + spell(word)),
      ),
      ...AFTER.flatMap((after) => [same, upper, first].map((spell) => `/${spell(word)}${after}`)),
      ...AFTER.map((after) => `/v1/${word}${after}`),
    ]),
  ),
];
