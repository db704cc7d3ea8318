import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { downloadModule } from './modules.ts';

interface Schema {
  $ref?: string;
  type?: string;
  properties?: Record<string, Schema>;
  additionalProperties?: unknown;
  'x-kubernetes-group-version-kind'?: { group: string; kind: string; version: string }[];
}

const FOLDER = 'api/openapi-spec/v3';
const GROUPS = /^(api|apis__(apps|autoscaling|batch|networking\.k8s\.io|policy))__v[12]_openapi\.json$/;

/** What kubeconform puts in place of the names in braces, for the files that `writeSchemas` writes. */
export const SCHEMA_NAMES = '{{.ResourceKind}}{{.KindSuffix}}.json';

/**
 * The JSON schemas of a release of Kubernetes, from the OpenAPI documents that it was published with, one file a kind.
 * Strict: a property that is not known is refused. Returns the folder.
 */
export async function writeSchemas(version: string, folder: string): Promise<string> {
  const { dir } = await downloadModule(`k8s.io/kubernetes@v${version}`);
  const target = join(folder, version);
  mkdirSync(target, { recursive: true });
  for (const name of readdirSync(join(dir, FOLDER)).filter((each) => GROUPS.test(each))) {
    const text = readFileSync(join(dir, FOLDER, name), 'utf8').replaceAll(
      '#/components/schemas/',
      '#/definitions/',
    );
    const definitions: Record<string, Schema> = JSON.parse(text).components.schemas;
    for (const schema of Object.values(definitions)) {
      if (schema.properties) schema.additionalProperties ??= false;
    }
    for (const [id, schema] of Object.entries(definitions)) {
      for (const { group, kind, version: of } of schema['x-kubernetes-group-version-kind'] ?? []) {
        const suffix = [group.split('.')[0], of].filter(Boolean).join('-');
        const file = `${kind.toLowerCase()}-${suffix}.json`;
        writeFileSync(join(target, file), JSON.stringify({ $ref: `#/definitions/${id}`, definitions }));
      }
    }
  }
  return target;
}
