-- The rows of customers and users have another shape. The new tables are filled from the log; the old ones hold personal
-- data and are dropped.
drop table if exists customers_v1, customers_v1_b, users_v1, users_v1_b;
delete from checkpoints where consumer in ('customers.v1', 'users.v1');
delete from read_models where projection in ('customers.v1', 'users.v1');
delete from paused_projections where projection in ('customers.v1', 'users.v1');
delete from dead_letters where consumer in ('customers.v1', 'users.v1');
