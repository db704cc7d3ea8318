import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';
import { isEntry } from '../../src/cli/environment.ts';
import { nextMigrationPath } from '../../src/migrations/files.ts';
import { parseField, spellResource, TYPES, type Names } from './names.ts';
import {
  EXTRAS,
  writeMigration,
  writeRepository,
  writeRoutes,
  writeSchema,
  writeService,
  writeTest,
} from './templates.ts';

const USAGE = `Usage: npm run new -- PLURAL [FIELD:TYPE[?] ...] [--singular NAME] [--with ${EXTRAS.join(',')}]

  npm run new -- customers name:text email:text? born:date
  npm run new -- order-items quantity:int --with cache,idempotency

Types: ${TYPES.join(', ')}; a question mark for a field that may be missing. Without fields it gets name:text.`;

/**
 * `npm run new`: writes a resource with five operations: migration, schema, repository, service, routes, a test, and
 * its two lines in src/app.ts. It passes the checks as it is. Returns the paths; writes nothing when it throws.
 */
export async function writeResource(directory: string, args: string[]): Promise<string[]> {
  const { positionals, values } = parse(args);
  const [plural, ...fieldTexts] = positionals;
  if (plural === undefined) throw new Error(USAGE);
  const names = spellResource(plural, values.singular);
  const fields = (fieldTexts.length > 0 ? fieldTexts : ['name:text']).map(parseField);
  const twice = fields.find(
    ({ column }, index) => fields.findIndex((other) => other.column === column) < index,
  );
  if (twice) throw new Error(`the field ${twice.name} is there twice`);
  const extras = new Set((values.with ?? '').split(',').filter(Boolean));
  const unknown = [...extras].find((extra) => !EXTRAS.includes(extra));
  if (unknown) throw new Error(`--with takes ${EXTRAS.join(' and ')}, not ${unknown}`);
  refuseTaken(directory, names);

  const resource = { ...names, fields, cache: extras.has('cache'), idempotency: extras.has('idempotency') };
  const folder = `src/features/${names.plural}`;
  const written: Record<string, string> = {
    [relative(directory, nextMigrationPath(join(directory, 'migrations'), names.table))]:
      writeMigration(resource),
    [`${folder}/schema.ts`]: writeSchema(resource),
    [`${folder}/repository.ts`]: writeRepository(resource),
    [`${folder}/service.ts`]: writeService(resource),
    [`${folder}/routes.ts`]: writeRoutes(resource),
    [`test/features/${names.plural}.test.ts`]: writeTest(resource),
    'src/app.ts': register(readFileSync(join(directory, 'src/app.ts'), 'utf8'), names),
  };
  const options = await resolveConfig(join(directory, 'src/app.ts'));
  for (const [path, text] of Object.entries(written)) {
    const whole = path.endsWith('.ts') ? await format(text, { ...options, parser: 'typescript' }) : text;
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), whole);
  }
  return Object.keys(written);
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: { singular: { type: 'string' }, with: { type: 'string' } },
    });
  } catch (error) {
    throw new Error(`${(error as Error).message}\n\n${USAGE}`, { cause: error });
  }
}

/** Nothing is overwritten, and no two resources share a URL, a table or a name in app.ts. */
function refuseTaken(directory: string, { plural, table, pluralCamel }: Names): void {
  if (existsSync(join(directory, 'src/features', plural)))
    throw new Error(`src/features/${plural} exists already`);
  const features = join(directory, 'src/features');
  const routes = readdirSync(features, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  );
  const urls = new RegExp(`'/${plural}['/]`);
  const taken = routes.find((name) => urls.test(readFileSync(join(features, name), 'utf8')));
  if (taken) throw new Error(`/v1/${plural} is served already, by src/features/${taken}`);
  const created = new RegExp(`create table (if not exists )?"?${table}"?\\b`, 'i');
  const migrations = join(directory, 'migrations');
  const owner = readdirSync(migrations).find((name) =>
    created.test(readFileSync(join(migrations, name), 'utf8')),
  );
  if (owner) throw new Error(`migrations/${owner} creates a table ${table} already`);
  const app = readFileSync(join(directory, 'src/app.ts'), 'utf8');
  if (new RegExp(`\\b${pluralCamel}\\b`).test(app))
    throw new Error(`src/app.ts uses the name ${pluralCamel} for something else: take another one`);
}

/** The import and the registration, each after the last one of its kind. */
function register(app: string, { plural, pluralCamel }: Names): string {
  const imports = [...app.matchAll(/^import .* from '\.\/features\/.*;\n/gm)].at(-1);
  const scope = /\n( *)\},\n *\{ prefix: '\/v1' \}/.exec(app);
  if (!imports || !scope)
    throw new Error('src/app.ts registers no features below /v1: add the two lines by hand');
  const line = `\n      await v1.register(${pluralCamel}, services);`;
  const withLine = app.slice(0, scope.index) + line + app.slice(scope.index);
  const at = imports.index + imports[0].length;
  return `${withLine.slice(0, at)}import { ${pluralCamel} } from './features/${plural}/routes.ts';\n${withLine.slice(at)}`;
}

if (isEntry(import.meta.url)) {
  try {
    const directory = fileURLToPath(new URL('../../', import.meta.url));
    const paths = await writeResource(directory, process.argv.slice(2));
    console.log(paths.map((path) => `  ${path}`).join('\n'));
    console.log(`\nNext:
  npm run dev      applies the migration and serves the resource; a running one does it now
  npm run check    format, lint, types, and all tests, the new ones included
  Read the migration: lengths, indexes and constraints are yours to decide. Once it is applied, it is not edited.`);
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
