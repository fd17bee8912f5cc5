//! No evidence is left: the operator says that the logs are to be replaced, before anything is started.

use serde_json::Value;

use crate::support::process;
use crate::support::restore_site::{EVERYTHING, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_replaces_logs_whose_loss_nobody_can_see() {
    let mut site = Site::start(&[&format!("{EVERYTHING},sealer")]).await;
    let settings = site.deployment.settings().display().to_string();
    let annals = |arguments: &[&str]| {
        let arguments = [&["--config", &settings, "--output", "json"], arguments].concat();
        let output = process::run(&arguments);
        let rows = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), rows)
    };
    let before = site.at_rest().await;
    site.stop_processes().await;
    let backup = site.back_up().await;
    site.start_processes().await;
    let token = site.register("lost").await;
    let lost = site.at_rest().await;
    let (note, _) = site.signed(&lost).await;
    site.stop_processes().await;
    site.nats.kill();
    site.nats.wipe();
    site.restore(&backup).await;

    assert_eq!(annals(&["log", "replace", "--reason", "x"]).0, Some(2), "which is not said");
    assert_eq!(annals(&["log", "replace", "--tenant", "nobody", "--reason", "x"]).0, Some(3));
    let (code, rows) = annals(&["log", "replace", "--all", "--reason", "restored from Tuesday's copy"]);
    assert_eq!(
        (code, rows.as_array().map(Vec::len)),
        (Some(0), Some(3)),
        "both tenants and the platform: {rows}"
    );

    site.nats.restart().await;
    site.start_processes().await;
    let after = site.assert_replaced(&before, &lost, &token).await;
    let told = &crate::support::restore_site::events(&after)
        [crate::support::restore_site::events(&before).len()]["data"];
    assert_eq!(told["reason"], "restored from Tuesday's copy");
    assert_eq!(told["checkpoint"], note.as_str(), "the signer's folder knows it, and the database does not");
    let (code, rows) = annals(&["log", "ls", "--tenant", "busy"]);
    assert_eq!(code, Some(0));
    let rows = rows.as_array().expect("rows");
    let of = |row: &Value| (row["log_id"].clone(), row["status"].clone());
    assert_eq!(of(&rows[0]), (lost["log_id"].clone(), "replaced".into()));
    assert_eq!(of(&rows[1]), (after["log_id"].clone(), "current".into()));
    assert_eq!((&rows[0]["position"], &rows[0]["signed_to"]), (&before["head"], &lost["head"]));
    assert!(site.stream(&site.busy).await.iter().all(|message| after["log_id"] == message.log.as_str()));
}
