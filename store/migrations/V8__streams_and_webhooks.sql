-- Tickets for event streams that have been used. docs/adr/0012 gives the reasons for this and what follows.
create table stream_tickets (
    tenant_id  uuid        not null,
    ticket_id  uuid        not null,
    expires_at timestamptz not null,
    primary key (tenant_id, ticket_id)
);

-- The endpoints to which tenants have their events delivered, with how far each has come.
create table webhooks (
    tenant_id       uuid        not null,
    webhook_id      uuid        not null,
    url             text        not null,
    types           text        not null, -- JSON: patterns over event types; empty delivers all
    description     text        not null,
    ordering        text        not null collate "C",
    status          text        not null collate "C",
    disabled_reason text,
    disabled_at     timestamptz,
    secret          bytea       not null, -- sealed
    old_secret      bytea,                -- sealed; signs besides until old_secret_until
    old_secret_until timestamptz,
    log_id          uuid        not null,
    position        bigint      not null, -- everything up to here is delivered, failed into webhook_failures, or does not match
    epoch           bigint      not null default 0, -- raised by every change that makes a delivery under way stale
    held            boolean     not null default false, -- a failed delivery holds back what is behind it
    retry_at        timestamptz, -- when the next failed delivery is due
    failing_since   timestamptz, -- the first failure since the last success
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    primary key (tenant_id, webhook_id)
) with (fillfactor = 50);

-- Deliveries that failed: pending ones are tried again, dead ones wait for somebody.
create table webhook_failures (
    tenant_id       uuid        not null,
    webhook_id      uuid        not null,
    position        bigint      not null,
    event_id        uuid        not null,
    event_type      text        not null collate "C",
    status          text        not null collate "C",
    late            boolean     not null default false, -- tried again by hand: holds nothing back
    attempts        integer     not null,
    first_at        timestamptz not null,
    last_at         timestamptz not null,
    next_attempt_at timestamptz not null,
    error           text        not null,
    primary key (tenant_id, webhook_id, position)
) with (fillfactor = 50);

-- The newest attempts of each endpoint.
create table webhook_deliveries (
    tenant_id   uuid        not null,
    webhook_id  uuid        not null,
    delivery_id uuid        not null,
    position    bigint      not null,
    event_id    uuid        not null,
    event_type  text        not null collate "C",
    attempt     integer     not null,
    outcome     text        not null collate "C",
    http_status integer,
    error       text,
    millis      integer     not null,
    at          timestamptz not null,
    primary key (tenant_id, webhook_id, delivery_id)
);

-- What commands on webhooks answered the first time. The answer is sealed, because it may hold a signing secret.
create table webhook_receipts (
    tenant_id   uuid        not null,
    command_id  uuid        not null,
    digest      bytea       not null,
    http_status integer     not null,
    answer      bytea       not null,
    recorded_at timestamptz not null,
    primary key (tenant_id, command_id)
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['stream_tickets', 'webhooks', 'webhook_failures', 'webhook_deliveries',
                                        'webhook_receipts']
    loop
        execute format('alter table %I enable row level security', tenant_table);
        execute format('alter table %I force row level security', tenant_table);
        execute format('create policy tenant_base on %I as permissive for all to annals_tenants using (true) with check (true)',
                       tenant_table);
        execute format('create policy tenant_fence on %I as restrictive for all to annals_tenants
                        using (tenant_id = (select nullif(current_setting(''annals.tenant'', true), '''')::uuid))
                        with check (tenant_id = (select nullif(current_setting(''annals.tenant'', true), '''')::uuid))',
                       tenant_table);
    end loop;
end
$$;
create policy worker_all on webhooks as permissive for select to annals_worker using (true);

grant select on webhooks, webhook_failures, webhook_deliveries to annals_tenant;
grant select, insert, delete on stream_tickets, webhook_deliveries, webhook_receipts to annals_projector;
grant select, insert, update, delete on webhooks, webhook_failures to annals_projector;
-- Who delivers finds out which endpoints have something to do; urls and secrets are none of its business.
grant select (tenant_id, webhook_id, status, log_id, position, held, retry_at) on webhooks to annals_worker;
