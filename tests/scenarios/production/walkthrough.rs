//! The README's production section, pasted into a shell.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::scenarios::readme::blocks;
use crate::support::postgres::{PASSWORD, free_port};
use crate::support::postgres_server::PostgresServer;
use crate::support::process::{PROGRAM, clean};
use crate::support::{folder, programs};

/// Ends whatever the section leaves in the background, however the script ends.
const PROLOGUE: &str = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_production_section_leads_to_a_registration_read_through_the_second_process() {
    let postgres = PostgresServer::empty().await;
    let home = folder();
    let [nats, public, operations, admin, public_2, operations_2, admin_2] = [(); 7].map(|()| free_port());

    let tools = |program: &Path| program.parent().expect("a program is in a folder").display().to_string();
    let path = format!("PATH={}:{}:$PATH\n", tools(Path::new(PROGRAM)), tools(&programs::nats_server()));
    let mut script = [PROLOGUE, &path, &blocks("Run it in production").concat()].concat();
    // Only addresses and folders differ: these are of this test.
    for (readme, here) in [
        ("db.internal:5432", format!("127.0.0.1:{}", postgres.port())),
        ("nats.internal:4222", format!("127.0.0.1:{nats}")),
        ("0.0.0.0:4222", format!("127.0.0.1:{nats}")),
        ("/var/lib/nats", home.path().join("nats").display().to_string()),
        ("localhost:8080", format!("localhost:{public}")),
        ("localhost:8081", format!("localhost:{operations}")),
        (":9080", format!(":{public_2}")),
        (":9081", format!(":{operations_2}")),
        (":9082", format!(":{admin_2}")),
        ("sleep 1", "sleep 0.1".to_owned()),
    ] {
        assert!(script.contains(readme), "{readme} is in the section");
        script = script.replace(readme, &here);
    }

    // It ends with this test, and does not wait for ever for what never comes.
    let mut shell = programs::command(Path::new("timeout"), false, "TERM");
    clean(&mut shell);
    shell.args(["--kill-after=5", "120", "bash", "-c", &script]).current_dir(home.path());
    shell.env("PGPASSWORD", PASSWORD);
    for (listener, port) in [("PUBLIC", public), ("OPERATIONS", operations), ("ADMIN", admin)] {
        shell.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), format!("127.0.0.1:{port}"));
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Started on this thread, whose end is the shell's.
    let shell = shell.spawn().expect("there is a bash");
    let output = tokio::task::spawn_blocking(move || shell.wait_with_output());
    let output = output.await.expect("the shell ends").expect("its output reads");

    let printed = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    let read = printed.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let me = read.map(|mut answer| answer["data"]["me"].take()).unwrap_or_default();
    assert_eq!(me["email"], "ada@example.com", "{printed}\n{errors}");
    assert_eq!(me["customer"]["status"], "ACTIVE", "{printed}\n{errors}");
    for word in ["operator@example.com", "platform_admin", "acme"] {
        assert!(printed.contains(word), "{word} is missing in {printed}");
    }
}
