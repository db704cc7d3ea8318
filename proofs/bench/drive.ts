// Goes with the example: src/features/orders
import autocannon from 'autocannon';
import type { Server } from './servers.ts';

export interface Request {
  method: 'GET' | 'POST';
  path: string;
  headers: Record<string, string>;
  /** Made anew for every request. */
  body?: () => string;
}

export interface Load {
  requests: Request[];
  /** Of all servers together. */
  connections: number;
  /** Seconds. */
  duration?: number;
  /** Requests in all; instead of `duration`. */
  amount?: number;
}

/**
 * Loads one or more servers at once over connections that stay open; each connection repeats its part of the
 * requests. Resolves to the number of answers and the answers a second; throws when anything but 2xx was answered.
 */
export async function drive(
  servers: Server[],
  { requests, connections, duration, amount }: Load,
): Promise<{ count: number; perSecond: number }> {
  const running = servers.map(({ url }, index) => {
    const mine = Math.floor((connections + index) / servers.length);
    return autocannon({
      url,
      connections: mine,
      ...(duration !== undefined && { duration }),
      ...(amount !== undefined && { amount: Math.ceil(amount / servers.length) }),
      // How exactly it keeps to the duration.
      sampleInt: 50,
      setupClient: createDealer(requests, mine),
    });
  });
  const results = await Promise.all(running);
  let [count, perSecond] = [0, 0];
  for (const { requests: answered, non2xx, errors, duration: seconds, ...result } of results) {
    if (non2xx > 0 || errors > 0) {
      const statuses = JSON.stringify(result.statusCodeStats);
      throw new Error(`${result.url}: ${errors} requests failed, others were answered ${statuses}`);
    }
    count += answered.total;
    perSecond += answered.total / seconds;
  }
  return { count, perSecond };
}

function createDealer(requests: Request[], connections: number): (client: autocannon.Client) => void {
  const ready = requests.map(({ body, ...request }) => ({
    ...request,
    ...(body && { setupRequest: (made: autocannon.Request) => ({ ...made, body: body() }) }),
  }));
  let dealt = 0;
  return (client) => {
    const part = dealt++;
    const mine = ready.filter((_, index) => index % connections === part % ready.length);
    client.setRequests(mine);
  };
}
