-- The audit log: who did what to which object, and whether it was allowed.
--
-- Append-only, and not by good manners: a trigger refuses update, delete and truncate for every role,
-- the owner of the table and superusers included. Rewriting the past then takes DDL, which the role of
-- the service does not have. To end the retention of old events, copy them out and migrate; there is
-- no other way on purpose.

-- Up Migration
create table audit_event (
  -- UUIDv7 made by the service: the order of ids is the order of time.
  id uuid not null,
  tenant text not null check (tenant ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
  occurred_at timestamptz not null default now(),
  -- The id of a key, or the command that was run: 'command:api-key'.
  actor text not null check (char_length(actor) between 1 and 100),
  -- Noun and past participle: 'api_key.created'.
  action text not null check (char_length(action) between 1 and 100),
  object text not null check (char_length(object) <= 200),
  outcome text not null check (outcome in ('success', 'denied')),
  request_id text,
  ip text,
  -- Facts that belong to the action. Never a secret, a key or a body.
  detail jsonb not null default '{}' check (jsonb_typeof(detail) = 'object'),
  -- "The events of this tenant, newest first" is the only way in which the log is read: a walk of this key
  -- backwards. An index on id alone would lure the planner into walking the events of all tenants.
  primary key (tenant, id)
);

create function audit_event_refuse_rewrite() returns trigger
language plpgsql
as $$
begin
  raise exception 'audit_event is append-only: % is refused', lower(tg_op)
    using errcode = 'insufficient_privilege';
end
$$;

-- Per statement, so that it also fires for a statement that matches no row, and for truncate.
create trigger audit_event_append_only
before update or delete or truncate on audit_event
for each statement
execute function audit_event_refuse_rewrite();

-- "always": session_replication_role = replica would switch an ordinary trigger off.
alter table audit_event enable always trigger audit_event_append_only;

-- Down Migration
-- The whole log is lost. Copy it out first.
drop table audit_event;
drop function audit_event_refuse_rewrite();
