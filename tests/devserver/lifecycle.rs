//! Starting and stopping `annals dev`, and what is left after each.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};

use crate::support::process::{self, Annals, is_running};
use crate::support::product::send;
use crate::support::{Product, eventually, folder};

/// What the contract says that `annals dev --json` prints.
const KEYS: [&str; 12] = [
    "gateway_url",
    "operations_url",
    "admin_url",
    "graphql_url",
    "database_url",
    "nats_url",
    "nats_credentials",
    "tenant",
    "access_token",
    "admin_token",
    "data_dir",
    "pid",
];

async fn is_ready(product: &Product) -> bool {
    let url = format!("{}/readyz", product.annals.text("operations_url"));
    let answer = crate::support::product::client().get(url).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[tokio::test]
async fn the_json_line_says_where_everything_is() {
    let product = Product::shared();
    let ready = product.annals.ready.as_object().expect("one object");
    let mut wanted = KEYS;
    wanted.sort_unstable();
    let keys: Vec<&str> = ready.keys().map(String::as_str).collect();
    assert_eq!(keys, wanted);
    assert_eq!(ready["tenant"], "demo");
    assert_eq!(ready["pid"], product.annals.pid());
    assert!(is_ready(product).await);

    let me = product.request(Method::GET, "/v1/auth/me").bearer_auth(product.access_token());
    let (status, answer) = send(me).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user"]["roles"], serde_json::json!(["tenant_admin"]));
    assert_eq!(answer["user"]["tenant_id"], "demo");
    let me = product.request(Method::GET, "/v1/auth/me").bearer_auth(product.admin_token());
    assert_eq!(send(me).await.1["user"]["roles"], serde_json::json!(["platform_admin"]));
}

#[tokio::test]
async fn a_signal_stops_everything_within_five_seconds_and_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let annals = Annals::start(&["--ephemeral"]);
        let (servers, data) = (annals.servers(), annals.data_dir());
        assert!(servers.into_iter().all(is_running) && data.is_dir());
        let (status, took, rest) = annals.end(signal);
        assert!(status.success(), "{status}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(rest, "", "standard output holds one line");
        assert!(!servers.into_iter().any(is_running), "the servers have ended");
        assert!(!data.exists(), "the temporary folder is gone");
    }
}

#[tokio::test]
async fn data_outlive_a_restart() {
    let parent = folder();
    let data = parent.path().join("data");
    let arguments = ["--data-dir", data.to_str().expect("a plain path")];

    let product = Product::start(&arguments);
    let registered = product.demo().register("ada@restart.example", "Ada").await;
    let before = product.demo().events().await;
    let (status, _, _) = product.annals.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");

    let product = Product::start(&arguments);
    let token = product.demo().login("ada@restart.example").await;
    let me = product.request(Method::GET, "/v1/auth/me").bearer_auth(token);
    assert_eq!(send(me).await.1["user"]["id"], registered["user"]["id"]);
    let after = product.demo().events().await;
    assert_eq!(after[..before.len()], before[..], "history is as it was");
}

#[tokio::test]
async fn a_killed_process_comes_back_on_its_data() {
    let parent = folder();
    let data = parent.path().join("data");
    let arguments = ["--data-dir", data.to_str().expect("a plain path")];
    let product = Product::start(&arguments);
    product.demo().register("ada@killed.example", "Ada").await;
    let (status, _, _) = product.annals.end(Signal::SIGKILL);
    assert!(!status.success());

    let product = Product::start(&arguments);
    product.demo().login("ada@killed.example").await;
}

/// Where `setpriv` is missing, the servers outlive a killed process; the next one must end them first.
#[tokio::test]
async fn servers_that_a_killed_process_left_behind_are_replaced() {
    let parent = folder();
    let data = parent.path().join("data");
    let start = || {
        let mut command = process::command();
        // PostgreSQL is found in its usual folder, nats-server in the checkout's .tools; setpriv nowhere.
        command.env("PATH", "/nonexistent").args(["dev", "--data-dir"]).arg(&data);
        Product { annals: Annals::spawn(command) }
    };
    let product = start();
    product.demo().register("ada@stale.example", "Ada").await;
    let left = product.annals.servers();
    product.annals.end(Signal::SIGKILL);
    assert!(left.into_iter().all(is_running), "nobody has told them to end");

    let product = start();
    assert!(!left.into_iter().any(is_running), "the old servers are gone");
    product.demo().login("ada@stale.example").await;
}

#[tokio::test]
async fn a_server_that_dies_is_started_again() {
    let product = Product::start(&["--ephemeral"]);
    let killed = product.annals.servers();
    for pid in killed {
        process::send(pid, Signal::SIGKILL);
    }
    eventually("both servers run anew", || async {
        let now = std::panic::catch_unwind(|| product.annals.servers()).ok()?;
        (now[0] != killed[0] && now[1] != killed[1] && now.into_iter().all(is_running)).then_some(())
    })
    .await;
    eventually("the product is ready again", || async { is_ready(&product).await.then_some(()) }).await;
    product.demo().register("ada@restarted.example", "Ada").await;
}

#[tokio::test]
async fn it_stops_when_its_standard_input_ends_where_asked_to() {
    let mut command = process::command();
    command.args(["dev", "--ephemeral"]);
    let annals = Annals::spawn(command);
    let servers = annals.servers();
    drop(annals);
    assert!(!servers.into_iter().any(is_running));
}
