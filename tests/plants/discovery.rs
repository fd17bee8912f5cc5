//! Another aggregate is found by every part of the product: nothing but its three files and its entries names it.

use reqwest::Method;
use serde_json::{Value, json};

use super::program::{Release, asyncapi};
use super::{Garden, change, erase, is_live, plants, sow};
use crate::support::product::{Tenant, send};

fn plant(species: &str) -> Value {
    json!({"species": species, "bed": "south", "keeper": "Ada"})
}

#[tokio::test(flavor = "multi_thread")]
async fn another_aggregate_is_found_by_every_part_of_the_product() {
    let garden = Garden::start(Release::Later, &["--ephemeral"]);
    let tenant = garden.product.tenant().await;
    let email = "ada@garden.example";
    let user = tenant.register(email, "Ada").await["user"]["id"].as_str().expect("an id").to_owned();
    let member = tenant.login(email).await;
    let rose = sow(&tenant, plant("Rose"), user.parse().ok()).await;
    let lily = sow(&tenant, plant("Lily"), None).await;

    commands_and_lists(&tenant, &lily.to_string()).await;
    rights(&tenant, &member, &rose.to_string()).await;
    let before = command_line(&garden, &tenant).await;
    events(&tenant).await;

    erase(&tenant, &user).await;
    garden.in_state(&tenant.slug, is_live).await;
    let shown = plants(&tenant, &tenant.token, "(filter: {species: \"Rose\"})").await;
    assert_eq!(shown["nodes"][0]["keeper"], "", "{shown}");
    let past = ["projection", "replay", "plants", "--tenant", &tenant.slug, "--at", &before];
    let past = garden.rows(&past);
    assert!(past.iter().any(|row| row["species"] == "Lily" && row["keeper"] == "Ada"), "{past:?}");
    assert!(
        past.iter().any(|row| row["species"] == "Rose" && row["keeper"] == ""),
        "the key is destroyed: {past:?}"
    );
}

async fn commands_and_lists(tenant: &Tenant<'_>, lily: &str) {
    let moved = change(tenant, &tenant.token, "movePlant", json!({"id": lily, "bed": "north"})).await;
    assert_eq!(moved["data"]["it"]["outcome"], "APPLIED", "{moved}");
    let token = moved["data"]["it"]["consistencyToken"].as_str().expect("a token");
    let body =
        json!({"query": "{ plants(filter: {bed: \"north\"}) { totalCount nodes { species version } } }"});
    let request = tenant.admin(Method::POST, "/graphql").header("X-Consistency-Token", token).json(&body);
    let (_, shown) = send(request).await;
    assert_eq!(
        shown["data"]["plants"],
        json!({"totalCount": 1, "nodes": [{"species": "Lily", "version": "2"}]}),
        "{shown}"
    );
    let again = change(tenant, &tenant.token, "movePlant", json!({"id": lily, "bed": "north"})).await;
    let error = &again["data"]["it"]["userErrors"][0];
    assert_eq!((&error["code"], &error["path"]), (&json!("INVALID"), &json!(["bed"])), "{again}");
    let invalid =
        change(tenant, &tenant.token, "sowPlant", json!({"species": " ", "bed": "", "keeper": "A"})).await;
    assert_eq!(invalid["data"]["it"]["userErrors"].as_array().map(Vec::len), Some(2), "{invalid}");
    let internal = tenant.graphql("{ __type(name: \"Mutation\") { fields { name } } }", Value::Null).await;
    assert!(!internal.to_string().contains("erasePlant"), "only the product sends it");
}

async fn rights(tenant: &Tenant<'_>, member: &str, own: &str) {
    let shown = plants(tenant, member, "").await;
    assert_eq!(
        (&shown["totalCount"], &shown["nodes"][0]["id"]),
        (&json!(1), &json!(own)),
        "its own: {shown}"
    );
    let code = |answer: &Value| answer["errors"][0]["extensions"]["code"].clone();
    let refused = change(tenant, member, "movePlant", json!({"id": own, "bed": "north"})).await;
    assert_eq!(code(&refused), "FORBIDDEN", "{refused}");
    let reader = tenant.service(&["crm:read"]).await;
    assert_eq!(plants(tenant, &reader, "").await["totalCount"], 2);
    let refused = change(tenant, &reader, "movePlant", json!({"id": own, "bed": "north"})).await;
    assert_eq!(code(&refused), "FORBIDDEN", "{refused}");
    let stranger = tenant.service(&["users:read"]).await;
    let refused = tenant.graphql_as(&stranger, "{ plants { totalCount } }", Value::Null).await;
    assert_eq!(code(&refused), "FORBIDDEN", "{refused}");
}

/// Returns the position up to which it has read.
async fn command_line(garden: &Garden, tenant: &Tenant<'_>) -> String {
    let slug = tenant.slug.as_str();
    let row = garden.in_state(slug, is_live).await;
    let rebuilt = garden.rows(&["projection", "rebuild", "plants", "--tenant", slug]);
    assert_eq!((&rebuilt[0]["outcome"], &rebuilt[0]["differences"]), (&json!("switched"), &json!(0)));
    let past = garden.rows(&["projection", "replay", "plants", "--tenant", slug, "--at", "0"]);
    assert!(past.iter().all(|row| row["species"].is_null()), "{past:?}");
    let present = garden.rows(&["projection", "replay", "plants", "--tenant", slug]);
    let lily = present.iter().find(|row| row["species"] == "Lily").expect("a row");
    assert_eq!(
        (&lily["bed"], &lily["keeper"], &lily["version"]),
        (&json!("north"), &json!("Ada"), &json!(2))
    );
    garden.rows(&["projection", "diff", "plants", "--tenant", slug, "--serving"]);
    row["position"].to_string()
}

async fn events(tenant: &Tenant<'_>) {
    let types: Vec<Value> = tenant.events().await.iter().map(|event| event["type"].clone()).collect();
    let of_plants: Vec<&Value> =
        types.iter().filter(|name| name.as_str().is_some_and(|name| name.starts_with("garden."))).collect();
    assert_eq!(of_plants, ["garden.plant.planted.v2", "garden.plant.planted.v2", "garden.plant.moved.v1"]);
    let document = asyncapi(Release::Later);
    for name in ["planted.v1", "planted.v2", "moved.v1", "erased.v1"] {
        let schema = &document["components"]["schemas"][format!("garden.plant.{name}")];
        assert!(schema["description"].is_string(), "{name}: {schema}");
    }
}
