-- What was answered to a POST with an Idempotency-Key, so that a repeat gets the same answer and the
-- work is not done twice.
--
-- The record is written in the transaction that does the work. Either both are there or neither is,
-- whatever crashes when: that is why these rows are in Postgres and not in Redis.

-- Up Migration
create table idempotency_record (
  tenant text not null check (tenant ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
  -- Chosen by the client, therefore unique within its tenant only.
  key text not null check (char_length(key) between 1 and 255),
  -- A digest of method, path and body: the same key with another request is a client's mistake.
  fingerprint bytea not null,
  status smallint not null check (status between 100 and 599),
  headers jsonb not null check (jsonb_typeof(headers) = 'object'),
  body text not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  -- The lookup of every repeat, and what makes one of two parallel first requests lose.
  primary key (tenant, key)
);

-- "What is due?": the purge takes the oldest by expires_at, a bounded number at a time.
create index idempotency_record_expires_at on idempotency_record (expires_at);

-- Down Migration
-- Repeats of requests that were answered before are executed again.
drop table idempotency_record;
