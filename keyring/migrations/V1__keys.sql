-- The keys of personal data, in a database of their own. Whoever may read these rows opens nothing without the root key.

-- Which root key (by fingerprint) the keys of an epoch are wrapped under. New keys are of the newest one.
create table epochs (
    epoch bigint primary key,
    root  bytea not null
);

-- One row for each subject, for ever. A destroyed key leaves its row as the tombstone: without `wrapped`, with `fenced_at`.
-- Fencing and making a key meet at the primary key, so whichever commits first is seen by the other one.
create table keys (
    tenant       uuid        not null,
    subject      uuid        not null,
    id           uuid,       -- null where the subject was fenced before it had a key
    epoch        bigint      references epochs,
    wrapped      bytea,
    created_at   timestamptz not null default now(),
    fenced_at    timestamptz,
    destroyed_at timestamptz,
    primary key (tenant, subject),
    check ((wrapped is null) = (epoch is null)),
    check (wrapped is null or id is not null),
    check (wrapped is not null or fenced_at is not null),
    check (destroyed_at is null or (wrapped is null and fenced_at is not null))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20); -- destroyed keys are dead rows until then
create unique index keys_by_id on keys (tenant, id);
create index keys_of_epoch on keys (epoch);
create index erasures on keys (tenant, subject) where fenced_at is not null;

-- The streams that hold, or held, something of a subject.
create table streams (
    tenant  uuid not null,
    subject uuid not null,
    stream  text not null,
    primary key (tenant, subject, stream)
);

-- The deployment whose keys these are: the same id as in its database of events.
create table deployment (
    single boolean primary key default true check (single),
    id     uuid not null
);
