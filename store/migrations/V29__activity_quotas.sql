-- Each kind of entry has a quota of its own, for refusals and for what was accepted, so that a flood of one kind displaces
-- no other.
create index activities_quota on activities (tenant_id, kind, (outcome = 'accepted'), activity_id);
