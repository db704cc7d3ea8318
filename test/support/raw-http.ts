import { connect } from 'node:net';

export interface RawAnswer {
  status: number;
  /** Every header line in its order; names in lower case. */
  headers: [name: string, value: string][];
  body: string;
}

/**
 * Sends bytes as they are and reads until the server closes; clients that check what they send cannot send what
 * is malformed. Text is sent as latin1, so that every byte can be written down. A number is a pause in ms.
 * `hangUp` closes this side after the last byte.
 */
export function send(
  port: number,
  parts: string | Buffer | (string | Buffer | number)[],
  { hangUp = false, timeoutMs = 8_000 } = {},
): Promise<RawAnswer[]> {
  return new Promise((resolve, reject) => {
    const received: Buffer[] = [];
    const socket = connect(port, '127.0.0.1', () => void write());
    socket.setTimeout(timeoutMs, () => socket.destroy(new Error('the server left the connection open')));
    socket.on('data', (chunk) => received.push(chunk));
    // Whoever refuses a body half way resets the connection after the answer.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (!/ECONNRESET|EPIPE/.test(error.code ?? '')) reject(error);
    });
    socket.on('close', () => resolve(parseAnswers(Buffer.concat(received).toString('latin1'))));

    async function write(): Promise<void> {
      for (const part of Array.isArray(parts) ? parts : [parts]) {
        if (typeof part === 'number') await new Promise((next) => setTimeout(next, part));
        else socket.write(typeof part === 'string' ? Buffer.from(part, 'latin1') : part);
      }
      if (hangUp) socket.end();
    }
  });
}

export function header(answer: RawAnswer | undefined, name: string): string | undefined {
  return answer?.headers.find(([found]) => found === name)?.[1];
}

/** Final answers only; each states its length, as every answer of the service does. */
function parseAnswers(text: string): RawAnswer[] {
  const answers: RawAnswer[] = [];
  for (let rest = text; rest.startsWith('HTTP/1.1 ');) {
    const [head = ''] = rest.split('\r\n\r\n', 1);
    const [statusLine = '', ...lines] = head.split('\r\n');
    const headers = lines.map((line): [string, string] => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    const status = Number(statusLine.split(' ')[1]);
    const bodyAt = head.length + 4;
    const bodyEnd = bodyAt + Number(headers.find(([name]) => name === 'content-length')?.[1] ?? 0);
    if (status >= 200) answers.push({ status, headers, body: rest.slice(bodyAt, bodyEnd) });
    rest = rest.slice(bodyEnd);
  }
  return answers;
}
