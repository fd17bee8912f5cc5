//! Live streams: how they are opened, what they send, and how they end. What holds for both WebSockets and server-sent
//! events is shown on both.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Method, StatusCode};
use schemas::identity::role::Role;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::integration_site::{HEARTBEAT, Site, Socket, Sse, positions, until_both_are_closed};
use crate::support::product::send;

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_follows_filters_and_resumes() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let mut seen: Vec<Value> = Vec::new();
    for round in 0..3 {
        let after =
            seen.last().map_or("0".to_owned(), |event| event["position"].as_str().expect("text").to_owned());
        let query = format!("?after={after}&type=identity.user.*.v1,ext.%3E");
        let mut socket = Socket::with_token(site, &query, &tenant.token).await;
        assert_eq!(socket.hear().await, json!({"type": "open", "after": after}));
        if round == 0 {
            seen.push(socket.event().await);
        } else {
            for name in ["a", "b"] {
                tenant.register(&format!("{name}{round}@example.com"), "A").await;
                seen.push(socket.event().await);
            }
        }
    }
    let all =
        tenant.events().await.into_iter().filter(|event| event["type"] == "identity.user.registered.v1");
    assert_eq!(seen, all.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_takes_its_token_in_the_header_or_the_first_message_and_nowhere_else() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let mut socket = Socket::open(site, "", &[]).await.expect("upgraded");
    socket.say(&json!({"type": "auth", "token": tenant.token}).to_string()).await;
    assert_eq!(socket.event().await["tenantid"], tenant.slug.as_str());
    // Nothing else is ever said by a client.
    socket.say("{}").await;
    let (_, last, code) = socket.until_closed().await;
    assert_eq!((&last["code"], code), (&json!("bad_request"), 4400));

    tenant.register("ada@example.com", "Ada").await;
    let member = tenant.login("ada@example.com").await;
    let first_message = |text: String| async move {
        let mut socket = Socket::open(site, "", &[]).await.expect("upgraded");
        if !text.is_empty() {
            socket.say(&text).await;
        }
        let (events, last, code) = socket.until_closed().await;
        assert!(events.is_empty());
        (last["code"].as_str().expect("a code").to_owned(), code)
    };
    let auth = |token: &str| json!({"type": "auth", "token": token}).to_string();
    let (wrong, forbidden, other, silent) = tokio::join!(
        first_message(auth("nonsense")),
        first_message(auth(&member)),
        first_message("hello".to_owned()),
        first_message(String::new()),
    );
    assert_eq!(wrong, ("unauthenticated".to_owned(), 4401));
    assert_eq!(forbidden, ("forbidden".to_owned(), 4403));
    assert_eq!(other, ("bad_request".to_owned(), 4400));
    assert_eq!(silent, ("auth_timeout".to_owned(), 4408));

    let refused = |query: String, headers: Vec<(&'static str, String)>| async move {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Socket::open(site, &query, &headers).await.err().expect("refused")
    };
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    assert_eq!(refused(format!("?token={}", tenant.token), vec![]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused(String::new(), vec![bearer("nonsense")]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(refused(String::new(), vec![bearer(&member)]).await, StatusCode::FORBIDDEN);
    let origin = ("origin", "https://evil.example".to_owned());
    assert_eq!(refused(String::new(), vec![bearer(&tenant.token), origin]).await, StatusCode::FORBIDDEN);
    let elsewhere = ("x-tenant-id", "demo".to_owned());
    assert_eq!(refused(String::new(), vec![bearer(&tenant.token), elsewhere]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(tenant.admin(Method::GET, "/v1/events/ws")).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_streams_show_that_they_are_alive_and_how_far_they_have_looked() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let head = tenant.events().await.len().to_string();
    let mut stream = Sse::open(&tenant, "?type=shop.%3E", Some(&tenant.token), None).await;
    let mut socket = Socket::with_token(site, "?type=shop.%3E", &tenant.token).await;
    let watching = async {
        assert_eq!(stream.block().await.expect("open"), [": open"]);
        assert_eq!(stream.block().await.expect("alive"), [": heartbeat".to_owned(), format!("id: {head}")]);
        assert_eq!(stream.block().await.expect("alive"), [": heartbeat"]);
        socket.hear().await;
        assert!(matches!(socket.0.next().await, Some(Ok(Message::Ping(_)))));
    };
    timeout(HEARTBEAT * 8, watching).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_says_where_to_go_on() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let head = tenant.events().await.len();
    let token = site.token(&tenant.slug, vec![Role::TenantAdmin], Duration::from_secs(8)).await;
    let stream = Sse::open(&tenant, "", Some(&token), None).await;
    let socket = Socket::with_token(site, "", &token).await;
    let ((events, last), socket) = until_both_are_closed(stream, socket).await;
    assert_eq!(last, [format!("id: {head}"), format!(": closed token_expired after {head}")]);
    assert_eq!(positions(&events), (1..=head as u64).collect::<Vec<_>>());
    let (events, last, code) = socket;
    assert_eq!(last, json!({"type": "closed", "code": "token_expired", "after": head.to_string()}));
    assert_eq!((positions(&events).len(), code), (head, 4401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_and_a_replaced_log_end_streams() {
    let site = Site::shared();
    let database = site.database().await;
    for (change, code, websocket) in [
        ("update tenants set suspended = true where slug = $1", "tenant_unknown", 4404),
        (
            "update heads set log_id = gen_random_uuid()
             where tenant_id = (select tenant_id from tenants where slug = $1)",
            "log_replaced",
            4410,
        ),
    ] {
        let tenant = site.product.tenant().await;
        let mut stream = Sse::open(&tenant, "", Some(&tenant.token), None).await;
        let mut socket = Socket::with_token(site, "", &tenant.token).await;
        let log = stream.event().await["logid"].as_str().expect("a log").to_owned();
        socket.event().await;
        database.execute(change, &[&tenant.slug]).await.expect("changed");
        let ((_, last), (_, socket_last, closed)) = until_both_are_closed(stream, socket).await;
        assert!(last.last().expect("last words").starts_with(&format!(": closed {code}")), "{last:?}");
        assert_eq!((&socket_last["code"], closed), (&json!(code), websocket));
        if code == "log_replaced" {
            assert_eq!(socket_last.get("after"), None);
            let resumed = tenant.admin(Method::GET, &format!("/v1/events/stream?after=1&log={log}"));
            assert_eq!(send(resumed).await.0, StatusCode::GONE);
            let beyond = tenant.admin(Method::GET, "/v1/events/stream").header("Last-Event-ID", "1000000");
            assert_eq!(send(beyond).await.0, StatusCode::GONE);
        }
    }
}

/// Far more than connection buffers hold.
const LARGE: (usize, usize) = (120, 100_000);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_closed_and_resumes_without_a_gap() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let store = site.store().await;
    let mut stream = Sse::open(&tenant, "", Some(&tenant.token), None).await;
    let mut socket = Socket::with_token(site, "", &tenant.token).await;
    let head = tenant.events().await.len() as u64 + LARGE.0 as u64;
    stream.event().await;
    socket.event().await;
    site.append(&store, &tenant.slug, LARGE.0, LARGE.1).await;
    // Both have been held up for longer than they may be when another one has shown three times that it is alive.
    let mut idle = Sse::open(&tenant, "?type=shop.%3E", Some(&tenant.token), None).await;
    for _ in 0..4 {
        idle.block().await.expect("it is alive");
    }
    let (stream, (events, last, code)) = until_both_are_closed(stream, socket).await;
    assert_eq!((&last["code"], code), (&json!("slow_consumer"), 1013));
    let seen = positions(&events);
    assert_eq!(last["after"], seen.last().expect("some arrived").to_string());
    assert!(seen.len() < LARGE.0, "nothing was held back");
    let mut again =
        Socket::with_token(site, &format!("?after={}", seen[seen.len() - 1]), &tenant.token).await;
    for position in seen[seen.len() - 1] + 1..=head {
        assert_eq!(again.event().await["position"], position.to_string());
    }

    let (events, last) = stream;
    let at = *positions(&events).last().expect("some arrived");
    assert_eq!(last, [format!("id: {at}"), format!(": closed slow_consumer after {at}")]);
    let mut again = Sse::open(&tenant, "", Some(&tenant.token), Some(&at.to_string())).await;
    for position in at + 1..=head {
        assert_eq!(again.event().await["position"], position.to_string());
    }
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_tenant_share_one_reader() {
    let site = Site::start(&[]);
    let tenant = site.product.tenant().await;
    let store = site.store().await;
    let mut followers = Vec::new();
    let before = tenant.events().await.len() as u64;
    for _ in 0..50 {
        followers.push(Socket::with_token(&site, &format!("?after={before}"), &tenant.token).await);
    }
    for _ in 0..40 {
        site.append(&store, &tenant.slug, 1, 10).await;
    }
    for follower in &mut followers {
        for position in before + 1..=before + 40 {
            assert_eq!(follower.event().await["position"], position.to_string());
        }
    }
    let metrics = site.product.annals.text("operations_url").to_owned() + "/metrics";
    let metrics = reqwest::get(metrics).await.expect("answers").text().await.expect("text");
    let reads = metrics.lines().filter(|line| line.starts_with("annals_event_stream_reads_total"));
    let reads: f64 = reads
        .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number"))
        .sum();
    assert!((1.0..=200.0).contains(&reads), "{reads} reads for 40 events and 50 followers");
    store.shutdown().await;
}
