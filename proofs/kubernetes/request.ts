import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { join } from 'node:path';

export interface Sent {
  method: string;
  url: string;
  token: string;
  /** Where the server keeps its certificate. */
  folder: string;
  body?: unknown;
}

const agents = new Map<string, Agent>();

function agentOf(folder: string): Agent {
  const known = agents.get(folder);
  if (known) return known;
  const agent = new Agent({ keepAlive: true, ca: readFileSync(join(folder, 'apiserver.crt')) });
  agents.set(folder, agent);
  return agent;
}

/** The answer. @throws Error with the status and the answer when it is no success */
export function send({ method, url, token, folder, body }: Sent): Promise<string> {
  const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
  const text = body === undefined ? '' : JSON.stringify(body);
  // Node leaves the length out of a DELETE by itself.
  const length = Buffer.byteLength(text);
  const headers = { authorization: `Bearer ${token}`, 'content-type': type, 'content-length': length };
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, headers, agent: agentOf(folder), timeout: 30_000 }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const answer = Buffer.concat(chunks).toString();
        const { statusCode = 0 } = response;
        if (statusCode < 300) return resolve(answer);
        return reject(new Error(`${method} ${url}: ${statusCode} ${answer.slice(0, 1000)}`));
      });
    });
    sent.on('timeout', () => sent.destroy(new Error(`${method} ${url}: no answer in 30 s`)));
    sent.on('error', reject);
    sent.end(text);
  });
}
