-- Belongs to src/features/orders: delete this file together with that folder.
--
-- The table is called "orders" because "order" is a word of SQL and would need quotes everywhere.
-- Money is in minor units (cents) as a whole number; times are timestamptz.

-- Up Migration
create table orders (
  -- UUIDv7 made by the service: the order of ids is the order of creation, so a list needs no other
  -- sort column and a cursor is one id.
  id uuid not null,
  tenant text not null check (tenant ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
  reference text not null check (char_length(reference) between 1 and 64),
  status text not null check (status in ('pending', 'paid', 'shipped', 'delivered', 'cancelled')),
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  total_minor bigint not null check (total_minor between 0 and 1000000000000),
  -- "case", because Postgres may check both halves of an "and" and the length of a non-array is an error.
  items jsonb not null check (
    case when jsonb_typeof(items) = 'array' then jsonb_array_length(items) between 1 and 100 else false end
  ),
  -- Counts the changes; it is the ETag.
  version integer not null default 1 check (version >= 1),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- Both "this order of this tenant" (tenant and id) and the list (tenant, id < cursor, order by id desc)
  -- are this key. The tenant goes first on purpose: with an index on id alone the planner serves the list
  -- by walking every tenant's orders backwards, which is quick for a busy tenant and reads the whole
  -- table for a quiet one.
  primary key (tenant, id),
  -- The name is an interface: a duplicate reference is recognised by it and answered as a conflict.
  constraint orders_tenant_reference_key unique (tenant, reference)
);

-- Each index has a query, and a test that fails when the planner stops using it.

-- The list of one status. Without it a rare status (the cancelled ones) reads the whole tenant to fill
-- a page. The price: a change of status writes this index.
create index orders_tenant_status_newest on orders (tenant, status, id desc);

-- A range of time: the filter of the list, and the summary per day, status and currency.
create index orders_tenant_created_at on orders (tenant, created_at);

-- Down Migration
-- Every order is lost.
drop table orders;
