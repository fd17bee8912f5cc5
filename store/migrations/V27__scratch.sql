-- Past states are worked out in temporary tables by a role of its own; no other role may make any (migrate.rs takes the right
-- from PUBLIC, because it belongs to the database and not to its schema). It reads what a comparison needs: which table serves,
-- and how far it is. migrate.rs grants it the read tables themselves.
grant select on checkpoints, read_models to annals_scratch;
