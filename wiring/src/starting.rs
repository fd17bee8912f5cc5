//! A process while its roles start, and then with running roles.

use std::sync::Arc;
use std::time::Duration;

use audit::Signer;
use axum::Router;
use commands::Executor;
use gateway::Gateway;
use nats::integrators::ReconcilerConfig;
use nats::{Nats, StreamConsumer};
use privacy::DerivedCopies;
use sagas::SagaSettings;
use store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use webhooks::WebhookSettings;

use super::listeners::{Addresses, Listener};

/// What the workers of roles are made of.
pub(super) struct Parts {
    pub store: Store,
    pub executor: Executor,
    pub nats: Option<Nats>,
    /// The reader of JetStream that projections and sagas share.
    pub consumer: Option<StreamConsumer>,
    pub copies: DerivedCopies,
    pub reconciler: Option<ReconcilerConfig>,
    pub gateway: Option<Gateway>,
    pub public_listener: Option<Listener>,
    pub admin_listener: Option<Listener>,
    pub signer: Option<Arc<Signer>>,
    pub seal_interval: Duration,
    pub sagas: SagaSettings,
    pub webhooks: WebhookSettings,
}

/// A process whose roles are being started.
pub(super) struct Starting {
    pub parts: Parts,
    pub running: Running,
}

impl Starting {
    /// Runs a worker. No worker ends by itself.
    pub fn spawn(&mut self, worker: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.running.workers.spawn(worker);
    }

    /// Serves a listener.
    pub fn serve(&mut self, Listener { socket, settings }: Listener, router: Router) {
        let stop = self.running.stop_listeners.clone();
        self.running.listeners.spawn(async move {
            gateway::serve(socket, router, settings, stop).await;
            Ok(())
        });
    }

    /// Cancelled when the workers have to stop.
    pub fn stop(&self) -> CancellationToken {
        self.running.stop_workers.clone()
    }

    /// The connection to NATS, for a role whose entry says that it needs one.
    pub fn nats(&self) -> Nats {
        self.parts.nats.clone().expect("the table says which roles need NATS")
    }

    /// The reader of JetStream. The first role that needs it starts it.
    pub fn stream_consumer(&mut self) -> StreamConsumer {
        let (store, nats, stop) = (self.parts.store.clone(), self.nats(), self.stop());
        self.parts.consumer.get_or_insert_with(|| StreamConsumer::start(store, nats, stop)).clone()
    }
}

/// Running roles. Every process has the operations listener.
pub struct Running {
    pub(super) store: Store,
    pub(super) gateway: Option<Gateway>,
    pub(super) addresses: Addresses,
    /// Cancelled first, so that no new request arrives while the rest stops.
    pub(super) stop_listeners: CancellationToken,
    pub(super) stop_workers: CancellationToken,
    pub(super) listeners: JoinSet<anyhow::Result<()>>,
    pub(super) workers: JoinSet<anyhow::Result<()>>,
}

impl Running {
    /// The addresses of the listeners.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits until a part fails. No part ends by itself.
    pub async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.listeners.join_next() => ended,
            Some(ended) = self.workers.join_next() => ended,
            else => std::future::pending().await,
        };
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("a part of the product ended without being asked to"),
            Ok(Err(error)) => error,
            Err(error) => anyhow::Error::from(error).context("a part of the product failed"),
        }
    }

    /// Stops the listeners after their requests are answered, then the workers, then the store.
    pub async fn stop(&mut self) {
        self.stop_listeners.cancel();
        while self.listeners.join_next().await.is_some() {}
        // After the last response, so that its activity is written too.
        if let Some(gateway) = &self.gateway {
            gateway.finish().await;
        }
        self.stop_workers.cancel();
        while self.workers.join_next().await.is_some() {}
        self.store.shutdown().await;
    }
}
