//! `annals init`: what it makes, and what it never touches.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::unistd::{User, geteuid};
use serde_json::Value;

use crate::support::folder;
use crate::support::process::{PROGRAM, command_of, run};

fn init(folder: &Path, more: &[&str]) -> Output {
    let folder = folder.to_str().expect("a plain path");
    run(&[&["init", "--dir", folder, "--output", "jsonl"], more].concat())
}

fn rows(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file below a folder with its contents and the time of its last change.
fn contents(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.append(&mut contents(&path));
        } else {
            let metadata = path.metadata().expect("it is there");
            let bytes = std::fs::read(&path).expect("it reads");
            found.insert(path, (bytes, metadata.mtime(), metadata.mtime_nsec()));
        }
    }
    found
}

#[test]
fn keys_and_settings_are_made_once_for_this_user_alone() {
    let parent = folder();
    let path = parent.path().join("deployment");
    let first = init(&path, &["--host", "api.example.com"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let made = rows(&first);
    assert!(made.iter().all(|row| row["state"] == "made"), "{made:?}");
    for row in &made {
        let file = Path::new(row["file"].as_str().expect("a path"));
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!(
            (mode(file), mode(file.parent().expect("a folder"))),
            (0o600, 0o700),
            "{}",
            file.display()
        );
    }
    let secrets: Vec<String> = contents(&path.join("secrets")).into_values().map(|it| text(&it.0)).collect();
    let printed = text(&first.stdout) + &text(&first.stderr);
    assert!(secrets.iter().all(|secret| !printed.contains(secret.trim())), "no secret is printed");
    let settings = std::fs::read_to_string(path.join("annals.toml")).expect("the settings");
    assert!(secrets.iter().all(|secret| !settings.contains(secret.trim())), "no secret is in the settings");
    for step in
        ["create-database.sql", "nats-server.conf", "migrate", "admin create", "tenant create", "serve"]
    {
        assert!(text(&first.stderr).contains(step), "{step}: {}", text(&first.stderr));
    }

    let before = contents(&path);
    let second = init(&path, &["--host", "other.example.com"]);
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stderr));
    assert!(rows(&second).iter().all(|row| row["state"] == "kept"));
    assert_eq!(contents(&path), before, "nothing was touched");

    let file = path.join("annals.toml").display().to_string();
    let check = run(&["--config", &file, "config", "check"]);
    assert_eq!(check.status.code(), Some(0), "{}{}", text(&check.stdout), text(&check.stderr));
}

#[test]
fn an_interrupted_run_is_completed_and_a_lost_key_is_not_replaced() {
    let parent = folder();
    let path = parent.path().join("deployment");
    assert!(init(&path, &[]).status.success());
    let before = contents(&path);

    // Stopped before the settings file, which comes last.
    for name in ["annals.toml", "nats/application.creds", "secrets/token-signing.pem"] {
        std::fs::remove_file(path.join(name)).expect("it is there");
    }
    assert!(init(&path, &[]).status.success());
    let after = contents(&path);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let key = path.join("secrets/deployment.key");
    assert_eq!(after[&key], before[&key], "what was there stays");

    // With the settings there may be data under the key: another one would make them unreadable.
    std::fs::remove_file(&key).expect("it is there");
    let output = init(&path, &[]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("backup"), "{}", text(&output.stderr));
    let missing: Vec<Value> = rows(&output).into_iter().filter(|row| row["state"] == "missing").collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(!key.exists());
    let check =
        run(&["--config", path.join("annals.toml").to_str().expect("a plain path"), "config", "check"]);
    assert_eq!(check.status.code(), Some(9));
    assert!(text(&check.stdout).contains("`secrets.deployment_key`"), "{}", text(&check.stdout));
}

#[test]
fn wrong_input_is_refused_before_anything_is_made() {
    let parent = folder();
    let path = parent.path().join("deployment");
    for arguments in [
        ["--host", "https://api.example.com"],
        ["--host", "192.0.2.7"],
        ["--host", "api.example.com:8080"],
        ["--deployment", "two words"],
        ["--deployment", ""],
        ["--database", "postgres://owner:secret@db.internal/annals"],
        ["--database", "postgres://owner@db.internal/no-identifier"],
        ["--nats", "nats://user:secret@nats.internal:4222"],
        ["--nats", "nats.internal:4222"],
        ["--nats-credentials", "/nowhere/application.creds"],
    ] {
        let output = init(&path, &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(!path.exists(), "{arguments:?}");
    }
    let open = parent.path().join("open");
    std::fs::create_dir(&open).expect("the folder is ours");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    for folder in [open.clone(), open.join("below")] {
        let output = init(&folder, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("other users may write to"), "{}", text(&output.stderr));
    }
    assert_eq!(contents(&open).len(), 0, "no key was made");
}

#[test]
fn an_ordinary_user_sets_up_a_deployment() {
    let Some(nobody) = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root()) else {
        eprintln!("not root: the other tests run as an ordinary user already");
        return;
    };
    let parent = folder();
    let program = parent.path().join("annals");
    std::fs::copy(PROGRAM, &program).expect("it can be copied");
    let home = parent.path().join("home");
    std::fs::create_dir(&home).expect("the folder is ours");
    chown(&home, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("root may");
    let run = |arguments: &[&str]| {
        let mut command = command_of(&program);
        command.args(arguments).current_dir(&home).env("HOME", &home);
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        command.output().expect("the binary runs")
    };
    let output = run(&["init"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let owner = home.join("secrets/root.key").metadata().expect("it is there").uid();
    assert_eq!(owner, nobody.uid.as_raw());
    let output = run(&["config", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}
