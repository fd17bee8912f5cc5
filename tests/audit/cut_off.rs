//! Exports that are under way end with the right to read, and the command line says why.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::integration_site::Site;
use crate::support::process::{command, output_of};
use crate::support::product::{Tenant, send};
use crate::support::{eventually, folder};

/// More than connections and pipes take in while nobody reads, and more than one page of an export.
const EVENTS: usize = 550;
const BYTES: usize = 16_000;

/// An export whose reader has stopped at the first byte.
struct Held {
    child: Child,
    stdout: ChildStdout,
}

impl Held {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0]).expect("the export has begun");
        Self { child, stdout }
    }

    /// Reads on to the end: the last line, what stands on standard error, and the exit code.
    fn end(mut self) -> (Value, String, Option<i32>) {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("text");
        let output = self.child.wait_with_output().expect("ends");
        let last = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        (last, String::from_utf8(output.stderr).expect("text"), output.status.code())
    }
}

async fn issued(tenant: &Tenant<'_>, more: (&str, Value)) -> (String, String) {
    let mut body = json!({"name": "Auditor", "scopes": ["audit:read"]});
    body[more.0] = more.1;
    let (status, answer) = send(tenant.admin(Method::POST, "/v1/service-tokens").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&answer["access_token"]), text(&answer["service_token"]["id"]))
}

/// How many exports were ended for a reason.
async fn ended(site: &Site, code: &str) -> u64 {
    let metrics = site.product.annals.text("operations_url").to_owned() + "/metrics";
    let metrics = reqwest::get(metrics).await.expect("answers").text().await.expect("text");
    let of = format!("annals_exports_closed_total{{code=\"{code}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&of)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_its_token_and_with_the_tenants_hold() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let store = site.store().await;
    site.append(&store, &tenant.slug, EVENTS, BYTES).await;
    store.shutdown().await;
    eventually("the log is sealed", || async {
        let (_, note) = send(tenant.admin(Method::GET, "/v1/audit/checkpoint")).await;
        (note.as_str()?.lines().nth(1)?.parse::<usize>().ok()? >= EVENTS).then_some(())
    })
    .await;
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let url = site.product.url("");
    let held = |name: &str, token: &str| {
        std::fs::write(path(name), token).expect("written");
        let mut command = command();
        command.args(["audit", "export", "--url", &url, "--token-file", &path(name)]);
        Held::start(command)
    };
    let (revoked, id) = issued(&tenant, ("expires_days", json!(1))).await;
    let (kept, _) = issued(&tenant, ("expires_days", json!(1))).await;
    // Time enough for the command to begin on a busy machine.
    let soon = schemas::engine::clock::now() + chrono::Duration::seconds(15);
    let (expiring, _) = issued(&tenant, ("expires_at", json!(soon.to_rfc3339()))).await;
    let exports = [
        ("token_expired", held("a", &expiring), 4),
        ("token_revoked", held("b", &revoked), 4),
        ("tenant_unknown", held("c", &kept), 3),
    ];
    let revoke = tenant.admin(Method::DELETE, &format!("/v1/service-tokens/{id}"));
    assert_eq!(send(revoke).await.0, StatusCode::NO_CONTENT);
    for (code, ..) in &exports[..2] {
        eventually("the right to read has ended", || async { (ended(site, code).await > 0).then_some(()) })
            .await;
    }
    output_of(&["--config", &site.product.annals.settings(), "tenant", "suspend", &tenant.slug]);
    eventually("the hold is noticed", || async { (ended(site, "tenant_unknown").await > 0).then_some(()) })
        .await;
    for (code, held, exit) in exports {
        let (last, told, ended) = held.end();
        assert_eq!((&last["closed"], ended), (&json!(code), Some(exit)), "{told}");
        assert!(told.contains("the export broke off: ") && told.contains(code), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_did_not_come_to_its_end_is_not_there() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("token"), &tenant.token).expect("written");
    std::fs::write(path("export"), "an earlier one").expect("written");
    let url = site.product.url("");
    let export = |more: &[&str]| {
        let mut command = command();
        command.args([
            "audit",
            "export",
            "--url",
            &url,
            "--token-file",
            &path("token"),
            "--out",
            &path("export"),
        ]);
        command.args(more).output().expect("runs").status.code()
    };
    eventually("the log is sealed", || async {
        send(tenant.admin(Method::GET, "/v1/audit/checkpoint")).await.0.is_success().then_some(())
    })
    .await;
    assert_eq!(export(&["--from", "2", "--to", "1"]), Some(6));
    let earlier = std::fs::read_to_string(path("export")).expect("reads");
    assert_eq!(earlier, "an earlier one", "nothing was lost");
    assert_eq!(export(&[]), Some(0));
    let whole = std::fs::read_to_string(path("export")).expect("reads");
    assert!(whole.lines().last().is_some_and(|line| line.starts_with("{\"events\":")), "{whole}");
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("reads").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}
