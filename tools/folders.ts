import { readFileSync, writeFileSync } from 'node:fs';
import { cruise, type IReporterOutput } from 'dependency-cruiser';
import { fileURLToPath } from 'node:url';

/**
 * `npm run folders`: draws the folders of src and what each imports into ARCHITECTURE.md. An arrow that a chain of
 * others implies is left out. With --check it writes nothing, and ends with 1 when the picture is not current.
 */
const PAGE = fileURLToPath(new URL('../ARCHITECTURE.md', import.meta.url));
const BLOCK = /(<!-- folders:start -->\n)[^]*(<!-- folders:end -->)/;

const before = readFileSync(PAGE, 'utf8');
if (!BLOCK.test(before))
  throw new Error('ARCHITECTURE.md has no <!-- folders:start --> … <!-- folders:end -->');
const after = before.replace(BLOCK, `$1\n${draw(await readImports())}\n$2`);
if (!process.argv.includes('--check')) writeFileSync(PAGE, after);
else if (after !== before) {
  console.error('The picture of the folders in ARCHITECTURE.md is not current: npm run folders');
  process.exitCode = 1;
}

/** What each folder, or file beside them, imports; without itself. */
async function readImports(): Promise<Map<string, Set<string>>> {
  const { output }: IReporterOutput = await cruise(['src'], {
    includeOnly: '^src',
    tsPreCompilationDeps: true,
    collapse: '^src/[^/]+',
  });
  if (typeof output === 'string') throw new Error(output);
  const name = (path: string) => path.replace('src/', '');
  return new Map(
    output.modules.map(({ source, dependencies }) => {
      const imported = dependencies
        .map(({ resolved }) => name(resolved))
        .filter((each) => each !== name(source));
      return [name(source), new Set(imported)];
    }),
  );
}

function draw(imports: Map<string, Set<string>>): string {
  const reaches = (from: string, to: string): boolean =>
    [...(imports.get(from) ?? [])].some((next) => next === to || reaches(next, to));
  const arrows = [...imports].flatMap(([from, targets]) =>
    [...targets]
      .filter((to) => ![...targets].some((other) => other !== to && reaches(other, to)))
      .map((to) => `  ${id(from)} --> ${id(to)}`),
  );
  const nodes = [...imports.keys()].map((name) => `  ${id(name)}[${name}]`);
  return ['```mermaid', 'flowchart TD', ...nodes.toSorted(), ...arrows.toSorted(), '```', ''].join('\n');
}

function id(name: string): string {
  return name.replace(/\.ts$/, '').replaceAll(/\W/g, '_');
}
