//! `annals serve` beside a running product, as a second process of the same deployment.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::process::{command, send as send_signal};
use crate::support::product::{PASSWORD, client, send};
use crate::support::{Product, eventually};

pub fn serve(settings: &str, roles: &str) -> Command {
    let mut serve = command();
    serve.args(["--config", settings, "serve", "--roles", roles]);
    for listener in ["PUBLIC", "OPERATIONS", "ADMIN"] {
        serve.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), "127.0.0.1:0");
    }
    serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    serve
}

pub type Log = Lines<BufReader<ChildStderr>>;

/// A process that runs, the rest of its log, and the line that says where it listens.
pub fn started(mut serve: Command) -> (Child, Log, Value) {
    let mut child = serve.spawn().expect("the binary runs");
    let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let running = log
        .by_ref()
        .map(|line| serde_json::from_str::<Value>(&line.expect("logs are text")).expect("logs are JSON"))
        .find(|line| line["message"] == "running")
        .expect("it says where it listens");
    (child, log, running)
}

/// Whoever registers at one process signs in at the other: both stand before the same log.
#[tokio::test]
async fn a_second_gateway_serves_the_same_tenants() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    tenant.register("ada@serve.example", "Ada").await;

    let (mut child, mut log, running) = started(serve(&product.annals.settings(), "gateway"));
    let login = client()
        .post(format!("http://{}/v1/auth/login", running["public"].as_str().expect("an address")))
        .header("X-Tenant-ID", &tenant.slug)
        .json(&json!({"email": "ada@serve.example", "password": PASSWORD}));
    let (status, answer) = send(login).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    send_signal(child.id(), Signal::SIGTERM);
    assert!(log.all(|line| line.is_ok()), "it logs to the end");
    assert!(child.wait().expect("it is our child").success());
}

/// The page of development is not there elsewhere, nor is any asset of it.
#[tokio::test]
async fn a_gateway_without_the_page_hides_its_assets() {
    let product = Product::shared();
    let page = client().get(product.url("/graphql")).send().await.expect("answers");
    let page = page.text().await.expect("a page");
    let asset = page.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an asset");
    let mut serve = serve(&product.annals.settings(), "gateway");
    let mut child = serve.env("ANNALS__GATEWAY__GRAPHIQL", "false").spawn().expect("the binary runs");
    let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let running = log
        .by_ref()
        .map(|line| serde_json::from_str::<Value>(&line.expect("logs are text")).expect("logs are JSON"))
        .find(|line| line["message"] == "running")
        .expect("it says where it listens");
    let public = running["public"].as_str().expect("an address");
    for (path, expected) in [("/graphql", StatusCode::METHOD_NOT_ALLOWED), (asset, StatusCode::NOT_FOUND)] {
        let answer = client().get(format!("http://{public}{path}")).send().await.expect("answers");
        assert_eq!(answer.status(), expected, "{path}");
        assert_eq!(answer.headers()["content-security-policy"], "default-src 'none'; frame-ancestors 'none'");
    }
    send_signal(child.id(), Signal::SIGTERM);
    assert!(log.all(|line| line.is_ok()), "it logs to the end");
    assert!(child.wait().expect("it is our child").success());
}

#[test]
fn a_role_that_does_not_exist_is_a_usage_error() {
    let output = serve("/dev/null", "gateway,magic").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn serving_needs_a_complete_configuration() {
    let output = serve("/dev/null", "relay").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`database.runtime_password` is not set"));
}

/// The key of access tokens is what a gateway cannot be built without; nothing else looks at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_role_gateway_builds_none_and_answers_probes() {
    let settings = Product::shared().annals.settings();
    let without_key = |roles: &str| {
        let mut serve = serve(&settings, roles);
        serve.env("ANNALS__IDENTITY__SIGNING_KEY_FILE", "/dev/null");
        serve
    };
    let output = without_key("gateway").output().expect("the binary runs");
    assert!(!output.status.success(), "a gateway does not start without");

    let (mut child, log, running) = started(without_key("relay"));
    let operations = format!("http://{}", running["operations"].as_str().expect("an address"));
    let get =
        async |path: &str| client().get(format!("{operations}{path}")).send().await.expect("it answers");
    assert_eq!(get("/livez").await.status(), StatusCode::OK);
    let checks = eventually("the process is ready", async || {
        let answer = get("/readyz").await;
        let ready = answer.status() == StatusCode::OK;
        let answer: Value = answer.json().await.expect("JSON");
        ready.then(|| answer["checks"].clone())
    });
    assert_eq!(checks.await, json!({"database": true, "nats": true}));
    let metrics = get("/metrics").await.text().await.expect("text");
    let counted = metrics.lines().find(|line| line.contains("route=\"/livez\""));
    assert!(counted.is_some_and(|line| line.starts_with("http_request")), "{metrics}");
    let unknown = get("/v1/events").await;
    assert_eq!(unknown.headers()["x-content-type-options"], "nosniff");
    assert!(unknown.headers().contains_key("x-request-id"));
    let problem: Value = unknown.json().await.expect("a problem");
    assert_eq!(problem["code"], "not_found");
    let written = client().post(format!("{operations}/readyz")).send().await.expect("it answers");
    assert_eq!(written.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(written.headers()["allow"].to_str().expect("ASCII").contains("GET"));

    send_signal(child.id(), Signal::SIGTERM);
    log.for_each(drop);
    assert!(child.wait().expect("it is our child").success());
}

/// Keys of other roles need not be where a process runs.
#[test]
fn a_process_needs_the_keys_of_its_own_roles_only() {
    let text = std::fs::read_to_string(Product::shared().annals.settings()).expect("the settings");
    let mut settings: toml::Table = text.parse().expect("TOML");
    for section in ["identity", "audit", "privacy"] {
        settings.remove(section);
    }
    let folder = crate::support::folder();
    let file = folder.path().join("annals.toml");
    std::fs::write(&file, settings.to_string()).expect("it can be written");
    let file = file.to_str().expect("a plain path");

    let (mut child, log, _) = started(serve(file, "relay"));
    send_signal(child.id(), Signal::SIGTERM);
    log.for_each(drop);
    assert!(child.wait().expect("it is our child").success());
    for (role, key) in [
        ("gateway", "identity.signing_key"),
        ("projections", "privacy.keys_folder"),
        ("sealer", "audit.signing_key"),
    ] {
        let output = serve(file, role).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(&format!("`{key}` is not set; ")), "{errors}");
    }
}
