//! The life of a credential over REST and the command line: issued, read with, rotated, set back, revoked.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::integrator::{Integrator, NOTHING_MORE, pull};
use crate::support::process::{output_of, run};
use crate::support::product::{Tenant, send};
use crate::support::{Product, eventually};

const PATH: &str = "/v1/integrations/credentials";

async fn create(tenant: &Tenant<'_>, body: Value) -> Integrator {
    let (status, answer) = send(tenant.admin(Method::POST, PATH).json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    Integrator::new(answer)
}

async fn refused(integrator: &Integrator) {
    let error = integrator.connect().await.expect_err("it is refused");
    assert!(error.to_string().contains("authorization"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_reads_resumes_and_replays() {
    let tenant = Product::shared().tenant().await;
    for name in ["ada", "bo", "cy"] {
        tenant.register(&format!("{name}@example.com"), name).await;
    }
    crate::support::checker::check(&tenant).await;
    let events = tenant.events().await;
    let head = events.len() as u64;

    let all = create(&tenant, json!({"name": "all"})).await;
    assert_eq!((all.text("stream"), all.text("api_prefix")), ("EVENTS", "JS.app.API"));
    assert_eq!(all.read(2).await, [1, 2]);
    assert_eq!(all.drain().await, (3..=head).collect::<Vec<_>>(), "it goes on after a reconnection");
    let late = create(&tenant, json!({"name": "late", "after": head - 1})).await;
    assert_eq!(late.drain().await, [head]);
    let typed = create(&tenant, json!({"name": "typed", "types": ["crm.>"]})).await;
    let crm: Vec<u64> = events
        .iter()
        .filter(|event| event["type"].as_str().is_some_and(|name| name.starts_with("crm.")))
        .map(|event| event["position"].as_str().expect("a text").parse().expect("a number"))
        .collect();
    assert_eq!(typed.drain().await, crm);

    let reset = |body: Value| send(tenant.admin(Method::POST, &format!("{PATH}/all/reset")).json(&body));
    let (status, answer) = reset(json!({"after": 3})).await;
    assert_eq!((status, &answer["acked_position"]), (StatusCode::OK, &json!(3)), "{answer}");
    assert_eq!(all.drain().await, (4..=head).collect::<Vec<_>>(), "replay by position");
    // Several events may have been recorded at the same microsecond.
    let time = &events[2]["time"];
    let first = events.iter().position(|event| event["time"] == *time).expect("it is there") as u64 + 1;
    assert_eq!(reset(json!({"time": time})).await.0, StatusCode::OK);
    assert_eq!(all.drain().await, (first..=head).collect::<Vec<_>>(), "replay by time");
    assert_eq!(reset(json!({"after": head + 1_000})).await.1["errors"][0]["code"], "beyond_head");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_in_the_middle_of_a_pull_holds_nothing_back() {
    let tenant = Product::shared().tenant().await;
    crate::support::checker::check(&tenant).await;
    let erp = create(&tenant, json!({"name": "erp"})).await;
    let mut positions = erp.drain().await;
    let client = erp.connect().await.expect("it connects");
    let consumer = erp.consumer(&client).await;
    let pull = consumer.fetch().max_messages(5).expires(Duration::from_secs(20)).messages();
    let waiting = pull.await.expect("it pulls");
    eventually("the pull waits", || async {
        (consumer.get_info().await.ok()?.num_waiting == 1).then_some(())
    })
    .await;
    drop((waiting, consumer, client));
    tenant.register("ada@example.com", "Ada").await;
    crate::support::checker::check(&tenant).await;
    let head = tenant.events().await.len();
    positions.extend(erp.read(head - positions.len()).await);
    assert_eq!(positions, (1..=head as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_ends_the_old_file_and_a_revocation_all_of_them() {
    let tenant = Product::shared().tenant().await;
    tenant.register("ada@example.com", "Ada").await;
    let old = create(&tenant, json!({"name": "erp"})).await;
    assert_eq!(old.read(1).await, [1]);
    let cut = old.connect().await.expect("it connects");
    let rotate = |body: Value| send(tenant.admin(Method::POST, &format!("{PATH}/erp/rotate")).json(&body));
    let (status, answer) = rotate(json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let new = Integrator::new(answer);
    assert_eq!(new.text("consumer"), old.text("consumer"));
    assert_ne!(new.text("inbox_prefix"), old.text("inbox_prefix"));
    eventually("the live connection is cut", || async { is_down(&cut).then_some(()) }).await;
    refused(&old).await;
    assert_eq!(new.read(1).await, [2], "the place stays");

    let (_, answer) = rotate(json!({"overlap_hours": 1})).await;
    let newest = Integrator::new(answer);
    let (both, _) =
        (new.connect().await.expect("good for an hour more"), newest.connect().await.expect("good"));
    let (status, _) = send(tenant.admin(Method::DELETE, &format!("{PATH}/erp"))).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    eventually("the live connection is cut", || async { is_down(&both).then_some(()) }).await;
    refused(&new).await;
    refused(&newest).await;
    assert_eq!(send(tenant.admin(Method::GET, &format!("{PATH}/erp"))).await.0, StatusCode::NOT_FOUND);
    // The name is free, and who has it now reads with another consumer.
    let again = create(&tenant, json!({"name": "erp"})).await;
    assert_ne!(again.text("consumer"), old.text("consumer"));
    assert_eq!(again.read(1).await, [1]);
    refused(&newest).await;
}

fn is_down(client: &async_nats::Client) -> bool {
    client.connection_state() != async_nats::connection::State::Connected
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer() {
    let tenant = Product::shared().tenant().await;
    let key = "0198c0de-0000-7000-8000-00000000c4ed";
    let post = |path: &str, body: Value| {
        send(tenant.admin(Method::POST, path).header("Idempotency-Key", key).json(&body))
    };
    let (status, first) = post(PATH, json!({"name": "erp"})).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    assert_eq!(post(PATH, json!({"name": "erp"})).await, (StatusCode::CREATED, first));
    let (status, problem) = post(PATH, json!({"name": "other"})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("command_id_reused")));
    let (status, problem) = post(&format!("{PATH}/erp/reset"), json!({"after": 0})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("command_id_reused")));
    let (status, problem) = send(tenant.admin(Method::POST, PATH).json(&json!({"name": "erp"}))).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("name_taken")));

    let key = "0198c0de-0000-7000-8000-00000000de1e";
    for _ in 0..2 {
        let delete = tenant.admin(Method::DELETE, &format!("{PATH}/erp")).header("Idempotency-Key", key);
        assert_eq!(send(delete).await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(send(tenant.admin(Method::DELETE, &format!("{PATH}/erp"))).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_see_their_tenants_credentials_and_wrong_ones_are_refused() {
    let product = Product::shared();
    let (tenant, other) = (product.tenant().await, product.tenant().await);
    for (body, field, code) in [
        (json!({}), "name", "required"),
        (json!({"name": "Erp.*"}), "name", "name_invalid"),
        (json!({"name": "erp", "types": ["crm.>", "crm.customer.>"]}), "types", "types_overlap"),
        (json!({"name": "erp", "after": 1_000_000}), "after", "beyond_head"),
    ] {
        let (status, problem) = send(tenant.admin(Method::POST, PATH).json(&body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert_eq!(
            (&problem["errors"][0]["field"], &problem["errors"][0]["code"]),
            (&json!(field), &json!(code))
        );
    }
    for name in ["a", "b", "c"] {
        create(&tenant, json!({"name": name})).await;
    }
    let list =
        |tenant: &Tenant<'static>, query: &str| send(tenant.admin(Method::GET, &format!("{PATH}{query}")));
    let (_, page) = list(&tenant, "?limit=2").await;
    assert_eq!((&page["credentials"][1]["name"], &page["next_after"]), (&json!("b"), &json!("b")), "{page}");
    let (_, page) = list(&tenant, "?limit=2&after=b").await;
    assert_eq!((&page["credentials"][0]["name"], &page["next_after"]), (&json!("c"), &Value::Null), "{page}");
    assert!(!page.to_string().contains("SEED"));
    assert_eq!(list(&other, "").await.1["credentials"], json!([]));
    assert_eq!(send(other.admin(Method::DELETE, &format!("{PATH}/a"))).await.0, StatusCode::NOT_FOUND);

    tenant.register("member@example.com", "Member").await;
    let token = tenant.login("member@example.com").await;
    let (status, problem) = send(product.request(Method::GET, PATH).bearer_auth(token)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    assert_eq!(send(product.request(Method::GET, PATH)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_the_same() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let settings = product.annals.settings();
    let verb = |verb: &'static str, more: &[&str]| -> Vec<String> {
        ["--config", &settings, "credential", verb, "--tenant", &tenant.slug]
            .iter()
            .chain(more)
            .map(ToString::to_string)
            .collect()
    };
    let output =
        |arguments: Vec<String>| output_of(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let exit =
        |arguments: Vec<String>| run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).status.code();
    let created =
        output(verb("create", &["--name", "erp", "--types", "identity.>,crm.>", "--output", "json"]));
    let issued = Integrator::new(serde_json::from_str(&created).expect("JSON"));
    let client = issued.connect().await.expect("it connects");
    assert_eq!(pull(&issued.consumer(&client).await, 1, NOTHING_MORE).await.len(), 1);
    let file = output(verb("rotate", &["--name", "erp", "--expires", "7"]));
    assert!(file.starts_with("-----BEGIN NATS USER JWT-----") && file.contains("SEED"), "the file alone");
    let listed = output(verb("ls", &["--output", "jsonl"]));
    assert!(listed.lines().count() == 1 && listed.contains("identity.>,crm.>"), "{listed}");
    output(verb("reset", &["--name", "erp", "--after", "0"]));
    output(verb("revoke", &["--name", "erp"]));
    assert_eq!(exit(verb("revoke", &["--name", "erp"])), Some(3));
    assert_eq!(exit(verb("create", &["--name", "Not A Name"])), Some(6));
    assert_eq!(exit(verb("create", &["--name", "erp", "--expires", "91"])), Some(2));
}

#[test]
fn setup_makes_what_a_server_and_the_product_need_and_keeps_it() {
    let folder = crate::support::folder();
    let path = folder.path().to_str().expect("a plain path");
    output_of(&["credential", "setup", path]);
    let settings = folder.path().join("annals.toml");
    let before = std::fs::read_to_string(&settings).expect("it was written");
    output_of(&["credential", "setup", path]);
    assert_eq!(std::fs::read_to_string(&settings).expect("it is there"), before, "keys are kept");
    let checked = std::process::Command::new(crate::support::programs::nats_server())
        .arg("-t")
        .arg("-c")
        .arg(folder.path().join("nats-server.conf"))
        .output()
        .expect("nats-server runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let settings = settings.to_str().expect("a plain path");
    let check = run(&["--config", settings, "config", "check", "--output", "jsonl"]);
    assert!(!String::from_utf8_lossy(&check.stdout).contains("nats."), "nothing is wrong with [nats]");
}
