/**
 * The configuration: environment variables, checked once, as one frozen object.
 *
 * `variables` lists every variable with its type and default, in the shape of the result. `checks` has the rules
 * between variables, such as the order of timeouts. A secret may come from a file (NAME_FILE). Only `main`, `app`,
 * `dependencies` and `cli` read the configuration; a concern declares the options that it takes.
 *
 * Failures: the service does not start, and prints all errors at once, each with what to write instead. No part of a
 * secret is printed. `.env.example` says what each variable means; a test compares it with `variables`.
 */

import { findConflicts, findWarnings, type Problem } from './checks.ts';
import { cleanText, namePlace, readSecretFile, showPath } from './files.ts';
import {
  isVariable,
  SETTINGS,
  VARIABLES,
  type Env,
  type PartialValues,
  type Tree,
  type Values,
  type Variable,
} from './variables.ts';

export type Config = ReturnType<typeof complete>;

/**
 * Reads and checks the whole configuration. Pure, except that it reads the files of NAME_FILE.
 * The result is frozen; warnings are for the log. Throws a ConfigError that lists every problem.
 */
export function loadConfig(env: Env): { config: Config; warnings: string[] } {
  const problems: Problem[] = [];
  const values = readTree(SETTINGS, env, problems) as unknown as PartialValues;
  problems.push(...findConflicts(values, env));
  const warnings = findWarnings(values, env);
  if (problems.length > 0) throw new ConfigError(problems, warnings, env);
  return { config: deepFreeze(complete(values as Values)), warnings };
}

/**
 * The database to migrate, read as the service reads it. Apart from loadConfig, because a migration job holds the
 * secret of the database and no other. Throws an Error of one line.
 */
export function loadMigrationUrl(env: Env): string {
  for (const variable of [SETTINGS.postgres.migrationUrl, SETTINGS.postgres.url]) {
    const { name, allowed } = variable;
    if (!env[name] && !env[`${name}_FILE`]) continue;
    try {
      const url = readVariable(variable, env);
      if (url !== undefined) return url;
    } catch (error) {
      throw new Error(`${name} ${(error as Error).message}; allowed: ${allowed}`, { cause: error });
    }
  }
  throw new Error('Neither DATABASE_MIGRATION_URL nor DATABASE_URL is set.');
}

/** Says in its message everything that is wrong, and shows no part of a secret. */
export class ConfigError extends Error {
  constructor(problems: Problem[], warnings: string[], env: Env) {
    const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
    const described = problems.map((problem) => describeProblem(problem, env));
    const noted = warnings.map((warning) => `Also noted: ${warning}`);
    super([`Bad configuration: ${count}`, ...described, ...noted].join('\n\n'));
    this.name = 'ConfigError';
  }
}

/** The values of a tree of variables. Those that are refused are missing, and `problems` says why. */
function readTree(tree: Tree, env: Env, problems: Problem[]): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [key, part] of Object.entries(tree)) {
    if (!isVariable(part)) values[key] = readTree(part, env, problems);
    else {
      try {
        values[key] = readVariable(part, env);
      } catch (error) {
        problems.push({ name: part.name, reason: (error as Error).message });
      }
    }
  }
  return values;
}

/** A variable that is unset, or empty, has its default. @throws Error with the reasons why it is refused */
function readVariable<T>(variable: Variable<T>, env: Env): T {
  const text = readText(variable, env);
  if (text === '' && variable.required) throw new Error('is required');
  const result = variable.schema.safeParse(text || variable.default);
  if (result.success) return result.data;
  const reasons = result.error.issues.map(({ message }) => message).join('; ');
  // A Kubernetes Service named `api` puts API_PORT=tcp://… into every pod.
  const isServiceLink = /^(tcp|udp):\/\//.test(text);
  throw new Error(
    isServiceLink
      ? `${reasons}; a Service of that name set it: use enableServiceLinks: false in the pod`
      : reasons,
  );
}

/** From the environment or, for a secret, from the file that NAME_FILE names. */
function readText({ name, secret }: Variable, env: Env): string {
  const text = cleanText(env[name] ?? '');
  const path = namePlace(`cannot be read: ${name}_FILE`, () => cleanText(env[`${name}_FILE`] ?? ''));
  if (path === '') return text;
  if (!secret) throw new Error(`cannot come from a file: ${name}_FILE is for secrets only`);
  if (text !== '') throw new Error(`is set twice: unset either ${name} or ${name}_FILE`);
  return namePlace(`cannot be read from ${name}_FILE:`, () => readSecretFile(path));
}

/** One paragraph: name, reason, what was given, what is allowed, an example. */
function describeProblem({ name, reason }: Problem, env: Env): string {
  const variable = VARIABLES.get(name);
  const lines = [`${name} ${reason}`, `  given:   ${describeGiven(name, variable, env)}`];
  if (variable) {
    lines.push(`  allowed: ${variable.allowed}`);
    lines.push(`  example: ${name}=${variable.example ?? variable.default}`);
  }
  return lines.join('\n');
}

function describeGiven(name: string, variable: Variable | undefined, env: Env): string {
  const path = env[`${name}_FILE`];
  if (path && variable?.secret) return `the file ${showPath(path)}, by ${name}_FILE`;
  const text = env[name];
  if (!text) return variable?.default ? `nothing; the default is ${variable.default}` : 'nothing';
  return variable?.secret ? `(a value of ${text.length} characters, not shown)` : JSON.stringify(text);
}

/** What follows from other values. */
function complete({ postgres, redis, tracing, ...values }: Values) {
  const { endpoint, tracesEndpoint, protocol, headers, exporter, disabled } = tracing;
  const url = tracesEndpoint ?? (endpoint && `${endpoint.replace(/\/$/, '')}/v1/traces`);
  const isTraced = url !== undefined && !disabled && exporter !== 'none';
  return {
    ...values,
    postgres: { ...postgres, migrationUrl: postgres.migrationUrl ?? postgres.url },
    redis: { ...redis, cacheUrl: redis.cacheUrl ?? redis.url },
    /** Where spans go. */
    tracing: isTraced ? { url, protocol, headers } : undefined,
  };
}

function deepFreeze<T extends object>(value: T): T {
  for (const part of Object.values(value) as unknown[]) {
    if (part instanceof Object) deepFreeze(part);
  }
  return Object.freeze(value);
}
