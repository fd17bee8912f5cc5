//! Looking back: an object as it was, and its history.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::product::Product;

const AS_OF: &str =
    "query ($id: ID!, $asOf: AsOf) { customer(id: $id, asOf: $asOf) { name status version } }";
const HISTORY: &str = "query ($id: ID!, $first: Int, $after: String) {
    customerHistory(id: $id, first: $first, after: $after) {
        nodes { version position type recordedAt actor state { name status version } }
        edges { cursor } pageInfo { hasNextPage hasPreviousPage endCursor } totalCount } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_shown_as_it_was_at_a_position_a_time_and_a_version() {
    let tenant = Product::shared().tenant().await;
    let command = |mutation: &str, input: Value| {
        let query = format!(
            "mutation ($input: {}{}Input!) {{ {mutation}(input: $input) {{ customer {{ id }} position }} }}",
            mutation[..1].to_uppercase(),
            &mutation[1..]
        );
        let (tenant, mutation) = (tenant.clone(), mutation.to_owned());
        async move { tenant.graphql(&query, json!({"input": input})).await[&mutation].clone() }
    };
    let registered = command("registerCustomer", json!({"name": "Ada", "email": "ada@example.com"})).await;
    let id = registered["customer"]["id"].clone();
    let renamed = command("renameCustomer", json!({"id": id, "name": "Bo"})).await;
    command("closeCustomer", json!({"id": id})).await;
    let as_of = |as_of: Value| {
        let (tenant, id) = (tenant.clone(), id.clone());
        async move { tenant.graphql(AS_OF, json!({"id": id, "asOf": as_of})).await["customer"].clone() }
    };
    let state =
        |name: &str, status: &str, version: &str| json!({"name": name, "status": status, "version": version});
    assert_eq!(as_of(json!({"version": "1"})).await, state("Ada", "ACTIVE", "1"));
    assert_eq!(as_of(json!({"version": 2})).await, state("Bo", "ACTIVE", "2"));
    assert_eq!(as_of(json!({"position": registered["position"]})).await, state("Ada", "ACTIVE", "1"));
    assert_eq!(as_of(json!({"position": renamed["position"]})).await, state("Bo", "ACTIVE", "2"));
    assert_eq!(as_of(json!({"position": "0"})).await, Value::Null);

    let history = |first: u32, after: Value| {
        let (tenant, id) = (tenant.clone(), id.clone());
        let variables = json!({"id": id, "first": first, "after": after});
        async move { tenant.graphql(HISTORY, variables).await["customerHistory"].clone() }
    };
    let whole = history(10, Value::Null).await;
    let types: Vec<&Value> =
        whole["nodes"].as_array().expect("nodes").iter().map(|fact| &fact["type"]).collect();
    assert_eq!(types, ["crm.customer.registered.v1", "crm.customer.renamed.v1", "crm.customer.closed.v1"]);
    let page = history(2, Value::Null).await;
    assert_eq!(page["nodes"].as_array().expect("nodes"), &whole["nodes"].as_array().expect("nodes")[..2]);
    assert_eq!(
        (&page["pageInfo"]["hasNextPage"], &page["pageInfo"]["hasPreviousPage"]),
        (&json!(true), &json!(false))
    );
    let rest = history(2, page["pageInfo"]["endCursor"].clone()).await;
    assert_eq!(rest["nodes"][0], whole["nodes"][2]);
    assert_eq!(
        (&rest["pageInfo"]["hasNextPage"], &rest["pageInfo"]["hasPreviousPage"]),
        (&json!(false), &json!(true))
    );

    // How many facts there are does not depend on the page, also behind the end.
    let (mut after, mut pages) = (Value::Null, 0);
    loop {
        let page = history(1, after).await;
        assert_eq!(page["totalCount"], 3, "page {pages}: {page}");
        after = page["pageInfo"]["endCursor"].clone();
        pages += 1;
        if page["pageInfo"]["hasNextPage"] == json!(false) {
            break;
        }
    }
    assert_eq!(pages, 3);
    let behind = history(1, after).await;
    assert_eq!((&behind["totalCount"], &behind["nodes"]), (&json!(3), &json!([])));
    assert_eq!(behind["pageInfo"]["hasPreviousPage"], json!(true));

    // The fact's own time includes it, the microsecond before does not.
    let time = |fact: usize| whole["nodes"][fact]["recordedAt"].as_str().expect("a time").to_owned();
    assert_eq!(as_of(json!({"time": time(1)})).await["version"], "2");
    assert_eq!(as_of(json!({"time": "2020-01-01T00:00:00Z"})).await, Value::Null);
    assert_eq!(as_of(json!({"time": time(2)})).await, state("Bo", "CLOSED", "3"));

    for (wrong, code) in [
        (json!({"position": "999999"}), "BAD_REQUEST"),
        (json!({"version": "4"}), "BAD_REQUEST"),
        (json!({"version": "9223372036854775807"}), "BAD_REQUEST"),
        (json!({"time": "2999-01-01T00:00:00Z"}), "BAD_REQUEST"),
        (json!({"position": "1", "version": "1"}), "BAD_REQUEST"),
        (json!({}), "BAD_REQUEST"),
        (json!({"time": "yesterday"}), "BAD_REQUEST"),
    ] {
        let request = tenant.product.request(reqwest::Method::POST, "/graphql").bearer_auth(&tenant.token);
        let request = request.json(&json!({"query": AS_OF, "variables": {"id": id, "asOf": wrong}}));
        let (status, answer) = crate::support::product::send(request).await;
        assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{answer}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], code, "{wrong}: {answer}");
    }
    let after = |cursor: &str| {
        let (tenant, variables) = (tenant.clone(), json!({"id": id, "after": cursor}));
        async move { tenant.graphql_as(&tenant.token, HISTORY, variables).await }
    };
    assert_eq!(after("x").await["errors"][0]["extensions"]["code"], "CURSOR_INVALID");
    let beyond = after(&cursor_of(4)).await;
    assert_eq!(beyond["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    assert_eq!(beyond["errors"][0]["message"], "it is at version 3");
}

/// The cursor of a fact, as the API writes it.
fn cursor_of(version: u64) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("version:{version}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_open_to_those_who_may_see_the_present() {
    let tenant = Product::shared().tenant().await;
    tenant.register("ada@example.com", "Ada").await;
    tenant.register("bo@example.com", "Bo").await;
    let (ada, bo) = (tenant.login("ada@example.com").await, tenant.login("bo@example.com").await);
    let me = eventually("the saga has made the customer", || async {
        let answer = tenant.graphql_as(&ada, "{ me { id customer { id } } }", Value::Null).await;
        answer["data"]["me"]["customer"].is_object().then(|| answer["data"]["me"].clone())
    })
    .await;
    let customer = &me["customer"]["id"];
    let ask = |token: &str, query: &str, id: &Value| {
        let (tenant, token, query) = (tenant.clone(), token.to_owned(), query.to_owned());
        let variables = json!({"id": id});
        async move { tenant.graphql_as(&token, &query, variables).await["data"].clone() }
    };
    let history = "query ($id: ID!) { customerHistory(id: $id) { nodes { state { name } } } }";
    assert_eq!(ask(&ada, history, customer).await["customerHistory"]["nodes"][0]["state"]["name"], "Ada");
    assert_eq!(ask(&bo, history, customer).await["customerHistory"], Value::Null);
    let as_of = "query ($id: ID!) { customer(id: $id, asOf: {version: 1}) { name } }";
    assert_eq!(ask(&ada, as_of, customer).await["customer"]["name"], "Ada");
    assert_eq!(ask(&bo, as_of, customer).await["customer"], Value::Null);
    let user = "query ($id: ID!) { user(id: $id, asOf: {version: 1}) { name } userHistory(id: $id) { nodes { type } } }";
    let own = ask(&ada, user, &me["id"]).await;
    assert_eq!(own["user"]["name"], "Ada");
    assert_eq!(own["userHistory"]["nodes"][0]["type"], "identity.user.registered.v1");
    let foreign = ask(&bo, user, &me["id"]).await;
    assert_eq!((&foreign["user"], &foreign["userHistory"]), (&Value::Null, &Value::Null));
    // A version that is not there yet is an error for those who may see the object, and tells others nothing.
    let beyond = "query ($id: ID!, $user: ID!, $after: String) {
        customer(id: $id, asOf: {version: 99}) { name } customerHistory(id: $id, after: $after) { totalCount }
        user(id: $user, asOf: {version: 99}) { name } userHistory(id: $user, after: $after) { totalCount } }";
    let variables = json!({"id": customer, "user": me["id"], "after": cursor_of(99)});
    for (token, errors) in [(&ada, 4), (&tenant.token, 4), (&bo, 0)] {
        let answer = tenant.graphql_as(token, beyond, variables.clone()).await;
        let told = answer["errors"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(told.len(), errors, "{answer}");
        assert!(told.iter().all(|error| error["extensions"]["code"] == "BAD_REQUEST"), "{answer}");
        assert!(answer["data"].as_object().expect("data").values().all(Value::is_null), "{answer}");
    }
    let counted = "query ($id: ID!, $user: ID!, $after: String) {
        customerHistory(id: $id, after: $after) { totalCount nodes { type } }
        userHistory(id: $user, after: $after) { totalCount nodes { type } } }";
    let variables = json!({"id": customer, "user": me["id"], "after": cursor_of(1)});
    let answer = tenant.graphql_as(&ada, counted, variables).await;
    for field in ["customerHistory", "userHistory"] {
        assert_eq!(answer["data"][field], json!({"totalCount": 1, "nodes": []}), "{answer}");
    }
    // Another tenant's ids are as unknown as any other.
    let other = Product::shared().tenant().await;
    let answer = other.graphql(history, json!({"id": customer})).await;
    assert_eq!(answer["customerHistory"], Value::Null);
}
