//! `annals saga`: the instances of sagas, listed and shown.

use serde_json::Value;

use crate::support::eventually;
use crate::support::operator_site::Operated;
use crate::support::process::output_of;

const STEP: &str = "register_customer";

fn texts<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[name].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn instances_are_listed_by_page_and_shown_with_their_history() {
    let operated = Operated::start();
    let (one, other) = (operated.product.tenant().await, operated.product.tenant().await);
    let mut users = Vec::new();
    for name in ["ada", "bo", "cy"] {
        let user = one.register(&format!("{name}@sagas.example"), name).await;
        users.push(user["user"]["id"].as_str().expect("an id").to_owned());
    }
    other.register("di@sagas.example", "di").await;
    let ls =
        |arguments: &[&str]| operated.rows(&[&["saga", "ls", "--tenant", &one.slug], arguments].concat());
    eventually("they are done", || async { (ls(&["--state", "done"]).len() == 3).then_some(()) }).await;
    users.sort();
    let rows = ls(&[]);
    assert_eq!(texts(&rows, "instance"), users, "by id");
    assert!(
        rows.iter().all(|row| row["saga"] == "customer_onboarding" && row["tenant"] == one.slug.as_str())
    );
    assert!(
        rows.iter().all(|row| row["state"] == "done" && row["step"].is_null() && row["since"].is_string())
    );
    assert_eq!(ls(&["--state", "stopped"]), Vec::<Value>::new());
    let all = operated.rows(&["saga", "ls"]);
    assert!(all.len() >= 4 && all.iter().any(|row| row["tenant"] == other.slug.as_str()));

    let first = ls(&["--limit", "2"]);
    let after = format!("{}/customer_onboarding/{}", one.slug, users[1]);
    let second = ls(&["--limit", "2", "--after", &after]);
    assert_eq!([texts(&first, "instance"), texts(&second, "instance")].concat(), users);

    let shown = operated.rows(&["saga", "show", &users[0]]).remove(0);
    assert_eq!((shown["state"].as_str(), shown["tenant"].as_str()), (Some("done"), Some(one.slug.as_str())));
    let facts = shown["facts"].as_array().expect("facts");
    assert_eq!(
        texts(facts, "type"),
        ["saga.customer_onboarding.reacted.v1", "saga.customer_onboarding.step_completed.v1"]
    );
    assert!(facts.iter().all(|fact| fact["at"].is_string() && fact["position"].is_u64()));
    let steps = shown["steps"].as_array().expect("steps");
    assert_eq!((steps[0]["step"].as_str(), steps[0]["outcome"].as_str()), (Some(STEP), Some("completed")));
    assert_eq!(steps[0]["command"], "RegisterCustomer");
    stopped(&operated, &one).await;

    assert_eq!(operated.exit_code(&["saga", "show", "01234567-89ab-7def-8123-456789abcdef"]), Some(3));
    assert_eq!(operated.exit_code(&["saga", "show", "no-id"]), Some(2));
    assert_eq!(operated.exit_code(&["saga", "ls", "--tenant", "nobody-here"]), Some(3));
    assert_eq!(operated.exit_code(&["saga", "ls", "--state", "lost"]), Some(2));
    assert_eq!(operated.exit_code(&["saga", "ls", "--after", "nowhere"]), Some(2));
}

/// An instance whose step is refused to the last, told on the way there and afterwards.
async fn stopped(operated: &Operated, tenant: &crate::support::product::Tenant<'_>) {
    let database = operated.database().await;
    // Steps of this one are held up, so that it is seen at work.
    database
        .batch_execute(
            "create function hold() returns trigger language plpgsql as
                 $$ begin new.next_attempt_at = now() + interval '1 hour'; return new; end $$;
             create trigger hold before insert on saga_steps for each row execute function hold()",
        )
        .await
        .expect("the step is held up");
    let user =
        tenant.register("ed@sagas.example", "ed").await["user"]["id"].as_str().expect("an id").to_owned();
    let ls = |state: &str| operated.rows(&["saga", "ls", "--tenant", &tenant.slug, "--state", state]);
    let working = eventually("it is at work", || async { ls("working").pop() }).await;
    assert_eq!((working["instance"].as_str(), working["step"].as_str()), (Some(user.as_str()), Some(STEP)));
    assert!(working["next_due"].as_str() > working["since"].as_str());
    // What its row says cannot be done: a rename of nobody, at its last attempt.
    database
        .batch_execute(
            "update saga_steps set next_attempt_at = now(), attempts = 1000,
                 command = jsonb_set(command::jsonb, '{work}',
                     '{\"send\": {\"command\": {\"name\": \"RenameCustomer\",
                       \"id\": \"00000000-0000-7000-8000-000000000001\", \"command\": {\"name\": \"Nobody\"}}}}')::text",
        )
        .await
        .expect("spoils");
    let dead = eventually("it is refused to the last", || async { ls("stopped").pop() }).await;
    assert_eq!((dead["step"].as_str(), dead["next_due"].is_null()), (Some(STEP), true));
    let shown = operated.rows(&["saga", "show", &user, "--tenant", &tenant.slug]).remove(0);
    let step = &shown["steps"][0];
    assert_eq!((step["outcome"].as_str(), step["last_error"].as_str()), (Some("failed"), Some("NOT_FOUND")));
    let letters = shown["dead_letters"].as_array().expect("letters");
    assert_eq!((texts(letters, "step"), texts(letters, "status")), (vec![STEP], vec!["open"]));
    let text = output_of(&operated.arguments(&["saga", "show", &user]));
    for told in ["state     stopped", "step_failed.v1", "NOT_FOUND", "dead letters"] {
        assert!(text.contains(told), "{told}: {text}");
    }
}
