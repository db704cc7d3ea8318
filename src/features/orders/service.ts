import { uuidv7 } from 'uuidv7';
import { AppError } from '../../errors.ts';
import type { Cache } from '../../stores/cache.ts';
import type { Db, Tx } from '../../stores/postgres.ts';
import type { ReplicaReader } from '../../stores/replica.ts';
import { orderSql } from './repository.ts';
import {
  totalOf,
  type ListQuery,
  type NewOrder,
  type Order,
  type OrderStatus,
  type OrderSummary,
} from './schema.ts';
import type { SummaryQuery } from './schema.ts';

/** Where an order may go from each status; nothing leads out of the last two. */
const TRANSITIONS: Record<OrderStatus, OrderStatus[]> = {
  pending: ['paid', 'cancelled'],
  paid: ['shipped', 'cancelled'],
  shipped: ['delivered'],
  delivered: [],
  cancelled: [],
};

export interface OrderServiceDeps {
  db: Db;
  replica: ReplicaReader;
  cache: Cache;
  maxRows: number;
}

/** The rules of orders and what is cached of them; knows neither HTTP nor SQL. */
export function createOrderService({ db, replica, cache, maxRows }: OrderServiceDeps) {
  const orderKey = (tenant: string, id: string) => ({ tenant, name: 'order', id });
  const summaryKey = (tenant: string, { from, to }: SummaryQuery) => ({
    tenant,
    name: 'order-summary',
    id: `${from}/${to}`,
  });

  /** After the commit, never before: a reader in between would put the old row back. */
  async function changed(tenant: string, id: string): Promise<void> {
    await replica.markWrite(tenant);
    await cache.invalidate(orderKey(tenant, id));
  }

  async function current(tx: Tx, tenant: string, id: string, version: number): Promise<Order> {
    const order = await orderSql.find(tx, tenant, id);
    if (!order) throw notFound();
    if (order.version !== version) throw staleVersion();
    return order;
  }

  return {
    /** Inside the caller's transaction; call `created` once it is committed. */
    create(tx: Tx, tenant: string, wanted: NewOrder): Promise<Order> {
      return orderSql.insert(tx, tenant, uuidv7(), wanted, totalOf(wanted.items));
    },

    created(tenant: string, order: Order): Promise<void> {
      return changed(tenant, order.id);
    },

    /** The order and how many seconds ago it was read from Postgres. */
    async get(tenant: string, id: string): Promise<{ order: Order; ageSeconds: number }> {
      const found = await cache.getWithAge(orderKey(tenant, id), () => orderSql.find(db, tenant, id));
      if (found.value === undefined) throw notFound();
      return { order: found.value, ageSeconds: found.ageSeconds };
    },

    list(tenant: string, filter: ListQuery, before: string | undefined): Promise<Order[]> {
      return orderSql.list(db, tenant, filter, before);
    },

    async setStatus(tenant: string, id: string, version: number, status: OrderStatus): Promise<Order> {
      const order = await db.transaction(async (tx) => {
        const { status: from } = await current(tx, tenant, id, version);
        if (!TRANSITIONS[from].includes(status)) {
          const allowed = TRANSITIONS[from].join(' or ') || 'nothing else';
          throw new AppError(
            'illegal_transition',
            `An order that is ${from} can become ${allowed}, not ${status}`,
          );
        }
        const updated = await orderSql.setStatus(tx, tenant, id, version, status);
        if (!updated) throw staleVersion();
        return updated;
      });
      await changed(tenant, id);
      return order;
    },

    async remove(tenant: string, id: string, version: number): Promise<void> {
      await db.transaction(async (tx) => {
        await current(tx, tenant, id, version);
        if (!(await orderSql.remove(tx, tenant, id, version))) throw staleVersion();
      });
      await changed(tenant, id);
    },

    /** May be as old as the cache's TTL; reads a replica when it has seen the tenant's own writes. */
    async summary(
      tenant: string,
      range: SummaryQuery,
    ): Promise<{ summary: OrderSummary; ageSeconds: number }> {
      const found = await cache.getWithAge(
        summaryKey(tenant, range),
        async () => {
          const rows = await replica.read<OrderSummary['rows'][number]>(
            tenant,
            orderSql.summary(tenant, range, maxRows),
          );
          if (rows.length <= maxRows) return { ...range, rows };
          throw new AppError('result_too_large', `More than ${maxRows} rows; ask for fewer days`);
        },
        { rows: ({ rows }) => rows.length },
      );
      return { summary: found.value as OrderSummary, ageSeconds: found.ageSeconds };
    },
  };
}

function notFound(): AppError {
  return new AppError('not_found', 'There is no order with this id');
}

function staleVersion(): AppError {
  return new AppError('precondition_failed', 'The order was changed in the meantime; read it again');
}
