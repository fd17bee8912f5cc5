//! GraphQL over every read model and aggregate. The schema is built at start from their descriptions.
//!
//! - `engine` holds what all fields share.
//! - A field that no description covers has a file of its own: `me`.
//! - `plan` answers reads without the library's executor.
//! - `handler` connects HTTP and the schema.

pub mod engine;
pub mod handler;
pub mod me;
pub mod page;
pub mod plan;

use std::sync::Arc;

use async_graphql::dynamic::{Object, Schema, SchemaBuilder, SchemaError};
use commands::Executor;
use queries::{READ_MODELS, ReadModel, RowCache};

use engine::cost::ReadingFields;
use engine::{commands as mutations, kinds, nodes, objects, pages, past, reads};
use plan::Plans;

/// Maximum bytes of the cache of rows that payloads of mutations show.
const CACHED_ROWS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The public schema, and the plans of documents.
#[derive(Clone)]
pub struct ApiSchema {
    schema: Schema,
    plans: Plans,
    fields: Arc<ReadingFields>,
}

/// Builds the schema, whose mutations run on the executor. Only in development it suggests names for misspelt ones:
/// that costs time and reveals names. `compiled_reads`: documents become plans.
pub fn schema(executor: Executor, dev: bool, compiled_reads: bool) -> ApiSchema {
    schema_of(&READ_MODELS, executor, dev, compiled_reads)
}

/// [`schema`] over these read models.
///
/// # Panics
/// The descriptions do not give a schema: two types have the same name, for example.
pub fn schema_of(
    read_models: &'static [ReadModel],
    executor: Executor,
    dev: bool,
    compiled_reads: bool,
) -> ApiSchema {
    let builder = builder(read_models).data(executor).data(RowCache::new(CACHED_ROWS_BYTES_MAX));
    let builder = if dev { builder } else { builder.disable_suggestions() };
    let schema = builder.finish().expect("the descriptions give a schema, which a test checks");
    let fields = Arc::new(ReadingFields::of(read_models));
    ApiSchema { schema, plans: Plans::new(read_models, compiled_reads), fields }
}

fn builder(read_models: &'static [ReadModel]) -> SchemaBuilder {
    let mut types = kinds::Types::default();
    let mut query = Object::new("Query").description("All queries.");
    let mut mutation =
        Object::new("Mutation").description("All mutations. Each mutation is one command and has its name.");
    for read_model in read_models {
        objects::add(&mut types, read_models, read_model.model);
        query = reads::add(query, &mut types, read_model);
        if let Some(aggregate) = ::commands::of_category(read_model.category) {
            mutation = mutations::add(mutation, &mut types, aggregate, read_model);
        }
    }
    query = nodes::add(query, &mut types, read_models);
    query = me::add(query, &mut types);
    for add in [kinds::add_scalars, pages::add_page_info, past::add_as_of, mutations::add_shared] {
        add(&mut types);
    }
    // The guard has checked every document before. These limits are a second check, wide enough for introspection.
    let builder = Schema::build("Query", Some("Mutation"), None)
        .limit_depth(32)
        .limit_recursive_depth(64)
        .limit_directives(5)
        .register(query)
        .register(mutation);
    types.all.into_values().fold(builder, SchemaBuilder::register)
}

/// The schema in SDL, as committed in `gateway/schema.graphql`.
///
/// # Errors
/// The descriptions do not give a schema: two types have the same name, for example.
pub fn sdl() -> Result<String, SchemaError> {
    Ok(builder(&READ_MODELS).finish()?.sdl())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_schema_is_current() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.graphql");
        let current = sdl().expect("a schema");
        if std::fs::read_to_string(&committed).is_ok_and(|text| text == current) {
            return;
        }
        let new = committed.with_extension("graphql.new");
        std::fs::write(&new, current).expect("the crate's folder can be written");
        panic!("the schema has changed: review {} and move it over {}", new.display(), committed.display());
    }

    #[tokio::test]
    async fn connections_and_nodes_are_those_of_the_relay_specifications() {
        let ty = "type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }";
        let query = format!(
            "{{ __schema {{ types {{ name interfaces {{ name }} fields {{ name {ty} args {{ name {ty} }} }} }} }} }}"
        );
        let schema = builder(&READ_MODELS).finish().expect("a schema");
        let answer = schema.execute(query).await.into_result().expect("introspection works").data;
        let answer = answer.into_json().expect("JSON");
        let types = answer["__schema"]["types"].as_array().expect("types");
        let shown = |ty: &serde_json::Value| {
            let mut parts = Vec::new();
            let mut ty = ty;
            while ty.is_object() {
                parts
                    .push(ty["name"].as_str().or_else(|| ty["kind"].as_str()).unwrap_or_default().to_owned());
                ty = &ty["ofType"];
            }
            parts.join(" ")
        };
        let fields = |name: &str| -> Vec<(String, String)> {
            let ty = types.iter().find(|ty| ty["name"] == name).expect("there is such a type");
            let fields = ty["fields"].as_array().expect("an object").iter();
            fields
                .map(|field| (field["name"].as_str().unwrap_or_default().to_owned(), shown(&field["type"])))
                .collect()
        };
        let has = |name: &str, field: &str, ty: &str| {
            let fields = fields(name);
            assert!(fields.contains(&(field.to_owned(), ty.to_owned())), "{name}.{field}: {fields:?}");
        };
        let mut connections = 0;
        for ty in types {
            let name = ty["name"].as_str().expect("a name");
            if let Some(object) = name.strip_suffix("Connection") {
                connections += 1;
                has(name, "edges", &format!("NON_NULL LIST NON_NULL {object}Edge"));
                has(name, "pageInfo", "NON_NULL PageInfo");
                has(&format!("{object}Edge"), "cursor", "NON_NULL String");
                has(&format!("{object}Edge"), "node", &format!("NON_NULL {object}"));
            }
            // A field that returns a connection can be paged through.
            for field in ty["fields"].as_array().into_iter().flatten() {
                if shown(&field["type"]).ends_with("Connection") {
                    let arguments = field["args"].as_array().expect("arguments");
                    for (argument, expected) in [("first", "Int"), ("after", "String")] {
                        let found = arguments.iter().find(|given| given["name"] == argument);
                        assert_eq!(
                            found.map(|found| shown(&found["type"])).as_deref(),
                            Some(expected),
                            "{field}"
                        );
                    }
                }
            }
        }
        assert_eq!(connections, 2 * READ_MODELS.len());
        for flag in ["hasNextPage", "hasPreviousPage"] {
            has("PageInfo", flag, "NON_NULL Boolean");
        }
        for end in ["startCursor", "endCursor"] {
            has("PageInfo", end, "String");
        }
        has("Node", "id", "NON_NULL ID");
        for object in READ_MODELS.iter().map(|read_model| read_model.model.object) {
            let ty = types.iter().find(|ty| ty["name"] == object).expect("the object");
            assert_eq!(ty["interfaces"], serde_json::json!([{"name": "Node"}]));
        }
    }

    #[tokio::test]
    async fn everything_in_the_schema_is_described() {
        let named = "name description";
        let query = format!(
            "{{ __schema {{ types {{ {named} fields {{ {named} args {{ {named} }} }} inputFields {{ {named} }} \
             enumValues {{ {named} }} }} }} }}"
        );
        let answer = builder(&READ_MODELS)
            .finish()
            .expect("a schema")
            .execute(query)
            .await
            .into_result()
            .expect("introspection works")
            .data;
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
