//! Processes that are started over a restored database find out from JetStream, before they serve.

use crate::support::restore_site::{EVERYTHING, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_went_back_is_replaced_and_one_that_did_not_is_left() {
    let mut site = Site::start(&[EVERYTHING]).await;
    let before = site.at_rest().await;
    site.published(&site.busy, &before).await;
    let quiet = site.log(&site.quiet).await;
    site.stop_processes().await;
    let backup = site.back_up().await;
    site.start_processes().await;

    site.register("lost-one").await;
    let token = site.register("lost-two").await;
    let lost = site.at_rest().await;
    site.published(&site.busy, &lost).await;
    assert_eq!(lost["log_id"], before["log_id"], "a restart alone replaces nothing");
    site.stop_processes().await;
    site.restore(&backup).await;
    site.start_processes().await;

    let first = site.log(&site.busy).await;
    assert_ne!(first["log_id"], before["log_id"], "replaced before anything was served");
    let after = site.assert_replaced(&before, &lost, &token).await;
    let cited = &crate::support::restore_site::events(&after)
        [crate::support::restore_site::events(&before).len()]["data"];
    assert_eq!(cited["published_to"], lost["head"]);
    assert_eq!(site.log(&site.quiet).await, quiet);
    site.published(&site.quiet, &quiet).await;

    // What was lost may be done again.
    site.register("lost-one").await;
    let after = site.at_rest().await;

    // Nothing is left that would have it replaced again.
    site.stop_processes().await;
    site.start_processes().await;
    site.register("dora").await;
    let again = site.at_rest().await;
    assert_eq!(again["log_id"], after["log_id"]);
    site.published(&site.busy, &again).await;
}
