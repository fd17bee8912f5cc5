-- A tenant is put on hold, and taken off it, in the transaction that appends the fact to the platform's log.
grant update (suspended), select (tenant_id) on tenants to annals_appender;
