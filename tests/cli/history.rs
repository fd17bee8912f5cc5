//! `annals event` and `annals projection` on the past: the rows that serve against the log, a log that is replaced under a
//! follower's eyes, and what is asked under its old id.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::operator_site::Operated;
use crate::support::process::command;
use crate::support::product::Tenant;

const CUSTOMERS: &str = "{ customers(first: 10, orderBy: NAME_ASC) { nodes { id name } } }";
const AS_OF: &str = "query ($id: ID!, $asOf: AsOf) { customer(id: $id, asOf: $asOf) { name version } }";

/// The customers, once there are so many.
async fn customers(tenant: &Tenant<'_>, count: usize) -> Value {
    eventually("the customers are shown", || async {
        let shown = tenant.graphql(CUSTOMERS, Value::Null).await["customers"]["nodes"].clone();
        shown.as_array().is_some_and(|rows| rows.len() == count).then_some(shown)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_log_is_told_to_whoever_looks_back_or_follows() {
    let operated = Operated::start();
    let tenant = operated.product.tenant().await;
    for name in ["ada", "bo"] {
        tenant.register(&format!("{name}@operators.example"), name).await;
    }
    let shown = customers(&tenant, 2).await;
    operated.settled(&tenant.slug, "live").await;
    let folder = crate::support::folder();
    let token = folder.path().join("token").display().to_string();
    std::fs::write(&token, &tenant.token).expect("written");
    let url = operated.product.url("");
    let remote = ["--url", &url, "--token-file", &token];
    let local = ["--tenant", &tenant.slug];

    // What serves is the log's fold, until somebody else writes there.
    let compare = [&["projection", "diff", "customers", "--serving"][..], &local].concat();
    assert_eq!(operated.rows(&compare), Vec::<Value>::new());
    let database = operated.database().await;
    let forge = "update customers_v2 set name = 'Forged' where name = 'bo' and tenant_id =
                 (select tenant_id from tenants where slug = $1)";
    assert_eq!(database.execute(forge, &[&tenant.slug]).await.expect("forges"), 1);
    assert_eq!(operated.exit_code(&compare), Some(9));
    let heal = "update customers_v2 set name = 'bo' where name = 'Forged'";
    assert_eq!(database.execute(heal, &[]).await.expect("heals"), 1);
    assert_eq!(operated.exit_code(&compare), Some(0));

    let events = tenant.events().await;
    let (head, log) = (events.len().to_string(), events[0]["logid"].as_str().expect("a log").to_owned());
    let mut follower = command()
        .args(
            [&["event", "tail", "--type", "crm.>"][..], &["--after", "0", "--output", "jsonl"], &remote]
                .concat(),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut followed = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
    let crm =
        events.iter().filter(|event| event["type"].as_str().is_some_and(|name| name.starts_with("crm.")));
    for event in crm {
        let line = followed.next().expect("it goes on").expect("text");
        assert_eq!(&serde_json::from_str::<Value>(&line).expect("JSON"), event);
    }
    tenant.register("cy@operators.example", "cy").await;
    let line = followed.next().expect("it goes on").expect("text");
    assert!(line.contains("crm.customer.registered.v1") && line.contains("cy@operators.example"), "{line}");
    operated.settled(&tenant.slug, "live").await;
    let kept = operated.rows(&[&["projection", "replay", "customers", "--at", &head][..], &local].concat());

    operated.rows(&[&["log", "replace", "--reason", "a test"][..], &local].concat());
    assert_eq!(follower.wait().expect("it is our child").code(), Some(3), "the log was replaced");
    assert!(followed.all(|line| !line.expect("text").contains("platform.log")));

    for way in [&remote[..], &local] {
        for question in [
            &["event", "replay"][..],
            &["projection", "replay", "customers", "--at", &head],
            &["projection", "diff", "customers", "--from", "1"],
        ] {
            let named = [question, way, &["--log", &log]].concat();
            assert_eq!(operated.exit_code(&named), Some(3), "{named:?}");
            let unnamed = [question, way].concat();
            assert_eq!(operated.exit_code(&unnamed), Some(0), "{unnamed:?}");
        }
        // Positions that the new log has kept mean what they meant.
        let question = ["projection", "replay", "customers", "--at", &head];
        assert_eq!(operated.rows(&[&question[..], way].concat()), kept);
    }
    let id = &shown[0]["id"];
    let as_of = tenant.graphql(AS_OF, json!({"id": id, "asOf": {"position": head}})).await;
    assert_eq!(as_of["customer"], json!({"name": "ada", "version": "1"}));
}
