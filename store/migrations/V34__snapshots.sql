-- States of folds over streams, so that a load reads few events (docs/adr/0040). A row may be removed at any time: the events
-- make it again.
create table snapshots (
    tenant_id   uuid        not null,
    fold        text        not null, -- which state: of a command's rules, or of a read model
    stream      text        not null,
    version     bigint      not null, -- of the last event of the state
    position    bigint      not null,
    recorded_at timestamptz not null,
    log_id      uuid        not null,
    fingerprint bigint      not null, -- of the source files of the fold
    state       bytea       not null, -- JSON; sealed if it has personal data
    tag         bytea       not null, -- HMAC of the row
    primary key (tenant_id, fold, stream, version)
);

alter table snapshots enable row level security;
alter table snapshots force row level security;
create policy tenant_base on snapshots as permissive for all to annals_tenants using (true) with check (true);
create policy tenant_fence on snapshots as restrictive for all to annals_tenants
    using (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid))
    with check (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid));

grant select on snapshots to annals_tenant;
grant select, insert, update, delete on snapshots to annals_projector;
