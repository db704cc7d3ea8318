/** What a project made from the template does without. Paths are relative, with slashes. */
export interface Removal {
  files: Set<string>;
  /** Names of scripts in package.json. */
  scripts: Set<string>;
  example: boolean;
}

/** The renaming itself is needed once, and nothing that names the template may stay. */
const OWN_FILE = /^(tools|proofs)\/init\/|^test\/tools\/init\.test\.ts$/;
/** A folder or a file that is called so, wherever it lies: the feature, its test, its load test, its page. */
const EXAMPLE_FILE = /(^|\/)orders[./]/;
/** The first line of a file with another name that is of no use without the example; any kind of comment. */
const EXAMPLE_COMMENT = /^(#!.*\n)?\W*(Goes with the example|Belongs to)\b.*src\/features\/orders/;

const COMMENT = String.raw`[ \t]*(?:<!--|\/\/|--|#|\/\*)[ \t]*`;
const MARKER = new RegExp(`^${COMMENT}(?:init|example):(?:start|end)\\b`, 'm');

/** @param files path and text of each; a binary file has no text */
export function planRemoval(files: Map<string, string | undefined>, example: boolean): Removal {
  const removed = new Set<string>();
  for (const [path, text = ''] of files) {
    const ofExample = EXAMPLE_FILE.test(path) || EXAMPLE_COMMENT.test(text);
    if (OWN_FILE.test(path) || (example && ofExample)) removed.add(path);
  }
  const { scripts = {} } = readManifest(files.get('package.json'));
  const dead = Object.entries(scripts).filter(([, command]) => {
    return command.split(' ').some((word) => removed.has(word));
  });
  return { files: removed, scripts: new Set(dead.map(([name]) => name)), example };
}

/** The text of a file that stays, without what speaks of a removed one. */
export function withoutRemoved(path: string, text: string, removal: Removal): string {
  const { scripts, example } = removal;
  const rest = stripMarked(stripMarked(text, 'init', true), 'example', example);
  if (MARKER.test(rest)) throw new Error(`${path}: a ":start" without its ":end", or the other way round.`);
  if (path === 'src/app.ts' && example) return unregisterExample(rest);
  if (path === 'package.json') return dropScripts(rest, scripts);
  if (path.startsWith('.ci/')) return dropLines(rest, (line) => runsOf(scripts).test(line));
  // No comment can stand between the rows of a table.
  const mention = mentionsOf(removal);
  if (path.endsWith('.md')) return dropLines(rest, (line) => line.startsWith('|') && mention.test(line));
  return rest;
}

/** The lines that the rules above left behind, though they speak of something that is gone. */
export function findMentions(text: string, removal: Removal): number[] {
  const mention = mentionsOf(removal);
  return text.split('\n').flatMap((line, index) => (mention.test(line) ? [index + 1] : []));
}

/** `package.json`, as far as it matters here. */
export function readManifest(text: string | undefined): {
  name?: string;
  scripts?: Record<string, string>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
} {
  return JSON.parse(text ?? '{}');
}

function mentionsOf({ files, scripts, example }: Removal): RegExp {
  const gone = [...files].map((file) => file.replaceAll('.', String.raw`\.`));
  if (example) gone.push('features/orders', '/v1/orders', String.raw`\b(?:from|into|update|table) orders\b`);
  return new RegExp([...gone, runsOf(scripts).source].join('|'));
}

/** The comment lines `<topic>:start` and `<topic>:end` go in any case, what is between them when `whole`. */
function stripMarked(text: string, topic: string, whole: boolean): string {
  const line = (edge: string) => String.raw`^${COMMENT}${topic}:${edge}\b.*\n`;
  const marked = new RegExp(`${line('start')}((?:.*\n)*?)${line('end')}(\n?)`, 'gm');
  return text.replace(marked, (_, inner: string, blank: string) => (whole ? '' : inner + blank));
}

/** The two lines of app.ts: the import and the registration of what it imports. */
function unregisterExample(text: string): string {
  const importLine = /^import \{ (\w+) \} from '\.\/features\/orders\/routes\.ts';\n/m;
  const name = importLine.exec(text)?.[1];
  if (name === undefined) throw new Error('src/app.ts does not import src/features/orders/routes.ts');
  return text.replace(importLine, '').replace(new RegExp(`^.*\\bregister\\(${name}\\b[^;]*;\n`, 'm'), '');
}

function dropScripts(text: string, names: Set<string>): string {
  const manifest = readManifest(text);
  const kept = Object.entries(manifest.scripts ?? {}).filter(([name]) => !names.has(name));
  return `${JSON.stringify({ ...manifest, scripts: Object.fromEntries(kept) }, null, 2)}\n`;
}

function dropLines(text: string, isDead: (line: string) => boolean): string {
  const lines = text.split('\n');
  return lines.filter((line) => !isDead(line)).join('\n');
}

/** `npm run` of one of these, with or without options. */
function runsOf(scripts: Set<string>): RegExp {
  return new RegExp(String.raw`\bnpm run (?:--?\w+ )*(?:${[...scripts, '\0'].join('|')})(?![\w:-])`);
}
