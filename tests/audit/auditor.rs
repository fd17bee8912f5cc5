//! An auditor's way: a token, the command line, a file, a key; and a verifier that this product's language did not write.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::process::run;
use crate::support::product::{Product, Tenant, send};
use crate::support::services::{ACCOUNT, OPENED, Service, customer_schema};
use crate::support::{eventually, folder, programs};

/// A tenant with a few events under a checkpoint, and its administrator's token in a file.
struct Case<'a> {
    tenant: Tenant<'a>,
    folder: tempfile::TempDir,
}

impl Case<'static> {
    async fn prepared() -> Self {
        let tenant = Product::shared().tenant().await;
        for number in 0..3 {
            tenant.register(&format!("user{number}@example.com"), "Ada").await;
        }
        let case = Self { tenant, folder: folder() };
        std::fs::write(case.path("token"), &case.tenant.token).expect("written");
        case.sealed().await;
        case
    }

    /// Waits until the newest checkpoint covers what is in the log by now.
    async fn sealed(&self) {
        let events = self.tenant.events().await.len() as u64;
        eventually("the log is sealed", || async {
            let (status, note) = send(self.tenant.admin(Method::GET, "/v1/audit/checkpoint")).await;
            let size: u64 = note.as_str()?.lines().nth(1)?.parse().ok()?;
            (status == StatusCode::OK && size >= events).then_some(())
        })
        .await;
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Standard output and exit code of a command of the auditor's, over the API.
    fn remote(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let (url, token) = (self.tenant.product.url(""), self.path("token"));
        let output = run(&[&["audit"], arguments, &["--url", &url, "--token-file", &token]].concat());
        (String::from_utf8(output.stdout).expect("text"), output.status.code())
    }

    fn verify(file: &str, key: &str, more: &[&str]) -> (Value, Option<i32>) {
        let output = run(&[&["audit", "verify", file, "--key", key, "--output", "json"], more].concat());
        (serde_json::from_slice(&output.stdout).expect("JSON"), output.status.code())
    }
}

fn python(file: &str, key: &str) -> (String, Option<i32>) {
    let verifier = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit-verify.py");
    let output = Command::new("python3").arg(verifier).args([file, key]).output().expect("python3 runs");
    (String::from_utf8(output.stdout).expect("text").trim().to_owned(), output.status.code())
}

/// The lines of a file.
type Lines = Vec<String>;
type Change = (&'static str, Box<dyn Fn(&mut Lines)>, Option<u64>);

/// Where the line stands that begins like this.
fn at(lines: &Lines, beginning: &str) -> usize {
    lines.iter().position(|line| line.starts_with(beginning)).unwrap_or_else(|| panic!("no {beginning}"))
}

fn event(position: u64) -> String {
    format!("{{\"position\":{position},")
}

fn schema(of: &str) -> String {
    format!("{{\"type\":\"{of}\"")
}

/// Sets a member of the line that begins like this.
fn set(beginning: &str, member: &'static str, value: Value) -> Box<dyn Fn(&mut Lines)> {
    let beginning = beginning.to_owned();
    Box::new(move |lines| {
        let at = at(lines, &beginning);
        let mut line: Value = serde_json::from_str(&lines[at]).expect("JSON");
        let (parent, name) = member.rsplit_once('/').expect("a pointer");
        line.pointer_mut(parent).expect("the member's place")[name] = value.clone();
        lines[at] = line.to_string();
    })
}

/// Ways to change a file, and the position that verifiers name.
fn corpus(size: u64) -> Vec<Change> {
    let nothing = || Value::from("e30=");
    let (registered, ours) = (schema("identity.user.registered.v1"), schema(OPENED));
    let insert = |before: String, line: &'static str| -> Box<dyn Fn(&mut Lines)> {
        Box::new(move |lines| lines.insert(at(lines, &before), line.to_owned()))
    };
    let copy = |of: String, before: String| -> Box<dyn Fn(&mut Lines)> {
        Box::new(move |lines| lines.insert(at(lines, &before), lines[at(lines, &of)].clone()))
    };
    let move_to = |of: String, before: String| -> Box<dyn Fn(&mut Lines)> {
        Box::new(move |lines| {
            let line = lines.remove(at(lines, &of));
            lines.insert(at(lines, &before), line);
        })
    };
    let keys = "{\"keys\":";
    vec![
        ("a payload", set(&event(3), "/payload/bytes", nothing()), Some(3)),
        ("metadata", set(&event(2), "/metadata/bytes", nothing()), Some(2)),
        ("an entry", set(&event(4), "/entry", nothing()), Some(4)),
        ("a missing event", Box::new(|l| drop(l.remove(at(l, &event(3))))), Some(3)),
        ("an event twice", copy(event(3), event(4)), Some(3)),
        (
            "swapped events",
            // The last ones, so that the schemas of both types stand before them.
            Box::new(move |l| {
                let (one, other) = (at(l, &event(size - 1)), at(l, &event(size)));
                l.swap(one, other);
                let number = |position: u64| format!("\"position\":{position},");
                l[one] = l[one].replacen(&number(size), &number(size - 1), 1);
                l[other] = l[other].replacen(&number(size - 1), &number(size), 1);
            }),
            Some(1),
        ),
        ("a file cut short", Box::new(|l| l.truncate(at(l, &event(4)))), None),
        (
            "a larger size",
            Box::new(move |l| l[0] = l[0].replacen(&format!("\\n{size}\\n"), "\\n9999\\n", 1)),
            None,
        ),
        ("a missing end", Box::new(|l| drop(l.pop())), None),
        ("a line of no kind", insert(event(2), "{\"colour\":\"red\"}"), None),
        ("a line that says why there are no more", insert(event(2), "{\"closed\":\"stopping\"}"), None),
        ("an event with more members", set(&event(2), "/colour", "red".into()), None),
        ("an end with more members", set("{\"events\":", "/colour", "red".into()), None),
        ("a part that is there and absent", set(&event(2), "/payload/absent", "withheld".into()), None),
        ("a schema twice", copy(registered.clone(), registered.clone()), None),
        ("a schema behind its events", move_to(registered.clone(), "{\"events\":".to_owned()), None),
        ("a schema of another type", set(&registered, "/type", "identity.user.x.v1".into()), None),
        ("a schema that is none", set(&registered, "/schema", 7.into()), None),
        ("a schema from nowhere", set(&registered, "/product", Value::Null), None),
        ("a schema from two places", set(&registered, "/registered_at", 1.into()), None),
        ("another registered schema", set(&ours, "/schema", json!({"type": "object"})), None),
        ("a schema registered elsewhere", set(&ours, "/registered_at", 1.into()), None),
        ("a schema registered nowhere", set(&ours, "/registered_at", 9_999.into()), None),
        ("keys that are none", set(keys, "/keys", nothing()), None),
        ("keys for nobody", set("{\"format\":", "/keys_to", Value::Null), None),
    ]
}

/// A new key pair of an auditor's; returns the public key.
fn keygen(file: &str) -> String {
    let output = run(&["audit", "keygen", "--out", file]);
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_verifies_with_nothing_but_a_file_and_a_key_in_two_languages() {
    let case = Case::prepared().await;
    let (key, code) = case.remote(&["key"]);
    assert_eq!(code, Some(0));
    let key = key.trim();
    let (checkpoint, _) = case.remote(&["checkpoint"]);
    std::fs::write(case.path("checkpoint"), &checkpoint).expect("written");
    let service = Service::loyalty(&case.tenant).await;
    assert_eq!(service.register(OPENED, customer_schema()).await.0, StatusCode::CREATED);
    let opened = json!({"events": [{"type": OPENED, "data": {"customer": "a"}}]});
    assert_eq!(service.append(&format!("{ACCOUNT}/one"), opened).await.0, StatusCode::CREATED);
    case.tenant.register("late@example.com", "Grace").await;
    case.sealed().await;
    let file = case.path("export");
    let to = keygen(&case.path("identity"));
    let arguments = ["export", "--since", &case.path("checkpoint"), "--keys-to", &to, "--out", &file];
    assert_eq!(case.remote(&arguments).1, Some(0));
    let (verdict, code) = Case::verify(&file, key, &["--since", &case.path("checkpoint"), "--schemas"]);
    assert_eq!((code, &verdict["verdict"]), (Some(0), &Value::from("verified")), "{verdict}");
    assert_eq!((&verdict["misfits"], &verdict["keys_to"]), (&json!(0), &json!(to)));
    let events = verdict["events"].as_u64().expect("a number");
    assert_eq!(python(&file, key), (format!("verified {events}"), Some(0)));

    // The corpus of changed files: both say the same of each.
    let lines: Lines = std::fs::read_to_string(&file).expect("reads").lines().map(str::to_owned).collect();
    let types: BTreeSet<&str> = lines.iter().filter_map(|line| line.strip_prefix("{\"type\":\"")).collect();
    assert_eq!(verdict["schemas"], json!(types.len()), "each type has its schema");
    for (what, change, position) in corpus(verdict["size"].as_u64().expect("a number")) {
        let mut lines = lines.clone();
        change(&mut lines);
        std::fs::write(case.path("changed"), lines.join("\n") + "\n").expect("written");
        let (verdict, code) = Case::verify(&case.path("changed"), key, &[]);
        assert_eq!((code, verdict["first_bad_position"].as_u64()), (Some(9), position), "{what}: {verdict}");
        let said = position.map_or("not verified".to_owned(), |position| position.to_string());
        assert_eq!(python(&case.path("changed"), key), (said, Some(9)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verifier_alone_says_what_the_product_says() {
    let case = Case::prepared().await;
    let (key, _) = case.remote(&["key"]);
    let (key, file, changed) = (key.trim(), case.path("export"), case.path("changed"));
    assert_eq!(case.remote(&["export", "--out", &file]).1, Some(0));
    let text = std::fs::read_to_string(&file).expect("reads");
    std::fs::write(&changed, text.replacen("\"position\":2,", "\"position\":3,", 1)).expect("written");
    let (nowhere, odd) = (case.path("nowhere"), case.path("odd"));
    std::fs::write(&odd, "no tiles").expect("written");
    for (arguments, code) in [
        (vec![&*file, "--key", key], 0),
        (vec![&file, "--key", key, "--schemas", "--output", "json"], 0),
        (vec![&changed, "--key", key], 9),
        (vec![&changed, "--key", key, "--earlier", &file, "--output", "jsonl"], 9),
        (vec![&nowhere, "--key", key], 1),
        (vec![&file, "--key", key, "--since", &nowhere], 2),
        (vec![&file, "--key", key, "--tiles", &odd], 2),
    ] {
        let product = run(&[&["audit", "verify"], arguments.as_slice()].concat());
        let alone = Command::new(programs::annals_verify()).args(&arguments).output().expect("runs");
        assert_eq!(product, alone, "{arguments:?}");
        assert_eq!(alone.status.code(), Some(code), "{arguments:?}");
    }
    let usage = Command::new(programs::annals_verify()).arg(&file).output().expect("runs");
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_ranges_verify_in_two_languages() {
    let case = Case::prepared().await;
    let (key, _) = case.remote(&["key"]);
    let stream = case.tenant.events().await[3]["subject"].as_str().expect("a stream").to_owned();
    for (what, arguments) in [
        ("a range", vec!["--from", "2", "--to", "5"]),
        ("a stream", vec!["--stream", &stream]),
        ("without payloads", vec!["--withhold", "identity.>"]),
    ] {
        let file = case.path("part");
        assert_eq!(
            case.remote(&[&["export", "--out", &file], arguments.as_slice()].concat()).1,
            Some(0),
            "{what}"
        );
        let (verdict, code) = Case::verify(&file, key.trim(), &[]);
        assert_eq!(code, Some(0), "{what}: {verdict}");
        assert_eq!(python(&file, key.trim()), (format!("verified {}", verdict["events"]), Some(0)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_for_those_who_may_and_bad_questions_have_clear_answers() {
    let case = Case::prepared().await;
    let member = case.tenant.login("user0@example.com").await;
    let paths = ["key", "checkpoint", "proofs/1", "consistency?from=1", "export"];
    for path in paths {
        let path = format!("/v1/audit/{path}");
        let as_member = case.tenant.product.request(Method::GET, &path).bearer_auth(&member);
        assert_eq!(send(as_member).await.0, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(
            send(case.tenant.anonymous(Method::GET, &path)).await.0,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
        assert_eq!(send(case.tenant.admin(Method::GET, &path)).await.0, StatusCode::OK, "{path}");
    }
    for (path, status) in [
        ("proofs/0", StatusCode::BAD_REQUEST),
        ("proofs/x", StatusCode::BAD_REQUEST),
        ("proofs/999999", StatusCode::NOT_FOUND),
        ("proofs/3?size=2", StatusCode::BAD_REQUEST),
        ("proofs/1?colour=red", StatusCode::BAD_REQUEST),
        ("consistency", StatusCode::BAD_REQUEST),
        ("consistency?from=0", StatusCode::BAD_REQUEST),
        ("consistency?from=3&to=2", StatusCode::BAD_REQUEST),
        ("proofs/1?size=999999", StatusCode::BAD_REQUEST),
        ("proofs/1?size=18446744073709551615", StatusCode::BAD_REQUEST),
        ("consistency?from=1&to=999999", StatusCode::BAD_REQUEST),
        ("consistency?from=999999", StatusCode::BAD_REQUEST),
        ("export?to=999999", StatusCode::BAD_REQUEST),
        ("export?from=999999", StatusCode::BAD_REQUEST),
        ("export?earlier=999999", StatusCode::BAD_REQUEST),
        ("export?from=5&to=2", StatusCode::BAD_REQUEST),
        ("export?stream=x", StatusCode::BAD_REQUEST),
        ("export?earlier=0", StatusCode::BAD_REQUEST),
        ("export?keys_to=age1x", StatusCode::BAD_REQUEST),
        ("export?withhold=a..b", StatusCode::BAD_REQUEST),
    ] {
        let (answered, body) = send(case.tenant.admin(Method::GET, &format!("/v1/audit/{path}"))).await;
        assert_eq!(answered, status, "{path}: {body}");
        assert!(body["code"].is_string(), "{path}: {body}");
    }
    let (_, code) = case.remote(&["prove", "999999"]);
    assert_eq!(code, Some(3));
    let (proof, code) = case.remote(&["prove", "2"]);
    let proof: Value = serde_json::from_str(&proof).expect("JSON");
    assert_eq!((code, &proof["position"]), (Some(0), &Value::from(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_shows_a_verified_period_and_what_was_refused_in_it() {
    let case = Case::prepared().await;
    let (key, _) = case.remote(&["key"]);
    let (_, users) = send(case.tenant.admin(Method::GET, "/v1/users")).await;
    let users = users["users"].as_array().expect("users");
    let user = users.iter().find(|user| user["email"] == "user0@example.com").expect("is listed");
    let roles = format!("/v1/users/{}/roles", user["id"].as_str().expect("an id"));
    let before = schemas::engine::clock::now().to_rfc3339();
    let auditor = serde_json::json!({"roles": ["auditor"]});
    assert_eq!(send(case.tenant.admin(Method::PUT, &roles).json(&auditor)).await.0, StatusCode::OK);
    let wrong = serde_json::json!({"email": "user0@example.com", "password": "not the password"});
    send(case.tenant.anonymous(Method::POST, "/v1/auth/login").json(&wrong)).await;
    let page = eventually("the refused login is in the report", || async {
        let path = case.path("report.html");
        let arguments =
            ["--key", key.trim(), "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
        let (_, code) = case.remote(&[&["report", "--out", &path], arguments.as_slice()].concat());
        assert_eq!(code, Some(0));
        let page = std::fs::read_to_string(path).expect("written");
        (page.contains("invalid_credentials") && page.contains("<td>auditor</td>")).then_some(page)
    })
    .await;
    for part in ["identity.user.registered.v1", "tenant_admin", "anonymous", "may sign in", key.trim()] {
        assert!(page.contains(part), "{part}");
    }
    // Rights are those of the period's end.
    let path = case.path("before.html");
    let arguments = ["--key", key.trim(), "--from", "2020-01-01T00:00:00Z", "--to", &before, "--out", &path];
    assert_eq!(case.remote(&[&["report"], arguments.as_slice()].concat()).1, Some(0));
    let page = std::fs::read_to_string(path).expect("written");
    assert!(page.contains("<td>member</td>") && !page.contains("<td>auditor</td>"));
    let (_, code) = case.remote(&[
        "report",
        "--key",
        key.trim(),
        "--from",
        "2030-01-01T00:00:00Z",
        "--to",
        "2020-01-01T00:00:00Z",
    ]);
    assert_eq!(code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_the_broker_get_the_signed_checkpoints() {
    let case = Case::prepared().await;
    let (key, _) = case.remote(&["key"]);
    let key: proofs::VerifierKey = key.trim().parse().expect("a key");
    let context = async_nats::jetstream::new(case.tenant.product.nats().await);
    let subject = format!("checkpoints.{}", case.tenant.slug);
    let head = case.tenant.events().await.len() as u64;
    eventually("the checkpoint of everything is published", || async {
        let stream = context.get_stream("CHECKPOINTS").await.ok()?;
        let note = stream.get_last_raw_message_by_subject(&subject).await.ok()?.payload;
        let note = String::from_utf8(note.to_vec()).expect("text");
        let checkpoint = proofs::Checkpoint::parse(key.verify(&note).expect("signed")).expect("a checkpoint");
        (checkpoint.size >= head).then_some(())
    })
    .await;
}
