-- Messages carry a MAC from here on (docs/adr/0025), and those of before count for nothing. Every log is published again, as
-- one new filling of the stream. Generations are raised, so that nothing acknowledged to a relay of before is taken for it.
-- The owner is fenced by row-level security as well, and this concerns every tenant.
alter table relay_progress no force row level security;
update relay_progress
set generation = generation + 1, stream_generation = generation + 1, acked = 0, removed = 0, mark_sequence = 0,
    mark_position = 0, disordered_to = 0;
alter table relay_progress force row level security;
