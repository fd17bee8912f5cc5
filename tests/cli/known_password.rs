//! Everybody knows the password of the demo tenant's administrator, so no other machine may try it.

use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::support::Product;
use crate::support::process::{command, send};

/// `annals serve` with the gateway, which listens to other machines where `exposed`.
fn serve(product: &Product, address: &str) -> Command {
    let mut serve = command();
    serve.args(["--config", &product.annals.settings(), "serve", "--roles", "gateway"]);
    serve.env("ANNALS__GATEWAY__PUBLIC_ADDRESS", address);
    for listener in ["OPERATIONS", "ADMIN"] {
        serve.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), "127.0.0.1:0");
    }
    serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    serve
}

/// Waits until it runs, and ends it; false where it ends by itself.
fn starts(mut serve: Command) -> bool {
    use std::io::{BufRead, BufReader};
    let mut child = serve.spawn().expect("the binary runs");
    let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let running = log.any(|line| line.expect("logs are text").contains("\"running\""));
    if running {
        send(child.id(), Signal::SIGTERM);
        // It logs to the end.
        log.for_each(drop);
    }
    child.wait().expect("it is our child");
    running
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn annals_dev_listens_to_this_machine_only() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.7:0"] {
        let mut dev = command();
        dev.args(["dev", "--ephemeral", "--random-ports", "--stop-with-stdin"]);
        let output = dev.env("ANNALS__GATEWAY__PUBLIC_ADDRESS", address).stdin(Stdio::null()).output();
        let text = refusal(&output.expect("the binary runs"));
        assert!(text.contains("password") && text.contains("127.0.0.1"), "{text}");
    }
}

#[test]
fn a_gateway_for_other_machines_starts_when_the_demo_tenant_is_on_hold() {
    let product = Product::start(&["--ephemeral"]);
    let output = serve(&product, "0.0.0.0:0").output().expect("the binary runs");
    let text = refusal(&output);
    assert!(
        text.contains("`gateway.public_address`") && text.contains("annals tenant suspend demo"),
        "{text}"
    );
    assert!(starts(serve(&product, "127.0.0.1:0")), "nobody else reaches it");

    let tenant = |verb: &str| {
        let mut tenant = command();
        tenant.args(["--config", &product.annals.settings(), "tenant", verb, "demo"]);
        tenant.env("ANNALS__GATEWAY__PUBLIC_ADDRESS", "0.0.0.0:0");
        tenant.output().expect("the binary runs")
    };
    assert!(tenant("suspend").status.success());
    assert!(starts(serve(&product, "0.0.0.0:0")), "nobody can sign in there");
    assert!(refusal(&tenant("resume")).contains("password"), "the way back is closed as well");
}
