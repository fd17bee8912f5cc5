-- Which processes work, and what the relay relies on. docs/adr/0006 and 0007 give the reasons.

-- Processes that play a role, by their heartbeats: work is shared among them. Nothing but pace rests on this table.
create table workers (
    role      text        not null collate "C",
    worker_id uuid        not null,
    seen_at   timestamptz not null,
    primary key (role, worker_id)
) with (fillfactor = 50);

grant select, insert, update, delete on workers to annals_worker;

-- How many messages had left the stream, up to which loss this tenant was found complete; -1: it has to be looked at.
alter table relay_progress add column removed bigint not null default -1;
-- The message of this tenant that stands farthest in the stream: a stream that does not hold it there has gone back.
alter table relay_progress add column mark_sequence bigint not null default 0;
alter table relay_progress add column mark_position bigint not null default 0;
