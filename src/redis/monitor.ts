import type { EventEmitter } from 'node:events';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import type { Metrics } from '../observability/metrics.ts';
import { wasSuspended } from '../lib/timeouts.ts';
import { defineScript, type RedisConnection } from './connection.ts';
import {
  explainFailure,
  findServerProblems,
  parseInfo,
  type RedisRole,
  type ServerInfo,
} from './problems.ts';
import type { RedisTarget } from './url.ts';

/** `degraded`: it replies, and takes no writes. */
export type RedisState = 'connected' | 'degraded' | 'disconnected';

const REPEAT_AFTER_MS = 60_000;
const HEARTBEAT_MS = 250;
/** While the last heartbeat got no reply. */
const RETRY_MS = 50;
/** One late reply may be the fault of one slow command. */
const LATE_MAX = 2;
/** Written by each heartbeat; ends by itself. */
const HEARTBEAT_KEY = 'hp:probe';
/** What ioredis says of a connection whose own error was reported before. */
const NO_REASON = /^(Failed to refresh slots cache|Connection is closed)/;

/**
 * Knows whether Redis can be used: it is connected, and replies to heartbeats in time. Keeps `redis_up` true to
 * that, and logs a loss, and each reason that a person can fix, at most once a minute.
 */
export function watchConnection(
  connection: RedisConnection,
  { target, role, commandTimeoutMs }: { target: RedisTarget; role: RedisRole; commandTimeoutMs: number },
  { log, metrics }: { log: Logger; metrics: Metrics },
) {
  const { client } = connection;
  const events: EventEmitter = client;
  const listeners: (() => void)[] = [];
  /** When each fix was logged last; '' where there is none. */
  const loggedAtMs = new Map<string, number>();
  let stopped = false;
  let up = false;
  let wasUp = false;
  let lossLogged = true;
  let refusesWrites = false;
  let lateReplies = 0;
  let heartbeat: NodeJS.Timeout | undefined;
  metrics.redisConfigured.set({ role }, 1);
  const runScript = defineScript<number>(client, { name: 'probe', keys: 1, lua: 'return 1' });

  connection.onReady(() => {
    update();
    void beat();
    void checkServers();
  });

  events.on('close', () => {
    lateReplies = 0;
    clearTimeout(heartbeat);
    update();
    if (!stopped) warn(connection.cause?.() ?? new Error('the connection was closed or refused'));
  });

  // Without this listener ioredis prints every error, unstructured, to stderr.
  events.on('error', (error: Error) => {
    if (stopped) return;
    if (!NO_REASON.test(error.message)) warn(error);
    // ioredis goes on with database 0 when the one asked for does not exist: somebody else's data.
    if (error.message.includes('DB index is out of range')) client.disconnect(true);
  });

  events.on('node error', (error: Error, node: string) => {
    if (stopped || !up || NO_REASON.test(error.message)) return;
    warn(error, 'A node of the Redis cluster cannot be used', { node });
  });

  /** Of a cluster one node may be late and the others not: there a late reply says nothing of Redis. */
  async function beat(): Promise<void> {
    const sentAtMs = performance.now();
    const error = await client.set(HEARTBEAT_KEY, '', 'PX', 1).then(
      () => undefined,
      (failure: Error) => failure,
    );
    if (stopped || !connection.ready()) return;
    const isLate = error?.message === 'Command timed out';
    if (!isLate) lateReplies = 0;
    // If this process was suspended, the reply may have been there in time.
    else if (client instanceof Redis && !wasSuspended(sentAtMs, commandTimeoutMs)) lateReplies += 1;
    refusesWrites = error?.name === 'ReplyError';
    if (error && refusesWrites) warn(error, 'Redis takes no writes, going on without it');
    if (lateReplies === LATE_MAX) warn(new Error('replies come too late'));
    update();
    // A cluster may reply only after it was lost and has begun anew.
    clearTimeout(heartbeat);
    heartbeat = setTimeout(() => void beat(), lateReplies > 0 ? RETRY_MS : HEARTBEAT_MS).unref();
  }

  function update(): void {
    const isUp = connection.ready() && lateReplies < LATE_MAX;
    if (isUp === up) return;
    up = isUp;
    metrics.redisUp.set({ role }, up ? 1 : 0);
    if (!up) return;
    wasUp = true;
    if (lossLogged) log.info('Redis is ready');
    lossLogged = false;
    for (const listener of listeners) listener();
  }

  async function readInfo(): Promise<ServerInfo[]> {
    const replies = await Promise.allSettled(connection.servers().map((server) => server.info()));
    return replies.flatMap((reply) => (reply.status === 'fulfilled' ? [parseInfo(reply.value)] : []));
  }

  async function checkServers(): Promise<void> {
    const message = 'Redis is not set up as it should be';
    // ioredis sends the text of a script first, then its digest: both have to be allowed.
    runScript(HEARTBEAT_KEY)
      .then(() => runScript(HEARTBEAT_KEY))
      .catch((error: Error) => {
        if (error.name === 'ReplyError') warn(error, message);
      });
    const problems = (await readInfo()).flatMap((info) => findServerProblems(info, role, target.topology));
    for (const mend of problems) if (isDue(mend)) log.warn({ mend }, message);
  }

  function warn(error: Error, message = 'Redis cannot be used, going on without it', fields = {}): void {
    const text = error.message || String((error as NodeJS.ErrnoException).code);
    const secrets = [target.password, target.sentinel.password].filter((secret) => secret !== '');
    const reason = secrets.reduce((shown, secret) => shown.replaceAll(secret, '***'), text);
    // Once it was up, a reset says nothing of how the URL is written.
    const isReset = /ECONNRESET|EPIPE/.test(`${(error as NodeJS.ErrnoException).code} ${text}`);
    const mend = wasUp && isReset ? undefined : explainFailure(error);
    if (!isDue(mend)) return;
    lossLogged = true;
    log.warn({ ...fields, reason, mend }, message);
  }

  /** What a person cannot fix follows from what was logged, as far as one knows. */
  function isDue(mend: string | undefined): boolean {
    const now = performance.now();
    const isRecent = (fix: string) => now - (loggedAtMs.get(fix) ?? -Infinity) < REPEAT_AFTER_MS;
    if (mend === undefined ? [...loggedAtMs.keys()].some(isRecent) : isRecent(mend)) return false;
    loggedAtMs.set(mend ?? '', now);
    return true;
  }

  return {
    ready: () => up && connection.ready(),
    onReady: (listener: () => void) => void listeners.push(listener),
    readInfo,

    state(): RedisState {
      if (!up) return 'disconnected';
      return refusesWrites ? 'degraded' : 'connected';
    },

    stop(): void {
      stopped = true;
      clearTimeout(heartbeat);
    },
  };
}
