import { uuidv7 } from 'uuidv7';
import { utcText } from '../postgres/utc.ts';
import type { Tx } from '../postgres/postgres.ts';

/** Who did what to which object, from where, and whether they were let. Never a key or a body. */
export interface AuditEvent {
  id: string;
  tenant: string;
  occurredAt: string;
  /** Public id of the key that acted, or the command. */
  actor: string;
  action: string;
  object: string;
  outcome: 'success' | 'denied';
  requestId: string | null;
  ip: string | null;
  detail: Record<string, unknown>;
}

export type NewAuditEvent = Omit<AuditEvent, 'id' | 'occurredAt'>;

/** Who acts, as every audited call is told it. */
export type Actor = Pick<AuditEvent, 'actor' | 'requestId' | 'ip'>;

const COLUMNS = `id, tenant, ${utcText('occurred_at')} as "occurredAt", actor, action, object, outcome,
  request_id as "requestId", ip, detail`;

/** The append-only trail; a trigger refuses every other statement. Write an act in its own transaction. */
export const auditSql = {
  async append(tx: Tx, events: NewAuditEvent[]): Promise<void> {
    await tx.query({
      name: 'audit_event_append',
      text: `insert into audit_event (id, tenant, occurred_at, actor, action, object, outcome, request_id, ip, detail)
        select id, tenant, now(), actor, action, object, outcome, "requestId", ip, detail
        from jsonb_to_recordset($1::jsonb) as event (id uuid, tenant text, actor text, action text, object text,
          outcome text, "requestId" text, ip text, detail jsonb)`,
      values: [JSON.stringify(events.map((event) => ({ ...event, id: uuidv7() })))],
    });
  },

  /** Newest first: ids are UUIDv7 and sort by time. */
  async list(tx: Tx, tenant: string, limit: number, before?: string): Promise<AuditEvent[]> {
    return tx.query<AuditEvent>({
      name: before ? 'audit_event_list_before' : 'audit_event_list',
      text: `select ${COLUMNS} from audit_event
        where tenant = $1 ${before ? 'and id < $3' : ''}
        order by id desc
        limit $2`,
      values: before ? [tenant, limit, before] : [tenant, limit],
    });
  },
};
