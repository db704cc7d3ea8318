import { VARIABLES, type Env } from './variables.ts';

/** One warning for each variable that looks like one of ours and is none. Values are never shown. */
export function findTypos(env: Env): string[] {
  return Object.entries(env)
    .filter(([name, value]) => value && !KNOWN.has(name) && !isForeign(name, value))
    .flatMap(([name]) => {
      const hasOwnPrefix = OWN_PREFIXES.has(prefixOf(name));
      const nearest = findNearest(name.toUpperCase(), hasOwnPrefix ? 3 : 2);
      if (!nearest && !hasOwnPrefix) return [];
      const advice = nearest ? `; did you mean ${nearest}?` : '';
      return [`${name} is not a variable of this service and has no effect${advice}`];
    });
}

const NAMES = [...VARIABLES.values()].flatMap(({ name, secret }) =>
  secret ? [name, `${name}_FILE`] : [name],
);

/** With those that the development commands and the tests read. */
const KNOWN = new Set([
  ...NAMES,
  'DEV_STATE_DIR',
  'DEV_WATCH',
  'REQUIRE_REDIS',
  'REQUIRE_TOOLS',
  'TEST_DATABASE_URL',
  'TEST_REDIS_URL',
]);

/** OTEL is not ours: the SDK has many more variables. */
const OWN_PREFIXES = new Set(NAMES.map(prefixOf).filter((prefix) => prefix !== 'OTEL'));

function prefixOf(name: string): string {
  return /^RATE_LIMIT(?=_)|^[^_]+(?=_)/.exec(name)?.[0] ?? '';
}

/** Variables of others that begin like ours. */
function isForeign(name: string, value: string): boolean {
  // CGI, and the limits that memory tools set for Node.
  if (/^(QUERY_STRING|REQUEST_(METHOD|URI|SCHEME)|MAX_OLD_SPACE_SIZE)$/.test(name)) return true;
  // NAME_FILE of a variable that is no secret is a problem already.
  if (VARIABLES.has(name.replace(/_FILE$/, ''))) return true;
  // Kubernetes gives every pod of a Service `redis` REDIS_SERVICE_HOST, REDIS_PORT=tcp://… and the like.
  return /_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)/.test(name) || /^(tcp|udp):\/\//.test(value);
}

/** The variable that takes the fewest changes, `most` at the most. */
function findNearest(name: string, most: number): string | undefined {
  const distances = NAMES.map((candidate) => ({ candidate, distance: editDistance(name, candidate) }));
  const [nearest] = distances.toSorted((a, b) => a.distance - b.distance);
  return nearest && nearest.distance <= most ? nearest.candidate : undefined;
}

/** Levenshtein: the fewest characters to insert, delete or replace. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (const [index, letter] of a.split('').entries()) {
    const above = row;
    row = [index + 1];
    for (const [column, other] of b.split('').entries()) {
      const replaced = (above[column] ?? 0) + (letter === other ? 0 : 1);
      row.push(Math.min(replaced, (above[column + 1] ?? 0) + 1, (row[column] ?? 0) + 1));
    }
  }
  return row.at(-1) ?? 0;
}
