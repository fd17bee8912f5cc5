//! Annals' append with all of the product's checks on: row-level security, expected versions, size and JSON checks, leaf
//! hashes, dense positions; in one variant also a receipt for a command id from outside.

use schemas::engine::{Actor, EventType, Metadata, StreamName, TenantId, ids};
use store::{ExpectedVersion, IdempotencyClaim, LogFilter, NewEvent, Store, StoreConfig, StreamAppend};

use crate::payload::payload;
use crate::server::Server;
use crate::settings::STREAMS;

pub struct Deployment {
    config: StoreConfig,
}

/// One tenant of a fresh store.
pub struct Annals {
    store: Store,
    tenant: TenantId,
    streams: Vec<StreamName>,
    event: NewEvent,
    with_command_ids: bool,
}

impl Deployment {
    pub async fn set_up(server: &Server) -> anyhow::Result<Self> {
        Ok(Self { config: server.product_database("annals").await? })
    }

    pub async fn open(
        &self,
        admin: &tokio_postgres::Client,
        with_command_ids: bool,
    ) -> anyhow::Result<Annals> {
        let tenant = TenantId(ids::new_id());
        admin
            .batch_execute(&format!(
                "insert into tenants values ('{tenant}', 'bench', 'Bench', 'free', 'closed');
                 insert into heads values ('{tenant}', '{}', 0, now())",
                ids::random_id()
            ))
            .await?;
        let store = Store::connect(self.config.clone()).await?;
        let streams = (0..STREAMS).map(|_| StreamName::new("crm.customer", ids::new_id())).collect();
        let event_type = EventType::parse("crm.customer.registered.v1")?;
        let event =
            NewEvent { event_id: None, event_type, payload: payload().into(), subject_keys: Vec::new() };
        Ok(Annals { store, tenant, streams, event, with_command_ids })
    }
}

impl Annals {
    pub async fn append(&self, stream: usize, version: u64) -> anyhow::Result<()> {
        let expected = if version == 0 { ExpectedVersion::NoStream } else { ExpectedVersion::Exact(version) };
        let metadata = Metadata::new(Actor::system("bench"), ids::random_id());
        let claim = IdempotencyClaim::new(metadata.command_id, [7; 32]);
        let mut append =
            StreamAppend::new(self.streams[stream].clone(), expected, vec![self.event.clone()], metadata);
        append.claim = self.with_command_ids.then_some(claim);
        let receipt = self.store.tenant(self.tenant).append(append).await?;
        anyhow::ensure!(receipt.version == version + 1, "a version was skipped");
        Ok(())
    }

    pub async fn check(&self) -> anyhow::Result<()> {
        let tenant = self.store.tenant(self.tenant);
        let head = tenant.head().await?.position;
        let mut at = 0;
        while at < head {
            let page = tenant.read_log_page(at, None, 5_000, &LogFilter::default()).await?;
            for event in &page.events {
                anyhow::ensure!(event.position == at + 1, "the log has a gap behind {at}");
                at = event.position;
            }
        }
        self.store.shutdown().await;
        Ok(())
    }
}
