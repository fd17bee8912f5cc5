//! Another aggregate in the product: what it needs, and what happens to it when two releases know it differently.
//!
//! Plants are described in three files, as an aggregate of the product is. `program` adds them to the registries.

mod discovery;
mod earlier;
mod program;
mod read_model;
mod releases;
mod rules;
mod vocabulary;

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::process::Annals;
use crate::support::product::Tenant;
use crate::support::{Product, eventually};
use program::Release;

/// The product with plants.
struct Garden {
    product: Product,
    release: Release,
}

impl Garden {
    fn start(release: Release, arguments: &[&str]) -> Self {
        let mut command = program::command(release);
        command.arg("dev").args(arguments);
        Self { product: Product { annals: Annals::spawn(command) }, release }
    }

    /// The product with its data in this folder.
    fn over(release: Release, folder: &Path) -> Self {
        let folder = folder.to_str().expect("a path that is text");
        Self::start(release, &["--data-dir", folder])
    }

    /// What a command prints as lines of JSON.
    fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let settings = self.product.annals.settings();
        let arguments = [&["--config", &settings], arguments, &["--output", "jsonl"]].concat();
        program::rows(self.release, &arguments)
    }

    /// A read model of a tenant, as the command line lists it.
    fn read_model(&self, name: &str, tenant: &str) -> Value {
        let rows = self.rows(&["projection", "ls"]);
        let is_meant = |row: &Value| row["projection"] == name && row["tenant"] == tenant;
        rows.into_iter().find(is_meant).unwrap_or_else(|| panic!("{name} is not listed"))
    }

    /// Waits until the read model of plants is in this state.
    async fn in_state(&self, tenant: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("the read model of plants", || async {
            let row = self.read_model("plants.v1", tenant);
            wanted(&row).then_some(row)
        })
        .await
    }
}

fn is_live(row: &Value) -> bool {
    row["state"] == "live" && row["lag"] == 0
}

/// Sends a mutation of a plant. `input` holds what the release knows.
async fn change(tenant: &Tenant<'_>, token: &str, field: &str, input: Value) -> Value {
    let kind = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    let mutation = format!(
        "mutation ($input: {kind}!) {{ it: {field}(input: $input) {{
            outcome version consistencyToken plant {{ id species keeper }} userErrors {{ code message path }} }} }}"
    );
    tenant.graphql_as(token, &mutation, json!({ "input": input })).await
}

/// Plants a plant and returns its id.
async fn sow(tenant: &Tenant<'_>, mut input: Value, user: Option<Uuid>) -> Uuid {
    input["userId"] = json!(user);
    let answer = change(tenant, &tenant.token, "sowPlant", input).await;
    let id = answer["data"]["it"]["plant"]["id"].as_str().and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("{answer}"))
}

/// The rows of plants that the holder of the token sees.
async fn plants(tenant: &Tenant<'_>, token: &str, filter: &str) -> Value {
    let query = format!("{{ plants{filter} {{ totalCount nodes {{ id species bed keeper version }} }} }}");
    let mut answer = tenant.graphql_as(token, &query, Value::Null).await;
    assert!(answer.get("errors").is_none(), "{answer}");
    answer["data"]["plants"].take()
}

/// Erases a user, and waits until it is recorded.
async fn erase(tenant: &Tenant<'_>, user: &str) {
    let request = tenant.admin(Method::POST, "/v1/erasures").json(&json!({ "user_id": user }));
    let (status, answer) = crate::support::product::send(request).await;
    assert!(status.is_success(), "{answer}");
    let path = format!("/v1/erasures/{user}");
    eventually("the user is erased", || async {
        let (_, answer) = crate::support::product::send(tenant.admin(Method::GET, &path)).await;
        (answer["status"] == "erased").then_some(())
    })
    .await;
}
