//! The examples in `examples/` against the product: each keeps accounts of its own and opens one for every customer, once,
//! however often it is started, and although two of it run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::product::Tenant;
use crate::support::services::{ACCOUNT, Service};
use crate::support::{Product, eventually, programs};

/// One way to run the example.
struct Example {
    program: PathBuf,
    script: &'static str,
    url: String,
    token: String,
}

/// A running follower, stopped when dropped.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

impl Example {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(self.script));
        command.args(arguments).env("ANNALS_URL", &self.url).env("ANNALS_TOKEN", &self.token);
        command
    }

    fn follow(&self, state: &Path) -> Follower {
        let state = state.to_str().expect("a plain path");
        let child = self.command(&["follow", state]).stdout(Stdio::null()).spawn();
        Follower(child.expect("the example runs"))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the example runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn show(&self, customer: &str) -> Value {
        serde_json::from_str(&self.run(&["show", customer])).expect("JSON")
    }
}

async fn customer(tenant: &Tenant<'_>, name: &str) -> String {
    let mutation =
        "mutation ($input: RegisterCustomerInput!) { registerCustomer(input: $input) { customer { id } } }";
    let input = json!({"input": {"name": name, "email": "x@example.com"}});
    let data = tenant.graphql(mutation, input).await;
    data["registerCustomer"]["customer"]["id"].as_str().expect("an id").to_owned()
}

/// Waits until so many accounts are welcomed; returns the events of all accounts.
async fn welcomed(tenant: &Tenant<'_>, accounts: usize) -> Vec<Value> {
    eventually("every customer is welcomed", || async {
        let mut events = tenant.events().await;
        events.retain(|event| event["subject"].as_str().is_some_and(|subject| subject.starts_with(ACCOUNT)));
        let welcomed = events.iter().filter(|event| event["data"]["reason"] == "welcome").count();
        (welcomed >= accounts).then_some(events)
    })
    .await
}

async fn keeps_accounts(program: PathBuf, script: &'static str) {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let service = Service::loyalty(&tenant).await;
    let example = Example { program, script, url: product.url(""), token: service.token.clone() };
    let folder = TempDir::new().expect("a folder");
    let state = folder.path().join("state");
    let mut customers = vec![customer(&tenant, "Ada").await];
    {
        let _follower = example.follow(&state);
        customers.push(customer(&tenant, "Bo").await);
        welcomed(&tenant, 2).await;
    }
    // Two at once, one of which starts from nothing and meets every customer again.
    {
        let _followers = [example.follow(&state), example.follow(&folder.path().join("fresh"))];
        customers.push(customer(&tenant, "Cy").await);
        customers.push(customer(&tenant, "Di").await);
        welcomed(&tenant, 4).await;
        eventually("both have seen the last customer", || async {
            let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
            (read("state")? == read("fresh")?).then_some(())
        })
        .await;
    }
    example.run(&["earn", &customers[0], "900"]);
    assert_eq!(example.show(&customers[0])["tier"], "gold");
    assert_eq!(
        example.show(&customers[1]),
        json!({"customer": customers[1], "version": 2, "points": 100, "tier": "blue"})
    );
    let events = welcomed(&tenant, 4).await;
    let opened: Vec<&Value> = events.iter().filter_map(|event| event["data"].get("customer")).collect();
    assert_eq!(opened.len(), 4, "each customer has one account");
    assert_eq!(events.len(), 9, "each account one welcome, and Ada a purchase");
    for customer in &customers {
        assert!(opened.contains(&&json!(customer)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_keeps_accounts() {
    keeps_accounts(PathBuf::from("python3"), "python/loyalty.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_example_keeps_accounts() {
    let Some(node) = programs::node() else {
        eprintln!("not run: the TypeScript example needs Node 22.18 or later; run scripts/bootstrap");
        return;
    };
    keeps_accounts(node, "typescript/loyalty.ts").await;
}
