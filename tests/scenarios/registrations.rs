//! The main job under load: many registrations at once, and the same with the process killed in the middle.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::process::send;
use crate::support::product::{PASSWORD, Tenant};
use crate::support::{Product, eventually, folder};
use crate::support::{checker, long};

const CLIENTS: usize = 64;

/// Each of these loads takes all that a machine has: one at a time, or each waits for what the other one uses.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// One registration that a client means to make, under its own idempotency key.
struct Wish {
    slug: String,
    email: String,
    key: Uuid,
}

fn wishes(tenants: &[String], count: usize) -> Vec<Wish> {
    (0..count)
        .map(|number| Wish {
            slug: tenants[number % tenants.len()].clone(),
            email: format!("user-{number}@example.com"),
            key: Uuid::from_u128(0x8000_0000_0000_0000_0000 + number as u128),
        })
        .collect()
}

/// Registers until the product acknowledges, honouring `Retry-After`; `None` when the product is gone.
async fn register(client: &Client, gateway: &str, wish: &Wish) -> Option<Value> {
    loop {
        let answer = client
            .post(format!("{gateway}/v1/auth/register"))
            .header("X-Tenant-ID", &wish.slug)
            .header("Idempotency-Key", wish.key.to_string())
            .json(&json!({"email": wish.email, "password": PASSWORD, "name": wish.email}))
            .send()
            .await
            .ok()?;
        let status = answer.status();
        let retry_after =
            answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body: Value = answer.json().await.ok()?;
        match (status, retry_after) {
            (StatusCode::CREATED, _) => return Some(body),
            (StatusCode::SERVICE_UNAVAILABLE, Some(seconds)) => {
                // The pause that the answer asks for; nothing is waited for here.
                tokio::time::interval_at(tokio::time::Instant::now() + Duration::from_secs(seconds), PAUSE)
                    .tick()
                    .await;
            }
            _ => panic!("{status}: {body}"),
        }
    }
}

const PAUSE: Duration = Duration::from_secs(1);

/// Tenant and address of each acknowledged registration, with the user's id.
type Acknowledged = Mutex<HashMap<(String, String), String>>;

/// All wishes by 64 clients at once.
async fn register_all(gateway: &str, wishes: &[Wish], acknowledged: &Acknowledged) {
    let next = AtomicUsize::new(0);
    let client = Client::new();
    join_all((0..CLIENTS).map(|_| async {
        while let Some(wish) = wishes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(answer) = register(&client, gateway, wish).await else { continue };
            let id = answer["user"]["id"].as_str().expect("an id").to_owned();
            let key = (wish.slug.clone(), wish.email.clone());
            let before = acknowledged.lock().expect("no client panicked").insert(key, id.clone());
            assert!(before.is_none_or(|before| before == id), "a repeat got another answer");
        }
    }))
    .await;
}

async fn assert_whole(tenants: &[Tenant<'_>], acknowledged: Acknowledged, users: usize) {
    let acknowledged = acknowledged.into_inner().expect("no client panicked");
    assert_eq!(acknowledged.len(), users);
    let mut found = 0;
    for tenant in tenants {
        let checked = checker::check(tenant).await;
        // The tenant's administrator is a user as well.
        found += checked.users.len() - 1;
        for ((_, email), id) in acknowledged.iter().filter(|((slug, _), _)| *slug == tenant.slug) {
            assert_eq!(checked.users.get(email), Some(id), "{email} was acknowledged");
        }
        assert!(checked.head > 0);
    }
    assert_eq!(found, users);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_registrations_by_64_clients_leave_everything_whole() {
    registrations_leave_everything_whole(500).await;
}

/// The same for long: each registration costs a password hash of some tens of milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn long_ten_thousand_registrations_by_64_clients_leave_everything_whole() {
    if !long::is_wanted() {
        return;
    }
    registrations_leave_everything_whole(10_000).await;
}

async fn registrations_leave_everything_whole(count: usize) {
    let _turn = TURN.lock().await;
    let product = Product::start(&["--ephemeral"]);
    let tenants = [product.tenant().await, product.tenant().await, product.tenant().await];
    let slugs = tenants.each_ref().map(|tenant| tenant.slug.clone());
    let wishes = wishes(&slugs, count);
    let acknowledged = Acknowledged::default();
    register_all(product.annals.text("gateway_url"), &wishes, &acknowledged).await;
    assert_whole(&tenants, acknowledged, count).await;
}

/// SIGKILL in the middle, twice, with a restart on the same data: what was acknowledged is there, and what was not is
/// repeated under its key and there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_loses_and_doubles_no_registration() {
    let _turn = TURN.lock().await;
    let data = folder();
    let data_dir = data.path().join("data").display().to_string();
    let mut product = Product::start(&["--data-dir", &data_dir]);
    let mut slugs = Vec::new();
    for _ in 0..3 {
        slugs.push(product.tenant().await.slug);
    }
    let wishes = wishes(&slugs, 300);
    let acknowledged = Acknowledged::default();
    for kill_at in [60, 140] {
        let killer = async {
            eventually("the load is under way", || async {
                (acknowledged.lock().expect("no client panicked").len() >= kill_at).then_some(())
            })
            .await;
            send(product.annals.pid(), Signal::SIGKILL);
        };
        tokio::join!(register_all(product.annals.text("gateway_url"), &wishes, &acknowledged), killer);
        drop(product);
        product = Product::start(&["--data-dir", &data_dir]);
    }
    register_all(product.annals.text("gateway_url"), &wishes, &acknowledged).await;
    let mut tenants = Vec::new();
    for slug in &slugs {
        let mut tenant = Tenant { product: &product, slug: slug.clone(), token: String::new() };
        tenant.token = tenant.login(&format!("admin@{slug}.example")).await;
        tenants.push(tenant);
    }
    assert_whole(&tenants, acknowledged, 300).await;
}
