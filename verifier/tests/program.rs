//! The program by itself. `tests/audit/auditor.rs` compares it with `annals audit verify`.
//!
//! Cargo builds a package's programs for the tests of that package only, so this test also makes the program for those.

use std::process::Command;

#[test]
fn what_is_no_export_and_what_is_no_command_line_have_exit_codes_of_their_own() {
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_annals-verify")).args(arguments).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let key = "annals/demo+1d6e1dd1+AfmmNOQCqzqfHqVWxvVKQDAxFHCBXM5fXhDwVSUWKiM8";
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let (code, _) = run(&[manifest]);
    assert_eq!(code, Some(2), "the key is required");
    let (code, said) = run(&["--version"]);
    assert_eq!((code, &*said), (Some(0), ""));
    let (code, said) = run(&[manifest, "--key", key]);
    assert!(code == Some(9) || code == Some(2), "a manifest of Cargo is no export: {code:?} {said}");
}
