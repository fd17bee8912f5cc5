-- The peer's table: the rows of the tenant's customers without the tenant, with the indexes and the storage parameters of
-- the read model (without their first column, the tenant), and with defaults for what a new row does not name. `$model`
-- and `$tenant` are replaced.
create schema peer;

do $do$
declare
    list text;
    options text;
    definition text;
begin
    select string_agg(quote_ident(attname), ', ' order by attnum) into list
        from pg_attribute where attrelid = '$model'::regclass and attnum > 0 and not attisdropped and attname <> 'tenant_id';
    select coalesce('with (' || array_to_string(reloptions, ', ') || ')', '') into options
        from pg_class where oid = '$model'::regclass;
    execute format('create table peer.customers %s as select %s from $model where tenant_id = ''$tenant''
                    order by registered_at, id', options, list);
    for list in select quote_ident(attname) from pg_attribute
        where attrelid = '$model'::regclass and attnum > 0 and attnotnull and attname <> 'tenant_id' loop
        execute format('alter table peer.customers alter %s set not null', list);
    end loop;
    for definition in select indexdef from pg_indexes where schemaname = 'public' and tablename = '$model' loop
        execute replace(replace(definition, 'ON public.$model ', 'ON peer.customers '), '(tenant_id, ', '(');
    end loop;
end
$do$;

alter table peer.customers
    add primary key using index $model_pkey,
    alter id set default gen_random_uuid(),
    alter status set default 'active',
    alter erased set default false,
    alter version set default 1,
    alter registered_at set default now(),
    alter updated_at set default now();

create table peer.bare (
    stream   text   not null,
    version  bigint not null,
    type     text   not null,
    payload  bytea  not null,
    metadata bytea  not null,
    primary key (stream, version)
);
