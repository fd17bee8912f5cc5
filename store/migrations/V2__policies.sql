-- Who may do what. The same matrix stands in docs/roles.md and in tests/store/roles.rs, which compares it with the catalogue.
--
-- Roles bound to one tenant (members of annals_tenants) pass a permissive base and a RESTRICTIVE fence on the
-- transaction-local setting annals.tenant. The appender passes a fence on the set annals.tenants. The roles that work
-- across tenants (lookup, worker, relay) have a policy of their own on exactly the tables they need.

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['heads', 'events', 'receipts', 'reservations', 'secrets', 'checkpoints',
                                        'dead_letters', 'saga_steps', 'relay_progress', 'tenants']
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

    foreach tenant_table in array array['heads', 'events', 'receipts', 'reservations', 'secrets', 'tenants']
    loop
        execute format('create policy appender_set on %I as permissive for all to annals_appender
                        using (tenant_id = any ((select string_to_array(nullif(current_setting(''annals.tenants'', true), ''''), '','')::uuid[])::uuid[]))
                        with check (tenant_id = any ((select string_to_array(nullif(current_setting(''annals.tenants'', true), ''''), '','')::uuid[])::uuid[]))',
                       tenant_table);
    end loop;

    foreach tenant_table in array array['heads', 'events', 'receipts', 'reservations', 'tenants']
    loop
        execute format('create policy lookup_all on %I as permissive for select to annals_lookup using (true)', tenant_table);
    end loop;

    foreach tenant_table in array array['heads', 'tenants', 'checkpoints', 'dead_letters', 'saga_steps']
    loop
        execute format('create policy worker_all on %I as permissive for select to annals_worker using (true)', tenant_table);
    end loop;

    foreach tenant_table in array array['heads', 'tenants', 'events', 'relay_progress']
    loop
        execute format('create policy relay_all on %I as permissive for all to annals_relay using (true) with check (true)',
                       tenant_table);
    end loop;

    -- The owner is fenced as well (FORCE), but for the one row of the reserved tenant that migrations open.
    foreach tenant_table in array array['heads', 'tenants']
    loop
        execute format('create policy owner_platform on %I as permissive for all to annals_owner
                        using (tenant_id = ''00000000-0000-7000-8000-000000000001'')
                        with check (tenant_id = ''00000000-0000-7000-8000-000000000001'')', tenant_table);
    end loop;
end
$$;

-- Reads of one tenant, for the gateway and everything that answers questions.
grant select on heads, events, receipts, reservations, secrets, checkpoints, dead_letters to annals_tenant;

-- Read models and what their workers keep, one tenant at a time.
grant select on heads, events to annals_projector;
grant select, insert, update on checkpoints, dead_letters to annals_projector;
grant select, insert, update, delete on saga_steps to annals_projector;

-- The appender writes many tenants in one flush and reads nothing of what it wrote.
grant insert on events, receipts to annals_appender;
grant select, insert, update on heads to annals_appender;
grant insert, delete on reservations to annals_appender;
grant select (tenant_id, kind, value_hash, stream) on reservations to annals_appender;
grant insert, update (value) on secrets to annals_appender;
grant select (tenant_id, stream, kind) on secrets to annals_appender;
grant insert on tenants to annals_appender;

-- The appender's eyes: versions, receipts and reservations, never a payload.
grant select on heads, receipts, reservations, tenants to annals_lookup;
grant select (tenant_id, position, version, event_id, stream) on events to annals_lookup;

-- Workers find out which tenants there are and what is behind.
grant select on heads, tenants, checkpoints, dead_letters to annals_worker;
grant select (tenant_id, saga, instance, step, attempts, next_attempt_at, status) on saga_steps to annals_worker;

-- The relay reads every log and remembers how far it came.
grant select on heads, tenants, events to annals_relay;
grant select, insert, update on relay_progress, relay_stream to annals_relay;
