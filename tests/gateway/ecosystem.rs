//! What programs of the GraphQL ecosystem say: relay-compiler and eslint of the committed schema, the audits of
//! graphql-http of the server. They come by npm (`tests/node`); without Node these tests are skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Product;
use crate::support::programs;

/// A script of `tests/node`, or `None` with the reason on standard error.
fn script(name: &str) -> Option<Command> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    let Some(node) = programs::node() else {
        eprintln!("not run: {name} needs Node 22.18 or later; run scripts/bootstrap");
        return None;
    };
    if !folder.join("node_modules").is_dir() {
        eprintln!("not run: {name} needs its packages; run npm ci in tests/node");
        return None;
    }
    let mut command = Command::new(node);
    command.arg(folder.join(name));
    Some(command)
}

fn succeeds(mut command: Command) {
    let output = command.output().expect("Node runs");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn relay_compiles_documents_with_connections_and_refetchable_fragments() {
    if let Some(command) = script("relay.mjs") {
        succeeds(command);
    }
}

#[test]
fn the_schema_keeps_the_recommended_rules_and_those_of_relay() {
    if let Some(command) = script("lint.mjs") {
        succeeds(command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_graphql_over_http() {
    let Some(mut command) = script("audit.mjs") else { return };
    let tenant = Product::shared().tenant().await;
    command.arg(tenant.product.url("/graphql")).env("ACCESS_TOKEN", &tenant.token);
    tokio::task::spawn_blocking(|| succeeds(command)).await.expect("the audits end");
}
