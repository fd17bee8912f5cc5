-- The generation with which the stream was begun anew: while it is the tenant's own, nothing was filled in behind it, so
-- positions follow places as in a stream of the first generation (docs/adr/0022). -1: not known.
alter table relay_progress add column stream_generation integer not null default -1;
