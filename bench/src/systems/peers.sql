-- postgres-es: the table as its documentation gives it.
create table events (
    aggregate_type text                         not null,
    aggregate_id   text                         not null,
    sequence       bigint check (sequence >= 0) not null,
    event_type     text                         not null,
    event_version  text                         not null,
    payload        json                         not null,
    metadata       json                         not null,
    primary key (aggregate_type, aggregate_id, sequence)
);

-- The bare INSERT: one key, no checks beyond it.
create table bare (
    stream   text   not null,
    version  bigint not null,
    type     text   not null,
    payload  bytea  not null,
    metadata bytea  not null,
    primary key (stream, version)
);
