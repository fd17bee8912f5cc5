//! Processes that are started over a database which lacks what was signed: the signed checkpoint is cited, and where
//! nobody but the signer knows of the loss, the signer replaces the log.

use serde_json::Value;

use crate::support::eventually;
use crate::support::restore_site::{EVERYTHING, Site, events};

/// A site whose database lacks events that were signed, and whose processes are stopped.
struct Shortened {
    site: Site,
    before: Value,
    lost: Value,
    token: String,
    note: String,
}

async fn shortened() -> Shortened {
    let mut site = Site::start(&[&format!("{EVERYTHING},sealer")]).await;
    let before = site.at_rest().await;
    site.signed(&before).await;
    site.stop_processes().await;
    let backup = site.back_up().await;
    site.start_processes().await;
    let token = site.register("lost").await;
    let lost = site.at_rest().await;
    let (note, _) = site.signed(&lost).await;
    site.published(&site.busy, &lost).await;
    site.stop_processes().await;
    site.restore(&backup).await;
    Shortened { site, before, lost, token, note }
}

/// The fact that the log was replaced cites a note that anybody can verify.
async fn assert_cited(case: &Shortened, after: &Value) {
    let told = &events(after)[events(&case.before).len()]["data"];
    assert_eq!(told["checkpoint"], case.note.as_str());
    let (_, key) = case.site.signed(after).await;
    let (origin, _) = case.note.split_once('\n').expect("lines");
    assert!(key.under(origin).expect("a name").verify(&case.note).is_ok(), "the key pair is the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jetstream_has_of_the_old_log_is_cited_with_its_last_checkpoint() {
    let mut case = shortened().await;
    case.site.start_processes().await;
    let after = case.site.assert_replaced(&case.before, &case.lost, &case.token).await;
    assert_cited(&case, &after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signer_replaces_a_log_whose_loss_nobody_else_knows_of() {
    let mut case = shortened().await;
    case.site.nats.kill();
    case.site.nats.wipe();
    case.site.nats.restart().await;
    case.site.start_processes().await;
    eventually("the log is replaced", || async {
        (case.site.log(&case.site.busy).await["log_id"] != case.before["log_id"]).then_some(())
    })
    .await;
    let after = case.site.assert_replaced(&case.before, &case.lost, &case.token).await;
    assert_cited(&case, &after).await;
    let told = &events(&after)[events(&case.before).len()];
    assert_eq!(
        (&told["actor"], &told["data"]["published_to"]),
        (&"system:sealer".into(), &case.lost["head"])
    );
    let quiet = case.site.log(&case.site.quiet).await;
    assert!(
        events(&quiet).iter().all(|event| event["type"] != "platform.log.replaced.v1"),
        "it has lost nothing"
    );
}
