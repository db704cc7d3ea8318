import type { Env } from './config-reader.ts';
import { isVariableName, VARIABLES, type Variable } from './config-variables.ts';

/** One warning for each variable that looks like one of ours and is none. Values are never shown. */
export function findTypos(env: Env): string[] {
  return Object.entries(env)
    .filter(([name, value]) => value && !KNOWN.has(name) && !isForeign(name, value))
    .flatMap(([name]) => {
      const nearest = findNearest(name.toUpperCase(), OWN_PREFIX.test(name) ? 3 : 2);
      if (nearest) return [`${name} ${UNKNOWN}; did you mean ${nearest}?`];
      return OWN_PREFIX.test(name) ? [`${name} ${UNKNOWN}`] : [];
    });
}

const UNKNOWN = 'is not a variable of this service and has no effect';

const OWN_PREFIX =
  /^(API|AUTH|CACHE|CONNECTION|CORS|DATABASE|DOCS|DRAIN|ENFORCE|EXPECTED|IDEMPOTENCY|LOG|MAX|METRICS|POOL|QUERY|RATE_LIMIT|REDIS|REQUEST|SECRET|SHUTDOWN|SLOW|TRUSTED)_/;

/** Read by the development commands and the tests. */
const TOOL_VARIABLES = [
  'DEV_STATE_DIR',
  'DEV_WATCH',
  'TEST_DATABASE_URL',
  'TEST_REDIS_URL',
  'REQUIRE_REDIS',
  'REQUIRE_TOOLS',
];

const NAMES = Object.entries<Variable>(VARIABLES).flatMap(([name, { secret }]) =>
  secret ? [name, `${name}_FILE`] : [name],
);
const KNOWN = new Set([...NAMES, ...TOOL_VARIABLES]);

/** Variables of others that begin like ours. */
function isForeign(name: string, value: string): boolean {
  // CGI, and the limits that memory tools set for Node.
  if (/^(QUERY_STRING|REQUEST_(METHOD|URI|SCHEME)|MAX_OLD_SPACE_SIZE)$/.test(name)) return true;
  // NAME_FILE of a variable that is no secret is a problem, told by the reader.
  if (name.endsWith('_FILE') && isVariableName(name.slice(0, -'_FILE'.length))) return true;
  // Kubernetes tells every pod of a Service `redis` REDIS_SERVICE_HOST, REDIS_PORT=tcp://… and the like.
  return (
    /_SERVICE_(HOST|PORT)/.test(name) || /_PORT_\d+_(TCP|UDP)/.test(name) || /^(tcp|udp):\/\//.test(value)
  );
}

/** The variable that takes the fewest changes, `most` at the most. */
function findNearest(name: string, most: number): string | undefined {
  const [nearest] = NAMES.filter((candidate) => Math.abs(candidate.length - name.length) <= most)
    .map((candidate) => ({ candidate, distance: editDistance(name, candidate) }))
    .filter(({ distance }) => distance <= most)
    .toSorted((a, b) => a.distance - b.distance);
  return nearest?.candidate;
}

/** Levenshtein: the fewest characters to insert, delete or replace. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const replaced = (previous[column - 1] ?? 0) + (a[row - 1] === b[column - 1] ? 0 : 1);
      current.push(Math.min(replaced, (previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}
