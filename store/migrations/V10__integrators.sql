-- Credentials of integrators on NATS: the registry from which consumers, revocations and places are restored whatever NATS
-- loses (docs/adr/0016). Nothing secret stands here: keys are derived from the deployment key.

create table integrator_credentials (
    tenant_id        uuid        not null,
    credential_id    uuid        not null,
    name             text        not null collate "C",
    consumer         text        not null collate "C", -- never used again
    types            text[]      not null,             -- patterns over event types; empty: all
    created_at       timestamptz not null,
    revoked_at       timestamptz,
    revision         bigint      not null,             -- raised by each change
    keys_applied     bigint      not null default 0,   -- the revision up to which NATS knows who is kept out
    consumer_applied bigint      not null default 0,   -- the revision up to which the consumer is as it should be
    instance         integer     not null,             -- of the consumer; another one starts at another place
    log_id           uuid        not null,
    acked_position   bigint      not null,             -- everything up to here is acknowledged
    acked_generation integer     not null default -1,  -- the relay's generation when that was found
    hold_sequence    bigint      not null default 0,   -- below it the stream may hold lower positions behind higher ones
    primary key (tenant_id, credential_id)
) with (fillfactor = 50);
create unique index integrator_credentials_name on integrator_credentials (tenant_id, name) where revoked_at is null;
create index integrator_credentials_due on integrator_credentials (tenant_id)
    where keys_applied < revision or consumer_applied < revision;

-- The user keys issued for a credential; a rotation adds one.
create table integrator_keys (
    tenant_id     uuid        not null,
    key_id        uuid        not null,
    credential_id uuid        not null,
    public_key    text        not null collate "C",
    issued_at     timestamptz not null,
    expires_at    timestamptz not null,
    revoked_at    timestamptz,
    primary key (tenant_id, key_id)
);
create index integrator_keys_credential on integrator_keys (tenant_id, credential_id);

-- What requests with a command id did, so that a repeat gets the first answer.
create table integrator_commands (
    tenant_id     uuid        not null,
    command_id    uuid        not null,
    digest        bytea       not null,
    credential_id uuid        not null,
    key_id        uuid,
    revision      bigint      not null,
    done_at       timestamptz not null,
    primary key (tenant_id, command_id)
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['integrator_credentials', 'integrator_keys', 'integrator_commands']
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
    foreach tenant_table in array array['integrator_credentials', 'integrator_keys']
    loop
        execute format('create policy relay_all on %I as permissive for all to annals_relay using (true) with check (true)',
                       tenant_table);
    end loop;
end
$$;

grant select on integrator_credentials, integrator_keys to annals_tenant;
grant select, insert, update, delete on integrator_credentials, integrator_keys to annals_projector;
grant select, insert, delete on integrator_commands to annals_projector;
grant select on integrator_credentials, integrator_keys to annals_relay;
grant update (keys_applied, consumer_applied, log_id, acked_position, acked_generation, hold_sequence)
    on integrator_credentials to annals_relay;
