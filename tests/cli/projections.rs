//! `annals projection`: pausing, going on, rebuilding, cancelling.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::support::eventually;
use crate::support::operator_site::Operated;
use crate::support::process::{command, send};

#[tokio::test]
async fn read_models_are_paused_resumed_and_rebuilt_by_command() {
    let operated = Operated::start();
    let (one, other) = (operated.product.tenant().await, operated.product.tenant().await);
    for tenant in [&one, &other] {
        for name in ["ada", "bo"] {
            tenant.register(&format!("{name}@operators.example"), name).await;
        }
        operated.settled(&tenant.slug, "live").await;
    }

    for _ in 0..2 {
        let rows = operated.rows(&["projection", "pause", "customers", "--tenant", &one.slug]);
        assert_eq!((rows.len(), &rows[0]["state"]), (1, &"paused".into()));
    }
    assert_eq!(operated.read_model(&other.slug)["state"], "live");
    operated.rows(&["projection", "pause", "customers.v2"]);
    assert_eq!(operated.read_model(&other.slug)["state"], "paused");
    let resume_one = ["projection", "resume", "customers", "--tenant", &one.slug];
    assert_eq!(operated.exit_code(&resume_one), Some(5), "all are paused");
    operated.rows(&["projection", "resume", "customers"]);
    operated.settled(&one.slug, "live").await;
    operated.settled(&other.slug, "live").await;

    for (generation, tenant) in [(1, Some(&one.slug)), (2, None)] {
        let mut arguments = vec!["projection", "rebuild", "customers"];
        arguments.extend(tenant.into_iter().flat_map(|slug| ["--tenant", slug]));
        let rows = operated.rows(&arguments);
        assert!(rows.iter().all(|row| row["outcome"] == "switched" && row["differences"] == 0), "{rows:?}");
        let row = rows.iter().find(|row| row["tenant"] == one.slug.as_str()).expect("is told");
        assert_eq!((row["generation"].as_u64(), row["compared"].as_bool()), (Some(generation), Some(true)));
        assert_eq!(rows.len() > 1, tenant.is_none());
    }
    let shown = one
        .graphql("{ customers(first: 5, orderBy: NAME_ASC) { nodes { name } } }", serde_json::Value::Null)
        .await;
    let names: Vec<_> = shown["customers"]["nodes"].as_array().expect("rows").iter().collect();
    assert_eq!(names.len(), 2, "{shown}");
    one.register("cy@operators.example", "cy").await;
    operated.settled(&one.slug, "live").await;

    for unknown in ["nothing", "invoices", "invoices.v1", "customers.v9", "users.", ""] {
        for verb in ["rebuild", "pause", "resume"] {
            assert_eq!(operated.exit_code(&["projection", verb, unknown]), Some(3), "{verb} {unknown}");
        }
        for arguments in [["replay", "--at", "1"], ["diff", "--from", "0"]] {
            let arguments =
                ["projection", arguments[0], unknown, "--tenant", &one.slug, arguments[1], arguments[2]];
            assert_eq!(operated.exit_code(&arguments), Some(3), "{arguments:?}");
        }
    }
    let beyond = ["projection", "replay", "customers", "--tenant", &one.slug, "--at", "999999"];
    assert_eq!(operated.exit_code(&beyond), Some(6), "the log has no such position");
    assert_eq!(operated.exit_code(&["projection", "pause", "users", "--tenant", "nobody-here"]), Some(3));
    differences_and_cancellation(&operated, &one.slug).await;
}

async fn differences_and_cancellation(operated: &Operated, tenant: &str) {
    let mut database = operated.database().await;
    let id: String = database
        .query_one(
            "update customers_v2 set name = 'Wrong' where tenant_id = (select tenant_id from tenants where slug = $1)
             and name = 'cy' returning id::text",
            &[&tenant],
        )
        .await
        .expect("spoils")
        .get(0);
    let rebuild = ["projection", "rebuild", "customers", "--tenant", tenant];
    let refused = command().args(operated.arguments(&rebuild)).output().expect("the binary runs");
    assert_eq!(refused.status.code(), Some(9), "differences are problems found");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains(&id) && told.contains("changed name") && !told.contains("Wrong"), "{told}");

    // Held up in its first statement, it hears the signal there and takes back what comes of it.
    let lock = database.transaction().await.expect("a transaction");
    lock.batch_execute("lock table read_models in exclusive mode").await.expect("locks");
    let mut child = command()
        .args(operated.arguments(&rebuild))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let waits = "select count(*) from pg_locks where relation = 'read_models'::regclass and not granted";
    eventually("the rebuild waits", || async {
        (lock.query_one(waits, &[]).await.expect("counts").get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    send(child.id(), Signal::SIGINT);
    let mut told = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    assert!(told.any(|line| line.expect("text").starts_with("cancelling")));
    lock.rollback().await.expect("unlocks");
    assert!(told.all(|line| line.is_ok()));
    assert_eq!(child.wait().expect("it is our child").code(), Some(1));
    assert_eq!(operated.read_model(tenant)["state"], "live");

    let forced = operated.rows(&[&rebuild[..], &["--force"]].concat());
    assert_eq!(
        (forced[0]["outcome"].as_str(), forced[0]["differences"].as_u64()),
        (Some("switched"), Some(1))
    );
    assert_eq!(operated.exit_code(&rebuild), Some(0), "now it is a fold of the log");
}
