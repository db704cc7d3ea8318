import { cleanText, readSecretFile, showPath, type Text } from './config-files.ts';
import { redactUrl } from './config-urls.ts';
import {
  findVariable,
  VARIABLE_NAMES,
  VARIABLES,
  type Values,
  type Variable,
  type VariableName,
} from './config-variables.ts';

export type Env = Record<string, string | undefined>;

/** Why a variable is refused. `given` is safe to show. */
export interface Problem {
  variable: string;
  reason: string;
  given: string;
}

/**
 * Reads every variable, from the environment or, for a secret, from the file that NAME_FILE names.
 * A variable that is unset, or empty, has its default. Values that were refused are missing.
 */
export function readVariables(env: Env): { values: Partial<Values>; problems: Problem[] } {
  const values: Record<string, unknown> = {};
  const problems: Problem[] = [];
  for (const name of VARIABLE_NAMES) {
    const { value, problem } = readVariable(env, name);
    if (problem) problems.push(problem);
    else values[name] = value;
  }
  return { values, problems };
}

export function readVariable<Name extends VariableName>(
  env: Env,
  name: Name,
): { value: Values[Name]; problem?: undefined } | { value?: undefined; problem: Problem } {
  const variable: Variable = VARIABLES[name];
  const source = findSource(env, name, variable);
  const refuse = (reason: string) => {
    const hint = /^(tcp|udp):\/\//.test(env[name] ?? '') ? SERVICE_LINK : '';
    return { problem: { variable: name, reason: reason + hint, given: showGiven(env, name) } };
  };
  if (source.fault !== undefined) return refuse(source.fault);
  if (source.text === '' && variable.required) return refuse('is required');
  const result = variable.schema.safeParse(source.text || variable.default);
  if (result.success) return { value: result.data as Values[Name] };
  return refuse(result.error.issues.map((issue) => issue.message).join('; '));
}

/** Whether no value was refused. */
export function isComplete(values: Partial<Values>): values is Values {
  return VARIABLE_NAMES.every((name) => name in values);
}

/** What the operator gave for a variable, with no part of a secret. */
export function showGiven(env: Env, name: string): string {
  const path = env[`${name}_FILE`];
  const variable = findVariable(name);
  if (path && variable?.secret) return `the file ${showPath(path)}, by ${name}_FILE`;
  const text = env[name];
  if (!text) return variable?.default ? `nothing; the default is ${variable.default}` : 'nothing';
  const hidden = `(a value of ${text.length} characters, not shown)`;
  if (variable?.secret === 'url') return redactUrl(text) ?? hidden;
  return variable?.secret ? hidden : JSON.stringify(text);
}

/** Explains a problem in one paragraph: name, reason, what was given, what is allowed, an example. */
export function describeProblem({ variable: name, reason, given }: Problem): string {
  const variable = findVariable(name);
  const lines = [`${name} ${reason}`, `  given:   ${given}`];
  if (variable) {
    lines.push(`  allowed: ${variable.allowed}`);
    lines.push(`  example: ${name}=${variable.example ?? variable.default}`);
  }
  return lines.join('\n');
}

/** A Kubernetes Service named `api` puts API_PORT=tcp://… into every pod. */
const SERVICE_LINK = '; a Service of that name set it: use enableServiceLinks: false in the pod';

function findSource(env: Env, name: string, variable: Variable): Text {
  const given = cleanText(env[name] ?? '');
  const path = cleanText(env[`${name}_FILE`] ?? '');
  if (given.fault !== undefined || path.text === '') return given;
  if (path.fault !== undefined) return { fault: `cannot be read: ${name}_FILE ${path.fault}` };
  if (!variable.secret) return { fault: `cannot come from a file: ${name}_FILE is for secrets only` };
  if (given.text !== '') return { fault: `is set twice: unset either ${name} or ${name}_FILE` };
  const file = readSecretFile(path.text);
  return file.fault === undefined ? file : { fault: `cannot be read from ${name}_FILE: ${file.fault}` };
}
