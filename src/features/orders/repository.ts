import { AppError } from '../../errors.ts';
import { utcText } from '../../postgres/utc.ts';
import { constraintOf } from '../../postgres/errors.ts';
import type { Query, Tx } from '../../postgres/postgres.ts';
import type { ListQuery, NewOrder, Order, OrderStatus, SummaryQuery } from './schema.ts';

const COLUMNS = `id, reference, status, currency, total_minor::float8 as "totalMinor", items, version,
  ${utcText('created_at')} as "createdAt", ${utcText('updated_at')} as "updatedAt"`;

/** The SQL of orders. Every statement names the tenant: a stranger's row is not there. */
export const orderSql = {
  /** Throws `conflict` when the tenant has an order of this reference. */
  async insert(tx: Tx, tenant: string, id: string, order: NewOrder, totalMinor: number): Promise<Order> {
    try {
      const [row] = await tx.query<Order>({
        name: 'order_insert',
        text: `insert into orders (id, tenant, reference, status, currency, total_minor, items)
          values ($1, $2, $3, 'pending', $4, $5, $6)
          returning ${COLUMNS}`,
        values: [id, tenant, order.reference, order.currency, totalMinor, JSON.stringify(order.items)],
      });
      return row as Order;
    } catch (error) {
      if (constraintOf(error) !== 'orders_tenant_reference_key') throw error;
      throw new AppError('conflict', 'An order with this reference exists', { cause: error });
    }
  },

  async find(tx: Tx, tenant: string, id: string): Promise<Order | undefined> {
    const rows = await tx.query<Order>({
      name: 'order_find',
      text: `select ${COLUMNS} from orders where tenant = $1 and id = $2`,
      values: [tenant, id],
    });
    return rows[0];
  },

  /** Newest first: ids are UUIDv7 and sort by time, so one column is a stable order and a cursor. */
  async list(tx: Tx, tenant: string, filter: ListQuery, before: string | undefined): Promise<Order[]> {
    const { limit, status, createdFrom, createdBefore } = filter;
    const conditions = ['tenant = $1'];
    const values: unknown[] = [tenant, limit];
    const add = (condition: string, value: string | undefined) => {
      if (value === undefined) return;
      values.push(value);
      conditions.push(`${condition} $${values.length}`);
    };
    add('id <', before);
    add('status =', status);
    add('created_at >=', createdFrom);
    add('created_at <', createdBefore);
    // One prepared statement for each combination of filters.
    const shape = [before, status, createdFrom, createdBefore]
      .map((value) => Number(value !== undefined))
      .join('');
    return tx.query<Order>({
      name: `order_list_${shape}`,
      text: `select ${COLUMNS} from orders where ${conditions.join(' and ')} order by id desc limit $2`,
      values,
    });
  },

  /** Undefined when the row is gone or has another version by now. */
  async setStatus(
    tx: Tx,
    tenant: string,
    id: string,
    version: number,
    status: OrderStatus,
  ): Promise<Order | undefined> {
    const rows = await tx.query<Order>({
      name: 'order_set_status',
      text: `update orders set status = $4, version = version + 1, updated_at = now()
        where tenant = $1 and id = $2 and version = $3
        returning ${COLUMNS}`,
      values: [tenant, id, version, status],
    });
    return rows[0];
  },

  /** True when this version of the row was deleted. */
  async remove(tx: Tx, tenant: string, id: string, version: number): Promise<boolean> {
    const rows = await tx.query({
      name: 'order_remove',
      text: 'delete from orders where tenant = $1 and id = $2 and version = $3 returning id',
      values: [tenant, id, version],
    });
    return rows.length === 1;
  },

  /** Sums by day, status and currency; asks for one row more than allowed, so that the caller sees the excess. */
  summary(tenant: string, { from, to }: SummaryQuery, maxRows: number): Query {
    return {
      name: 'order_summary',
      text: `select
          to_char(date_trunc('day', created_at at time zone 'utc'), 'YYYY-MM-DD') as day,
          status, currency, count(*)::int as orders, sum(total_minor)::text as "totalMinor"
        from orders
        where tenant = $1
          and created_at >= ($2::date)::timestamp at time zone 'utc'
          and created_at < ($3::date + 1)::timestamp at time zone 'utc'
        group by date_trunc('day', created_at at time zone 'utc'), status, currency
        order by 1, 2, 3
        limit $4`,
      values: [tenant, from, to, maxRows + 1],
    };
  },
};
