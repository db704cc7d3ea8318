import { builtinModules } from 'node:module';
import { parseArgs } from 'node:util';
import { derivePrefix } from './names.ts';

const USAGE = 'Usage: npm run init -- my-service [--prefix ms] [--without-example] [--force]';

// The name becomes a database, a YAML value and a host beside those of the stack. There these words are taken:
// SQL's reserved ones first, which would need quotes.
const TAKEN = `
  all analyze any array as authorization between binary case cast check collate column constraint create cross
  default desc distinct do else end except false fetch for foreign from freeze full grant group having in
  initially inner intersect into is isnull join lateral leading left like limit localtime natural not notnull null
  offset on only or order outer overlaps placing primary references returning right select similar some symmetric
  table tablesample then to trailing true union unique user using variadic verbose when where window with
  yes no off postgres template0 template1 redis nginx pgbouncer prometheus grafana`.split(/\s+/);

/** @throws Error with a message for the user */
export function readArguments(args: string[]) {
  const options = {
    prefix: { type: 'string' },
    'without-example': { type: 'boolean', default: false },
    force: { type: 'boolean', default: false },
  } as const;
  const { values, positionals } = parseOrExplain(() => parseArgs({ args, options, allowPositionals: true }));
  const [name, ...more] = positionals;
  if (name === undefined || more.length > 0) throw new Error(`One name is needed. ${USAGE}`);
  if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name) || name.length < 2 || name.length > 40) {
    throw new Error(
      `"${name}" cannot be the name: it takes 2 to 40 of a-z, 0-9 and single dashes inside, and begins with a letter.`,
    );
  }
  if (name.includes('hardpoint'))
    throw new Error('That is the name of the template. Choose one of your own.');
  if (TAKEN.includes(name) || builtinModules.includes(name)) {
    throw new Error(`"${name}" means something else to SQL, YAML, Node or the stack. Choose another name.`);
  }
  const prefix = values.prefix ?? derivePrefix(name);
  if (prefix === undefined) throw new Error(`"${name}" has no two letters for a key prefix: add --prefix.`);
  if (!/^[a-z]{2,4}$/.test(prefix)) throw new Error(`--prefix takes 2 to 4 letters a-z, not "${prefix}".`);
  return { name, prefix, withoutExample: values['without-example'], force: values.force };
}

function parseOrExplain<T>(parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw new Error(`${(cause as Error).message}\n${USAGE}`, { cause });
  }
}
