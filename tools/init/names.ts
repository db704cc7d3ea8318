import { crc32 } from 'node:zlib';

/** The new name in every spelling, and the first part of its API keys and Redis keys. */
export type Names = ReturnType<typeof spellNames>;

/** @param name a checked one, such as `my-service` */
export function spellNames(name: string, prefix: string) {
  const words = name.split('-');
  const capitals = words.map((word) => word.charAt(0).toUpperCase() + word.slice(1));
  const pascal = capitals.join('');
  return {
    dash: name,
    snake: words.join('_'),
    upper: words.join('_').toUpperCase(),
    camel: `${words[0]}${pascal.slice(words[0]?.length)}`,
    pascal,
    title: capitals.join(' '),
    train: capitals.join('-'),
    prefix,
  };
}

/** The first letters of the words, or the first two letters of a single one; undefined when there are not two. */
export function derivePrefix(name: string): string | undefined {
  const initials = name.replace(/([a-z0-9])[a-z0-9]*-?/g, '$1').replace(/\d/g, '');
  const letters = initials.length > 1 ? initials.slice(0, 4) : name.replace(/[^a-z]/g, '').slice(0, 2);
  return letters.length < 2 ? undefined : letters;
}

// Nothing but a dash is a letter of a DNS label and of an image's name, and SQL takes it in quotes only. So the
// dashes stand wherever Postgres's names do not: these are the places of those.
const DATABASE_RULES = [
  // postgres://NAME:secret@host/NAME
  /(?<=\bpostgres(?:ql)?:\/\/)hardpoint(?=[:@])/g,
  /(?<=\bpostgres(?:ql)?:\/\/[^\s'"`/]*\/)hardpoint(?![\w-])/g,
  // POSTGRES_DB: NAME, and the same over two lines of a Kubernetes list
  /(?<=\b(?:(?:POSTGRES|DB)_(?:DB|NAME|USER)|PG(?:DATABASE|USER))\b\W{1,40}(?:value\W{1,4})?)hardpoint(?![\w-])/g,
  // dbname=NAME, {datname="NAME"}, const DATABASE = 'NAME', and PgBouncer's NAME = host=…
  /(?<=(?:database|dbname|datname|rolname|owner)\b["']?\s*[:=~]+\s*["']?)hardpoint(?![\w-])/gi,
  /^hardpoint(?=\s*=\s*(?:host|dbname)=)/gm,
  // create role NAME, on database "NAME", owner to NAME
  /(?<=\b(?:create|alter|drop)\s+(?:role|user|schema)\s+(?:if\s+(?:not\s+)?exists\s+)?["'`]?)hardpoint(?![\w-])/gi,
  /(?<=\b(?:database|owner\s+to)\s+(?:if\s+(?:not\s+)?exists\s+)?["'`]?)hardpoint(?![\w-])/gi,
  // psql -U NAME -d NAME
  /(?<=\b(?:psql|pgbench|createdb|dropdb|pg_(?:dump|dumpall|restore|isready|basebackup))\b(?:[^\n|;&]|\\\n)*[\s'"=])hardpoint(?![\w./:-])/g,
  // ensureDatabase(url, 'NAME')
  /(?<=\b(?:\w*[dD]atabase|urlOf)\([^()\n]*,\s*['"`])hardpoint(?=['"`])/g,
];

/** From the narrowest to the widest: the first that fits a place decides about it. */
const NAME_RULES: [form: keyof Names, places: RegExp[]][] = [
  ['upper', [/HARDPOINT/g]],
  ['snake', [/(?<=_)hardpoint|hardpoint(?=_)/g]],
  // A Prometheus recording rule, level:metric:operations; an image's tag has one colon.
  ['snake', [/(?<![\w./-])hardpoint(?=:[a-z]\w*:[a-z])/g]],
  ['camel', [/hardpoint(?=[A-Z])/g]],
  ['pascal', [/(?<=[A-Za-z0-9_])(?<!\\[bnrt])Hardpoint|Hardpoint(?=[A-Za-z0-9_])/g]],
  // X-Hardpoint-Id, Hardpoint/1.0
  ['train', [/(?<=[A-Za-z]-)Hardpoint|Hardpoint(?=[-/][A-Za-z0-9])/g]],
  ['snake', DATABASE_RULES],
  ['title', [/Hardpoint/g]],
  ['dash', [/hardpoint/g]],
];

// As a whole word, where an underscore ends a word too; `\n` and `\b` before it are escapes, not letters.
const PREFIX = /(?:(?<![A-Za-z0-9])|(?<=\\[bnrt]))hp(?![A-Za-z0-9])/g;
const UPPER_PREFIX = /(?<![A-Za-z0-9])HP(?=_)/g;
const API_KEY = /hp(_[a-z]{2,10}_[0-9A-Za-z]{12}_[0-9A-Za-z]{30})([0-9A-Za-z]{6})(?![0-9A-Za-z])/g;

/** A file's text, or its path, under the new name. API keys in it stay as valid or as broken as they were. */
export function rename(text: string, path: string, names: Names): string {
  let renamed = holdsHashes(path) ? text : renamePrefix(text, names.prefix);
  if (path.endsWith('.sql')) renamed = renamed.replaceAll('hardpoint', names.snake);
  for (const [form, places] of NAME_RULES) {
    for (const place of places) renamed = renamed.replace(place, names[form]);
  }
  return renamed;
}

/** Line numbers of what still speaks of the template; wider than the rules, so that it finds what they miss. */
export function findTraces(text: string, path: string, names: Names): number[] {
  const { prefix: _, ...spellings } = names;
  const own = new RegExp(Object.values(spellings).join('|'), 'g');
  const name = /hard[-_. ]?point/i;
  const prefix = /(?<![a-z])hp(?![a-z])/i;
  const withPrefix = names.prefix !== 'hp' && !holdsHashes(path);
  return text.split('\n').flatMap((line, index) => {
    const rest = line.replace(own, ' ');
    return name.test(rest) || (withPrefix && prefix.test(rest)) ? [index + 1] : [];
  });
}

/** Two letters occur in base64 by chance. */
function holdsHashes(path: string): boolean {
  return path.endsWith('package-lock.json');
}

function renamePrefix(text: string, prefix: string): string {
  return text
    .replace(API_KEY, (_, body: string, sum: string) => {
      const valid = checksum(`hp${body}`) === sum;
      return `${prefix}${body}${valid ? checksum(prefix + body) : sum}`;
    })
    .replace(PREFIX, prefix)
    .replace(UPPER_PREFIX, prefix.toUpperCase());
}

// As in src/auth/token.ts, which has no other reason to let it out; a test holds them together.
function checksum(text: string): string {
  const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
  let rest = crc32(text);
  let encoded = '';
  for (let i = 0; i < 6; i++) {
    encoded = `${alphabet[rest % 62]}${encoded}`;
    rest = Math.floor(rest / 62);
  }
  return encoded;
}
