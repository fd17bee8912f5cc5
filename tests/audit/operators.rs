//! What the activity log tells of operators and of credentials.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::output_of;
use crate::support::product::{Product, Tenant, send};

async fn entries(tenant: &Tenant<'_>, kind: &str) -> Vec<Value> {
    let (status, page) =
        send(tenant.admin(Method::GET, &format!("/v1/activities?kind={kind}&limit=1000"))).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["activities"].as_array().expect("entries").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_with_a_tenants_data_is_told_to_the_tenant() {
    let product = Product::shared();
    let (tenant, other) = (product.tenant().await, product.tenant().await);
    let user =
        tenant.register("ada@example.com", "Ada").await["user"]["id"].as_str().expect("an id").to_owned();
    let settings = product.annals.settings();
    let slug = tenant.slug.as_str();
    let commands: [&[&str]; 11] = [
        &["event", "replay", "--tenant", slug],
        &["log", "ls", "--tenant", slug],
        &["deadletter", "ls", "--tenant", slug],
        &["saga", "ls", "--tenant", slug],
        &["saga", "show", &user, "--tenant", slug],
        &["projection", "rebuild", "customers", "--tenant", slug],
        &["projection", "pause", "customers", "--tenant", slug],
        &["projection", "resume", "customers", "--tenant", slug],
        &["credential", "create", "--tenant", slug, "--name", "erp"],
        &["credential", "ls", "--tenant", slug],
        &["credential", "revoke", "--tenant", slug, "--name", "erp"],
    ];
    eventually("the saga has an instance", || async {
        let listed = output_of(&["--config", &settings, "saga", "ls", "--tenant", slug, "--output", "jsonl"]);
        (!listed.is_empty()).then_some(())
    })
    .await;
    for command in commands {
        output_of(&[&["--config", &settings], command].concat());
    }
    let operator = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let actor = operator.map(|user| format!("operator:{}", user.name));
    let told = entries(&tenant, "operator_access").await;
    for command in commands {
        let line = format!("annals --config {settings} {}", command.join(" "));
        let line = &line[..line.len().min(300)];
        let entry = told.iter().find(|entry| entry["action"] == line);
        let entry = entry.unwrap_or_else(|| panic!("{line} is not told in {told:#?}"));
        assert_eq!(entry["outcome"], "accepted");
        if let Some(actor) = &actor {
            assert_eq!(entry["actor"], actor.as_str());
        }
    }
    assert_eq!(entries(&other, "operator_access").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_lets_others_in_is_told_when_it_changes() {
    let tenant = Product::shared().tenant().await;
    let post = |path: &str, body: Value| send(tenant.admin(Method::POST, path).json(&body));
    let (_, token) =
        post("/v1/service-tokens", json!({"name": "x", "scopes": ["events:read"], "expires_days": 1})).await;
    let token = token["service_token"]["id"].as_str().expect("an id").to_owned();
    let (status, answer) = post("/v1/integrations/credentials", json!({"name": "erp"})).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    post("/v1/integrations/credentials/erp/rotate", json!({})).await;
    let (_, webhook) = post("/v1/webhooks", json!({"url": "https://hooks.example.com/a"})).await;
    let (webhook, secret) =
        (webhook["id"].as_str().expect("an id"), webhook["secret"].as_str().expect("a secret"));
    post(&format!("/v1/webhooks/{webhook}/rotate-secret"), json!({})).await;
    let removed = [
        format!("/v1/service-tokens/{token}"),
        "/v1/integrations/credentials/erp".to_owned(),
        format!("/v1/webhooks/{webhook}"),
    ];
    for path in &removed {
        assert_eq!(send(tenant.admin(Method::DELETE, path)).await.0, StatusCode::NO_CONTENT, "{path}");
    }
    // Refused and read, nothing has changed.
    post("/v1/service-tokens", json!({"name": ""})).await;
    send(tenant.admin(Method::GET, "/v1/service-tokens")).await;
    let mut wanted = vec![
        format!("POST /v1/service-tokens {token}"),
        "POST /v1/integrations/credentials erp".to_owned(),
        "POST /v1/integrations/credentials/erp/rotate".to_owned(),
        format!("POST /v1/webhooks {webhook}"),
        format!("POST /v1/webhooks/{webhook}/rotate-secret"),
    ];
    wanted.extend(removed.iter().map(|path| format!("DELETE {path}")));
    wanted.sort();
    let told = eventually("every change is told", || async {
        let told = entries(&tenant, "credential_change").await;
        (told.len() >= wanted.len()).then_some(told)
    })
    .await;
    let mut actions: Vec<&str> = told.iter().filter_map(|entry| entry["action"].as_str()).collect();
    actions.sort_unstable();
    assert_eq!(actions, wanted);
    assert!(told.iter().all(|entry| entry["actor"].as_str().is_some_and(|actor| actor.starts_with("user:"))));
    assert!(!json!(told).to_string().contains(secret));
}
