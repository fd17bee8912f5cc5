//! Two releases of the product over the same data: what the earlier one recorded is read by the later one, and what the
//! later one recorded waits for it.

use serde_json::{Value, json};

use super::program::Release;
use super::{Garden, change, is_live, plants, sow};
use crate::support::folder;
use crate::support::product::Tenant;

/// The demo tenant has a token at each start.
fn demo(garden: &Garden) -> Tenant<'_> {
    garden.product.demo()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_release_does_not_know_waits_for_the_next_one() {
    let folder = folder();
    let data = folder.path().join("data");

    let garden = Garden::over(Release::Earlier, &data);
    let rose = sow(&demo(&garden), json!({"species": "Rose", "keeper": "Ada"}), None).await.to_string();
    garden.in_state("demo", is_live).await;
    garden.rows(&["projection", "pause", "plants"]);
    drop(garden);

    // The later release folds the older version of the event, in its rules and, below, in its rows.
    let garden = Garden::over(Release::Later, &data);
    let tenant = demo(&garden);
    let there = change(&tenant, &tenant.token, "movePlant", json!({"id": rose, "bed": "nursery"})).await;
    assert_eq!(there["data"]["it"]["userErrors"][0]["message"], "the plant is in the bed nursery", "{there}");
    let moved = change(&tenant, &tenant.token, "movePlant", json!({"id": rose, "bed": "south"})).await;
    assert_eq!(moved["data"]["it"]["outcome"], "APPLIED", "{moved}");
    let lily = json!({"species": "Lily", "bed": "north", "keeper": "Bo"});
    sow(&tenant, lily, None).await;
    drop(garden);

    // Back to the earlier one.
    let garden = Garden::over(Release::Earlier, &data);
    let tenant = demo(&garden);
    garden.rows(&["projection", "resume", "plants"]);
    let iris = sow(&tenant, json!({"species": "Iris", "keeper": "Cy"}), None);
    iris.await;
    let waits = "waits for a newer version that knows garden.plant.moved.v1";
    garden.in_state("demo", |row| row["state"] == waits).await;
    let customers = garden.read_model("customers.v2", "demo");
    assert!(is_live(&customers), "other read models go on: {customers}");
    assert_eq!(plants(&tenant, &tenant.token, "").await["totalCount"], 1, "what it knows");
    assert_eq!(garden.rows(&["deadletter", "ls"]), Vec::<Value>::new());
    drop(garden);

    let garden = Garden::over(Release::Later, &data);
    let tenant = demo(&garden);
    garden.in_state("demo", is_live).await;
    let shown = plants(&tenant, &tenant.token, "").await;
    let rows: Vec<Value> = shown["nodes"].as_array().expect("rows").clone();
    let row = |species: &str| rows.iter().find(|row| row["species"] == species).cloned().unwrap_or_default();
    assert_eq!((&row("Rose")["bed"], &row("Rose")["keeper"]), (&json!("south"), &json!("Ada")), "{shown}");
    assert_eq!((&row("Lily")["bed"], &row("Iris")["bed"]), (&json!("north"), &json!("nursery")), "{shown}");
    garden.rows(&["projection", "rebuild", "plants"]);
    assert_eq!(plants(&tenant, &tenant.token, "").await, shown, "a rebuild reads both versions");
}
