//! PostgreSQL stopped, frozen, silent, out of connections, read-only.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use reqwest::StatusCode;

use crate::support::deployment::Answer;
use crate::support::eventually;
use crate::support::nats_server::NatsServer;
use crate::support::outage_site::Site;
use crate::support::postgres_server::PostgresServer;
use crate::support::proxy::{Proxy, Weather};

/// Stopped in the midst of work, which leaves recovery to the next start.
#[tokio::test]
async fn stopped() {
    let (mut postgres, nats) = (PostgresServer::start(&[]).await, NatsServer::start().await);
    let site = Site::start(postgres.port(), &nats.url()).await;
    site.registered("ada", 1_000).await;
    postgres.stop(Signal::SIGQUIT);
    site.assert_everything_refused().await;
    postgres.restart().await;
    site.assert_resumed().await;
}

/// All processes of the server stand still, as they do behind a disk that hangs. Nothing is refused and nothing breaks:
/// there is just no answer.
#[tokio::test]
async fn frozen() {
    let (postgres, nats) = (PostgresServer::start(&[]).await, NatsServer::start().await);
    let site = Site::start(postgres.port(), &nats.url()).await;
    postgres.signal_all(Signal::SIGSTOP);
    site.assert_everything_refused().await;
    postgres.signal_all(Signal::SIGCONT);
    site.assert_resumed().await;
}

/// The network says nothing, first for a while, then until it breaks.
#[tokio::test]
async fn silent_and_cut() {
    let (postgres, nats) = (PostgresServer::start(&[]).await, NatsServer::start().await);
    let proxy = Proxy::start(postgres.port()).await;
    let site = Site::start(proxy.port(), &nats.url()).await;
    proxy.set(Weather::Silent);
    site.assert_writes_refused().await;
    proxy.set(Weather::Clear);
    site.ready().await;
    proxy.set(Weather::Silent);
    site.assert_everything_refused().await;
    proxy.set(Weather::Cut);
    site.assert_not_ready("database").await;
    proxy.set(Weather::Clear);
    site.assert_resumed().await;
}

/// Somebody else holds every connection of the server.
#[tokio::test]
async fn out_of_connections() {
    let few = ["max_connections=80", "superuser_reserved_connections=1"];
    let (postgres, nats) = (PostgresServer::start(&few).await, NatsServer::start().await);
    let site = Site::start(postgres.port(), &nats.url()).await;
    let superuser = postgres.connect().await;
    let held = tokio::sync::Mutex::new(Vec::new());
    let quiet = AtomicU32::new(0);
    // The product names its connections after their roles, the test does not.
    let theirs = "from pg_stat_activity where application_name like 'annals_%'";
    let (end, count) =
        (format!("select pg_terminate_backend(pid) {theirs}"), format!("select count(*) {theirs}"));
    eventually("the product has no connection", || async {
        superuser.batch_execute(&end).await.expect("ends connections");
        // Whatever the product loses is taken before it can have it back.
        while let Some(client) = postgres.try_connect_as("annals_tenant").await {
            held.lock().await.push(client);
        }
        // A place becomes free a moment after its connection has left the list: several looks must find nothing.
        let left: i64 = superuser.query_one(&count, &[]).await.expect("counts").get(0);
        let looks =
            if left == 0 { quiet.fetch_add(1, Ordering::Relaxed) } else { quiet.swap(0, Ordering::Relaxed) };
        (left == 0 && looks >= 10).then_some(())
    })
    .await;
    site.assert_everything_refused().await;
    held.lock().await.clear();
    site.assert_resumed().await;
}

/// A server in recovery answers reads and refuses writes; a promotion ends it without a broken connection.
#[tokio::test]
async fn read_only() {
    let (mut postgres, nats) = (PostgresServer::start(&[]).await, NatsServer::start().await);
    let site = Site::start(postgres.port(), &nats.url()).await;
    site.registered("ada", 1_000).await;
    site.customers_are(1).await;
    postgres.stop(Signal::SIGINT);
    postgres.stand_by();
    postgres.restart().await;
    eventually("reads are answered", || async {
        let answer = Answer::of(site.graphql("{ customers { totalCount } }")).await;
        (answer.body["data"]["customers"]["totalCount"] == 1).then_some(())
    })
    .await;
    assert_eq!(Answer::of(site.login()).await.status, StatusCode::OK);
    site.assert_writes_refused().await;
    site.assert_not_ready("database").await;
    postgres.connect().await.batch_execute("select pg_promote()").await.expect("promotes");
    site.assert_resumed().await;
}
