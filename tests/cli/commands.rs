//! The other commands against a running product: what they print and how they exit.

use serde_json::Value;

use crate::support::process::{output_of, run};
use crate::support::{Product, unique};

/// The arguments with the settings of the running product in front.
fn with_settings<'a>(settings: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--config", settings], arguments].concat()
}

fn exit_code(settings: &str, arguments: &[&str]) -> Option<i32> {
    run(&with_settings(settings, arguments)).status.code()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[test]
fn the_settings_that_dev_writes_serve_the_other_commands() {
    let settings = Product::shared().annals.settings();
    let doctor = output_of(&with_settings(&settings, &["doctor", "--output", "jsonl"]));
    let checks = json_lines(&doctor);
    let names: Vec<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(names, ["configuration", "keys", "postgresql", "schema", "connections", "nats"]);
    assert!(checks.iter().all(|check| check["ok"] == true), "{doctor}");
    assert_eq!(exit_code(&settings, &["config", "check"]), Some(0));
    assert_eq!(exit_code(&settings, &["migrate"]), Some(0), "migrating again changes nothing");
}

#[test]
fn a_tenant_is_created_once_and_listed() {
    let settings = Product::shared().annals.settings();
    let slug = unique("cli");
    let create = with_settings(&settings, &["tenant", "create", &slug, "--tier", "pro", "--output", "json"]);
    let created: Value = serde_json::from_str(&output_of(&create)).expect("JSON");
    assert_eq!((&created["slug"], &created["tier"]), (&Value::from(slug.as_str()), &Value::from("pro")));
    assert_eq!(exit_code(&settings, &["tenant", "create", &slug]), Some(5), "the slug is taken");
    let listed = json_lines(&output_of(&with_settings(&settings, &["tenant", "ls", "--output", "jsonl"])));
    assert_eq!(listed.iter().filter(|tenant| tenant["slug"] == slug.as_str()).count(), 1);
}

#[test]
fn wrong_input_and_missing_things_have_exit_codes_of_their_own() {
    let settings = Product::shared().annals.settings();
    assert_eq!(exit_code(&settings, &["tenant", "create", "Not A Slug"]), Some(2));
    assert_eq!(exit_code(&settings, &["event", "replay", "--tenant", "nobody-here"]), Some(3));
    let letter = "01234567-89ab-7def-8123-456789abcdef";
    assert_eq!(exit_code(&settings, &["deadletter", "retry", letter]), Some(3));
    assert_eq!(run(&["--config", "/nowhere/annals.toml", "tenant", "ls"]).status.code(), Some(2));
    assert_eq!(
        run(&["--config", "/dev/null", "config", "check"]).status.code(),
        Some(9),
        "secrets are missing"
    );
}

#[test]
fn every_missing_setting_is_named_with_what_makes_it() {
    let missing = |roles: &str| -> Vec<String> {
        let output =
            run(&["--config", "/dev/null", "config", "check", "--roles", roles, "--output", "jsonl"]);
        assert_eq!(output.status.code(), Some(9));
        let problems = json_lines(&String::from_utf8_lossy(&output.stdout));
        problems.iter().map(|it| it["problem"].as_str().expect("a text").to_owned()).collect()
    };
    let all = missing("gateway,relay,projections,sagas,sealer,webhooks");
    for (key, remedy) in [
        ("database.runtime_password", "annals init"),
        ("secrets.deployment_key", "annals init"),
        ("identity.signing_key", "annals init"),
        ("privacy.keys_folder", "a folder"),
        ("privacy.root_key", "annals init"),
        ("audit.signing_key", "annals init"),
        ("audit.state_folder", "a folder"),
    ] {
        let named = all.iter().find(|problem| problem.contains(&format!("`{key}` is not set")));
        assert!(named.is_some_and(|problem| problem.contains(remedy)), "{key}: {all:?}");
    }
    let doctor = run(&["--config", "/dev/null", "doctor", "--output", "jsonl"]);
    assert_eq!(doctor.status.code(), Some(9));
    let checks = json_lines(&String::from_utf8_lossy(&doctor.stdout));
    let told: Vec<&str> = checks.iter().filter_map(|check| check["detail"].as_str()).collect();
    assert!(all.iter().all(|problem| told.contains(&problem.as_str())), "{told:?}");
    for key in ["identity", "privacy", "audit"] {
        assert!(
            !missing("relay").iter().any(|problem| problem.contains(key)),
            "the role relay needs no {key}"
        );
    }
}

#[tokio::test]
async fn a_replay_prints_the_log_from_position_to_position() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    for name in ["ada", "bo", "cy"] {
        tenant.register(&format!("{name}@replay.example"), name).await;
    }
    let settings = product.annals.settings();
    let replay = |more: &[&str]| {
        let arguments = [&["event", "replay", "--tenant", &tenant.slug, "--output", "jsonl"], more].concat();
        json_lines(&output_of(&with_settings(&settings, &arguments)))
    };
    let part = replay(&["--from", "2", "--to", "3"]);
    let positions: Vec<&str> = part.iter().filter_map(|event| event["position"].as_str()).collect();
    assert_eq!(positions, ["2", "3"]);
    assert_eq!(part[0]["specversion"], "1.0");
    assert_eq!(part[0]["tenantid"], tenant.slug.as_str());

    let first = replay(&["--to", "1"]);
    let time = first[0]["time"].as_str().expect("every event has a time");
    assert_eq!(replay(&["--as-of", time]).len(), 1, "nothing that was recorded later");
}

#[test]
fn lag_is_readable_for_every_read_model() {
    let settings = Product::shared().annals.settings();
    let rows = json_lines(&output_of(&with_settings(&settings, &["projection", "ls", "--output", "jsonl"])));
    for projection in projections::checkpoints() {
        let of_demo = rows.iter().find(|row| row["projection"] == *projection && row["tenant"] == "demo");
        let row = of_demo.unwrap_or_else(|| panic!("no row for {projection}"));
        assert_eq!(
            row["head"].as_u64(),
            Some(row["position"].as_u64().unwrap_or(0) + row["lag"].as_u64().unwrap_or(0))
        );
    }
}
