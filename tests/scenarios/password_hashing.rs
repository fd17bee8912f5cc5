//! Passwords: a burst of one tenant waits for its turn, and costs another tenant next to nothing.

use std::sync::OnceLock;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::integration_site::Site;
use crate::support::product::{PASSWORD, Tenant, send};

/// A product that makes one hash at a time. A hash costs a tenth of what it does in production, so that a machine with other
/// work makes forty of them within the longest wait.
fn site() -> &'static Site {
    static SHARED: OnceLock<Site> = OnceLock::new();
    SHARED.get_or_init(|| {
        Site::start(&[
            ("ANNALS__IDENTITY__ARGON2_MEMORY_KIB", "4096"),
            ("ANNALS__IDENTITY__ARGON2_ITERATIONS", "1"),
            ("ANNALS__IDENTITY__ARGON2_THREADS", "1"),
            ("ANNALS__IDENTITY__ARGON2_MAX_QUEUED_PER_TENANT", "256"),
        ])
    })
}

async fn sign_in(tenant: &Tenant<'_>, email: &str, password: &str) -> StatusCode {
    let body = json!({"email": email, "password": password});
    send(tenant.anonymous(Method::POST, "/v1/auth/login").json(&body)).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_registrations_succeeds() {
    let tenant = site().product.tenant().await;
    let answers = join_all((0..24).map(|number| {
        let body =
            json!({"email": format!("user{number}@example.com"), "password": PASSWORD, "name": "User"});
        send(tenant.anonymous(Method::POST, "/v1/auth/register").json(&body))
    }))
    .await;
    for (status, answer) in answers {
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_sign_ins_of_one_tenant_fails_none_of_another() {
    let product = &site().product;
    let (flooded, other) = (product.tenant().await, product.tenant().await);
    other.register("ada@example.com", "Ada").await;
    let flood = join_all((0..40).map(|_| sign_in(&flooded, "nobody@example.com", "wrong password")));
    let mine = join_all((0..4).map(|_| sign_in(&other, "ada@example.com", PASSWORD)));
    let (flood, mine) = futures::join!(flood, mine);
    assert!(mine.iter().all(|status| *status == StatusCode::OK), "{mine:?}");
    assert!(flood.iter().all(|status| *status == StatusCode::UNAUTHORIZED), "{flood:?}");
}
