//! What personal data cost an append: the same append without them, for a person whose key is there, and for a new person,
//! whose key has to be on disk before the event may be.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keyring::{Keyring, RootKey};
use schemas::engine::{Actor, EventType, Metadata, StreamName, TenantId, ids};
use serde::Serialize;
use serde_json::json;
use store::{ExpectedVersion, NewEvent, Store, StoreConfig, StreamAppend};

use crate::load::{self, Pace};
use crate::payload::payload;
use crate::report::median;
use crate::server::Server;
use crate::settings::{ROUNDS, STREAMS};

const DATABASE: &str = "personal";
const CONCURRENCY: [usize; 3] = [1, 16, 128];
/// As `config.default.toml` has it.
const LEASE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
pub struct Personal {
    /// The same for all.
    payload_bytes_as_stored: usize,
    statistic: &'static str,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    data: &'static str,
    concurrency: usize,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    of_clear: f64,
}

/// Whose data an append holds.
#[derive(Clone, Copy, PartialEq)]
enum Data {
    Clear,
    KnownPerson,
    NewPerson,
}

impl Data {
    const ALL: [Self; 3] = [Self::Clear, Self::KnownPerson, Self::NewPerson];

    fn label(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::KnownPerson => "sealed, known person",
            Self::NewPerson => "sealed, new person",
        }
    }
}

/// A tenant whose people are sealed.
struct Site {
    store: Store,
    admin: tokio_postgres::Client,
    event_type: EventType,
    /// As many bytes as the sealed one is stored with.
    clear: Bytes,
    open: Bytes,
}

pub async fn run(server: &Server) -> anyhow::Result<Personal> {
    let keys = tempfile::tempdir()?;
    let site = Arc::new(Site::start(server, keys.path()).await?);
    let mut measured = Vec::new();
    for round in 0..ROUNDS {
        for concurrency in CONCURRENCY {
            for index in 0..Data::ALL.len() {
                let data = Data::ALL[(index + round) % Data::ALL.len()];
                measured.push((data, concurrency, site.load(data, concurrency).await?));
            }
        }
    }
    let figure = |data: Data, concurrency: usize, of: fn(&Pace) -> f64| {
        median(measured.iter().filter(|m| (m.0, m.1) == (data, concurrency)).map(|m| of(&m.2)))
    };
    let mut cases = Vec::new();
    for concurrency in CONCURRENCY {
        let clear = figure(Data::Clear, concurrency, |pace| pace.per_second);
        for data in Data::ALL {
            let per_second = figure(data, concurrency, |pace| pace.per_second);
            cases.push(Case {
                data: data.label(),
                concurrency,
                per_second: per_second.round(),
                p50_ms: figure(data, concurrency, |pace| pace.p50_ms),
                p99_ms: figure(data, concurrency, |pace| pace.p99_ms),
                of_clear: (per_second / clear * 100.0).round() / 100.0,
            });
        }
    }
    site.store.shutdown().await;
    let statistic = "median of the rounds, interleaved";
    Ok(Personal { payload_bytes_as_stored: site.clear.len(), statistic, cases })
}

impl Site {
    async fn start(server: &Server, keys: &Path) -> anyhow::Result<Self> {
        let config = server.product_database(DATABASE).await?;
        let admin = server.connect(DATABASE).await?;
        let keyring = Keyring::open(keys, RootKey::generate().into(), LEASE)?;
        let value: serde_json::Value = serde_json::from_str(&payload())?;
        let open: Bytes = json!({"$open": {"value": value}}).to_string().into();
        let (stream, event) = (StreamName::new("crm.customer", ids::new_id()), ids::new_id());
        let sealed = keyring.seal(TenantId(ids::new_id()), &stream, event, open.clone()).await?.payload;
        let frame = json!({"notes": ""}).to_string();
        let clear = json!({"notes": "x".repeat(sealed.len() - frame.len())}).to_string().into();
        let config = StoreConfig { keyring: Some(keyring), ..config };
        let store = Store::connect(config).await?;
        Ok(Self { store, admin, event_type: EventType::parse("crm.customer.registered.v1")?, clear, open })
    }

    /// A closed loop on a tenant of its own.
    async fn load(self: &Arc<Self>, data: Data, concurrency: usize) -> anyhow::Result<Pace> {
        let tenant = TenantId(ids::new_id());
        self.admin
            .batch_execute(&format!(
                "truncate events, receipts;
                 insert into tenants values ('{tenant}', 'bench-{}', 'Bench', 'free', 'closed');
                 insert into heads values ('{tenant}', '{}', 0, now()); checkpoint",
                ids::random_id().simple().to_string().get(..20).unwrap_or_default(),
                ids::random_id()
            ))
            .await?;
        let streams: Vec<StreamName> =
            (0..STREAMS).map(|_| StreamName::new("crm.customer", ids::new_id())).collect();
        let site = Arc::clone(self);
        let append = move |stream: usize, version: u64| {
            let (site, stream) = (Arc::clone(&site), streams[stream].clone());
            async move { site.append(tenant, data, stream, version).await }
        };
        load::closed_loop(concurrency, append).await
    }

    async fn append(
        &self,
        tenant: TenantId,
        data: Data,
        stream: StreamName,
        version: u64,
    ) -> anyhow::Result<()> {
        let (stream, version) = match data {
            Data::NewPerson => (StreamName::new("crm.customer", ids::new_id()), 0),
            Data::Clear | Data::KnownPerson => (stream, version),
        };
        let expected = if version == 0 { ExpectedVersion::NoStream } else { ExpectedVersion::Exact(version) };
        let payload = if data == Data::Clear { self.clear.clone() } else { self.open.clone() };
        let (event_type, subject_keys) = (self.event_type.clone(), Vec::new());
        let event = NewEvent { event_id: None, event_type, payload, subject_keys };
        let metadata = Metadata::new(Actor::system("bench"), ids::random_id());
        self.store.tenant(tenant).append(StreamAppend::new(stream, expected, vec![event], metadata)).await?;
        Ok(())
    }
}
