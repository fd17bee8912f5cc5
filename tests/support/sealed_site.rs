//! Fixtures of the tests in `tests/audit`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit::export::{Export, prepare, write};
use audit::{Signer, SignerConfig};
use futures::StreamExt;
use gateway::auth::SigningKey;
use proofs::verify::{Known, Report, VerifyError, verify};
use schemas::engine::{StreamName, TenantSlug, ids};
use store::{ExpectedVersion, Store, StreamAppend, TenantStore};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;
use crate::support::postgres::{Database, event, metadata, open_tenant};

/// A tenant with a log that a sealer of the test seals.
pub struct Sealed {
    pub database: Database,
    pub store: Store,
    pub tenant: TenantStore,
    pub signer: Arc<Signer>,
    pub _folder: TempDir,
    pub key: String,
}

impl Sealed {
    pub async fn with(events: usize) -> Self {
        let database = Database::create().await;
        let store = database.store().await;
        let tenant = open_tenant(&store, "acme").await;
        let folder = tempfile::tempdir().expect("a folder");
        let key = SigningKey::generate_pem().expect("a key");
        let signer = signer(folder.path(), &key);
        let sealed = Self { database, store, tenant, signer, _folder: folder, key };
        sealed.append(events).await;
        sealed
    }

    pub async fn append(&self, events: usize) {
        let append = |number: usize| {
            let stream = StreamName::new("crm.customer", ids::new_id());
            let payload = format!(r#"{{"name":"number {number}"}}"#);
            let events = vec![event("crm.customer.registered.v1", &payload)];
            StreamAppend::new(stream, ExpectedVersion::NoStream, events, metadata())
        };
        for done in self.tenant.append_all((0..events).map(append).collect()).await {
            done.expect("appends");
        }
    }

    /// A sealer that runs until the value is dropped.
    pub fn sealer(&self) -> AbortOnDropHandle<()> {
        let (store, signer) = (self.store.clone(), Arc::clone(&self.signer));
        let every = Duration::from_millis(20);
        AbortOnDropHandle::new(tokio::spawn(async move {
            audit::sealer::run(store, None, signer, every, CancellationToken::new()).await;
        }))
    }

    /// Seals until everything is covered.
    pub async fn seal(&self) {
        let _sealer = self.sealer();
        self.sealed().await;
    }

    /// Waits until the newest checkpoint covers the log.
    pub async fn sealed(&self) {
        eventually("everything is sealed", || async {
            let head = self.tenant.head().await.expect("a head").position;
            let sealed = audit::merkle::sealed_log(&self.tenant).await.expect("reads")?;
            (sealed.size == head && sealed.refusal.is_none()).then_some(())
        })
        .await;
    }

    /// Seals until the signer refuses; returns why.
    pub async fn refusal(&self) -> String {
        let _sealer = self.sealer();
        eventually("the signer refuses", || async {
            audit::merkle::sealed_log(&self.tenant).await.expect("reads")?.refusal
        })
        .await
    }

    pub async fn export(&self, export: Export) -> Vec<u8> {
        let slug = TenantSlug::parse("acme").expect("a slug");
        let prepared = prepare(self.tenant.clone(), &slug, export).await.expect("prepares");
        let mut file = Vec::new();
        let mut lines = std::pin::pin!(write(prepared));
        while let Some(bytes) = lines.next().await {
            file.extend_from_slice(&bytes.expect("writes"));
        }
        file
    }

    /// Exports everything and verifies it with what is known besides.
    pub async fn verified(&self, known: &Known) -> Result<Report, VerifyError> {
        self.check(&self.export(Export::default()).await, known).await
    }

    pub async fn check(&self, file: &[u8], known: &Known) -> Result<Report, VerifyError> {
        let log = self.tenant.head().await.expect("a head").log_id;
        verify(file, &self.signer.verifier_key(log).expect("a key"), known)
    }

    /// What the signer knows for itself.
    pub async fn tiles(&self) -> Vec<[u8; 32]> {
        let log = self.tenant.head().await.expect("a head").log_id;
        let bytes = std::fs::read(self.signer.tiles(log)).expect("the signer's tiles");
        bytes.as_chunks().0.to_vec()
    }

    pub fn leaves(file: &[u8]) -> BTreeMap<u64, [u8; 32]> {
        proofs::verify::leaves(file).expect("reads")
    }
}

pub fn signer(folder: &Path, key: &str) -> Arc<Signer> {
    let config = SignerConfig {
        deployment: "annals.test".to_owned(),
        key: key.to_owned(),
        previous_signing_key: None,
        folder: folder.join("signer"),
    };
    Arc::new(Signer::open(&config).expect("the signer opens"))
}
