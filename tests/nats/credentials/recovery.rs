//! What NATS loses of credentials comes back from the registry, and what ends, ends.

use std::time::Duration;

use chrono::TimeDelta;
use nats::integrators::{Integrators, Issuer, NewIntegrator, ReconcilerConfig, ResetPoint, reconcile};
use nats::message::{MessageKey, encode};
use nats::{Nats, NatsConfig, NatsError};
use schemas::engine::TenantSlug;
use store::{Store, TenantRecord, TenantStore};
use tokio_util::sync::CancellationToken;

use crate::support::integrator::{Integrator, position, pull};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, open_tenant};
use crate::support::relay::{append_many, read_log, relayed};
use crate::support::{eventually, unique};

/// A store, its NATS in operator mode, a relay and a keeper.
struct Site {
    database: Database,
    server: NatsServer,
    store: Store,
    integrators: Integrators,
    nats: Nats,
    _stop: tokio_util::sync::DropGuard,
}

impl Site {
    async fn start() -> Self {
        let site = Self::start_without_relay().await;
        tokio::spawn(site.relay());
        site
    }

    /// Its relay, which runs until the site is dropped or the runtime ends.
    fn relay(&self) -> impl Future<Output = Result<(), NatsError>> + use<> {
        nats::relay::run(self.store.clone(), self.nats.clone(), CancellationToken::new())
    }

    async fn start_without_relay() -> Self {
        let (database, server) =
            (Database::create().await, Box::pin(NatsServer::start_in_operator_mode()).await);
        let store = database.store().await;
        let keys = server.keys();
        let issuer =
            Issuer::new(&keys.edge_account(), &keys.edge_signing_seed(), &server.url()).expect("keys");
        let credentials_file = Some(server.credentials("application"));
        let config = NatsConfig {
            url: server.url(),
            credentials_file,
            tls: nats::NatsTls::default(),
            replicas: 1,
            allow_unauthenticated: false,
        };
        let nats = Nats::connect(config.clone()).await.expect("NATS can be used");
        let stop = CancellationToken::new();
        let keeper = ReconcilerConfig {
            nats: config,
            system_credentials: server.credentials("system"),
            operator_seed: keys.operator_signing_seed(),
            issuer: issuer.clone(),
        };
        tokio::spawn(reconcile(store.clone(), nats.clone(), keeper, stop.clone()));
        let integrators = Integrators::new(store.clone(), issuer);
        Self { database, server, store, integrators, nats, _stop: stop.drop_guard() }
    }

    async fn tenant(&self, events: usize) -> (TenantStore, TenantRecord) {
        let slug = unique("t");
        let tenant = open_tenant(&self.store, &slug).await;
        append_many(&tenant, events).await;
        let slug = TenantSlug::parse(&slug).expect("a slug");
        let record = self.store.tenant_by_slug(&slug).await.expect("reads").expect("it is there");
        (tenant, (*record).clone())
    }

    async fn issue(&self, tenant: &TenantRecord, name: &str, after: u64, lifetime: TimeDelta) -> Integrator {
        let new = NewIntegrator { name: name.to_owned(), types: Vec::new(), after, lifetime };
        let issued = self.integrators.create(tenant, new, None).await.expect("issued");
        // The answer waits for a few seconds only; on a busy machine the keeper may need longer.
        let owner = self.database.connect("postgres").await;
        let sql = "select bool_and(keys_applied >= revision and consumer_applied >= revision)
                   from integrator_credentials where tenant_id = $1";
        eventually("the keeper made the consumer", || async {
            let row = owner.query_one(sql, &[&tenant.id.0]).await.expect("reads");
            row.get::<_, Option<bool>>(0).unwrap_or(false).then_some(())
        })
        .await;
        Integrator::issued(&issued.connection)
    }

    async fn noted(&self, tenant: &TenantStore, name: &str, position: u64) {
        eventually("the acknowledged place is noted", || async {
            let credential = nats::integrators::registry::commands::find(tenant, name).await.ok()??;
            (credential.acked.position == position).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wipe_each_integrator_goes_on_behind_what_it_acknowledged() {
    let mut site = Site::start().await;
    let (one, one_record) = site.tenant(30).await;
    let (two, two_record) = site.tenant(20).await;
    relayed(&site.store).await;
    let month = TimeDelta::days(30);
    let reader = site.issue(&one_record, "reader", 0, month).await;
    let fresh = site.issue(&one_record, "fresh", 0, month).await;
    let late = site.issue(&two_record, "late", 15, month).await;
    let revoked = site.issue(&two_record, "revoked", 0, month).await;
    site.integrators.revoke(&two_record, "revoked", None).await.expect("revoked");
    assert_eq!(reader.read(12).await, (1..=12).collect::<Vec<_>>());
    assert_eq!(late.read(2).await, [16, 17]);
    site.noted(&one, "reader", 12).await;
    site.noted(&two, "late", 17).await;

    site.server.kill();
    site.server.wipe();
    site.server.wipe_accounts();
    site.server.restart().await;
    append_many(&one, 5).await;
    relayed(&site.store).await;
    for (integrator, positions) in [(&reader, 13..=35), (&fresh, 1..=35), (&late, 18..=20)] {
        let client = connected_again(integrator).await;
        let consumer = eventually("its consumer is there again", || async {
            let context = async_nats::jetstream::with_prefix(client.clone(), integrator.text("api_prefix"));
            context.get_consumer_from_stream(integrator.text("consumer"), "EVENTS").await.ok()
        })
        .await;
        let positions: Vec<u64> = positions.collect();
        let messages = pull(&consumer, positions.len(), Duration::from_secs(10)).await;
        assert_eq!(messages.iter().map(position).collect::<Vec<_>>(), positions);
        for message in &messages {
            message.double_ack().await.expect("acknowledged");
        }
        assert_eq!(integrator.drain().await, [0; 0], "and nothing else");
    }
    assert!(revoked.connect().await.is_err(), "who was kept out is kept out again");
    // The places are noted in the new stream as well.
    append_many(&one, 1).await;
    assert_eq!(reader.read(1).await, [36]);
    site.noted(&one, "reader", 36).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_relay_left_out_of_order_is_not_taken_for_acknowledged() {
    let mut site = Site::start_without_relay().await;
    let (tenant, record) = site.tenant(2).await;
    let reader = site.issue(&record, "reader", 0, TimeDelta::days(1)).await;
    // Of two events a relay has sent the second only: the first was lost with the connection.
    let second = &read_log(&tenant).await[1];
    let message = encode(&MessageKey::of(site.store.key()), &record.slug, second, 0);
    let context = application(&site.server).await;
    let ack = context.publish_with_headers(message.subject, message.headers, message.payload).await;
    ack.expect("is sent").await.expect("is stored");
    tokio::spawn(site.relay());
    relayed(&site.store).await;

    assert_eq!(reader.read(1).await, [2], "the second stands before the first");
    // Until the keeper has looked at places again.
    let looked = site.issue(&record, "another", 0, TimeDelta::days(1)).await;
    assert_eq!(looked.drain().await, [2, 1]);
    site.noted(&tenant, "another", 1).await;
    site.server.kill();
    site.server.wipe();
    site.server.restart().await;
    let client = connected_again(&reader).await;
    let consumer = eventually("its consumer is there again", || async {
        let context = async_nats::jetstream::with_prefix(client.clone(), reader.text("api_prefix"));
        context.get_consumer_from_stream(reader.text("consumer"), "EVENTS").await.ok()
    })
    .await;
    let messages = pull(&consumer, 2, Duration::from_secs(10)).await;
    assert_eq!(messages.iter().map(position).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn far_into_a_long_log_nothing_is_repeated_after_a_wipe_nor_after_another() {
    let mut site = Site::start().await;
    let ((tenant, record), (other, _)) = (site.tenant(0).await, site.tenant(0).await);
    for _ in 0..14 {
        append_many(&tenant, 1_000).await;
        append_many(&other, 100).await;
    }
    relayed(&site.store).await;
    let reader = site.issue(&record, "reader", 12_000, TimeDelta::days(1)).await;
    assert_eq!(reader.read(5).await, (12_001..=12_005).collect::<Vec<_>>());
    for (from, to) in [(12_006_u64, 12_105_u64), (12_106, 14_000)] {
        site.noted(&tenant, "reader", from - 1).await;
        site.server.kill();
        site.server.wipe();
        site.server.restart().await;
        let client = connected_again(&reader).await;
        let consumer = eventually("its consumer is there again", || async {
            let context = async_nats::jetstream::with_prefix(client.clone(), reader.text("api_prefix"));
            context.get_consumer_from_stream(reader.text("consumer"), "EVENTS").await.ok()
        })
        .await;
        let positions: Vec<u64> = (from..=to).collect();
        let messages = pull(&consumer, positions.len(), Duration::from_secs(10)).await;
        assert_eq!(messages.iter().map(position).collect::<Vec<_>>(), positions);
        for message in &messages {
            message.double_ack().await.expect("acknowledged");
        }
    }
    assert_eq!(reader.drain().await, [0; 0], "and nothing else");
}

async fn connected_again(integrator: &Integrator) -> async_nats::Client {
    eventually("its account is there again", || async { integrator.connect().await.ok() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_consumer_comes_back_and_a_stray_one_goes() {
    let site = Site::start().await;
    let (tenant, record) = site.tenant(10).await;
    relayed(&site.store).await;
    let reader = site.issue(&record, "reader", 4, TimeDelta::days(1)).await;
    assert_eq!(reader.read(3).await, [5, 6, 7]);
    site.noted(&tenant, "reader", 7).await;
    let context = application(&site.server).await;
    context.delete_consumer_from_stream(reader.text("consumer"), "EVENTS").await.expect("deleted");
    eventually("it is there again", || async {
        let found: Result<async_nats::jetstream::consumer::PullConsumer, _> =
            context.get_consumer_from_stream(reader.text("consumer"), "EVENTS").await;
        found.ok().map(drop)
    })
    .await;
    assert_eq!(reader.drain().await, [8, 9, 10]);
    let stray = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("stray".to_owned()),
        metadata: [("annals-instance".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    context.create_consumer_on_stream(stray, "EVENTS").await.expect("created");
    eventually("it is gone", || async {
        let found: Result<async_nats::jetstream::consumer::PullConsumer, _> =
            context.get_consumer_from_stream("stray", "EVENTS").await;
        found.is_err().then_some(())
    })
    .await;
    let reset =
        site.integrators.reset(&record, "reader", ResetPoint::Position(9), None).await.expect("set back");
    assert_eq!(reset.acked.position, 9);
    assert_eq!(reader.drain().await, [10]);
}

async fn application(server: &NatsServer) -> async_nats::jetstream::Context {
    let options = async_nats::ConnectOptions::with_credentials_file(server.credentials("application"));
    let client = Box::pin(options.await.expect("reads").connect(server.url())).await.expect("connects");
    async_nats::jetstream::new(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_credential_and_one_of_a_suspended_tenant_are_cut() {
    let site = Site::start().await;
    let (_, record) = site.tenant(3).await;
    relayed(&site.store).await;
    let short = site.issue(&record, "short", 0, TimeDelta::seconds(2)).await;
    let long = site.issue(&record, "long", 0, TimeDelta::days(1)).await;
    let (expiring, suspended) =
        (short.connect().await.expect("still good"), long.connect().await.expect("good"));
    let down = |client: &async_nats::Client| {
        (client.connection_state() != async_nats::connection::State::Connected).then_some(())
    };
    eventually("it is cut when it expires", || async { down(&expiring) }).await;
    // Within its last second a server still lets it in, and cuts it again.
    eventually("it is refused", || async { short.connect().await.is_err().then_some(()) }).await;
    assert!(down(&suspended).is_none());

    let admin = site.database.connect("postgres").await;
    let suspend = |suspended: bool| {
        let statement = format!("update tenants set suspended = {suspended} where slug = '{}'", record.slug);
        let admin = &admin;
        async move { admin.batch_execute(&statement).await.expect("done") }
    };
    suspend(true).await;
    eventually("it is cut when its tenant is suspended", || async { down(&suspended) }).await;
    assert!(long.connect().await.is_err());
    suspend(false).await;
    connected_again(&long).await;
    assert_eq!(long.drain().await, [1, 2, 3]);
}
