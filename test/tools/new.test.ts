import { execFile } from 'node:child_process';
import { cpSync, readFileSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { writeResource } from '../../tools/new/main.ts';
import { parseField, RESERVED, spellResource } from '../../tools/new/names.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { temporaryFolder } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';

t.test('a name has every spelling that its files need', async (t) => {
  const singulars = [
    'customers',
    'addresses',
    'address',
    'news',
    'boxes',
    'categories',
    'statuses',
    'order-items',
  ];
  t.same(
    singulars.map((plural) => spellResource(plural).camel),
    ['customer', 'address', 'address', 'news', 'box', 'category', 'status', 'orderItem'],
  );
  t.match(spellResource('people', 'person'), { table: 'people', pascal: 'Person', pluralPascal: 'People' });
  t.match(parseField('firstName:text?'), { name: 'firstName', column: 'first_name', optional: true });
  t.match(parseField('first_name:text'), { name: 'firstName', column: 'first_name', optional: false });
});

t.test('what cannot be written is refused, and nothing is written', async (t) => {
  const folder = copyRepository(t);
  const before = readAll(folder);
  const refused: [args: string[], message: RegExp][] = [
    [[], /^Usage: npm run new/],
    [['Customers'], /no name of a resource/],
    [['order_items'], /no name of a resource/],
    [['order'], /reserved word of SQL/],
    [['user'], /reserved word of SQL: take another name, such as users/],
    [['api-keys'], /exists already/],
    [['audit-events'], /served already/],
    [['health'], /uses the name health/],
    [['customers', 'name'], /write NAME:TYPE/],
    [['customers', 'name:string'], /no type "string"; there are text/],
    [['customers', 'order:int'], /reserved word of SQL/],
    [['customers', 'createdAt:timestamp'], /has "createdAt" already/],
    [['customers', 'a:text', 'a:int'], /twice/],
    [['customers', '--with', 'cash'], /takes cache and idempotency, not cash/],
    [['customers', '--force'], /Unknown option[^]*Usage/],
  ];
  for (const [args, message] of refused)
    await t.rejects(writeResource(folder, args), message, args.join(' '));
  t.strictSame(readAll(folder), before);

  const url = await createDatabase(t);
  const { rows } = await withClient(url, (client) =>
    client.query<{ word: string }>(`select word from pg_get_keywords() where catcode in ('R', 'T')`),
  );
  t.same(
    rows.filter(({ word }) => !RESERVED.has(word)),
    [],
    'all reserved words are known',
  );
});

t.test('A new resource takes one command and ten minutes.', async (t) => {
  const folder = copyRepository(t);
  await writeResource(folder, ['customers', 'name:text', 'email:text?', 'born:date', 'seenAt:timestamp?']);
  await writeResource(folder, ['order-items', 'quantity:int', '--with', 'cache,idempotency']);
  await writeResource(folder, ['news', 'score:number', 'hot:boolean', 'author:uuid']);
  await t.rejects(writeResource(folder, ['customers']), /exists already/);

  t.match(readFileSync(join(folder, 'src/app.ts'), 'utf8'), /register\(customers, services\);\n/);
  const node = (...args: string[]) =>
    promisify(execFile)(process.execPath, args, { cwd: folder, maxBuffer: 2 ** 24 }).catch((error) => error);
  for (const name of ['customers', 'order-items', 'news']) {
    const { stdout, stderr, code } = await node('--import', 'tsx', `test/features/${name}.test.ts`);
    t.equal(code ?? 0, 0, `${stdout}${stderr}`);
  }
});

const COPIED = ['src', 'tools', 'test', 'migrations', 'package.json', 'tsconfig.json', '.prettierrc.json'];

function readAll(folder: string): [path: string, text: string][] {
  return ['src', 'test', 'migrations'].flatMap((top) =>
    readdirSync(join(folder, top), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path): [string, string] => [path, readFileSync(path, 'utf8')]),
  );
}

/** As much of the project as the command and the tests that it writes need. */
function copyRepository(t: Test): string {
  const folder = temporaryFolder(t);
  for (const path of COPIED) cpSync(join(repositoryDir, path), join(folder, path), { recursive: true });
  symlinkSync(join(repositoryDir, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}
