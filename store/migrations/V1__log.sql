-- The tenant log and what is written with it. Every key starts with tenant_id; no foreign keys, because each would cost
-- every append and the append transaction writes all sides itself. Policies and grants: see V2.

-- The directory of tenants: which slug is whose. A row is written in the transaction that appends TenantRegistered.
create table tenants (
    tenant_id    uuid        not null primary key,
    slug         text        not null collate "C" unique,
    name         text        not null,
    tier         text        not null,
    registration text        not null,
    suspended    boolean     not null default false,
    opened_at    timestamptz not null default now()
);

-- One row a tenant: the end of its log. Appends move it by compare-and-swap, so positions are dense.
create table heads (
    tenant_id   uuid        not null primary key,
    log_id      uuid        not null,
    position    bigint      not null check (position >= 0),
    recorded_at timestamptz not null
) with (fillfactor = 50);

create table events (
    tenant_id        uuid        not null,
    position         bigint      not null,
    version          bigint      not null,
    recorded_at      timestamptz not null,
    event_id         uuid        not null,
    schema_version   integer     not null,
    payload_encoding smallint    not null,
    stream           text        not null collate "C",
    type             text        not null collate "C",
    payload          bytea       not null, -- exactly as written; never jsonb, which would not keep the hashed bytes
    metadata         bytea       not null,
    salts            bytea       not null, -- 16 bytes for the payload's commitment, 16 for the metadata's
    subject_keys     bytea       not null, -- 16 bytes a key id
    leaf_hash        bytea       not null,
    primary key (tenant_id, position),
    unique (tenant_id, stream, version)
);

-- One row a command whose id came from outside: what it did the first time.
create table receipts (
    tenant_id      uuid        not null,
    command_id     uuid        not null,
    digest         bytea       not null,
    stream         text        not null collate "C",
    version        bigint      not null,
    first_position bigint      not null,
    count          integer     not null,
    recorded_at    timestamptz not null,
    primary key (tenant_id, command_id)
);

-- Values that one stream of a tenant holds at a time, such as an e-mail address; only a keyed digest is kept.
create table reservations (
    tenant_id  uuid  not null,
    kind       text  not null collate "C",
    value_hash bytea not null,
    stream     text  not null collate "C",
    primary key (tenant_id, kind, value_hash)
);

-- Password hashes and the like: never in events.
create table secrets (
    tenant_id uuid  not null,
    stream    text  not null collate "C",
    kind      text  not null collate "C",
    value     bytea not null,
    primary key (tenant_id, stream, kind)
);

-- How far a follower of the log (a projection, a saga) has come.
create table checkpoints (
    tenant_id  uuid        not null,
    consumer   text        not null collate "C",
    log_id     uuid        not null,
    position   bigint      not null,
    updated_at timestamptz not null default now(),
    primary key (tenant_id, consumer)
) with (fillfactor = 50);

create table dead_letters (
    tenant_id      uuid        not null,
    dead_letter_id uuid        not null,
    consumer       text        not null collate "C",
    position       bigint      not null,
    event_id       uuid,
    subject        text        not null,
    error_code     text        not null,
    error          text        not null,
    attempts       integer     not null,
    history        text        not null, -- JSON
    status         text        not null collate "C",
    first_at       timestamptz not null,
    last_at        timestamptz not null,
    primary key (tenant_id, dead_letter_id)
);

-- Steps that sagas still have to take: a work list that follows from the reactions in the log.
create table saga_steps (
    tenant_id       uuid        not null,
    saga            text        not null collate "C",
    instance        uuid        not null,
    step            text        not null collate "C",
    trigger_event   uuid        not null,
    correlation_id  uuid        not null,
    command         text        not null, -- JSON
    attempts        integer     not null,
    next_attempt_at timestamptz not null,
    status          text        not null collate "C",
    last_error      text,
    history         text        not null, -- JSON
    dead_letter_id  uuid,
    primary key (tenant_id, saga, instance, step)
) with (fillfactor = 50);
create index saga_steps_due on saga_steps (saga, next_attempt_at) where status = 'pending';

-- How far the relay has come with each tenant: everything up to acked is on JetStream, under this generation.
create table relay_progress (
    tenant_id  uuid    not null primary key,
    log_id     uuid    not null,
    generation integer not null,
    acked      bigint  not null
) with (fillfactor = 50);

-- The JetStream stream that relay_progress speaks of, by its creation time. One row.
create table relay_stream (
    only_row   boolean     not null primary key default true check (only_row),
    created_at timestamptz not null
);
