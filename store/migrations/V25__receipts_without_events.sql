-- Receipts of commands and requests that appended no event (docs/adr/0027).
--
-- expires_at: until when the receipt is kept; null for ever, as for every command that appended events.
-- format: how command_id and digest are made. 1: command_id as the client sent it. 2: derived from it and the principal.
alter table receipts add column expires_at timestamptz;
alter table receipts add column format smallint not null default 1;
comment on column receipts.command_id is 'the receipt key: derived from principal and Idempotency-Key, see format';

-- Few receipts end, so this costs an ordinary append nothing.
create index receipts_expiring on receipts (tenant_id, expires_at) where expires_at is not null;

-- The projector keeps the receipts of requests that append nothing, and removes what has ended. It neither makes nor
-- removes the receipt of an event.
create policy projector_keeps on receipts as restrictive for insert to annals_projector with check (count = 0);
create policy projector_removes on receipts as restrictive for delete to annals_projector using (expires_at is not null);
grant select, insert, delete on receipts to annals_projector;

-- Workers find the tenants that have something to remove.
create policy worker_all on receipts as permissive for select to annals_worker using (true);
grant select (tenant_id, expires_at) on receipts to annals_worker;
