//! Webhooks: the registry over REST, and what arrives at a real endpoint.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use schemas::engine::ids;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::integration_site::Site;
use crate::support::product::{Tenant, send};
use crate::support::webhook_receiver::Receiver;

/// Registers an endpoint of the receiver.
async fn register(tenant: &Tenant<'_>, receiver: &Receiver, more: Value) -> Value {
    let mut body = json!({"url": receiver.url, "after": 0});
    body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    let (status, webhook) = send(tenant.admin(Method::POST, "/v1/webhooks").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{webhook}");
    webhook
}

async fn of(tenant: &Tenant<'_>, method: Method, webhook: &Value, path: &str) -> (StatusCode, Value) {
    let id = webhook["id"].as_str().expect("an id");
    send(tenant.admin(method, &format!("/v1/webhooks/{id}{path}"))).await
}

async fn is_disabled(tenant: &Tenant<'_>, webhook: &Value) -> Value {
    eventually("the webhook is disabled", || async {
        let (_, shown) = of(tenant, Method::GET, webhook, "").await;
        (shown["status"] == "disabled").then(|| shown["disabled_reason"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_registered_changed_and_removed_by_administrators() {
    let site = Site::shared();
    let (tenant, other) = (site.product.tenant().await, site.product.tenant().await);
    let key = ids::random_id().to_string();
    let register = |body: Value| {
        send(tenant.admin(Method::POST, "/v1/webhooks").header("Idempotency-Key", &key).json(&body))
    };
    let body = json!({"url": "https://hooks.example.com/a", "types": ["crm.>"], "description": "Ours"});
    let (status, first) = register(body.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    let secret = first["secret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("whsec_"));
    assert_eq!(first["position"], tenant.events().await.len(), "from the end of the log on");
    let repeats = futures::future::join_all((0..5).map(|_| register(body.clone()))).await;
    assert!(repeats.into_iter().all(|again| again == (status, first.clone())));
    let (status, problem) = register(json!({"url": "nonsense"})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("command_id_reused")));

    let (_, shown) = of(&tenant, Method::GET, &first, "").await;
    assert_eq!((&shown["status"], &shown["ordering"]), (&json!("active"), &json!("in_order")));
    assert!(!shown.to_string().contains("secret") && !shown.to_string().contains("whsec"));
    let clear: i64 = site
        .database()
        .await
        .query_one(
            "select count(*) from webhooks w, request_answers r
             where position(decode($1, 'base64') in w.secret) > 0 or position(convert_to($1, 'UTF8') in r.body) > 0",
            &[&secret.trim_start_matches("whsec_")],
        )
        .await
        .expect("counts")
        .get(0);
    assert_eq!(clear, 0, "the secret stands in the database");

    let id = first["id"].as_str().expect("an id");
    let change = tenant
        .admin(Method::PATCH, &format!("/v1/webhooks/{id}"))
        .json(&json!({"ordering": "parallel", "status": "disabled"}));
    let (status, changed) = send(change).await;
    assert_eq!((status, &changed["url"]), (StatusCode::OK, &first["url"]));
    assert_eq!((&changed["status"], &changed["disabled_reason"]), (&json!("disabled"), &json!("by_request")));
    let (_, enabled) = of(&tenant, Method::POST, &first, "/enable").await;
    assert_eq!((&enabled["status"], &enabled["ordering"]), (&json!("active"), &json!("parallel")));

    let (_, list) = send(tenant.admin(Method::GET, "/v1/webhooks?limit=1")).await;
    assert_eq!((&list["webhooks"][0]["id"], &list["next_after"]), (&first["id"], &Value::Null));
    let (_, rest) = send(tenant.admin(Method::GET, &format!("/v1/webhooks?after={id}"))).await;
    assert_eq!(rest, json!({"webhooks": [], "next_after": null}));

    tenant.register("ada@example.com", "Ada").await;
    let member = tenant.login("ada@example.com").await;
    let (status, _) = send(site.product.request(Method::GET, "/v1/webhooks").bearer_auth(&member)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (method, path) in
        [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/enable"), (Method::GET, "/deliveries")]
    {
        assert_eq!(of(&other, method, &first, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let (status, problem) = send(
        tenant
            .admin(Method::POST, "/v1/webhooks")
            .json(&json!({"url": "https://a.example/", "after": 1_000_000})),
    )
    .await;
    assert_eq!(
        (status, &problem["errors"][0]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("position_beyond_head"))
    );
    assert_eq!(of(&tenant, Method::DELETE, &first, "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(of(&tenant, Method::GET, &first, "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_signed_and_in_order_however_often_the_endpoint_fails() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let receiver = Receiver::answering(|event, attempt| match event["position"].as_str() {
        Some("2") if attempt < 3 => StatusCode::INTERNAL_SERVER_ERROR,
        // A redirect is not followed: it is a failure.
        Some("3") if attempt < 2 => StatusCode::TEMPORARY_REDIRECT,
        _ => StatusCode::OK,
    })
    .await;
    let webhook = register(&tenant, &receiver, json!({})).await;
    for name in ["a", "b", "c"] {
        tenant.register(&format!("{name}@example.com"), "A").await;
    }
    crate::support::checker::check(&tenant).await;
    let events = tenant.stored_events().await;
    receiver.has(events.len() as u64).await;

    let received = receiver.received();
    let taken: Vec<&Value> = received
        .iter()
        .filter(|received| received.status.is_success())
        .map(|received| &received.event)
        .collect();
    assert_eq!(taken, events.iter().collect::<Vec<_>>(), "each once, in order");
    let mut expected: Vec<u64> = (1..=events.len() as u64).collect();
    expected.splice(1..3, [2, 2, 2, 3, 3]);
    assert_eq!(receiver.positions(), expected, "what failed holds back what is behind it");
    let secret = webhook["secret"].as_str().expect("a secret");
    let attempts: Vec<_> = received.iter().filter(|received| received.position == 2).collect();
    for received in &received {
        assert!(received.is_signed_with(secret));
        assert_eq!(received.header("content-type"), "application/cloudevents+json");
    }
    assert_eq!(attempts[0].header("webhook-id"), attempts[2].header("webhook-id"));
    assert_ne!(attempts[0].header("webhook-id"), received[0].header("webhook-id"));
    assert!(!attempts[0].is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));

    let (_, log) = eventually("the log of attempts is written", || async {
        let log = of(&tenant, Method::GET, &webhook, "/deliveries?limit=100").await;
        (log.1["deliveries"].as_array().map(Vec::len) == Some(expected.len())).then_some(log)
    })
    .await;
    let log = log["deliveries"].as_array().expect("attempts");
    let logged: Vec<u64> = log.iter().rev().filter_map(|attempt| attempt["position"].as_u64()).collect();
    assert_eq!(logged, expected);
    let second = &log[log.len() - 2];
    assert_eq!(
        (&second["outcome"], &second["http_status"], &second["error"], &second["attempt"]),
        (&json!("failed"), &json!(500), &json!("http_500"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_endpoint_is_not_held_back_and_gets_its_types_alone() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let receiver = Receiver::answering(|event, attempt| match event["position"].as_str() {
        Some("1") if attempt < 4 => StatusCode::BAD_GATEWAY,
        _ => StatusCode::OK,
    })
    .await;
    register(&tenant, &receiver, json!({"ordering": "parallel", "types": ["identity.user.*.v1"]})).await;
    for number in 0..12 {
        tenant.register(&format!("{number}@example.com"), "A").await;
    }
    let events = tenant.events().await;
    let wanted: Vec<u64> = crate::support::integration_site::positions(
        &events
            .into_iter()
            .filter(|event| event["type"] == "identity.user.registered.v1")
            .collect::<Vec<_>>(),
    );
    for position in &wanted {
        receiver.has(*position).await;
    }
    let arrived = receiver.positions();
    let of_first: Vec<usize> =
        arrived.iter().enumerate().filter(|(_, at)| **at == 1).map(|(i, _)| i).collect();
    assert_eq!(of_first.len(), 4);
    assert!(
        arrived[of_first[0]..of_first[3]].iter().any(|at| *at != 1),
        "others come in between: {arrived:?}"
    );
    let mut others: Vec<u64> = arrived.into_iter().filter(|at| *at != 1).collect();
    others.sort_unstable();
    assert_eq!(others, wanted[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_besides_the_new_one() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let receiver = Receiver::start().await;
    let webhook = register(&tenant, &receiver, json!({})).await;
    let key = ids::random_id().to_string();
    let rotate = || {
        let path = format!("/v1/webhooks/{}/rotate-secret", webhook["id"].as_str().expect("an id"));
        send(tenant.admin(Method::POST, &path).header("Idempotency-Key", &key))
    };
    let (status, rotated) = rotate().await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(rotate().await, (status, rotated.clone()), "a repeat rotates nothing");
    let (old, new) = (webhook["secret"].as_str().expect("one"), rotated["secret"].as_str().expect("one"));
    assert_ne!(old, new);
    tenant.register("ada@example.com", "Ada").await;
    let head = tenant.events().await.len() as u64;
    receiver.has(head).await;
    let last =
        receiver.received().into_iter().find(|received| received.position == head).expect("it has arrived");
    assert_eq!(last.header("webhook-signature").split(' ').count(), 2);
    assert!(last.is_signed_with(old) && last.is_signed_with(new));

    // A day later.
    let expired = "update webhooks set old_secret_until = now() - interval '1 second' where webhook_id = $1::text::uuid";
    site.database().await.execute(expired, &[&webhook["id"].as_str()]).await.expect("changed");
    tenant.register("bo@example.com", "Bo").await;
    let head = tenant.events().await.len() as u64;
    receiver.has(head).await;
    let last =
        receiver.received().into_iter().find(|received| received.position == head).expect("it has arrived");
    assert!(!last.is_signed_with(old) && last.is_signed_with(new));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_or_fails_for_too_long_is_disabled_and_goes_on_when_enabled() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let gone = Receiver::answering(|_, _| StatusCode::GONE).await;
    let failing = Receiver::answering(|_, _| StatusCode::SERVICE_UNAVAILABLE).await;
    // An endpoint is judged when it fails, so there must be enough to fail with.
    for name in ["a", "b", "c"] {
        tenant.register(&format!("{name}@example.com"), "A").await;
    }
    let first = register(&tenant, &gone, json!({})).await;
    let second = register(&tenant, &failing, json!({})).await;
    assert_eq!(is_disabled(&tenant, &first).await, "gone");
    assert_eq!(gone.positions(), [1]);
    assert_eq!(is_disabled(&tenant, &second).await, "failing");
    failing.answer(|_, _| StatusCode::OK);
    let (status, enabled) = of(&tenant, Method::POST, &second, "/enable").await;
    assert_eq!((status, &enabled["status"]), (StatusCode::OK, &json!("active")));
    failing.has(tenant.events().await.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_taken_ends_in_the_dead_letters_and_may_be_retried_or_replayed() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    let receiver = Receiver::answering(|event, _| match event["position"].as_str() {
        Some("2") => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    })
    .await;
    let webhook = register(&tenant, &receiver, json!({})).await;
    tenant.register("ada@example.com", "Ada").await;
    crate::support::checker::check(&tenant).await;
    let head = tenant.events().await.len() as u64;
    receiver.has(head).await;
    let (_, dead) = of(&tenant, Method::GET, &webhook, "/dead-letters").await;
    let dead = dead["dead_letters"].as_array().cloned().expect("a list");
    assert_eq!((dead.len(), &dead[0]["position"], &dead[0]["error"]), (1, &json!(2), &json!("http_400")));
    assert!(dead[0]["attempts"].as_u64() > Some(3));

    receiver.answer(|_, _| StatusCode::OK);
    assert_eq!(of(&tenant, Method::POST, &webhook, "/dead-letters/1/retry").await.0, StatusCode::NOT_FOUND);
    let (status, retried) = of(&tenant, Method::POST, &webhook, "/dead-letters/2/retry").await;
    assert_eq!((status, retried), (StatusCode::ACCEPTED, json!({"retried": 1})));
    receiver.has(2).await;
    eventually("the dead letter is settled", || async {
        let (_, dead) = of(&tenant, Method::GET, &webhook, "/dead-letters").await;
        (dead["dead_letters"] == json!([])).then_some(())
    })
    .await;

    let before = receiver.positions().len();
    let path = format!("/v1/webhooks/{}/replay", webhook["id"].as_str().expect("an id"));
    let (status, _) = send(tenant.admin(Method::POST, &path).json(&json!({"after": 1}))).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    eventually("everything has been replayed", || async {
        (receiver.positions().len() == before + head as usize - 1).then_some(())
    })
    .await;
    assert_eq!(receiver.positions()[before..], (2..=head).collect::<Vec<_>>());
    let (status, _) = send(tenant.admin(Method::POST, &path).json(&json!({"after": head + 1}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_too_many_dead_letters_is_disabled_until_somebody_has_seen_to_them() {
    let settings = [
        ("ANNALS__WEBHOOKS__MAX_DEAD_LETTERS_PER_ENDPOINT", "3"),
        ("ANNALS__WEBHOOKS__DISABLE_AFTER_SECONDS", "600"),
    ];
    let site = Site::start(&settings);
    let tenant = site.product.tenant().await;
    for name in ["a", "b", "c"] {
        tenant.register(&format!("{name}@example.com"), "A").await;
    }
    let receiver = Receiver::answering(|event, _| match event["position"].as_str() {
        Some("2" | "3" | "4" | "5") => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    })
    .await;
    let webhook = register(&tenant, &receiver, json!({"ordering": "parallel"})).await;
    assert_eq!(is_disabled(&tenant, &webhook).await, "dead_letters");
    let dead = async || {
        let (_, page) = of(&tenant, Method::GET, &webhook, "/dead-letters").await;
        let letters = page["dead_letters"].as_array().expect("a list");
        letters.iter().map(|letter| letter["position"].as_u64().expect("a position")).collect::<Vec<_>>()
    };
    let letters = dead().await;
    assert!((3..=4).contains(&letters.len()), "{letters:?}");

    receiver.answer(|_, _| StatusCode::OK);
    tenant.register("d@example.com", "D").await;
    let head = tenant.events().await.len() as u64;
    let (status, problem) = of(&tenant, Method::POST, &webhook, "/enable").await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid")));
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().expect("an id"));
    let patched = tenant.admin(Method::PATCH, &path).json(&json!({"status": "active"}));
    assert_eq!(send(patched).await.0, StatusCode::UNPROCESSABLE_ENTITY, "nor this way");

    let one = format!("/dead-letters/{}", letters[0]);
    let discarded = of(&tenant, Method::DELETE, &webhook, &one).await;
    assert_eq!(discarded, (StatusCode::OK, json!({"discarded": 1})));
    assert_eq!(of(&tenant, Method::DELETE, &webhook, &one).await.0, StatusCode::NOT_FOUND);
    let retry = format!("/dead-letters/{}/retry", letters[1]);
    assert_eq!(of(&tenant, Method::POST, &webhook, &retry).await.0, StatusCode::ACCEPTED);
    assert!(!receiver.positions().contains(&head), "nothing is delivered meanwhile");
    assert_eq!(of(&tenant, Method::POST, &webhook, "/enable").await.0, StatusCode::OK);
    receiver.has(head).await;
    receiver.has(letters[1]).await;
    let left = dead().await;
    assert_eq!(left, letters[2..], "they wait still");

    let discard = || {
        let request = tenant.admin(Method::DELETE, &format!("{path}/dead-letters"));
        send(request.header("Idempotency-Key", "6f1c1d0e-6d6e-4c39-9a51-1d2f3a4b5c6d"))
    };
    let first = discard().await;
    assert_eq!(first, (StatusCode::OK, json!({"discarded": left.len()})));
    assert_eq!(discard().await, first, "a repeat gets the first answer");
    assert_eq!(dead().await, [0; 0]);
    // What was neither discarded nor refused to the end has arrived.
    for position in (1..=head).filter(|position| *position != letters[0] && !left.contains(position)) {
        receiver.has(position).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_fails_in_time_and_a_replaced_log_is_said() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", silent.local_addr().expect("bound"));
    let body = json!({"url": url, "after": 0});
    let (_, webhook) = send(tenant.admin(Method::POST, "/v1/webhooks").json(&body)).await;
    let log = eventually("an attempt has failed", || async {
        let (_, log) = of(&tenant, Method::GET, &webhook, "/deliveries").await;
        (!log["deliveries"].as_array()?.is_empty()).then_some(log)
    })
    .await;
    let attempt = &log["deliveries"][0];
    assert_eq!((&attempt["error"], &attempt["http_status"]), (&json!("timeout"), &Value::Null));
    assert!(attempt["duration_ms"].as_u64().map(Duration::from_millis) < Some(Duration::from_secs(5)));

    let replace = "update heads set log_id = gen_random_uuid()
                   where tenant_id = (select tenant_id from tenants where slug = $1)";
    site.database().await.execute(replace, &[&tenant.slug]).await.expect("changed");
    assert_eq!(is_disabled(&tenant, &webhook).await, "log_replaced");
    let (_, enabled) = of(&tenant, Method::POST, &webhook, "/enable").await;
    assert_ne!(enabled["log_id"], webhook["log_id"]);
}
