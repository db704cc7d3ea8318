import { z } from 'zod';
import { nextCursor, paging } from '../../http/resource/pagination.ts';
import { uuid } from '../../http/resource/zod-types.ts';

/** The only definition of what goes in and out; types, checks, serializers and OpenAPI come from it. */

export const STATUSES = ['pending', 'paid', 'shipped', 'delivered', 'cancelled'] as const;
export type OrderStatus = (typeof STATUSES)[number];

const MAX_TOTAL_MINOR = 1_000_000_000_000;

const status = z.enum(STATUSES).describe('Where the order stands');
/** Years of four digits begin with 0000, which neither our calendar nor Postgres has. */
const hasYear = (moment: string) => !moment.startsWith('0000');
const noYear = 'there is no year 0';

const timestamp = z.iso
  .datetime()
  .refine(hasYear, noYear)
  .describe('UTC, RFC 3339')
  .meta({ examples: ['2026-01-31T12:00:00.000Z'] });
const currency = z
  .string()
  .regex(/^[A-Z]{3}$/, 'an ISO 4217 code such as EUR')
  .describe('ISO 4217 code')
  .meta({ examples: ['EUR'] });

const item = z.strictObject({
  sku: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,64}$/, '1 to 64 letters, digits, dots, dashes or underscores')
    .meta({ examples: ['BOOK-1'] }),
  quantity: z.int().min(1).max(10_000),
  unitPriceMinor: z
    .int()
    .min(0)
    .max(100_000_000)
    .describe('Price of one in the minor unit of the currency (cents)'),
});

export const NewOrder = z
  .strictObject({
    reference: z
      .string()
      .regex(/^[\x21-\x7e]{1,64}$/, '1 to 64 printable ASCII characters without blanks')
      .describe('Your own name for the order; unique within your tenant')
      .meta({ examples: ['2026-0001'] }),
    currency,
    items: z.array(item).min(1).max(100),
  })
  .refine((order) => totalOf(order.items) <= MAX_TOTAL_MINOR, {
    path: ['items'],
    message: `the total may not exceed ${MAX_TOTAL_MINOR}`,
  })
  .meta({
    id: 'NewOrder',
    examples: [
      {
        reference: '2026-0001',
        currency: 'EUR',
        items: [{ sku: 'BOOK-1', quantity: 2, unitPriceMinor: 1250 }],
      },
    ],
  });
export type NewOrder = z.infer<typeof NewOrder>;

export const Order = z
  .object({
    id: z.uuid(),
    reference: z.string(),
    status,
    currency,
    totalMinor: z.int().describe('Sum of the items in the minor unit of the currency'),
    items: z.array(item),
    version: z.int().describe('Grows with every change; the ETag carries it'),
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'Order' });
export type Order = z.infer<typeof Order>;

export const OrderChange = z
  .strictObject({ status })
  .meta({ id: 'OrderChange', examples: [{ status: 'paid' }] });

export const OrderId = z.strictObject({ id: uuid });

export const ListQuery = z.strictObject({
  ...paging,
  status: status.optional(),
  createdFrom: timestamp.optional().describe('Not before this moment'),
  createdBefore: timestamp.optional().describe('Before this moment'),
});
export type ListQuery = z.infer<typeof ListQuery>;

export const OrderPage = z.object({ data: z.array(Order), next: nextCursor }).meta({ id: 'OrderPage' });

const DAY_MS = 86_400_000;
const MAX_RANGE_DAYS = 366;

export const SummaryQuery = z
  .strictObject({
    from: z.iso
      .date()
      .refine(hasYear, noYear)
      .describe('First day, UTC')
      .meta({ examples: ['2026-01-01'] }),
    to: z.iso
      .date()
      .describe('Last day, UTC; at most 366 days in all')
      .meta({ examples: ['2026-01-31'] }),
  })
  .refine(({ from, to }) => from <= to, { path: ['to'], message: 'may not be before from' })
  .refine(({ from, to }) => Date.parse(to) - Date.parse(from) < MAX_RANGE_DAYS * DAY_MS, {
    path: ['to'],
    message: `at most ${MAX_RANGE_DAYS} days`,
  });
export type SummaryQuery = z.infer<typeof SummaryQuery>;

export const OrderSummary = z
  .object({
    from: z.iso.date(),
    to: z.iso.date(),
    rows: z.array(
      z.object({
        day: z.iso.date(),
        status,
        currency,
        orders: z.int(),
        totalMinor: z.string().describe('A sum may exceed what JSON numbers hold exactly'),
      }),
    ),
  })
  .meta({ id: 'OrderSummary' });
export type OrderSummary = z.infer<typeof OrderSummary>;

export function totalOf(items: { quantity: number; unitPriceMinor: number }[]): number {
  return items.reduce((sum, { quantity, unitPriceMinor }) => sum + quantity * unitPriceMinor, 0);
}
