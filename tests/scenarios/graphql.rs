//! GraphQL as a business client uses it: commands with outcomes, lists by pages, reads of one's own writes.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::product::{Tenant, send};

const PAYLOAD: &str = "outcome version position consistencyToken customer { id name status version } userErrors { code message path }";

async fn register(tenant: &Tenant<'_>, name: &str) -> Value {
    let mutation = format!(
        "mutation ($input: RegisterCustomerInput!) {{ registerCustomer(input: $input) {{ {PAYLOAD} }} }}"
    );
    let input = json!({"input": {"name": name, "email": format!("{}@example.com", name.to_lowercase())}});
    tenant.graphql(&mutation, input).await["registerCustomer"].take()
}

async fn change(tenant: &Tenant<'_>, field: &str, input: Value) -> Value {
    let kind = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    let mutation = format!("mutation ($input: {kind}!) {{ it: {field}(input: $input) {{ {PAYLOAD} }} }}");
    tenant.graphql(&mutation, json!({ "input": input })).await["it"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_life_through_commands() {
    let tenant = Product::shared().tenant().await;
    let ada = register(&tenant, "Ada").await;
    assert_eq!((&ada["outcome"], &ada["version"]), (&json!("APPLIED"), &json!("1")));
    let id = ada["customer"]["id"].clone();
    let renamed =
        change(&tenant, "renameCustomer", json!({"id": id, "name": "Ada L.", "expectedVersion": "1"})).await;
    assert_eq!(renamed["customer"], json!({"id": id, "name": "Ada L.", "status": "ACTIVE", "version": "2"}));
    let same = change(&tenant, "renameCustomer", json!({"id": id, "name": "Ada L."})).await;
    assert_eq!((&same["outcome"], &same["version"]), (&json!("APPLIED"), &json!("2")), "no effect, no event");
    let stale =
        change(&tenant, "renameCustomer", json!({"id": id, "name": "x", "expectedVersion": "1"})).await;
    assert_eq!(
        (&stale["outcome"], &stale["userErrors"][0]["code"]),
        (&json!("REJECTED"), &json!("VERSION_CONFLICT"))
    );
    let suspended = change(&tenant, "suspendCustomer", json!({"id": id, "reason": "late"})).await;
    assert_eq!(suspended["customer"]["status"], "SUSPENDED");
    let closed = change(&tenant, "closeCustomer", json!({"id": id})).await;
    assert_eq!(closed["customer"]["status"], "CLOSED");
    let refused = change(&tenant, "renameCustomer", json!({"id": id, "name": "Zoe"})).await;
    assert_eq!(
        (&refused["outcome"], &refused["userErrors"][0]["code"], &refused["customer"]),
        (&json!("REJECTED"), &json!("CUSTOMER_CLOSED"), &Value::Null)
    );
    let invalid = change(&tenant, "renameCustomer", json!({"id": id, "name": "  "})).await;
    assert_eq!(
        (&invalid["userErrors"][0]["code"], &invalid["userErrors"][0]["path"]),
        (&json!("INVALID"), &json!(["name"]))
    );
    let types: Vec<Value> = tenant.events().await.iter().map(|event| event["type"].clone()).collect();
    let of_customers: Vec<&Value> =
        types.iter().filter(|name| name.as_str().is_some_and(|name| name.starts_with("crm."))).collect();
    assert_eq!(
        of_customers,
        [
            "crm.customer.registered.v1",
            "crm.customer.renamed.v1",
            "crm.customer.suspended.v1",
            "crm.customer.closed.v1"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_with_the_token_of_a_write_sees_it() {
    let tenant = Product::shared().tenant().await;
    for number in 0..20 {
        let written = register(&tenant, &format!("Customer{number}")).await;
        let token = written["consistencyToken"].as_str().expect("a token");
        let body = json!({"query": "query ($id: ID!) { customer(id: $id) { version } customers { totalCount } }",
                          "variables": {"id": written["customer"]["id"]}});
        let request = tenant.admin(Method::POST, "/graphql");
        let request = if number % 2 == 0 {
            request.header("X-Consistency-Token", token).json(&body)
        } else {
            let mut body = body.clone();
            body["extensions"] = json!({"consistencyToken": token});
            request.json(&body)
        };
        let (_, answer) = send(request).await;
        assert_eq!(answer["data"]["customer"]["version"], "1", "{answer}");
        assert_eq!(answer["data"]["customers"]["totalCount"], number + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_is_refused_at_once() {
    let tenant = Product::shared().tenant().await;
    let token = register(&tenant, "Ada").await["consistencyToken"].as_str().expect("a token").to_owned();
    let flipped = if token.starts_with('A') { "B" } else { "A" };
    for forged in ["", "x", &token[1..], &format!("{flipped}{}", &token[1..])] {
        let request = tenant
            .admin(Method::POST, "/graphql")
            .header("X-Consistency-Token", forged)
            .json(&json!({"query": "{ customers { totalCount } }"}));
        let (_, answer) = send(request).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_REQUEST", "{forged:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_forward_and_backward_with_filters_and_orders() {
    let tenant = Product::shared().tenant().await;
    let mut token = String::new();
    for number in 0..23 {
        let name = format!("{}{number:02}", if number % 2 == 0 { "Even" } else { "Odd" });
        token = register(&tenant, &name).await["consistencyToken"].as_str().expect("a token").to_owned();
    }
    let query = "query ($first: Int, $after: String, $last: Int, $before: String, $filter: CustomerFilter, $order: CustomerOrder) {
        customers(first: $first, after: $after, last: $last, before: $before, filter: $filter, orderBy: $order) {
            totalCount edges { cursor node { name } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";
    let ask = |variables: Value| {
        let body = json!({"query": query, "variables": variables, "extensions": {"consistencyToken": token}});
        let request = tenant.admin(Method::POST, "/graphql").json(&body);
        async move { send(request).await.1 }
    };
    let names = |answer: &Value| -> Vec<String> {
        let edges = answer["data"]["customers"]["edges"].as_array().unwrap_or_else(|| panic!("{answer}"));
        edges.iter().map(|edge| edge["node"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let filter = json!({"name": "Even"});
    let (mut forward, mut after) = (Vec::new(), Value::Null);
    loop {
        let answer = ask(json!({"first": 5, "after": after, "filter": filter, "order": "NAME_ASC"})).await;
        assert_eq!(answer["data"]["customers"]["totalCount"], 12);
        let page = &answer["data"]["customers"]["pageInfo"];
        assert_eq!(page["hasPreviousPage"], !forward.is_empty());
        forward.extend(names(&answer));
        if page["hasNextPage"] == false {
            break;
        }
        after = page["endCursor"].clone();
    }
    let expected: Vec<String> = (0..23).step_by(2).map(|number| format!("Even{number:02}")).collect();
    assert_eq!(forward, expected);
    let (mut backward, mut before) = (Vec::new(), Value::Null);
    loop {
        let answer = ask(json!({"last": 5, "before": before, "filter": filter, "order": "NAME_ASC"})).await;
        let mut page = names(&answer);
        page.extend(backward);
        backward = page;
        let info = &answer["data"]["customers"]["pageInfo"];
        if info["hasPreviousPage"] == false {
            break;
        }
        before = info["startCursor"].clone();
    }
    assert_eq!(backward, expected);
    let newest = ask(json!({"first": 1, "order": "REGISTERED_AT_DESC"})).await;
    assert_eq!(names(&newest), ["Even22"]);
    for (variables, code) in [
        (json!({"first": 101}), "LIMIT_EXCEEDED"),
        (json!({"first": 1, "last": 1}), "BAD_REQUEST"),
        (json!({"first": -1}), "BAD_REQUEST"),
        (json!({"first": 1, "after": "nonsense"}), "CURSOR_INVALID"),
        (json!({"first": 1, "after": after, "order": "NAME_DESC"}), "CURSOR_INVALID"),
    ] {
        let answer = ask(variables.clone()).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], code, "{variables}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_explode_are_refused_before_they_cost_anything() {
    let tenant = Product::shared().tenant().await;
    let mut bomb = String::from("query { customers { ...f0 } }\n");
    for level in 0..31 {
        let next = level + 1;
        writeln!(bomb, "fragment f{level} on CustomerConnection {{ ...f{next} ...f{next} }}")
            .expect("texts grow");
    }
    bomb.push_str("fragment f31 on CustomerConnection { totalCount }");
    let deep = format!("{{ me {}{} }}", "{ customer ".repeat(60), "{ id }".to_owned() + &"}".repeat(60));
    let many =
        format!("{{ {} }}", (0..3_000).map(|n| format!("a{n}: me {{ id }}")).collect::<Vec<_>>().join(" "));
    for document in [bomb, deep, many] {
        let answer = tenant.graphql_as(&tenant.token, &document, Value::Null).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "LIMIT_EXCEEDED", "{answer}");
    }
}
