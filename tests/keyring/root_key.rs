//! The root key is changed: while processes serve, killed at any point, with erasures in the middle.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use futures::StreamExt;
use keyring::{Keyring, KeyringError, RootKey, RootKeyState, RootKeys};
use reqwest::Method;
use schemas::engine::{StreamName, TenantId, ids};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::deployment::Answer;
use crate::support::key_stores::{KeyStoreKind, TestKeys, over_both_key_stores};
use crate::support::process::{command, run};
use crate::support::restore_site::{EVERYTHING, Site};
use crate::support::restore_site::{erase, named, users};
use crate::support::{eventually, unique};

over_both_key_stores!(
    the_root_key_is_changed_while_processes_serve,
    a_rewrap_that_is_killed_again_and_again_comes_to_its_end_and_brings_nobody_back,
);

const TENANT: TenantId = TenantId(Uuid::from_u128(5));

/// What a command prints, and its exit code.
fn told(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let settings = site.deployment.settings().display().to_string();
    let output = run(&[arguments, &["--config", &settings, "--output", "jsonl"]].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

async fn add(site: &Site, name: &str) {
    let body = json!({"email": format!("{name}@example.com"), "name": name, "roles": ["member"]});
    let request = site.gateway().request(Method::POST, "/v1/users").bearer_auth(&site.busy.token);
    let answer = Answer::of(request.json(&body)).await;
    assert_eq!(answer.status.as_u16(), 201, "{answer:?}");
}

async fn shown(site: &Site, name: &str) -> Value {
    eventually("the user is shown", || async { Some(named(&users(site).await, name)?["id"].clone()) }).await
}

async fn the_root_key_is_changed_while_processes_serve(kind: KeyStoreKind) {
    let mut site = Site::with_keys(&[EVERYTHING], kind).await;
    site.at_rest().await;
    let new = RootKey::generate().to_hex();
    let old = site.deployment.change_root_key(&new, None);
    site.stop_processes().await;
    for (arguments, code) in [(&["config", "check"][..], 9), (&["doctor"], 9), (&["key", "rewrap"], 2)] {
        let (exit, text) = told(&site, arguments);
        assert_eq!(exit, Some(code), "{text}");
        assert!(text.contains("previous_root_key"), "{text}");
    }
    let (exit, text) = told(&site, &["serve"]);
    assert_eq!(exit, Some(2), "{text}");
    assert!(text.contains("previous_root_key"), "{text}");

    site.deployment.change_root_key(&new, Some(&old));
    let (exit, text) = told(&site, &["config", "check"]);
    assert_eq!(exit, Some(0), "{text}");
    site.start_processes().await;
    let ada = shown(&site, "ada").await;
    add(&site, "carl").await;
    let (exit, text) = told(&site, &["key", "rewrap"]);
    assert_eq!(exit, Some(0), "{text}");
    let epochs: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!((epochs.len(), &epochs[0]["setting"]), (1, &json!("privacy.root_key")), "{text}");
    add(&site, "dora").await;
    erase(&site, &ada).await;
    site.stop_processes().await;

    site.deployment.change_root_key(&new, None);
    site.start_processes().await;
    for name in ["bob", "carl", "dora"] {
        shown(&site, name).await;
    }
    assert!(named(&users(&site).await, "ada").is_none());
    let page = site.log(&site.busy).await.to_string();
    assert!(page.contains("\"bob\"") && !page.contains("\"ada\""), "the log opens but for her");
    site.deployment.change_root_key(&old, None);
    assert_eq!(told(&site, &["config", "check"]).0, Some(9), "what was before is good for nothing");
}

/// Seals something for a subject; the key's id.
async fn sealed(keyring: &Keyring, subject: u128) -> Result<Uuid, KeyringError> {
    let stream = StreamName::new("crm.customer", Uuid::from_u128(subject));
    let payload = json!({"$open": {"value": {"name": "Ada"}}}).to_string();
    Ok(keyring.seal(TENANT, &stream, ids::new_id(), payload.into()).await?.keys[0])
}

/// The wrapped keys of the file.
fn wrapped(kind: KeyStoreKind, folder: &Path) -> Vec<Vec<u8>> {
    if kind == KeyStoreKind::Postgres {
        return Vec::new();
    }
    let database = rusqlite::Connection::open(folder.join("keys.sqlite")).expect("opens");
    let mut statement = database.prepare("select bytes from wrapped").expect("prepares");
    let rows = statement.query_map([], |row| row.get(0)).expect("selects");
    rows.collect::<Result<_, _>>().expect("reads")
}

fn rewrap(settings: &Path) -> Child {
    let mut command = command();
    command.arg("--config").arg(settings).args(["key", "rewrap"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs")
}

async fn a_rewrap_that_is_killed_again_and_again_comes_to_its_end_and_brings_nobody_back(kind: KeyStoreKind) {
    // So many that a run takes some hundred milliseconds, over either store.
    let subjects: u128 = if kind == KeyStoreKind::File { 6_000 } else { 2_000 };
    let folder = tempfile::tempdir().expect("a folder");
    let keys = TestKeys::create(kind, &folder.path().join("keys")).await;
    let (old, new) = (RootKey::generate(), RootKey::generate());
    let lease = Duration::from_secs(1);
    let before = keys.open(old.clone().into(), lease);
    let all = futures::stream::iter(1..=subjects).map(|subject| sealed(&before, subject)).buffered(500);
    let known: Vec<Uuid> = all.map(|key| key.expect("seals")).collect().await;
    let both = RootKeys::new(new.clone(), Some(old.clone()));
    let epochs = async || keys.config().epochs(&both).await.expect("reads").expect("is there");
    let wrapped = wrapped(kind, &folder.path().join("keys"));
    let settings = folder.path().join(format!("{}.toml", unique("rewrap")));
    let text = format!(
        "[privacy]\n{}root_key = \"{}\"\nprevious_root_key = \"{}\"\n",
        keys.settings(),
        new.to_hex(),
        old.to_hex()
    );
    std::fs::write(&settings, text).expect("written");

    // Meanwhile a process erases people and makes keys for new ones.
    let running = keys.open(both.clone(), lease);
    let (mut erased, mut made, mut interrupted) = (Vec::new(), Vec::new(), 0_u32);
    for round in 0_u128.. {
        let mut child = rewrap(&settings);
        // From a run that has hardly begun to one that comes to its end.
        let time = Duration::from_millis(20 + 15 * round as u64);
        drop(tokio::time::timeout(time, std::future::pending::<()>()).await);
        if let Some(ended) = child.try_wait().expect("it is our child") {
            assert!(ended.success());
            break;
        }
        child.kill().expect("is killed");
        child.wait().expect("it is our child");
        interrupted += u32::from(epochs().await.len() == 2);
        let subject = 1 + round * 7 % subjects;
        running.destroy(TENANT, Uuid::from_u128(subject)).await.expect("destroys");
        erased.push(subject);
        let subject = subjects + 1 + round;
        made.push((subject, sealed(&running, subject).await.expect("seals")));
    }
    println!("interrupted {interrupted} times; erased {} meanwhile", erased.len());
    assert!(interrupted > 1, "{interrupted}");
    let left = epochs().await;
    assert_eq!((left.len(), left[0].root_state), (1, RootKeyState::Current));
    if kind == KeyStoreKind::File {
        let bytes: Vec<u8> = ["keys.sqlite", "keys.sqlite-wal"]
            .iter()
            .flat_map(|file| std::fs::read(folder.path().join("keys").join(file)).unwrap_or_default())
            .collect();
        let nonces: std::collections::HashSet<&[u8]> = wrapped.iter().map(|bytes| &bytes[..12]).collect();
        assert!(!bytes.windows(12).any(|window| nonces.contains(window)), "what was wrapped before is left");
    }

    let after = keys.open(new.into(), lease);
    for subject in &erased {
        assert!(matches!(sealed(&after, *subject).await, Err(KeyringError::SubjectErased)), "{subject}");
    }
    for (subject, key) in (1..=subjects).zip(known).filter(|(subject, _)| !erased.contains(subject)) {
        assert_eq!(sealed(&after, subject).await.expect("seals"), key);
    }
    for (subject, key) in made {
        assert_eq!(sealed(&after, subject).await.expect("seals"), key);
    }
}
