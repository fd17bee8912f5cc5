//! Looks for an erased person in every byte that the product has written: tables, JetStream, keys, logs, a base backup.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use memchr::memmem;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::erasures::{customer_of, erase, product};
use crate::support::process::run;
use crate::support::product::{Product, send};
use crate::support::{eventually, programs};

/// Files below a folder that hold the bytes.
fn holding(folder: &Path, needle: &[u8], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            holding(&path, needle, found);
        } else if std::fs::read(&path).is_ok_and(|bytes| memmem::find(&bytes, needle).is_some()) {
            found.push(path);
        }
    }
}

fn all(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    holding(folder, needle, &mut found);
    found
}

/// The wrapped key of a subject, as the file of keys holds it.
fn wrapped(product: &Product, subject: Uuid) -> Vec<u8> {
    let file = product.annals.data_dir().join("keys/keys.sqlite");
    let database = rusqlite::Connection::open(file).expect("the keys open");
    let sql = "select bytes from keys join wrapped using (slot) where subject = ?1";
    database.query_row(sql, [subject.into_bytes()], |row| row.get(0)).expect("the subject has a key")
}

async fn superuser(product: &Product) -> tokio_postgres::Client {
    let url = product.annals.text("database_url");
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// The size and the root of the newest checkpoint that covers a position.
async fn sealed_to(product: &Product, token: &str, position: u64) -> String {
    eventually("the log is sealed", || async {
        let request = product.request(Method::GET, "/v1/audit/checkpoint").bearer_auth(token);
        let (_, note) = send(request).await;
        let note = note.as_str()?.to_owned();
        let size: u64 = note.lines().nth(1)?.parse().ok()?;
        (size >= position).then_some(note)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_left_of_an_erased_person_and_the_log_is_what_it_was() {
    const NAMES: [&str; 3] = ["Canarya Alpha", "Canaryb Beta", "Canaryc Gamma"];
    let product = product();
    let tenant = product.tenant().await;
    let other = tenant.register("other@example.com", "Remaining Person").await["user"]["id"].clone();
    let user = tenant.register("canaryd@delta.example", NAMES[0]).await["user"]["id"].clone();
    let customer = customer_of(&tenant, &user).await;
    let rename = "mutation($input: RenameCustomerInput!) { renameCustomer(input: $input) { outcome } }";
    tenant.graphql(rename, json!({"input": {"id": customer["id"], "name": NAMES[1]}})).await;
    let change = "mutation($input: ChangeUserNameInput!) { changeUserName(input: $input) { outcome } }";
    tenant.graphql(change, json!({"input": {"id": user, "name": NAMES[2]}})).await;
    let subject: Uuid = user.as_str().and_then(|id| id.parse().ok()).expect("an id");
    let key = wrapped(&product, subject);
    let before = tenant.events().await.len() as u64;
    let checkpoint = sealed_to(&product, &tenant.token, before).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("before"), &checkpoint).expect("written");

    let data = product.annals.data_dir();
    let done = erase(&tenant, json!({"user_id": user})).await;
    let position = done["position"].as_u64().expect("a position");
    sealed_to(&product, &tenant.token, position).await;

    // The history up to the earlier checkpoint is the same, and the whole verifies.
    std::fs::write(file("token"), &tenant.token).expect("written");
    let remote = ["--url", &product.url(""), "--token-file", &file("token")].map(str::to_owned);
    let remote: Vec<&str> = remote.iter().map(String::as_str).collect();
    let key_text = run(&[&["audit", "key"], &remote[..]].concat());
    let public_key = String::from_utf8(key_text.stdout).expect("text");
    let exported =
        run(&[&["audit", "export", "--since", &file("before"), "--out", &file("export")], &remote[..]]
            .concat());
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let verified =
        run(&["audit", "verify", &file("export"), "--key", public_key.trim(), "--since", &file("before")]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    // What nobody maintains by hand in production either: dead rows go by vacuum.
    let database = superuser(&product).await;
    eventually("the dead rows are gone", || async {
        database.batch_execute("vacuum").await.expect("vacuums");
        let sql = "select count(*) from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid()";
        let held: i64 = database.query_one(sql, &[]).await.expect("counts").get(0);
        (held == 0).then_some(())
    })
    .await;
    let compacted = run(&["projection", "compact", "--config", &product.annals.settings()]);
    assert!(compacted.status.success(), "{}", String::from_utf8_lossy(&compacted.stderr));
    database.batch_execute("checkpoint").await.expect("a checkpoint");
    let backup = folder.path().join("backup");
    let url = product.annals.text("database_url");
    let base_backup = Command::new(programs::postgres().join("pg_basebackup"))
        .args(["--dbname", url, "--checkpoint", "fast", "--wal-method", "fetch", "--pgdata"])
        .arg(&backup)
        .stdout(Stdio::null())
        .status()
        .expect("pg_basebackup runs");
    assert!(base_backup.success());

    let places = ["postgres/base", "postgres/global", "nats", "keys", "audit"].map(|name| data.join(name));
    let needles = NAMES.map(str::as_bytes).into_iter().chain([&b"canaryd@delta.example"[..], &key]);
    for needle in needles {
        let shown = String::from_utf8_lossy(needle).into_owned();
        for place in places.iter().chain([&backup]) {
            assert!(place.exists(), "{}", place.display());
            assert_eq!(all(place, needle), Vec::<PathBuf>::new(), "{shown}");
        }
        assert!(!product.annals.logged().contains(&shown), "{shown}");
        assert_eq!(all(folder.path(), needle), Vec::<PathBuf>::new(), "{shown}");
    }
    // The scan finds what is there: somebody who was not erased, and their key.
    let remaining: Uuid = other.as_str().and_then(|id| id.parse().ok()).expect("an id");
    assert!(!all(&data.join("postgres/base"), b"Remaining Person").is_empty());
    assert!(!all(&data.join("keys"), &wrapped(&product, remaining)).is_empty());
    assert!(all(&data.join("nats"), b"Remaining Person").is_empty(), "JetStream never opens");
    assert!(!all(&backup, b"Remaining Person").is_empty());
}
