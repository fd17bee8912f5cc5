//! Keys that are handed to an auditor with an export: what they open, for whom, and what an erasure does to them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::erasures::{customer_of, erase, product};
use crate::support::process::run;
use crate::support::product::{Tenant, send};
use crate::support::{eventually, folder};

/// An auditor at a command line.
struct Auditor<'a> {
    tenant: &'a Tenant<'a>,
    folder: tempfile::TempDir,
    log_key: String,
}

impl<'a> Auditor<'a> {
    async fn of(tenant: &'a Tenant<'a>) -> Self {
        let sealed = || async {
            let (status, key) = send(tenant.admin(Method::GET, "/v1/audit/key")).await;
            (status == StatusCode::OK).then(|| key.as_str().map(|key| key.trim().to_owned()))?
        };
        let log_key = eventually("the log is sealed", sealed).await;
        Self { tenant, folder: folder(), log_key }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A new key pair; returns the public key.
    fn keygen(&self, name: &str) -> String {
        let output = run(&["audit", "keygen", "--out", &self.path(name)]);
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Exports everything that there is by now with keys, and returns the file.
    async fn export(&self, name: &str, token: &str, keys_to: &str) -> Result<String, Option<i32>> {
        let head = self.tenant.events().await.len() as u64;
        eventually("the log is sealed", || async {
            let (_, note) = send(self.tenant.admin(Method::GET, "/v1/audit/checkpoint")).await;
            (note.as_str()?.lines().nth(1)?.parse::<u64>().ok()? >= head).then_some(())
        })
        .await;
        std::fs::write(self.path("token"), token).expect("written");
        let (file, url, token_file) = (self.path(name), self.tenant.product.url(""), self.path("token"));
        let arguments = ["--keys-to", keys_to, "--out", &file, "--url", &url, "--token-file", &token_file];
        let output = run(&[&["audit", "export"], &arguments[..]].concat());
        if output.status.success() { Ok(file) } else { Err(output.status.code()) }
    }

    /// What the file says of somebody's registration, opened with a private key.
    fn registration(&self, file: &str, identity: &str, user: &Value) -> Result<Value, Option<i32>> {
        let identity = self.path(identity);
        let output = run(&["audit", "open", file, "--key", &self.log_key, "--identity-file", &identity]);
        if !output.status.success() {
            return Err(output.status.code());
        }
        let text = String::from_utf8(output.stdout).expect("text");
        let mut events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let stream = json!(format!("identity.user/{}", user.as_str().expect("an id")));
        let found = events.find(|event| event["stream"] == stream && event["version"] == 1);
        Ok(found.expect("the event is there")["data"].clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_with_keys_opens_offline_and_one_made_after_an_erasure_does_not() {
    let product = product();
    let tenant = product.tenant().await;
    let ada = tenant.register("ada@example.com", "Ada Lovelace").await["user"]["id"].clone();
    let grace = tenant.register("grace@example.com", "Grace Hopper").await["user"]["id"].clone();
    customer_of(&tenant, &ada).await;
    let auditor = Auditor::of(&tenant).await;
    let (keys_to, _) = (auditor.keygen("identity"), auditor.keygen("other"));
    let token = tenant.service(&["audit:read", "pii:read"]).await;
    let before = auditor.export("before", &token, &keys_to).await.expect("exports");
    let stored = std::fs::read_to_string(&before).expect("reads");
    assert!(!stored.contains("Lovelace"));
    let opened = auditor.registration(&before, "identity", &ada).expect("opens");
    assert_eq!((&opened["name"], &opened["email"]), (&json!("Ada Lovelace"), &json!("ada@example.com")));
    assert_eq!(auditor.registration(&before, "other", &ada), Err(Some(4)));
    let verifier = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit-verify.py");
    let python =
        std::process::Command::new("python3").arg(verifier).args([&before, &auditor.log_key]).output();
    assert!(python.expect("python3 runs").status.success());

    erase(&tenant, json!({"user_id": ada})).await;
    let after = auditor.export("after", &token, &keys_to).await.expect("exports");
    let erased = auditor.registration(&after, "identity", &ada).expect("opens");
    assert_eq!((&erased["$erased"]["subject"], &erased["name"]), (&ada, &Value::Null));
    let other = auditor.registration(&after, "identity", &grace).expect("opens");
    assert_eq!(other["name"], "Grace Hopper", "nobody else is touched");
    // What was handed over is beyond the erasure.
    assert_eq!(auditor.registration(&before, "identity", &ada).expect("opens")["name"], "Ada Lovelace");
    let plain = run(&["audit", "verify", &after, "--key", &auditor.log_key, "--schemas"]);
    assert!(plain.status.success(), "sealed and erased payloads fit their schemas");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_for_those_who_may_read_personal_data_and_it_is_told_who_got_them() {
    let tenant = crate::support::Product::shared().tenant().await;
    let auditor = Auditor::of(&tenant).await;
    let keys_to = auditor.keygen("identity");
    let plain = tenant.service(&["audit:read", "events:read"]).await;
    assert_eq!(auditor.export("refused", &plain, &keys_to).await, Err(Some(4)));
    let path = format!("/v1/audit/export?keys_to={keys_to}");
    let (status, problem) = send(tenant.product.request(Method::GET, &path).bearer_auth(&plain)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    let personal = tenant.service(&["pii:read", "events:read"]).await;
    let (status, _) = send(tenant.product.request(Method::GET, &path).bearer_auth(&personal)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "an export is an auditor's");
    let created = {
        std::fs::write(auditor.path("admin"), &tenant.token).expect("written");
        let (url, token) = (tenant.product.url(""), auditor.path("admin"));
        let arguments = ["--name", "Eve", "--personal-data", "--url", &url, "--token-file", &token];
        run(&[&["audit", "token", "create"], &arguments[..]].concat()).stdout
    };
    let allowed = String::from_utf8(created).expect("text").trim().to_owned();
    auditor.export("granted", &allowed, &keys_to).await.expect("exports");
    eventually("it is told who got keys", || async {
        let (_, page) =
            send(tenant.admin(Method::GET, "/v1/activities?kind=credential_change&limit=1000")).await;
        let told = format!("GET /v1/audit/export keys_to={keys_to}");
        let entry = page["activities"].as_array()?.iter().find(|entry| entry["action"] == told)?.clone();
        let by_service = entry["actor"].as_str().is_some_and(|actor| actor.starts_with("service:"));
        (by_service && entry["outcome"] == "accepted").then_some(())
    })
    .await;
}
