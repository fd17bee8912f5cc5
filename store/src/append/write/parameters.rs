//! The values of the named parameters of a flush's statements.

use std::collections::HashSet;

use database::NamedSql;
use schemas::engine::TenantId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::columns::Flush;

type Value<'a> = &'a (dyn ToSql + Sync);
/// Finds the value of a parameter in a flush.
type Accessor = for<'a> fn(&'a Flush<'_>) -> Value<'a>;

/// Every parameter. The plural ones are arrays; the singular ones are for a flush of one tenant or of one event.
const PARAMETERS: [(&str, Accessor); 68] = [
    ("tenants", |flush| &flush.heads.tenants),
    ("logs", |flush| &flush.heads.logs),
    ("old_positions", |flush| &flush.heads.old),
    ("new_positions", |flush| &flush.heads.new),
    ("recorded_at", |flush| &flush.heads.recorded_at),
    ("old_fences", |flush| &flush.heads.old_fences),
    ("new_fences", |flush| &flush.heads.new_fences),
    ("tenant", |flush| &flush.heads.tenants[0]),
    ("log", |flush| &flush.heads.logs[0]),
    ("old_position", |flush| &flush.heads.old[0]),
    ("new_position", |flush| &flush.heads.new[0]),
    ("time", |flush| &flush.heads.recorded_at[0]),
    ("old_fence", |flush| &flush.heads.old_fences[0]),
    ("new_fence", |flush| &flush.heads.new_fences[0]),
    ("event_tenants", |flush| &flush.events.tenants),
    ("positions", |flush| &flush.events.positions),
    ("versions", |flush| &flush.events.versions),
    ("event_ids", |flush| &flush.events.ids),
    ("schema_versions", |flush| &flush.events.schema_versions),
    ("streams", |flush| &flush.events.streams),
    ("types", |flush| &flush.events.types),
    ("payloads", |flush| &flush.events.payloads),
    ("metadata", |flush| &flush.events.metadata),
    ("salts", |flush| &flush.events.salts),
    ("subject_keys", |flush| &flush.events.subject_keys),
    ("leaf_hashes", |flush| &flush.events.leaf_hashes),
    ("position", |flush| &flush.events.positions[0]),
    ("version", |flush| &flush.events.versions[0]),
    ("event_id", |flush| &flush.events.ids[0]),
    ("schema_version", |flush| &flush.events.schema_versions[0]),
    ("stream", |flush| &flush.events.streams[0]),
    ("type", |flush| &flush.events.types[0]),
    ("payload", |flush| &flush.events.payloads[0]),
    ("event_metadata", |flush| &flush.events.metadata[0]),
    ("event_salts", |flush| &flush.events.salts[0]),
    ("event_subject_keys", |flush| &flush.events.subject_keys[0]),
    ("leaf_hash", |flush| &flush.events.leaf_hashes[0]),
    ("receipt_tenants", |flush| &flush.side_writes.receipts.tenants),
    ("receipt_keys", |flush| &flush.side_writes.receipts.keys),
    ("receipt_digests", |flush| &flush.side_writes.receipts.digests),
    ("receipt_streams", |flush| &flush.side_writes.receipts.streams),
    ("receipt_versions", |flush| &flush.side_writes.receipts.versions),
    ("receipt_first_positions", |flush| &flush.side_writes.receipts.first_positions),
    ("receipt_counts", |flush| &flush.side_writes.receipts.counts),
    ("receipt_recorded_at", |flush| &flush.side_writes.receipts.recorded_at),
    ("released_tenants", |flush| &flush.side_writes.released.tenants),
    ("released_kinds", |flush| &flush.side_writes.released.kinds),
    ("released_hashes", |flush| &flush.side_writes.released.hashes),
    ("released_streams", |flush| &flush.side_writes.released.streams),
    ("reserved_tenants", |flush| &flush.side_writes.reserved.tenants),
    ("reserved_kinds", |flush| &flush.side_writes.reserved.kinds),
    ("reserved_hashes", |flush| &flush.side_writes.reserved.hashes),
    ("reserved_streams", |flush| &flush.side_writes.reserved.streams),
    ("secret_tenants", |flush| &flush.side_writes.secrets.tenants),
    ("secret_streams", |flush| &flush.side_writes.secrets.streams),
    ("secret_kinds", |flush| &flush.side_writes.secrets.kinds),
    ("secret_values", |flush| &flush.side_writes.secrets.values),
    ("new_tenants", |flush| &flush.side_writes.provisioned.tenants),
    ("new_tenant_slugs", |flush| &flush.side_writes.provisioned.slugs),
    ("new_tenant_names", |flush| &flush.side_writes.provisioned.names),
    ("new_tenant_tiers", |flush| &flush.side_writes.provisioned.tiers),
    ("new_tenant_registrations", |flush| &flush.side_writes.provisioned.registrations),
    ("new_tenant_logs", |flush| &flush.side_writes.provisioned.logs),
    ("new_tenant_times", |flush| &flush.side_writes.provisioned.times),
    ("new_tenant_sources", |flush| &flush.side_writes.provisioned.source_tenants),
    ("status_tenants", |flush| &flush.side_writes.tenant_statuses.tenants),
    ("status_suspended", |flush| &flush.side_writes.tenant_statuses.suspended),
    ("status_sources", |flush| &flush.side_writes.tenant_statuses.source_tenants),
];

/// A prepared statement that takes its values from a flush.
///
/// The names are looked up once, when the statement is prepared, so a flush compares no strings.
pub(super) struct FlushStatement {
    statement: Statement,
    accessors: Vec<Accessor>,
}

impl FlushStatement {
    pub(super) async fn prepare(client: &Client, sql: &str) -> Result<Self, Error> {
        let NamedSql { text, names } = NamedSql::parse(sql);
        Ok(Self { statement: client.prepare(&text).await?, accessors: names.iter().map(accessor).collect() })
    }

    /// Executes it and returns the tenants that it returns.
    pub(super) async fn query(&self, client: &Client, flush: &Flush<'_>) -> Result<HashSet<TenantId>, Error> {
        let rows = client.query(&self.statement, &self.parameters(flush)).await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }

    /// Executes it and returns the number of written rows.
    pub(super) async fn execute(&self, client: &Client, flush: &Flush<'_>) -> Result<u64, Error> {
        client.execute(&self.statement, &self.parameters(flush)).await
    }

    fn parameters<'a>(&self, flush: &'a Flush<'_>) -> Vec<Value<'a>> {
        self.accessors.iter().map(|value| value(flush)).collect()
    }
}

fn accessor(name: &String) -> Accessor {
    let found = PARAMETERS.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("the parameter :{name} has no value")).1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::statements::{
        EVENTS_INSERT, EVENTS_WITH_KEYS_INSERT, HEADS_SWAP, SIDE_WRITES, SINGLE_EVENT_FLUSH,
        SINGLE_TENANT_FLUSH,
    };
    use super::*;

    #[test]
    fn every_parameter_has_one_value_and_every_value_is_used() {
        let texts = [
            HEADS_SWAP,
            EVENTS_INSERT,
            EVENTS_WITH_KEYS_INSERT,
            SIDE_WRITES,
            SINGLE_TENANT_FLUSH,
            SINGLE_EVENT_FLUSH,
        ];
        let used: BTreeSet<String> = texts.iter().flat_map(|text| NamedSql::parse(text).names).collect();
        let known: BTreeSet<String> = PARAMETERS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(known.len(), PARAMETERS.len());
        assert_eq!(used, known);
    }
}
