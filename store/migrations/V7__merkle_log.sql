-- The Merkle log of each tenant: docs/audit-format.md. The leaves are events.leaf_hash; these tables follow from them.

-- Roots of perfect subtrees: level 1 over 256 leaves, level 2 over 65,536, and so on (the tiles of C2SP tlog-tiles).
-- Once written they never change: nobody may update or delete them.
create table subtrees (
    tenant_id uuid     not null,
    level     smallint not null check (level between 1 and 7),
    index     bigint   not null,
    hash      bytea    not null,
    primary key (tenant_id, level, index)
);

-- The newest signed checkpoint of each log, or why the signer refuses to sign another.
create table sealed_logs (
    tenant_id    uuid        not null primary key,
    log_id       uuid        not null,
    size         bigint      not null,
    note         text        not null,
    verifier_key text        not null,
    sealed_at    timestamptz not null,
    refusal      text
) with (fillfactor = 50);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['subtrees', 'sealed_logs']
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

    foreach tenant_table in array array['heads', 'tenants', 'events']
    loop
        execute format('create policy sealer_all on %I as permissive for select to annals_sealer using (true)', tenant_table);
    end loop;
    foreach tenant_table in array array['subtrees', 'sealed_logs']
    loop
        execute format('create policy sealer_all on %I as permissive for all to annals_sealer using (true) with check (true)',
                       tenant_table);
    end loop;
end
$$;

grant select on subtrees, sealed_logs to annals_tenant;

-- The sealer sees leaves, never what they commit to.
grant select on heads, tenants to annals_sealer;
grant select (tenant_id, position, leaf_hash) on events to annals_sealer;
grant select, insert on subtrees to annals_sealer;
grant select, insert, update on sealed_logs to annals_sealer;
