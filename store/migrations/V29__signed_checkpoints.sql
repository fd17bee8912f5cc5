-- Every signed checkpoint, by its size: a proof for an older size comes with the checkpoint of that size. A log has at
-- most one row an event here, and at most one a round of the sealer. They never change.
create table signed_checkpoints (
    tenant_id uuid   not null,
    log_id    uuid   not null,
    size      bigint not null check (size > 0),
    note      text   not null,
    primary key (tenant_id, log_id, size)
);

alter table signed_checkpoints enable row level security;
alter table signed_checkpoints force row level security;
create policy tenant_base on signed_checkpoints as permissive for all to annals_tenants using (true) with check (true);
create policy tenant_fence on signed_checkpoints as restrictive for all to annals_tenants
    using (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid))
    with check (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid));
create policy sealer_all on signed_checkpoints as permissive for all to annals_sealer using (true) with check (true);

grant select on signed_checkpoints to annals_tenant;
grant select, insert on signed_checkpoints to annals_sealer;

insert into signed_checkpoints (tenant_id, log_id, size, note)
    select tenant_id, log_id, size, note from sealed_logs where size > 0;
