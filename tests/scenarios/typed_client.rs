//! A typed GraphQL client that nobody here wrote: its queries are checked against the committed schema when they compile.

use graphql_client::{GraphQLQuery, Response};
use reqwest::Method;

use crate::support::{Product, eventually};

type Int64 = String;

/// Registers a customer.
#[derive(GraphQLQuery)]
#[graphql(schema_path = "gateway/schema.graphql", query_path = "tests/scenarios/customers.graphql")]
struct Register;

/// Lists customers.
#[derive(GraphQLQuery)]
#[graphql(schema_path = "gateway/schema.graphql", query_path = "tests/scenarios/customers.graphql")]
struct List;

async fn ask<Q: GraphQLQuery>(
    tenant: &crate::support::product::Tenant<'_>,
    variables: Q::Variables,
) -> Q::ResponseData {
    let answer = tenant
        .admin(Method::POST, "/graphql")
        .json(&Q::build_query(variables))
        .send()
        .await
        .expect("answers");
    let answer: Response<Q::ResponseData> = answer.json().await.expect("the answer fits the schema");
    assert!(answer.errors.is_none(), "{:?}", answer.errors);
    answer.data.expect("data")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typed_client_registers_and_lists_customers() {
    let tenant = Product::shared().tenant().await;
    for name in ["Ada", "Bo"] {
        let variables = register::Variables { name: name.to_owned(), email: "x@example.com".to_owned() };
        let payload = ask::<Register>(&tenant, variables).await.register_customer.expect("a payload");
        assert!(matches!(payload.outcome, register::CommandOutcome::APPLIED));
        assert_eq!(payload.version.as_deref(), Some("1"));
        assert!(payload.user_errors.is_empty());
    }
    let names = eventually("both are listed", || async {
        let list = ask::<List>(&tenant, list::Variables { first: Some(10) }).await.customers.expect("a list");
        let names: Vec<String> = list.nodes.into_iter().map(|node| node.name).collect();
        (names.len() == 2 && list.total_count == 2).then_some(names)
    })
    .await;
    assert_eq!(names, ["Ada", "Bo"]);
}
