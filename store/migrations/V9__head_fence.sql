-- What a swap of a head compares besides the position: two writers may have moved a head equally far, and then the position
-- alone does not tell whose events stand there. It is the id of the log's last event, or random where a writer has made
-- sure that nothing sent before can win any more. docs/ARCHITECTURE.md, "The tenant log".
alter table heads add column fence uuid not null default gen_random_uuid();
