import { setImmediate as nextTurn } from 'node:timers/promises';
import { apiKeySql, type StoredKey } from './repository.ts';
import type { Db } from '../postgres/postgres.ts';

export type KeyLookup = ReturnType<typeof createKeyLookup>;

/**
 * Reads keys by their ids, with one query for all that are asked for in one turn of the event loop: of many keys
 * that are seldom used each costs half as much. A question is never answered by a query that began before it.
 */
export function createKeyLookup(db: Db) {
  let next: { ids: Set<string>; found: Promise<Map<string, StoredKey>> } | undefined;

  async function ask(ids: Set<string>): Promise<Map<string, StoredKey>> {
    await nextTurn();
    next = undefined;
    const rows = await apiKeySql.findStored(db, [...ids]);
    return new Map(rows.map((row) => [row.id, row]));
  }

  return async function look(id: string): Promise<StoredKey | undefined> {
    if (!next) {
      const ids = new Set<string>();
      next = { ids, found: ask(ids) };
    }
    next.ids.add(id);
    return (await next.found).get(id);
  };
}
