// Goes with the example: src/features/orders
import { createHash } from 'node:crypto';
import type { Redis } from 'ioredis';
import type { Pool } from 'pg';

/** Puts keys where the peers look for them: in Redis, and in a table of their own, by SHA-256. */
export async function storePeerKeys(
  keys: { token: string; tenant: string }[],
  { db, redis }: { db: Pool; redis: Redis },
): Promise<void> {
  await db.query('create table if not exists peer_key (digest text primary key, tenant text, scopes text[])');
  const digests = keys.map(({ token }) => createHash('sha256').update(token).digest('hex'));
  await db.query(
    `insert into peer_key select digest, tenant, '{*}' from unnest($1::text[], $2::text[]) as k (digest, tenant)`,
    [digests, keys.map(({ tenant }) => tenant)],
  );
  const pipeline = redis.pipeline();
  for (const [index, { tenant }] of keys.entries()) {
    pipeline.set(`peer:key:${digests[index]}`, JSON.stringify({ tenant, scopes: ['*'] }));
  }
  await pipeline.exec();
}
