//! The README's commands, pasted as they are into a shell, against a running product.

use std::process::Command;

use crate::support::Product;

/// The shell blocks of a section of the README, as they stand there.
pub fn blocks(title: &str) -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let section = readme.split("\n## ").find_map(|section| section.strip_prefix(title)?.strip_prefix('\n'));
    let section = section.unwrap_or_else(|| panic!("the README has a section {title}"));
    section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_commands_register_a_user_and_show_the_customer_that_the_saga_made() {
    let product = Product::start(&["--ephemeral"]);
    // Only the address differs: this product listens on a free port.
    let pasted: String = blocks("Run it").into_iter().filter(|block| block.contains("curl")).collect();
    let script = pasted.replace("http://localhost:8080", product.annals.text("gateway_url"));
    let shell = tokio::task::spawn_blocking(move || Command::new("bash").arg("-c").arg(script).output());
    let output = shell.await.expect("the shell ends").expect("there is a bash");
    let printed = String::from_utf8(output.stdout).expect("text");
    for wanted in [
        r#""email":"ada@example.com""#,
        r#""customer":{"#,
        r#""status":"ACTIVE""#,
        r#""type":"crm.customer.registered.v1""#,
        "data:",
    ] {
        assert!(printed.contains(wanted), "{wanted} is missing in {printed}\n{:?}", output.stderr);
    }
}
