// Goes with the example: src/features/orders
import type { Stack } from './engine.ts';

/** The parts of `docker compose config` that are read here. */
interface ComposeConfig {
  services: Record<string, { image: string; build?: unknown; depends_on?: Record<string, unknown> }>;
}

/** What serves users, and what saves their data: nothing of it may be missing. */
const ESSENTIAL = ['nginx', 'backup'];

/**
 * The services whose images are here or can be pulled, and why each other one is left out.
 * @throws Error when one is missing that the service cannot do without
 */
export async function findServices(stack: Stack): Promise<{ services: string[]; leftOut: string[] }> {
  const config: ComposeConfig = JSON.parse(await stack.compose('config', '--format', 'json'));
  const leftOut: string[] = [];
  const services: string[] = [];
  for (const [name, { image, build }] of Object.entries(config.services)) {
    const fault = build ? undefined : await findFault(stack, image);
    if (fault === undefined) services.push(name);
    else leftOut.push(`${name}: ${image} cannot be had (${fault})`);
  }
  const missing = needsOf(config, ESSENTIAL).filter((name) => !services.includes(name));
  if (missing.length > 0) throw new Error(`cannot do without ${missing.join(', ')}: ${leftOut.join('; ')}`);
  return { services, leftOut };
}

async function findFault({ docker }: Stack, image: string): Promise<string | undefined> {
  try {
    await docker('image', 'inspect', image).catch(() => docker('pull', '-q', image));
    return undefined;
  } catch (error) {
    const { stderr = '' } = error as Error & { stderr?: string };
    return stderr.trim().split('\n').at(-1)?.slice(0, 120) ?? 'no reason given';
  }
}

/** These and what they start after. */
function needsOf({ services }: ComposeConfig, names: string[]): string[] {
  const needs = new Set(names);
  // What is added meanwhile is visited as well.
  for (const name of needs)
    for (const other of Object.keys(services[name]?.depends_on ?? {})) needs.add(other);
  return [...needs];
}
