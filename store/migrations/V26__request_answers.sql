-- What requests that append no event answered the first time (docs/adr/0027). The receipt of the same key says what was
-- asked. Sealed, because an answer may hold a secret.
create table request_answers (
    tenant_id   uuid        not null,
    receipt_key uuid        not null,
    http_status integer     not null,
    body        bytea       not null, -- sealed
    expires_at  timestamptz,          -- null: as long as the receipt is kept
    primary key (tenant_id, receipt_key)
);
create index request_answers_expiring on request_answers (tenant_id, expires_at) where expires_at is not null;

alter table request_answers enable row level security;
alter table request_answers force row level security;
create policy tenant_base on request_answers as permissive for all to annals_tenants using (true) with check (true);
create policy tenant_fence on request_answers as restrictive for all to annals_tenants
    using (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid))
    with check (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid));

grant select, insert, delete on request_answers to annals_projector;
