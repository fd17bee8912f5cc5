//! Single-use tickets, with which a browser's `EventSource` opens a stream.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::integration_site::{Site, Sse};
use crate::support::postgres::free_port;
use crate::support::process::command;
use crate::support::product::{Tenant, send};

const PATH: &str = "/v1/events/stream";

async fn ticket(tenant: &Tenant<'_>) -> String {
    let request = tenant.admin(Method::POST, "/v1/stream-tickets").json(&json!({"path": PATH}));
    let (status, answer) = send(request).await;
    assert_eq!((status, &answer["expires_in"]), (StatusCode::CREATED, &json!(30)), "{answer}");
    answer["ticket"].as_str().expect("a ticket").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_stream_of_its_tenant() {
    let site = Site::shared();
    let (tenant, other) = (site.product.tenant().await, site.product.tenant().await);
    let first = ticket(&tenant).await;
    let open = |tenant: &Tenant<'_>, query: String| {
        // A stream that is opened by mistake would never end.
        let request =
            tenant.anonymous(Method::GET, &format!("{PATH}?{query}")).timeout(Duration::from_secs(10));
        async move { send(request).await }
    };
    let (status, problem) = open(&other, format!("ticket={first}")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("tenant_mismatch")));

    let mut stream = Sse::open(&tenant, &format!("?ticket={first}"), None, None).await;
    assert_eq!(stream.event().await["tenantid"], tenant.slug.as_str());
    for used in [first.as_str(), "", "nonsense"] {
        let (status, problem) = open(&tenant, format!("ticket={used}")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthenticated")));
    }
    let both = tenant.admin(Method::GET, &format!("{PATH}?ticket={}", ticket(&tenant).await));
    assert_eq!(send(both).await.0, StatusCode::BAD_REQUEST);
    let page = tenant.anonymous(Method::GET, &format!("/v1/events?ticket={}", ticket(&tenant).await));
    assert_eq!(send(page).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_for_known_paths_and_readers_of_events() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let ask = |token: &str, body: Value| {
        send(site.product.request(Method::POST, "/v1/stream-tickets").bearer_auth(token).json(&body))
    };
    let (status, problem) = ask(&tenant.token, json!({"path": "/v1/events"})).await;
    assert_eq!(
        (status, &problem["errors"][0]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("path_invalid"))
    );
    tenant.register("ada@example.com", "Ada").await;
    let member = tenant.login("ada@example.com").await;
    assert_eq!(ask(&member, json!({"path": PATH})).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_used_up_in_every_gateway() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let port = free_port();
    let mut serve = command();
    serve.args(["--config", &site.product.annals.settings(), "serve", "--roles", "gateway"]);
    for (listener, port) in [("PUBLIC", port), ("OPERATIONS", 0), ("ADMIN", 0)] {
        serve.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), format!("127.0.0.1:{port}"));
    }
    let mut second =
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
    let log = BufReader::new(second.stderr.take().expect("it is piped"));
    let mut lines = log.lines().map(|line| line.expect("logs are text"));
    lines.find(|line| line.contains("\"running\"")).expect("it says that it runs");

    let mut opened = 0;
    let ticket = ticket(&tenant).await;
    for base in [format!("http://127.0.0.1:{port}"), site.product.url("")] {
        let answer =
            Client::new().get(format!("{base}{PATH}?ticket={ticket}")).send().await.expect("answers");
        opened += u32::from(answer.status() == StatusCode::OK);
    }
    second.kill().expect("it is our child");
    second.wait().expect("it is our child");
    assert_eq!(opened, 1);
}
