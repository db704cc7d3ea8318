// Goes with the example: src/features/orders
import type { Pool } from 'pg';
import { TENANTS } from './world.ts';

const ITEMS = JSON.stringify(
  [1, 2, 3].map((item) => ({ sku: `SKU-${item}`, quantity: item, unitPriceMinor: 1250 })),
);

/** Gives every tenant orders until it has `perTenant` of them beside its first. */
export async function fillOrders(db: Pool, perTenant: number): Promise<void> {
  const { rows } = await db.query<{ count: string }>(`select count(*) from orders where tenant = 't0'`);
  const made = Number(rows[0]?.count) - 1;
  await db.query(
    `insert into orders (id, tenant, reference, status, currency, total_minor, items)
      select uuidv7(), 't' || tenant, 'fill-' || number, 'pending', 'EUR', 7500, $1
      from generate_series($2::int, $3::int) number, generate_series(0, $4::int - 1) tenant`,
    [ITEMS, made + 1, perTenant, TENANTS],
  );
  await db.query('vacuum analyze orders');
}
