import { z } from 'zod';
import { nextCursor, paging } from '../../http/resource/pagination.ts';

const timestamp = z.iso.datetime({ abort: true }).meta({ examples: ['2027-01-31T12:00:00.000Z'] });

const scopes = z
  .array(z.string().regex(/^(\*|[a-z-]{1,32}:[a-z-]{1,32})$/, 'a scope such as audit:read, or *'))
  .min(1)
  .max(50)
  .describe('What the key is allowed to; at most what your own key is allowed to')
  .meta({ examples: [['audit:read']] });
const name = z
  .string()
  .min(1)
  .max(100)
  // oxlint-disable-next-line no-control-regex -- which is the point
  .regex(/^[^\x00-\x1f\x7f-\x9f]*$/, 'text without control characters')
  .describe('For people')
  .meta({ examples: ['nightly export'] });
const limitPerMinute = z
  .int()
  .min(1)
  .max(10_000_000)
  .nullable()
  .describe('Own limit, at most that of your own key; null for the default one');
const expiresAt = timestamp
  .refine((moment) => Date.parse(moment) > Date.now(), 'must lie in the future')
  // Postgres keeps microseconds, and whoever compares it reads milliseconds.
  .overwrite((moment) => new Date(moment).toISOString())
  .nullable()
  .describe('End of life, UTC, not later than that of your own key; null for none');

export const NewApiKey = z
  .strictObject({
    name,
    scopes,
    limitPerMinute: limitPerMinute.default(null),
    expiresAt: expiresAt.default(null),
  })
  .meta({ id: 'NewApiKey', examples: [{ name: 'nightly export', scopes: ['audit:read'] }] });

export const ApiKeyChange = z
  .strictObject({
    name: name.optional(),
    scopes: scopes.optional(),
    limitPerMinute: limitPerMinute.optional(),
    expiresAt: expiresAt.optional(),
  })
  .refine((change) => Object.keys(change).length > 0, 'name at least one field to change')
  .meta({ id: 'ApiKeyChange', minProperties: 1, examples: [{ limitPerMinute: 600 }] });

export const RotateApiKey = z
  .strictObject({
    overlapSeconds: z
      .int()
      .min(0)
      .max(30 * 86_400)
      .default(0)
      .describe('How long the old key still works; 0 ends it now'),
  })
  .meta({ id: 'RotateApiKey', examples: [{ overlapSeconds: 3600 }] });

export const ApiKey = z
  .object({
    id: z.string(),
    name: z.string(),
    scopes: z.array(z.string()),
    hint: z.string().describe('Last characters of the secret'),
    limitPerMinute: z.int().nullable(),
    createdAt: timestamp,
    expiresAt: timestamp.nullable(),
    revokedAt: timestamp.nullable(),
    lastUsedAt: timestamp.nullable().describe('To the minute'),
    replacedBy: z.string().nullable().describe('Id of the key that took its place'),
  })
  .meta({ id: 'ApiKey' });

export const IssuedApiKey = ApiKey.extend({
  token: z.string().describe('The key itself; only this answer and its repeats by Idempotency-Key hold it'),
}).meta({ id: 'IssuedApiKey' });
export type IssuedApiKey = z.infer<typeof IssuedApiKey>;

export const KEY_ID = /^[0-9A-Za-z]{1,32}$/;

export const ApiKeyId = z.strictObject({ id: z.string().regex(KEY_ID, 'the id of a key') });

export const PageQuery = z.strictObject(paging);

export const ApiKeyPage = z.object({ data: z.array(ApiKey), next: nextCursor }).meta({ id: 'ApiKeyPage' });

export const AuditEvent = z
  .object({
    id: z.uuid(),
    occurredAt: timestamp,
    actor: z.string().describe('Id of the key that acted, the command, or anonymous'),
    action: z.string().describe('What was done, such as api_key.created, or denied, such as access.denied'),
    object: z.string(),
    outcome: z.enum(['success', 'denied']),
    requestId: z.string().nullable(),
    ip: z.string().nullable(),
    detail: z
      .record(z.string(), z.unknown())
      .describe('Facts of the action; of a denied one the reason, how often in its minute, and since when'),
  })
  .meta({ id: 'AuditEvent' });

export const AuditEventPage = z
  .object({ data: z.array(AuditEvent), next: nextCursor })
  .meta({ id: 'AuditEventPage' });
