-- Up to which position a replaced log was signed, by the checkpoint that the fact of its replacement cites: docs/adr/0023.
alter table replaced_logs add column signed_to bigint;

-- The appender, which replaces logs, cites the newest checkpoint that the database keeps.
create policy appender_set on sealed_logs as permissive for select to annals_appender
    using (tenant_id = any ((select string_to_array(nullif(current_setting('annals.tenants', true), ''), ',')::uuid[])::uuid[]));
grant select (tenant_id, log_id, size, note, verifier_key) on sealed_logs to annals_appender;
