//! What the database holds of a tenant when all is over.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use schemas::engine::TenantId;
use store::{LogFilter, Store};
use uuid::Uuid;

use super::worker::VALUES;
use crate::support::postgres::Database;

/// Events of one append that stand side by side in the log.
#[derive(Debug, Clone)]
pub struct Committed {
    pub name: String,
    pub stream: String,
    pub first_position: u64,
    pub position: u64,
    pub version: u64,
    /// The numbers of its events, in the order in which they stand.
    pub numbers: Vec<u64>,
}

/// A row of `receipts`: digest, stream, version, first position, count.
pub type ReceiptRow = (Vec<u8>, String, u64, u64, u32);

pub struct Record {
    pub log_id: Uuid,
    pub head: u64,
    pub log: Vec<Committed>,
    pub receipts: BTreeMap<Uuid, ReceiptRow>,
    /// Who holds which value.
    pub holders: BTreeMap<String, String>,
    /// All reservations, those of unknown values as well.
    pub reservations: usize,
    pub secrets: BTreeMap<String, String>,
}

/// Reads a tenant's record; what is wrong with the log itself goes to `violations`.
pub async fn read(database: &Database, store: &Store, tenant: Uuid, violations: &mut Vec<String>) -> Record {
    let handle = store.tenant(TenantId(tenant));
    let events: Vec<_> = handle.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    let mut log: Vec<Committed> = Vec::new();
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let stream = event.stream.to_string();
        let version = versions.entry(stream.clone()).or_default();
        *version += 1;
        if event.position != index as u64 + 1 || event.version != *version {
            violations.push(format!(
                "{tenant}: {stream} {} stands at {}, where {version} at {} is due",
                event.version,
                event.position,
                index + 1
            ));
        }
        let payload: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
        let (name, number) =
            (payload["of"].as_str().expect("named"), payload["n"].as_u64().expect("numbered"));
        match log.last_mut() {
            Some(last) if last.name == name && last.stream == stream => {
                last.position = event.position;
                last.version = event.version;
                last.numbers.push(number);
            }
            _ => log.push(Committed {
                name: name.to_owned(),
                stream,
                first_position: event.position,
                position: event.position,
                version: event.version,
                numbers: vec![number],
            }),
        }
    }
    let head = handle.head().await.expect("a head");
    let superuser = database.connect("postgres").await;
    let rows = "select command_id, digest, stream, version, first_position, count from receipts
                where tenant_id = $1";
    let rows = superuser.query(rows, &[&tenant]).await.expect("reads");
    let receipts = rows.iter().map(|row| {
        let (version, first): (i64, i64) = (row.get(3), row.get(4));
        (row.get(0), (row.get(1), row.get(2), version as u64, first as u64, row.get::<_, i32>(5) as u32))
    });
    let mut holders = BTreeMap::new();
    for value in (0..VALUES).map(|value| format!("value-{value}")) {
        if let Some(stream) = handle.reserved_by("email", &value).await.expect("reads") {
            holders.insert(value, stream.to_string());
        }
    }
    let reservations = "select count(*) from reservations where tenant_id = $1";
    let reservations: i64 = superuser.query_one(reservations, &[&tenant]).await.expect("reads").get(0);
    let secrets = "select stream, convert_from(value, 'UTF8') from secrets where tenant_id = $1";
    let secrets = superuser.query(secrets, &[&tenant]).await.expect("reads");
    Record {
        log_id: head.log_id.0,
        head: head.position,
        log,
        receipts: receipts.collect(),
        holders,
        reservations: reservations as usize,
        secrets: secrets.iter().map(|row| (row.get(0), row.get(1))).collect(),
    }
}

/// The tenants that were opened, without those that the test began with: those in the directory and those with a head.
pub async fn opened(database: &Database, known: &[Uuid]) -> [BTreeSet<Uuid>; 2] {
    let superuser = database.connect("postgres").await;
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for (table, found) in ["tenants", "heads"].into_iter().zip(&mut found) {
        let statement = format!("select tenant_id from {table} where tenant_id <> all($1)");
        let rows = superuser.query(&statement, &[&known]).await.expect("reads");
        *found = rows.iter().map(|row| row.get(0)).collect();
    }
    found
}
