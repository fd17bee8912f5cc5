//! Erasures and backups: a database, or a file of keys, that comes back from before an erasure brings nobody back.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::deployment::Answer;
use crate::support::eventually;
use crate::support::key_stores::{KeyStoreKind, over_both_key_stores};
use crate::support::process::output_of;
use crate::support::restore_site::{EVERYTHING, Site, erase, events, named, users};

over_both_key_stores!(
    a_restored_database_serves_nobody_who_was_erased_since,
    a_database_and_keys_restored_together_learn_from_jetstream_who_was_erased,
    where_nobody_else_knows_a_list_that_was_kept_tells_who_was_erased,
    a_killed_process_goes_on_with_its_erasures,
);

async fn a_restored_database_serves_nobody_who_was_erased_since(keys: KeyStoreKind) {
    let mut site = Site::with_keys(&[EVERYTHING], keys).await;
    site.at_rest().await;
    let ada = named(&users(&site).await, "ada").expect("is there")["id"].clone();
    site.stop_processes().await;
    let (backup, copy) = (site.back_up().await, site.deployment.keys().back_up().await);
    site.start_processes().await;
    erase(&site, &ada).await;
    assert!(named(&users(&site).await, "ada").is_none());
    site.stop_processes().await;

    // The database alone: it shows her in clear and knows nothing of the erasure.
    site.restore(&backup).await;
    site.start_processes().await;
    let shown = users(&site).await;
    assert!(named(&shown, "ada").is_none(), "from the first answer on: {shown:?}");
    assert!(named(&shown, "bob").is_some());
    let page = site.log(&site.busy).await;
    assert!(!page.to_string().contains("\"ada\""));
    let recorded = events(&page).iter().filter(|event| event["type"] == "privacy.subject.erased.v1");
    assert_eq!(recorded.count(), 1, "it was done again, and recorded");
    site.stop_processes().await;

    // The keys alone: her key is back, and the log says that it must not be.
    site.deployment.keys().restore(&copy).await;
    site.start_processes().await;
    assert!(!site.log(&site.busy).await.to_string().contains("\"ada\""));
    let erasures = site.deployment.keyring().erasures().await.expect("answers");
    assert!(erasures.iter().any(|erasure| erasure.is_destroyed
        && Some(erasure.subject) == ada.as_str().and_then(|id| id.parse().ok())));
}

async fn a_database_and_keys_restored_together_learn_from_jetstream_who_was_erased(keys: KeyStoreKind) {
    let mut site = Site::with_keys(&[EVERYTHING], keys).await;
    site.at_rest().await;
    let ada = named(&users(&site).await, "ada").expect("is there")["id"].clone();
    site.stop_processes().await;
    let (backup, copy) = (site.back_up().await, site.deployment.keys().back_up().await);
    site.start_processes().await;
    erase(&site, &ada).await;
    let lost = site.log(&site.busy).await;
    site.published(&site.busy, &lost).await;
    site.stop_processes().await;

    // Twice: the second restore forgets that the log was replaced in the first.
    for _ in 0..2 {
        site.restore(&backup).await;
        site.deployment.keys().restore(&copy).await;
        site.start_processes().await;
        let shown = users(&site).await;
        assert!(named(&shown, "ada").is_none(), "from the first answer on: {shown:?}");
        assert!(named(&shown, "bob").is_some());
        let page = site.log(&site.busy).await;
        assert_ne!(page["log_id"], lost["log_id"]);
        assert!(!page.to_string().contains("\"ada\""));
        assert_eq!(recorded(&page), 1);
        site.published(&site.busy, &page).await;
        site.stop_processes().await;
    }
    // Nothing is done a second time.
    site.start_processes().await;
    assert_eq!(recorded(&site.log(&site.busy).await), 1);
}

fn recorded(page: &Value) -> usize {
    events(page).iter().filter(|event| event["type"] == "privacy.subject.erased.v1").count()
}

async fn where_nobody_else_knows_a_list_that_was_kept_tells_who_was_erased(keys: KeyStoreKind) {
    let mut site = Site::with_keys(&[EVERYTHING], keys).await;
    site.at_rest().await;
    let ada = named(&users(&site).await, "ada").expect("is there")["id"].clone();
    site.stop_processes().await;
    let (backup, copy) = (site.back_up().await, site.deployment.keys().back_up().await);
    site.start_processes().await;
    erase(&site, &ada).await;
    let request = site.gateway().request(Method::GET, "/v1/erasures?limit=1").bearer_auth(&site.busy.token);
    let page = Answer::of(request).await.body;
    assert_eq!((&page["erasures"][0]["subject"], &page["next_after"]), (&ada, &Value::Null), "{page}");
    let path = format!("/v1/erasures?after={}", ada.as_str().expect("an id"));
    let request = site.gateway().request(Method::GET, &path).bearer_auth(&site.busy.token);
    assert_eq!(Answer::of(request).await.body, json!({"erasures": [], "next_after": null}));
    let settings = site.deployment.settings().display().to_string();
    let list = output_of(&["erasure", "ls", "--output", "jsonl", "--config", &settings]);
    let row: Value = serde_json::from_str(&list).expect("one line of JSON");
    assert_eq!(row, json!({"tenant": "busy", "subject": ada, "status": "erased"}));
    site.stop_processes().await;

    site.restore(&backup).await;
    site.deployment.keys().restore(&copy).await;
    site.wipe_nats().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), list).expect("written");
    let file = file.path().display().to_string();
    let repeat = ["erasure", "repeat", &file, "--output", "jsonl", "--config", &settings];
    let asked: Value = serde_json::from_str(&output_of(&repeat)).expect("one line of JSON");
    assert_eq!(asked, json!({"tenant": "busy", "subject": ada, "status": "requested"}));
    site.start_processes().await;
    let page = eventually("the person is erased", || async {
        let page = site.log(&site.busy).await;
        (recorded(&page) == 1).then_some(page)
    })
    .await;
    assert!(!page.to_string().contains("\"ada\""));
    assert!(named(&users(&site).await, "ada").is_none());
    // Again it changes nothing.
    let asked: Value = serde_json::from_str(&output_of(&repeat)).expect("one line of JSON");
    assert_eq!(asked["status"], "erased");
    assert_eq!(site.log(&site.busy).await["head"], page["head"]);
}

async fn a_killed_process_goes_on_with_its_erasures(keys: KeyStoreKind) {
    let mut site = Site::with_keys(&[EVERYTHING], keys).await;
    site.at_rest().await;
    let ada = named(&users(&site).await, "ada").expect("is there")["id"].clone();
    let request = site.gateway().request(Method::POST, "/v1/erasures").bearer_auth(&site.busy.token);
    assert_eq!(Answer::of(request.json(&json!({"user_id": ada}))).await.status, StatusCode::ACCEPTED);
    site.processes[0].kill();
    site.start_processes().await;
    let path = format!("/v1/erasures/{}", ada.as_str().expect("an id"));
    eventually("the person is erased", || async {
        let shown =
            Answer::of(site.gateway().request(Method::GET, &path).bearer_auth(&site.busy.token)).await;
        (shown.body["status"] == "erased").then_some(())
    })
    .await;
    assert!(named(&users(&site).await, "ada").is_none());
}
