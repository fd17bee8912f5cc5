-- The activity log: who came, what was refused, who looked. Apart from the business log, so that strangers cannot make an
-- immutable log grow, and that personal data (source addresses) end after a while.
create table activities (
    tenant_id   uuid        not null,
    activity_id uuid        not null, -- UUIDv7: in the order of time
    at          timestamptz not null,
    kind        text        not null collate "C",
    actor       text        not null,
    action      text        not null,
    outcome     text        not null,
    count       bigint      not null default 1,
    request_id  text,
    address     text,
    primary key (tenant_id, activity_id)
);

alter table activities enable row level security;
alter table activities force row level security;
create policy tenant_base on activities as permissive for all to annals_tenants using (true) with check (true);
create policy tenant_fence on activities as restrictive for all to annals_tenants
    using (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid))
    with check (tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid));

grant select on activities to annals_tenant;
-- Written and, when their time is over, removed; never changed.
grant select, insert, delete on activities to annals_projector;
