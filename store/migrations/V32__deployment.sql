-- The id that this database shares with its store of keys, so that neither is used with another deployment's. `keys_marked`
-- says that a store of keys has been marked with it: from then on an unmarked one is not the one that was in use.
create table deployment (
    single      boolean primary key default true check (single),
    id          uuid    not null default gen_random_uuid(),
    keys_marked boolean not null default false
);
insert into deployment default values;
grant select, update (keys_marked) on deployment to annals_worker;
