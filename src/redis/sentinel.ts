import { Redis } from 'ioredis';
import { createConnector, type Address } from './connection.ts';
import { explainFailure } from './problems.ts';
import type { RedisTarget } from './url.ts';

/** A sentinel that hangs does not delay the question to the next for long. */
const SENTINEL_TIMEOUT_MS = 500;

/**
 * Asks the sentinels for the primary for each new connection, first the one that knew it last. The connector of
 * ioredis does the same, and keeps to itself why a sentinel cannot be used (DNS, TLS, login).
 */
export function createSentinelConnector(target: RedisTarget) {
  const { hosts } = target;
  let current = 0;

  return class SentinelConnector extends createConnector() {
    override async locate(): Promise<Address> {
      const errors: Error[] = [];
      for (let asked = 0; asked < hosts.length; asked += 1) {
        try {
          return await findPrimary(target, hosts[current % hosts.length] as Address);
        } catch (error) {
          errors.push(error as Error);
          current += 1;
        }
      }
      throw errors.find((error) => explainFailure(error) !== undefined) ?? errors[0] ?? new Error('none');
    }

    /** `info` is of the server. A sentinel that names a replica does not know of the failover yet. */
    override check(info: { role?: string }): boolean {
      const isPrimary = info.role !== 'slave';
      if (!isPrimary) current += 1;
      return isPrimary;
    }
  };
}

async function findPrimary(target: RedisTarget, address: Address): Promise<Address> {
  const { tls, family, sentinel } = target;
  let cause: Error | undefined;
  const client = new Redis({
    ...address,
    family,
    username: sentinel.username,
    password: sentinel.password,
    ...(tls && { tls: {} }),
    Connector: createConnector((error) => (cause = error)),
    lazyConnect: true,
    retryStrategy: null,
    enableReadyCheck: false,
    connectTimeout: SENTINEL_TIMEOUT_MS,
    commandTimeout: SENTINEL_TIMEOUT_MS,
    disconnectTimeout: 0,
  });
  client.on('error', (error: Error) => (cause ??= error));
  try {
    const primary = await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', sentinel.name);
    if (!Array.isArray(primary)) throw new Error('No such master with that name');
    return { host: String(primary[0]), port: Number(primary[1]) };
  } catch (error) {
    const failure = cause ?? (error as Error);
    failure.message = `sentinel: ${failure.message}`;
    throw failure;
  } finally {
    client.disconnect();
  }
}
