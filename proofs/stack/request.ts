// Goes with the example: src/features/orders
import { Agent, request } from 'node:https';

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

export interface RequestOptions {
  method?: string;
  headers?: Record<string, string>;
  /** Sent as JSON. */
  body?: unknown;
  /**
   * On a connection of its own. nginx closes the one on which an answer came before the body was read, without saying
   * so in the answer: the next request on it would hang up.
   */
  alone?: boolean;
}

const TIMEOUT_MS = 15_000;
const agent = new Agent({ keepAlive: true, maxSockets: 64, rejectUnauthorized: false });

/** One request over TLS; the certificate of the stack is self-signed. */
export function send(
  url: string,
  { method = 'GET', headers = {}, body, alone = false }: RequestOptions = {},
): Promise<Answer> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const content =
    text === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
  return new Promise((resolve, reject) => {
    const options = {
      ...(alone ? { agent: false as const, rejectUnauthorized: false } : { agent }),
      method,
      headers: { ...headers, ...content },
      timeout: TIMEOUT_MS,
    };
    const sent = request(url, options, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const { statusCode: status = 0, headers: answered } = response;
        resolve({ status, headers: answered, body: Buffer.concat(chunks).toString() });
      });
    });
    sent.on('timeout', () => sent.destroy(new Error(`no answer in ${TIMEOUT_MS} ms`)));
    sent.on('error', reject);
    sent.end(text);
  });
}
