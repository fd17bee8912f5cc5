//! What `annals dev` says when it cannot start: one sentence, on standard error, that tells what to do.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use crate::support::folder;
use crate::support::process::{Annals, PROGRAM, command, command_of, run};

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

/// A program of the folder that `annals dev` happens to be started in, and of those above it, is never run.
#[test]
fn a_nats_server_around_the_current_folder_is_not_run() {
    let parent = folder();
    let ran = parent.path().join("ran");
    let here = parent.path().join("a/b");
    for place in [parent.path().join(".tools/bin"), here.join(".tools/bin"), here.clone()] {
        std::fs::create_dir_all(&place).expect("the folder is ours");
        let program = place.join("nats-server");
        let script = format!("#!/bin/sh\ntouch {}\necho nats-server: v2.12.8\n", ran.display());
        std::fs::write(&program, script).expect("it can be written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    // Outside of the project, whose own tools would be found.
    let elsewhere = folder();
    let program = elsewhere.path().join("annals");
    std::fs::copy(PROGRAM, &program).expect("it can be copied");
    let mut dev = command_of(&program);
    dev.args(["dev", "--ephemeral", "--random-ports", "--stop-with-stdin"]).env("PATH", "/nonexistent:.:");
    // Where the machine has a nats-server of its own it starts, and stops as its input has ended.
    let output = dev.current_dir(&here).stdin(Stdio::null()).output().expect("the binary runs");
    assert!(!ran.exists(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_nats_server_that_others_can_change_is_refused_with_the_reason() {
    let parent = folder();
    let open = parent.path().join("nats-server");
    std::fs::write(&open, "#!/bin/sh\necho nats-server: v2.12.8\n").expect("it can be written");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    let program = open.to_str().expect("a plain path");
    let text = refusal(&run(&["dev", "--ephemeral", "--random-ports", "--nats-server", program]));
    assert!(text.contains("other users may write to") && text.contains(program), "{text}");
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
