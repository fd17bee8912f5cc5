//! Processes that live through a restore: a connection that breaks and comes back may be to an earlier state.

use futures::StreamExt;
use reqwest::Method;
use serde_json::Value;

use crate::support::eventually;
use crate::support::restore_site::{EVERYTHING, Site, number, stop};

/// A gateway that goes on, over a database that has lost what another process wrote; that one has been stopped.
struct Restored {
    site: Site,
    before: Value,
    lost: Value,
    token: String,
}

async fn restored(nats_is_up: bool) -> Restored {
    let mut site = Site::start(&["gateway", EVERYTHING]).await;
    let before = site.at_rest().await;
    let backup = site.back_up().await;
    // Written elsewhere: the gateway that goes on knows nothing of it.
    site.register_at(&site.processes[1], "lost-one").await;
    let token = site.register_at(&site.processes[1], "lost-two").await;
    let lost = site.at_rest().await;
    site.published(&site.busy, &lost).await;
    assert_eq!(lost["log_id"], before["log_id"], "a restart of PostgreSQL replaces nothing");
    stop(&mut site.processes[1]).await;
    if !nats_is_up {
        site.nats.kill();
    }
    site.restore(&backup).await;
    Restored { site, before, lost, token }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_its_own_asks_jetstream_before_it_appends_to_a_restored_database() {
    let Restored { mut site, before, lost, token } = restored(true).await;
    site.register("first").await;
    let page = site.log(&site.busy).await;
    assert_ne!(page["log_id"], before["log_id"]);
    assert_eq!(
        number(&page["head"]),
        number(&before["head"]) + 2,
        "the fact that cites the old log, and this one"
    );
    site.processes[1].spawn();
    site.assert_replaced(&before, &lost, &token).await;
}

/// Facts are kept while nobody can be asked. They stand at positions of the old log that meant others, until the relay sees
/// it: it publishes none of them there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_while_nobody_could_be_asked_is_published_under_the_new_log_id_alone() {
    let Restored { mut site, before, lost, token } = restored(false).await;
    site.register("meanwhile").await;
    let meanwhile = site.log(&site.busy).await;
    assert_eq!(meanwhile["log_id"], before["log_id"]);
    site.nats.restart().await;
    site.processes[1].spawn();
    eventually("the log is replaced", || async {
        (site.log(&site.busy).await["log_id"] != before["log_id"]).then_some(())
    })
    .await;
    site.assert_replaced(&meanwhile, &lost, &token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_process_remembers_where_logs_ended_when_jetstream_has_forgotten() {
    let mut site = Site::start(&[EVERYTHING]).await;
    let before = site.at_rest().await;
    let backup = site.back_up().await;
    let token = site.register("lost").await;
    let lost = site.at_rest().await;
    site.published(&site.busy, &lost).await;
    let path = format!("/v1/events/stream?after={}", lost["head"]);
    let request = site.gateway().request(Method::GET, &path).bearer_auth(&site.busy.token);
    let stream = request.send().await.expect("the stream opens").bytes_stream();
    site.nats.kill();
    site.nats.wipe();
    site.restore(&backup).await;
    site.nats.restart().await;
    site.assert_replaced(&before, &lost, &token).await;

    // A follower of the old log is told nothing of the new one.
    let told: Vec<_> = stream.take_while(|part| std::future::ready(part.is_ok())).collect().await;
    let told: String =
        told.into_iter().map(|part| String::from_utf8_lossy(&part.expect("taken")).into_owned()).collect();
    assert!(!told.contains("data:"), "{told}");
}
