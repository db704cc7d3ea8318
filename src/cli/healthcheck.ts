import { cleanText } from '../config/files.ts';
import { isEntry } from './environment.ts';

const TIMEOUT_MS = 2_500;

/**
 * What the image's HEALTHCHECK runs: exits 0 when the service in this container can be sent requests, else 1 and
 * says why. Reads API_PORT and API_HOST only. A release waits for this; a database that goes away later changes
 * nothing.
 */
async function main(env: NodeJS.ProcessEnv): Promise<void> {
  // As the service reads them; all of its schema would be loaded every few seconds.
  const [given = '', port = ''] = [env.API_HOST, env.API_PORT].map((text) => cleanText(text ?? ''));
  const everywhere = ['', '0.0.0.0', '::'].includes(given);
  const host = everywhere ? '127.0.0.1' : given.includes(':') ? `[${given}]` : given;
  const url = `http://${host}:${port || '8000'}/health/serving`;
  const { status } = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (status !== 200) throw new Error(`${url} responded ${status}`);
}

if (isEntry(import.meta.url)) {
  await main(process.env).catch((error: unknown) => {
    const { message, cause } = error as Error;
    console.error(cause instanceof Error ? `${message}: ${cause.message}` : message);
    process.exitCode = 1;
  });
}
