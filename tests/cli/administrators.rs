//! First administrators from the command line: of the platform and of tenants, with passwords that nobody sees.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use nix::pty::openpty;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{command, run};
use crate::support::product::{PASSWORD, send};
use crate::support::{Product, folder, unique};

/// A password in a file.
fn password(text: &str) -> (TempDir, PathBuf) {
    let folder = folder();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{text}\n")).expect("it can be written");
    (folder, file)
}

fn annals(arguments: &[&str]) -> Output {
    run(&[&["--config", &Product::shared().annals.settings()], arguments].concat())
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", errors(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn login(tenant: &str, email: &str, password: &str) -> (StatusCode, Value) {
    let body = json!({"email": email, "password": password});
    let request = Product::shared().request(Method::POST, "/v1/auth/login");
    send(request.header("X-Tenant-ID", tenant).json(&body)).await
}

#[tokio::test]
async fn an_operator_of_the_platform_is_created_once_and_creates_tenants() {
    let (_folder, file) = password(PASSWORD);
    let file = file.to_str().expect("a plain path");
    let email = format!("{}@platform.example", unique("operator"));
    let create = ["admin", "create", "--email", &email, "--password-file", file, "--output", "json"];
    let created = json_of(&annals(&create));
    assert_eq!((&created["tenant"], &created["roles"]), (&json!("platform"), &json!("platform_admin")));
    let again = annals(&create);
    assert_eq!(again.status.code(), Some(5), "{}", errors(&again));
    assert!(errors(&again).contains("taken"), "{}", errors(&again));

    let (status, answer) = login("platform", &email, PASSWORD).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user"]["id"], created["id"]);
    let body = json!({"slug": unique("by-operator"), "name": "Acme", "tier": "free"});
    let token = answer["access_token"].as_str().expect("a token");
    let request = Product::shared().request(Method::POST, "/v1/tenants").bearer_auth(token).json(&body);
    assert_eq!(send(request).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_tenant_gets_its_first_administrator_who_adds_users() {
    let (_folder, file) = password(PASSWORD);
    let file = file.to_str().expect("a plain path");
    let slug = unique("first");
    let email = format!("admin@{slug}.example");
    let created = annals(&["tenant", "create", &slug, "--admin", &email, "--password-file", file]);
    assert!(created.status.success(), "{}", errors(&created));

    let (status, answer) = login(&slug, &email, PASSWORD).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user"]["roles"], json!(["tenant_admin"]));
    let token = answer["access_token"].as_str().expect("a token");
    let body = json!({"email": format!("ada@{slug}.example"), "password": PASSWORD, "name": "Ada", "roles": ["member"]});
    let request = Product::shared().request(Method::POST, "/v1/users").bearer_auth(token).json(&body);
    let (status, answer) = send(request).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");

    // A second administrator, and nobody's address in the log of what was done to the tenant.
    let second = format!("second@{slug}.example");
    let more = annals(&["admin", "create", "--tenant", &slug, "--email", &second, "--password-file", file]);
    assert!(more.status.success(), "{}", errors(&more));
    let request = Product::shared().request(Method::GET, "/v1/activities").bearer_auth(token);
    let (_, activities) = send(request).await;
    let activities = activities.to_string();
    assert!(activities.contains("admin create --tenant"), "{activities}");
    assert!(!activities.contains(&second), "{activities}");
}

/// Between the tenant and its administrator lies a commit, so a crash can leave the one without the other. What it leaves
/// is what `tenant create` without an administrator makes.
#[tokio::test]
async fn a_tenant_that_a_crash_left_without_its_administrator_is_completed_by_a_repeat() {
    let (_folder, file) = password(PASSWORD);
    let file = file.to_str().expect("a plain path");
    let slug = unique("crashed");
    let email = format!("admin@{slug}.example");
    assert!(annals(&["tenant", "create", &slug]).status.success());
    let whole = ["tenant", "create", &slug, "--admin", &email, "--password-file", file];
    let completed = annals(&whole);
    assert!(completed.status.success(), "{}", errors(&completed));
    assert_eq!(login(&slug, &email, PASSWORD).await.0, StatusCode::OK);

    let other = format!("other@{slug}.example");
    let other_admin = ["tenant", "create", &slug, "--admin", &other, "--password-file", file];
    for repeat in [&whole[..], &other_admin[..], &["tenant", "create", &slug, "--tier", "pro"][..]] {
        let output = annals(repeat);
        assert_eq!(output.status.code(), Some(5), "{}", errors(&output));
        assert!(errors(&output).contains("nothing was changed"), "{}", errors(&output));
    }
    let replay = annals(&["event", "replay", "--tenant", &slug, "--output", "jsonl"]);
    let history = String::from_utf8_lossy(&replay.stdout).into_owned();
    assert_eq!(history.matches("identity.user.registered.v1").count(), 1, "{history}");
    assert_eq!(login(&slug, &other, PASSWORD).await.0, StatusCode::UNAUTHORIZED);
}

#[test]
fn what_is_wrong_with_an_administrator_has_an_exit_code_of_its_own() {
    let (_good, good) = password(PASSWORD);
    let (_short, short) = password("short");
    let (_lines, lines) = password("two\nlines of text");
    let path = |path: &PathBuf| path.display().to_string();
    let (good, short, lines) = (path(&good), path(&short), path(&lines));
    let slug = unique("refused");
    for (code, arguments) in [
        (6, vec!["admin", "create", "--email", "a@b.example", "--password-file", &short]),
        (6, vec!["tenant", "create", &slug, "--admin", "a@b.example", "--password-file", &short]),
        (2, vec!["admin", "create", "--email", "a@b.example", "--password-file", &lines]),
        (2, vec!["admin", "create", "--email", "a@b.example", "--password-file", "/nowhere/password"]),
        (2, vec!["admin", "create", "--email", "no address", "--password-file", &good]),
        (2, vec!["admin", "create", "--email", "a@b.example", "--name", "", "--password-file", &good]),
        (2, vec!["admin", "create", "--password-file", &good]),
        (2, vec!["admin", "create", "--email", "a@b.example"]),
        (2, vec!["tenant", "create", &slug, "--password-file", &good]),
        (3, vec!["admin", "create", "--tenant", &slug, "--email", "a@b.example", "--password-file", &good]),
    ] {
        let output = annals(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", errors(&output));
    }
    let listed = annals(&["tenant", "ls", "--output", "jsonl"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains(&slug), "the tenant was not made");
}

#[tokio::test]
async fn a_password_comes_from_standard_input() {
    let email = format!("{}@platform.example", unique("piped"));
    let mut create = command();
    create.args(["--config", &Product::shared().annals.settings(), "admin", "create", "--email", &email]);
    let mut child = create
        .args(["--password-file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    writeln!(stdin, "{PASSWORD}").expect("it is read");
    drop(stdin);
    assert!(child.wait().expect("it is our child").success());
    assert_eq!(login("platform", &email, PASSWORD).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_person_at_a_terminal_types_the_password_twice_and_does_not_see_it() {
    let email = format!("{}@platform.example", unique("typed"));
    let terminal = openpty(None, None).expect("a terminal can be had");
    let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("another handle"));
    let mut create = command();
    create.args(["--config", &Product::shared().annals.settings(), "admin", "create", "--email", &email]);
    create.stdin(slave(&terminal.slave)).stdout(slave(&terminal.slave)).stderr(slave(&terminal.slave));
    let mut child = create.spawn().expect("the binary runs");
    drop((create, terminal.slave));

    let mut master = File::from(terminal.master);
    let mut shown = String::new();
    // A failure ends it as well. The end of the terminal would not: other tests' processes may have inherited it.
    let read_until = |text: &str, shown: &mut String, master: &mut File| {
        let mut bytes = [0; 1024];
        while !shown.contains(text) && !shown.contains("error: ") {
            match master.read(&mut bytes) {
                Ok(length) if length > 0 => shown.push_str(&String::from_utf8_lossy(&bytes[..length])),
                _ => break,
            }
        }
    };
    read_until("Password: ", &mut shown, &mut master);
    writeln!(master, "{PASSWORD}").expect("it is read");
    read_until("The same again: ", &mut shown, &mut master);
    writeln!(master, "{PASSWORD}").expect("it is read");
    read_until("platform_admin", &mut shown, &mut master);
    assert!(child.wait().expect("it is our child").success(), "{shown}");
    assert!(shown.contains(&email) && !shown.contains(PASSWORD), "{shown}");
    assert_eq!(login("platform", &email, PASSWORD).await.0, StatusCode::OK);
}
