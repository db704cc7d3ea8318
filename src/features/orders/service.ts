import { randomUUID } from 'node:crypto';
import { uuidv7 } from 'uuidv7';
import { AppError } from '../../errors.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { CacheEntry } from '../../cache/entry.ts';
import { shapeOf } from '../../cache/serialization.ts';
import type { Caller } from '../../auth/caller.ts';
import type { Cache, CacheReadOptions } from '../../cache/cache.ts';
import type { AfterWrite } from '../../cache/after-write.ts';
import { versionEtag, type Precondition } from '../../http/resource/etag.ts';
import type { Db, Tx } from '../../postgres/postgres.ts';
import type { ReplicaReader } from '../../postgres/replica/replica.ts';
import { orderSql } from './repository.ts';
import {
  Order,
  OrderSummary,
  STATUSES,
  totalOf,
  type ListQuery,
  type NewOrder,
  type OrderStatus,
} from './schema.ts';
import type { SummaryQuery } from './schema.ts';

const ORDER_SHAPE = shapeOf(Order);
const SUMMARY_SHAPE = shapeOf(OrderSummary);
const DAY_SECONDS = 86_400;

/** Where an order may go from each status; nothing leads out of the last two. */
const TRANSITIONS: Record<OrderStatus, OrderStatus[]> = {
  pending: ['paid', 'cancelled'],
  paid: ['shipped', 'cancelled'],
  shipped: ['delivered'],
  delivered: [],
  cancelled: [],
};

/** How the HTTP side wants what it will send. */
type ResponseFormat<T> = Pick<CacheReadOptions<T>, 'write' | 'etagOf'>;

export interface OrderServiceDeps {
  db: Db;
  replica: ReplicaReader;
  cache: Cache;
  afterWrite: AfterWrite;
  metrics: Metrics;
  maxRows: number;
}

/** The rules of orders and what is cached of them; knows neither HTTP nor SQL. */
export function createOrderService(deps: OrderServiceDeps) {
  const { db, replica, cache, metrics, maxRows } = deps;
  const reached = metrics.counter({
    name: 'orders_reached_status_total',
    help: 'Orders that came to a status',
    labels: { status: STATUSES },
  });
  const orderKey = (tenant: string, id: string) => ({ tenant, name: 'order', id });
  const summariesKey = (tenant: string) => ({ tenant, name: 'order-summaries', id: '' });

  /** Nobody knows which ranges are cached: all are of this generation, and a change begins another. */
  function summariesGeneration(tenant: string): Promise<string | undefined> {
    return cache.get(summariesKey(tenant), async () => randomUUID(), { ttlSeconds: DAY_SECONDS });
  }

  async function write<T>({ tenant, requestId }: Caller, id: string, transaction: Promise<T>): Promise<T> {
    const cached = [orderKey(tenant, id), summariesKey(tenant)];
    return (await deps.afterWrite(transaction, { tenant, requestId, cached })).result;
  }

  async function current(tx: Tx, tenant: string, id: string, isKnown: Precondition): Promise<Order> {
    const order = await orderSql.find(tx, tenant, id);
    if (!order) throw notFound();
    if (!isKnown(versionEtag(order.version))) throw staleVersion();
    return order;
  }

  return {
    /** `once` runs the work in a transaction, unless it was done by an earlier request: then nothing is counted. */
    async create<T>(
      caller: Caller,
      wanted: NewOrder,
      once: (work: (tx: Tx) => Promise<Order>) => Promise<T>,
    ): Promise<T> {
      const id = uuidv7();
      let created: Order | undefined;
      const transaction = once(async (tx) => {
        created = await orderSql.insert(tx, caller.tenant, id, wanted, totalOf(wanted.items));
        return created;
      });
      const result = await write(caller, id, transaction);
      if (created) reached.inc({ status: created.status });
      return result;
    },

    /** Throws `not_found`. */
    async get(
      { tenant, requestId }: Caller,
      id: string,
      format: ResponseFormat<Order>,
    ): Promise<CacheEntry<Order>> {
      const load = () => orderSql.find(db, tenant, id);
      const order = await cache.read(orderKey(tenant, id), load, {
        shape: ORDER_SHAPE,
        requestId,
        ...format,
      });
      if (order.json === undefined) throw notFound();
      return order;
    },

    list({ tenant }: Caller, filter: ListQuery, before: string | undefined): Promise<Order[]> {
      return orderSql.list(db, tenant, filter, before);
    },

    async setStatus(caller: Caller, id: string, isKnown: Precondition, status: OrderStatus): Promise<Order> {
      const { tenant } = caller;
      const moved = db.transaction(async (tx) => {
        const { status: from, version } = await current(tx, tenant, id, isKnown);
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
      const order = await write(caller, id, moved);
      reached.inc({ status });
      return order;
    },

    async remove(caller: Caller, id: string, isKnown: Precondition): Promise<void> {
      const { tenant } = caller;
      const removed = db.transaction(async (tx) => {
        const { version } = await current(tx, tenant, id, isKnown);
        if (!(await orderSql.remove(tx, tenant, id, version))) throw staleVersion();
      });
      await write(caller, id, removed);
    },

    /** Reads a replica when it has seen the tenant's own writes. */
    async summary(
      { tenant, requestId }: Caller,
      range: SummaryQuery,
      format: ResponseFormat<OrderSummary>,
    ): Promise<CacheEntry<OrderSummary>> {
      const generation = (await summariesGeneration(tenant)) ?? '';
      const key = { tenant, name: 'order-summary', id: `${range.from} ${range.to}`, generation };
      const load = async () => {
        const rows = await replica.read<OrderSummary['rows'][number]>(
          tenant,
          orderSql.summary(tenant, range, maxRows),
        );
        if (rows.length <= maxRows) return { ...range, rows };
        throw new AppError('result_too_large', `More than ${maxRows} rows; ask for fewer days`);
      };
      return cache.read(key, load, {
        shape: SUMMARY_SHAPE,
        requestId,
        rows: ({ rows }) => rows.length,
        ...format,
      });
    },
  };
}

function notFound(): AppError {
  return new AppError('not_found', 'There is no order with this id');
}

function staleVersion(): AppError {
  return new AppError('precondition_failed', 'The order was changed in the meantime; read it again');
}
