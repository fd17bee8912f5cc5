-- Logs that were replaced because the database went back to an earlier state (docs/adr/0008). Rows are only added.

-- The leaf of a position was computed with the log id of the row with the smallest last_position that is not below it, and
-- with the log id of the head where there is none.
create table replaced_logs (
    tenant_id     uuid        not null,
    log_id        uuid        not null,
    last_position bigint      not null check (last_position >= 0), -- kept by the log that came after
    next_log_id   uuid        not null,
    published_to  bigint,                                          -- known to have been told to others
    reason        text        not null,
    replaced_at   timestamptz not null,
    primary key (tenant_id, log_id)
);

alter table replaced_logs enable row level security;
alter table replaced_logs force row level security;
create policy tenant_base on replaced_logs as permissive for all to annals_tenants using (true) with check (true);
create policy tenant_fence on replaced_logs as restrictive for all to annals_tenants
    using (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid))
    with check (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid));
create policy worker_all on replaced_logs as permissive for select to annals_worker using (true);

-- The appender replaces a log as it appends: what remembers a position of the old log moves along.
create policy appender_set on replaced_logs as permissive for all to annals_appender
    using (tenant_id = any ((select string_to_array(nullif(current_setting('annals.tenants', true), ''), ',')::uuid[])::uuid[]))
    with check (tenant_id = any ((select string_to_array(nullif(current_setting('annals.tenants', true), ''), ',')::uuid[])::uuid[]));
create policy appender_set on checkpoints as permissive for all to annals_appender
    using (tenant_id = any ((select string_to_array(nullif(current_setting('annals.tenants', true), ''), ',')::uuid[])::uuid[]))
    with check (tenant_id = any ((select string_to_array(nullif(current_setting('annals.tenants', true), ''), ',')::uuid[])::uuid[]));

grant select on replaced_logs to annals_tenant, annals_worker;
grant insert on replaced_logs to annals_appender;
grant select (tenant_id) on replaced_logs to annals_appender;
grant select (tenant_id, log_id, position), update (log_id) on checkpoints to annals_appender;
