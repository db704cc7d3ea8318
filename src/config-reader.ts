import { readSecretFile, showPath } from './config-files.ts';
import { redactUrl } from './config-urls.ts';
import { findVariable, VARIABLES, type Values, type Variable } from './config-variables.ts';

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
  for (const [name, variable] of Object.entries<Variable>(VARIABLES)) {
    const source = findSource(env, name, variable);
    const refuse = (reason: string): void => {
      const hint = /^(tcp|udp):\/\//.test(source.text) ? SERVICE_LINK : '';
      problems.push({ variable: name, reason: reason + hint, given: showGiven(env, name) });
    };
    if (source.fault !== undefined) refuse(source.fault);
    else if (source.text === '' && variable.required) refuse('is required');
    else {
      const result = variable.schema.safeParse(source.text || variable.default);
      if (result.success) values[name] = result.data;
      else refuse(result.error.issues.map((issue) => issue.message).join('; '));
    }
  }
  return { values, problems };
}

/** Whether no value was refused. */
export function isComplete(values: Partial<Values>): values is Values {
  return Object.keys(VARIABLES).every((name) => name in values);
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

interface Source {
  text: string;
  fault?: string;
}

function findSource(env: Env, name: string, variable: Variable): Source {
  const text = env[name] ?? '';
  const path = env[`${name}_FILE`] ?? '';
  if (path === '') return { text };
  if (!variable.secret) return { text, fault: `cannot come from a file: ${name}_FILE is for secrets only` };
  if (text !== '') return { text, fault: `is set twice: unset either ${name} or ${name}_FILE` };
  const file = readSecretFile(path);
  return 'fault' in file ? { text, fault: `cannot be read from ${name}_FILE: ${file.fault}` } : file;
}
