import { Redis } from 'ioredis';
import { createConnector, type Place } from './connector.ts';
import { explainFailure } from './problems.ts';
import type { RedisTarget } from './url.ts';

/** One that hangs does not delay the question to the next for long. */
const ANSWER_MS = 500;

/**
 * Asks the sentinels for the primary each time that it connects, first the one that knew it last. Unlike the
 * connector of ioredis it says what was wrong with them.
 */
export function createSentinelConnector(target: RedisTarget) {
  const { hosts } = target;
  let turn = 0;

  return class SentinelConnector extends createConnector() {
    override async locate(): Promise<Place> {
      const failures: Error[] = [];
      for (let asked = 0; asked < hosts.length; asked += 1) {
        try {
          return await askSentinel(target, hosts[turn % hosts.length] ?? {});
        } catch (error) {
          failures.push(error as Error);
          turn += 1;
        }
      }
      throw (
        failures.find((failure) => explainFailure(failure) !== undefined) ?? failures[0] ?? new Error('none')
      );
    }

    /** INFO of a server that is primary no more: this sentinel does not know it yet. */
    override check(info: { role?: string }): boolean {
      const right = info.role !== 'slave';
      if (!right) turn += 1;
      return right;
    }
  };
}

async function askSentinel({ tls, family, sentinel }: RedisTarget, host: Place): Promise<Place> {
  const { name, username, password } = sentinel;
  let cause: Error | undefined;
  const client = new Redis({
    host: host.host ?? '',
    port: host.port ?? 0,
    username,
    password,
    family,
    ...(tls && { tls: {} }),
    Connector: createConnector((error) => (cause = error)),
    lazyConnect: true,
    retryStrategy: null,
    enableReadyCheck: false,
    connectTimeout: ANSWER_MS,
    commandTimeout: ANSWER_MS,
    disconnectTimeout: 0,
  });
  client.on('error', (error: Error) => (cause ??= error));
  try {
    const address = await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name);
    if (!Array.isArray(address)) throw new Error('No such master with that name');
    return { host: String(address[0]), port: Number(address[1]) };
  } catch (error) {
    const failure = cause ?? (error as Error);
    failure.message = `sentinel: ${failure.message}`;
    throw failure;
  } finally {
    client.disconnect();
  }
}
