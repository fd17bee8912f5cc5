//! The activity log: what is told in it, to whom, and that it ends.

use ::activity::{Activity, ActivityFilter, ActivityKind};
use chrono::Days;
use reqwest::{Method, StatusCode};
use schemas::engine::{Actor, clock, ids};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::postgres::{Database, open_tenant};
use crate::support::product::{Product, Tenant, send};

/// Entries of a kind, once there are so many.
async fn told(tenant: &Tenant<'_>, kind: &str, wanted: usize) -> Vec<Value> {
    let path = format!("/v1/activities?kind={kind}");
    eventually("the activities are told", || async {
        let (status, body) = send(tenant.admin(Method::GET, &path)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let entries = body["activities"].as_array().expect("entries").clone();
        (entries.len() >= wanted).then_some(entries)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_refusals_rejected_commands_and_audits_are_told() {
    let tenant = Product::shared().tenant().await;
    tenant.register("ada@example.com", "Ada").await;
    let member = tenant.login("ada@example.com").await;
    let wrong = json!({"email": "ada@example.com", "password": "not the password"});
    let login =
        tenant.anonymous(Method::POST, "/v1/auth/login").header("x-request-id", "wrong-1").json(&wrong);
    assert_eq!(send(login).await.0, StatusCode::UNAUTHORIZED);
    let sign_ins = told(&tenant, "sign_in", 3).await;
    let refused: Vec<&Value> =
        sign_ins.iter().filter(|entry| entry["outcome"] == "invalid_credentials").collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((&refused[0]["actor"], &refused[0]["request_id"]), (&json!("anonymous"), &json!("wrong-1")));
    assert_eq!(refused[0]["address"], "127.0.0.1");
    assert!(!refused[0].to_string().contains("not the password"));

    let as_member = tenant.product.request(Method::GET, "/v1/events").bearer_auth(&member);
    assert_eq!(send(as_member).await.0, StatusCode::FORBIDDEN);
    let refusals = told(&tenant, "refusal", 1).await;
    assert_eq!(
        (&refusals[0]["action"], &refusals[0]["outcome"]),
        (&json!("GET /v1/events"), &json!("forbidden"))
    );
    assert!(refusals[0]["actor"].as_str().expect("an actor").starts_with("user:"));

    let close = "mutation ($id: ID!) { closeCustomer(input: {id: $id}) { outcome } }";
    tenant.graphql(close, json!({"id": ids::new_id()})).await;
    tenant.graphql_as(&member, close, json!({"id": ids::new_id()})).await;
    let rejected = told(&tenant, "rejected_command", 2).await;
    let codes: Vec<&Value> = rejected.iter().map(|entry| &entry["outcome"]).collect();
    assert!(codes.contains(&&json!("NOT_FOUND")) && codes.contains(&&json!("FORBIDDEN")), "{rejected:?}");

    send(tenant.admin(Method::GET, "/v1/audit/key")).await;
    let told_of = async |action: &str| {
        eventually("the audit is told", || async {
            let accesses = told(&tenant, "audit_access", 1).await;
            accesses.iter().any(|entry| entry["action"] == action).then_some(())
        })
        .await;
    };
    told_of("GET /v1/audit/key").await;
    // Reading this log is told in it.
    told_of("GET /v1/activities").await;

    // For those who may, page by page, and for no other tenant.
    let as_member = tenant.product.request(Method::GET, "/v1/activities").bearer_auth(&member);
    assert_eq!(send(as_member).await.0, StatusCode::FORBIDDEN);
    let (_, first) = send(tenant.admin(Method::GET, "/v1/activities?limit=2")).await;
    let next = first["next_before"].as_str().expect("there is more");
    let (_, second) = send(tenant.admin(Method::GET, &format!("/v1/activities?limit=2&before={next}"))).await;
    assert!(second["activities"][0]["id"].as_str() < first["activities"][1]["id"].as_str());
    let other = Product::shared().tenant().await;
    let (_, foreign) = send(other.admin(Method::GET, "/v1/activities?kind=rejected_command")).await;
    assert_eq!(foreign["activities"], json!([]));
    for wrong in ["limit=0", "limit=1001", "kind=x", "before=x", "since=x", "colour=red"] {
        let (status, _) = send(tenant.admin(Method::GET, &format!("/v1/activities?{wrong}"))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    // The business log knows nothing of all this.
    let events = tenant.events().await;
    assert!(events.iter().all(|event| !event["type"].as_str().expect("a type").contains("activity")));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_and_those_beyond_the_quota_end() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let at = |days: u64| Activity {
        id: ids::new_id(),
        at: clock::now() - Days::new(days),
        kind: ActivityKind::SignIn,
        actor: Actor::anonymous().to_string(),
        action: format!("{days} days ago"),
        outcome: "accepted".to_owned(),
        count: 1,
        request_id: None,
        address: None,
    };
    let entries: Vec<Activity> = [100, 95, 50, 40, 30, 20].map(at).to_vec();
    ::activity::record(&tenant, &entries).await.expect("recorded");
    ::activity::record(&tenant, &entries).await.expect("a repeat does nothing");
    let removed = ::activity::expire(&tenant, clock::now() - Days::new(90), 3).await.expect("removes");
    assert_eq!(removed, 3);
    let left = ::activity::page(&tenant, ActivityFilter::default(), 10).await.expect("reads");
    let left: Vec<&str> = left.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(left, ["20 days ago", "30 days ago", "40 days ago"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_refusals_displace_nothing_else() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let entry = |kind: ActivityKind, outcome: &str, action: &str| Activity {
        id: ids::new_id(),
        at: clock::now(),
        kind,
        actor: Actor::anonymous().to_string(),
        action: action.to_owned(),
        outcome: outcome.to_owned(),
        count: 1,
        request_id: None,
        address: None,
    };
    let mut entries = vec![
        entry(ActivityKind::SignIn, "accepted", "a sign-in"),
        entry(ActivityKind::CredentialChange, "accepted", "a credential"),
        entry(ActivityKind::RightsChange, "accepted", "a role"),
    ];
    entries.extend((0..20).map(|_| entry(ActivityKind::Refusal, "unauthenticated", "a refusal")));
    entries.extend((0..20).map(|_| entry(ActivityKind::SignIn, "invalid_credentials", "a guess")));
    ::activity::record(&tenant, &entries).await.expect("recorded");
    let removed = ::activity::expire(&tenant, clock::now() - Days::new(90), 3).await.expect("removes");
    assert_eq!(removed, 34);
    let left = ::activity::page(&tenant, ActivityFilter::default(), 100).await.expect("reads");
    for kept in ["a sign-in", "a credential", "a role"] {
        assert!(left.iter().any(|entry| entry.action == kept), "{kept}");
    }
}
