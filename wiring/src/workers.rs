//! What the roles run: one function a role starts its workers, or its listeners.

use std::sync::Arc;

use anyhow::Context;
use nats::integrators::reconcile;
use store::Workload;
use store::feed::FeedSettings;

use super::starting::Starting;

/// Repeats the erasures that a restore has undone, then serves the public and the admin listener.
pub(super) async fn start_gateway(process: &mut Starting) -> anyhow::Result<()> {
    let parts = &process.parts;
    if let Some(keyring) = parts.store.keyring() {
        // Before read models are served.
        let reapplied = privacy::reapply(&parts.executor, keyring, &parts.copies).await;
        reapplied.context("earlier erasures cannot be made sure of")?;
    }
    let gateway = process.parts.gateway.clone().context("a process with the role gateway has built one")?;
    let listeners = [
        (process.parts.public_listener.take(), gateway.public_router()),
        (process.parts.admin_listener.take(), gateway.admin_router()),
    ];
    for (listener, router) in listeners {
        if let Some(listener) = listener {
            process.serve(listener, router);
        }
    }
    Ok(())
}

/// Publishes committed events, and keeps the credentials of integrators if this process has the keys for it.
pub(super) fn start_relay(process: &mut Starting) {
    let (store, nats, stop) = (process.parts.store.clone(), process.nats(), process.stop());
    process.spawn(async move { nats::relay::run(store, nats, stop).await.context("the role relay") });
    if let Some(reconciler) = process.parts.reconciler.take() {
        let (store, nats, stop) = (process.parts.store.clone(), process.nats(), process.stop());
        process.spawn(async move {
            reconcile(store, nats, reconciler, stop).await.context("the keeper of integrators' credentials")
        });
    }
}

/// Updates the read models.
pub(super) fn start_projections(process: &mut Starting) {
    let consumer = process.stream_consumer();
    let (store, stop) = (process.parts.store.clone(), process.stop());
    process.spawn(async move {
        let settings = FeedSettings { workload: Some(Workload::Projections), ..FeedSettings::default() };
        projections::run_all(store, || consumer.batches(), settings, stop).await;
        Ok(())
    });
}

/// Runs the sagas, and the erasures of people if this process has the keys.
pub(super) fn start_sagas(process: &mut Starting) {
    let consumer = process.stream_consumer();
    if let Some(keyring) = process.parts.store.keyring().cloned() {
        let (executor, copies) = (process.parts.executor.clone(), Arc::clone(&process.parts.copies));
        let read_models = projections::checkpoints().iter().map(ToString::to_string).collect();
        let (consumer, stop) = (consumer.clone(), process.stop());
        process.spawn(async move {
            privacy::run(executor, keyring, read_models, copies, consumer.batches(), stop).await;
            Ok(())
        });
    }
    let (executor, settings, stop) = (process.parts.executor.clone(), process.parts.sagas, process.stop());
    process.spawn(async move {
        let batches = move || consumer.batches();
        sagas::run(executor, sagas::processes(), batches, settings, stop).await.context("the role sagas")
    });
}

/// Extends the Merkle logs and signs checkpoints.
pub(super) fn start_sealer(process: &mut Starting) {
    let Some(signer) = process.parts.signer.clone() else { return };
    let (store, nats, stop) = (process.parts.store.clone(), process.nats(), process.stop());
    let seal_interval = process.parts.seal_interval;
    process.spawn(async move {
        audit::sealer::run(store, Some(nats), signer, seal_interval, stop).await;
        Ok(())
    });
}

/// Delivers events to endpoints of tenants.
pub(super) fn start_webhooks(process: &mut Starting) {
    let (store, settings, stop) = (process.parts.store.clone(), process.parts.webhooks, process.stop());
    process.spawn(async move { webhooks::run(store, settings, stop).await.context("the role webhooks") });
}
