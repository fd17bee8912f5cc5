//! An auditor's way: a token, the command line, a file, a key; and a verifier that this product's language did not write.

use std::path::Path;
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::process::run;
use crate::support::product::{Product, Tenant, send};
use crate::support::{eventually, folder};

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
        let events = case.tenant.events().await.len() as u64;
        eventually("the log is sealed", || async {
            let (status, note) = send(case.tenant.admin(Method::GET, "/v1/audit/checkpoint")).await;
            let size: u64 = note.as_str()?.lines().nth(1)?.parse().ok()?;
            (status == StatusCode::OK && size >= events).then_some(())
        })
        .await;
        case
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

#[tokio::test(flavor = "multi_thread")]
async fn a_history_verifies_with_nothing_but_a_file_and_a_key_in_two_languages() {
    let case = Case::prepared().await;
    let (key, code) = case.remote(&["key"]);
    assert_eq!(code, Some(0));
    let key = key.trim();
    let (checkpoint, _) = case.remote(&["checkpoint"]);
    std::fs::write(case.path("checkpoint"), &checkpoint).expect("written");
    case.tenant.register("late@example.com", "Grace").await;
    let file = case.path("export");
    assert_eq!(case.remote(&["export", "--since", &case.path("checkpoint"), "--out", &file]).1, Some(0));
    let (verdict, code) = Case::verify(&file, key, &["--since", &case.path("checkpoint")]);
    assert_eq!((code, &verdict["verdict"]), (Some(0), &Value::from("verified")), "{verdict}");
    let events = verdict["events"].as_u64().expect("a number");
    assert_eq!(python(&file, key), (format!("verified {events}"), Some(0)));

    // The corpus of changed files: both say the same of each.
    let text = std::fs::read_to_string(&file).expect("reads");
    let lines: Vec<&str> = text.lines().collect();
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        change(&mut lines);
        lines.join("\n") + "\n"
    };
    let with = |line: &str, member: &str, value: Value| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        *line.pointer_mut(member).expect("the member") = value;
        line.to_string()
    };
    let nothing = Value::from("e30=");
    let corpus: [(&str, String, Option<u64>); 9] = [
        ("a payload", changed(&|l| l[3] = with(&l[3], "/payload/bytes", nothing.clone())), Some(3)),
        ("metadata", changed(&|l| l[2] = with(&l[2], "/metadata/bytes", nothing.clone())), Some(2)),
        ("an entry", changed(&|l| l[4] = with(&l[4], "/entry", nothing.clone())), Some(4)),
        ("a missing event", changed(&|l| drop(l.remove(3))), Some(3)),
        ("an event twice", changed(&|l| l.insert(3, l[3].clone())), Some(3)),
        (
            "swapped events",
            changed(&|l| {
                l.swap(2, 3);
                (l[2], l[3]) = (with(&l[2], "/position", 2.into()), with(&l[3], "/position", 3.into()));
            }),
            Some(1),
        ),
        ("a file cut short", changed(&|l| l.truncate(4)), None),
        ("a larger size", text.replacen(&format!("\\n{}\\n", verdict["size"]), "\\n9999\\n", 1), None),
        ("a missing end", changed(&|l| drop(l.pop())), None),
    ];
    for (what, text, position) in corpus {
        std::fs::write(case.path("changed"), text).expect("written");
        let (verdict, code) = Case::verify(&case.path("changed"), key, &[]);
        assert_eq!((code, verdict["first_bad_position"].as_u64()), (Some(9), position), "{what}: {verdict}");
        let said = position.map_or("not verified".to_owned(), |position| position.to_string());
        assert_eq!(python(&case.path("changed"), key), (said, Some(9)), "{what}");
    }
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
        ("consistency?from=1&to=999999", StatusCode::SERVICE_UNAVAILABLE),
        ("export?from=5&to=2", StatusCode::BAD_REQUEST),
        ("export?stream=x", StatusCode::BAD_REQUEST),
        ("export?earlier=0", StatusCode::BAD_REQUEST),
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
