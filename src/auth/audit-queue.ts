import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { auditSql, type NewAuditEvent } from './audit-log.ts';
import type { Db } from '../postgres/postgres.ts';

/** Owns the events that belong to no tenant. A key of this tenant with `audit:read` reads them. */
export const OPERATOR_TENANT = 'operator';

const WINDOW_MS = 60_000;
const FLUSH_INTERVAL_MS = 10_000;
const MOST_OF_TENANT = 100;
const MOST = 2_000;
const LONGEST_REASON = 200;

export type Denial = Omit<NewAuditEvent, 'outcome' | 'detail'> & { reason: string };

interface Pending {
  event: NewAuditEvent;
  count: number;
  since: Date;
  /** On the clock of `performance.now()`: it is written after this moment. */
  endsAtMs: number;
}

export type AuditQueue = ReturnType<typeof startAuditQueue>;

/**
 * Audit events of no transaction, above all of what was refused: one event a minute for the same refusal, with a
 * count, written in batches off the way of the request. Whoever provokes refusals cannot fill the table or the
 * memory: a tenant has at most a hundred different ones in a minute, and the rest is one event for each action.
 * `close` writes what is pending.
 */
export function startAuditQueue(db: Db, log: Logger) {
  const pending = new Map<string, Pending>();
  const sizes = new Map<string, number>();
  let dropped = 0;
  const timer = setInterval(() => void flush(performance.now()), FLUSH_INTERVAL_MS);
  timer.unref();

  function add(key: string, entry: Pending): void {
    const { tenant } = entry.event;
    const known = pending.get(key);
    if (known) known.count += entry.count;
    else if (pending.size >= MOST) dropped += entry.count;
    else {
      pending.set(key, entry);
      sizes.set(tenant, (sizes.get(tenant) ?? 0) + 1);
    }
  }

  function deny({ reason, ...denial }: Denial): void {
    const { tenant, action, actor, object } = denial;
    const key = JSON.stringify([tenant, action, actor, object, reason]);
    const isOneOfMany = !pending.has(key) && (sizes.get(tenant) ?? 0) >= MOST_OF_TENANT;
    const event: NewAuditEvent = {
      ...denial,
      ...(isOneOfMany && { actor: 'several', object: 'several', requestId: null, ip: null }),
      outcome: 'denied',
      detail: { reason: isOneOfMany ? 'several' : reason.slice(0, LONGEST_REASON) },
    };
    const endsAtMs = performance.now() + WINDOW_MS;
    add(isOneOfMany ? `${tenant} ${action}` : key, { event, count: 1, since: new Date(), endsAtMs });
  }

  /** Writes the events whose minute ended before this moment. */
  async function flush(endedMs = Infinity): Promise<void> {
    const batch = [...pending].filter(([, { endsAtMs }]) => endsAtMs <= endedMs);
    for (const [key, { event }] of batch) {
      pending.delete(key);
      const left = (sizes.get(event.tenant) ?? 1) - 1;
      if (left > 0) sizes.set(event.tenant, left);
      else sizes.delete(event.tenant);
    }
    if (dropped > 0) log.warn({ dropped }, 'refusals were too many for the audit log');
    dropped = 0;
    if (batch.length === 0) return;
    try {
      await auditSql.append(
        db,
        batch.map(([, { event, count, since }]) =>
          event.outcome === 'denied' ? { ...event, detail: { ...event.detail, count, since } } : event,
        ),
      );
    } catch (error) {
      for (const [key, entry] of batch) add(key, entry);
      log.warn({ error, events: batch.length }, 'audit events could not be written yet');
    }
  }

  return {
    deny,
    /** For an event that happens once. Written now, or with a later batch. */
    note(event: NewAuditEvent): void {
      add(randomUUID(), { event, count: 1, since: new Date(), endsAtMs: -Infinity });
      void flush(-Infinity);
    },
    flush,
    async close(): Promise<void> {
      clearInterval(timer);
      await flush();
    },
  };
}
