-- Each read model has two tables. The generation of a tenant's row says which of them is read and kept: even the first,
-- odd the second (`<table>_b`). A rebuild fills the other one and raises the generation. No row is generation 0.
create table read_models (
    tenant_id        uuid    not null,
    projection       text    not null collate "C", -- the name of its checkpoint
    generation       bigint  not null default 0,
    switched_at      timestamptz,
    paused_at        timestamptz,
    rebuild          uuid,                         -- who rebuilds; fences the writes of one that has been given up
    rebuild_until    timestamptz,                  -- until when it is believed to be alive
    rebuild_position bigint,
    rebuild_target   bigint,
    primary key (tenant_id, projection)
) with (fillfactor = 50);

-- Read models that are paused for all tenants.
create table paused_projections (
    projection text        not null collate "C" primary key,
    paused_at  timestamptz not null default now()
);

alter table read_models enable row level security;
alter table read_models force row level security;
create policy tenant_base on read_models as permissive for all to annals_tenants using (true) with check (true);
create policy tenant_fence on read_models as restrictive for all to annals_tenants
    using (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid))
    with check (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid));
create policy worker_all on read_models as permissive for select to annals_worker using (true);

grant select on read_models to annals_tenant;
grant select, insert, update on read_models to annals_projector;
grant select on read_models to annals_worker;
grant select, insert, delete on paused_projections to annals_projector;
grant select on paused_projections to annals_worker;
