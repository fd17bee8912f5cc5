//! What `annals dev` says when it cannot start: one sentence, on standard error, that tells what to do.

use std::process::{Output, Stdio};

use crate::support::folder;
use crate::support::process::{Annals, command, run};

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "nothing on standard output");
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    text
}

#[test]
fn a_missing_server_program_is_named() {
    let output = run(&["dev", "--ephemeral", "--random-ports", "--nats-server", "/nowhere/nats-server"]);
    assert!(refusal(&output).contains("/nowhere/nats-server"));
    let output = run(&["dev", "--ephemeral", "--random-ports", "--postgres-bin", "/nowhere"]);
    assert!(refusal(&output).contains("/nowhere"));
}

#[test]
fn an_old_nats_server_is_refused_with_both_versions() {
    use std::os::unix::fs::PermissionsExt;

    let parent = folder();
    let old = parent.path().join("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho nats-server: v2.9.10\n").expect("it can be written");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let program = old.to_str().expect("a plain path");
    let text = refusal(&run(&["dev", "--ephemeral", "--random-ports", "--nats-server", program]));
    assert!(text.contains("2.9") && text.contains("2.12"), "{text}");
}

#[test]
fn a_data_folder_is_used_by_one_process_at_a_time() {
    let parent = folder();
    let data = parent.path().join("data");
    let path = data.to_str().expect("a plain path");
    let mut first = command();
    first.args(["dev", "--data-dir", path]);
    let first = Annals::spawn(first);
    let text = refusal(&run(&["dev", "--data-dir", path, "--random-ports"]));
    assert!(text.contains(&format!("process {}", first.pid())) && text.contains(path), "{text}");
}

#[test]
fn an_unknown_setting_is_named() {
    let mut dev = command();
    dev.args(["dev", "--ephemeral"]).env("ANNALS__GATEWAY__PUBLIC_ADRESS", "127.0.0.1:1");
    let output = dev.stdin(Stdio::null()).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("`gateway.public_adress`") && text.contains("`gateway.public_address`"), "{text}");
}
