//! GraphQL: queries and commands of the core. One file for each aggregate. `engine` holds shared code; `handler`
//! connects HTTP and the schema.

#![expect(clippy::missing_errors_doc, reason = "the model layer replaces these files")]

pub mod crm;
pub mod engine;
pub mod handler;
pub mod identity;
pub mod page;

use async_graphql::{EmptySubscription, MergedObject, Schema, SchemaBuilder};
use commands::Executor;

use crm::customer::{CustomerMutations, CustomerQueries};
use identity::user::{UserMutations, UserQueries};

/// All queries.
#[derive(MergedObject, Default)]
pub struct Query(UserQueries, CustomerQueries);

/// All mutations. Each mutation is one command and has its name.
#[derive(MergedObject, Default)]
pub struct Mutation(CustomerMutations, UserMutations);

/// The public schema.
pub type ApiSchema = Schema<Query, Mutation, EmptySubscription>;

/// Builds the schema, whose mutations run on the executor. Only in development it suggests names for misspelt ones:
/// that costs time and reveals names.
pub fn schema(executor: Executor, dev: bool) -> ApiSchema {
    let builder = builder().data(executor);
    if dev { builder.finish() } else { builder.disable_suggestions().finish() }
}

fn builder() -> SchemaBuilder<Query, Mutation, EmptySubscription> {
    // The guard has checked every document before. These limits are a second check, wide enough for introspection.
    Schema::build(Query::default(), Mutation::default(), EmptySubscription)
        .limit_depth(32)
        .limit_recursive_depth(64)
        .limit_directives(5)
}

/// The schema in SDL, as committed in `gateway/schema.graphql`.
pub fn sdl() -> String {
    builder().finish().sdl()
}

/// The read models that a root field of a query reads, by the names of their checkpoints. A consistency token waits for
/// them.
fn read_models(field: &str) -> &'static [&'static str] {
    match field {
        // A history is read from the log. Waiting for the read model too is cheap and keeps the rule simple.
        "me" | "customer" | "customers" | "customerHistory" => crm::customer::READ_MODELS,
        "user" | "users" | "userHistory" => identity::user::READ_MODELS,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_schema_is_current() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.graphql");
        let current = sdl();
        if std::fs::read_to_string(&committed).is_ok_and(|text| text == current) {
            return;
        }
        let new = committed.with_extension("graphql.new");
        std::fs::write(&new, current).expect("the crate's folder can be written");
        panic!("the schema has changed: review {} and move it over {}", new.display(), committed.display());
    }

    #[test]
    fn every_query_but_introspection_names_its_read_models() {
        for field in ["me", "user", "users", "userHistory", "customer", "customers", "customerHistory"] {
            assert!(!read_models(field).is_empty(), "{field}");
        }
        assert!(read_models("__schema").is_empty());
    }

    #[tokio::test]
    async fn everything_in_the_schema_is_described() {
        let named = "name description";
        let query = format!(
            "{{ __schema {{ types {{ {named} fields {{ {named} args {{ {named} }} }} inputFields {{ {named} }} \
             enumValues {{ {named} }} }} }} }}"
        );
        let answer = builder().finish().execute(query).await.into_result().expect("introspection works").data;
        let answer = answer.into_json().expect("JSON");
        let types = answer["__schema"]["types"].as_array().expect("types");
        let built_in = |name: &str| name.starts_with("__") || name == "ID";
        let ours = types.iter().filter(|t| !built_in(t["name"].as_str().unwrap_or_default()));
        let mut undescribed = Vec::new();
        for ours in ours {
            let mut look = vec![ours];
            while let Some(item) = look.pop() {
                if item["description"].as_str().unwrap_or_default().is_empty() {
                    undescribed.push(format!("{}.{}", ours["name"], item["name"]));
                }
                let inner = ["fields", "args", "inputFields", "enumValues"].iter();
                look.extend(inner.filter_map(|members| item[members].as_array()).flatten());
            }
        }
        assert!(undescribed.is_empty(), "{undescribed:?}");
    }
}
