//! From HTTP to the schema and back: `POST /graphql`, one request at a time, as JSON.

use access::ErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Request as GraphqlRequest, Response as GraphqlResponse, ServerError, Variables};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::engine::cost::Cost;
use super::engine::errors::{GraphqlError, complete};
use super::engine::guard::{Checked, Limits, Refusal, check};
use super::engine::nodes::MissingItems;
use super::engine::order::arrange;
use super::plan::PlanFailure;
use super::{ApiSchema, page};
use crate::auth::Caller;
use crate::http::accept::prefers;
use crate::http::consistency;
use crate::http::content::json_bytes;
use crate::http::failures::Cause;
use crate::http::json::read_json;
use crate::http::route::{AccessRule, Route};
use crate::http::{Problem, RequestContext};
use crate::routes::Routes;

/// An operation that takes longer is given up. Below the bound on the whole request, so that those who wait learn it in
/// the form of GraphQL.
const EXECUTION_TIMEOUT: Duration = Duration::from_secs(4);
const GRAPHQL_JSON: &str = "application/graphql-response+json";

/// The routes. Only in development there is a page.
pub fn routes(routes: Routes, dev: bool) -> Routes {
    let page = Route::public(Method::GET, "/graphql");
    let asset = Route::public(Method::GET, "/graphql/assets/{name}");
    let routes = if dev {
        routes.add(page, page::show).add(asset, page::asset)
    } else {
        routes.add(page, page::hidden)
    };
    let operation = Route::public(Method::POST, "/graphql").access(AccessRule::Token).graphql();
    routes.add(operation, answer)
}

/// Answers one operation.
async fn answer(
    State(schema): State<ApiSchema>,
    context: RequestContext,
    caller: Result<Caller, Problem>,
    request: Request,
) -> Result<Response, Problem> {
    let caller = caller.map_err(Problem::for_graphql)?;
    let headers = request.headers().clone();
    let bytes = json_bytes(request).await.map_err(Problem::for_graphql)?;
    let value = read_json(&bytes).map_err(Problem::for_graphql)?;
    let envelope = Envelope::read(value).map_err(Problem::for_graphql)?;

    let has_waited = match planned(&schema, &context, &caller, &headers, &envelope).await {
        Planned::Answer(body) => {
            let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(content_type(&headers)))];
            return Ok((StatusCode::OK, headers, body).into_response());
        }
        Planned::Failed(mut response, began) => {
            complete(&mut response, context.id());
            return Ok(encode(&response, began, &headers));
        }
        Planned::NoPlan => false,
        Planned::GivenUp => true,
    };
    let (mut response, began) = run(&schema, &context, caller, &headers, envelope, has_waited).await;
    complete(&mut response, context.id());
    Ok(encode(&response, began, &headers))
}

/// What came of the plan of a document.
enum Planned {
    /// The body of the answer.
    Answer(Vec<u8>),
    /// An error, which the executor would meet too; and whether execution began.
    Failed(Box<GraphqlResponse>, bool),
    /// The executor must answer. The read models have reached what the client has seen.
    GivenUp,
    /// The document has no plan yet, so the executor must answer.
    NoPlan,
}

async fn planned(
    schema: &ApiSchema,
    context: &RequestContext,
    caller: &Caller,
    headers: &HeaderMap,
    envelope: &Envelope,
) -> Planned {
    let Some(plan) = schema.plans.get(&envelope.query, envelope.operation.as_deref()) else {
        return Planned::NoPlan;
    };
    context.set_subject(plan.root_fields.join(" "));
    if plan.cost.check(&envelope.variables).is_err() {
        return Planned::NoPlan;
    }
    if let Err((code, message)) = wait(caller, headers, envelope, Some(&plan.cost)).await {
        let error = GraphqlResponse::from_errors(vec![code.server_error(message)]);
        return Planned::Failed(Box::new(error), false);
    }
    match tokio::time::timeout(EXECUTION_TIMEOUT, plan.run(caller, &envelope.variables)).await {
        Ok(Ok(body)) => Planned::Answer(body),
        Ok(Err(PlanFailure::GivenUp)) => Planned::GivenUp,
        Ok(Err(PlanFailure::Unavailable(error))) => {
            tracing::warn!(cause = %Cause::of(&error), "a plan is unavailable");
            let error = ErrorCode::Unavailable.server_error("unavailable for the moment");
            Planned::Failed(Box::new(GraphqlResponse::from_errors(vec![error])), true)
        }
        Err(_elapsed) => Planned::Failed(Box::new(took_too_long()), true),
    }
}

fn took_too_long() -> GraphqlResponse {
    GraphqlResponse::from_errors(vec![ErrorCode::Unavailable.server_error("the operation took too long")])
}

/// The members of a request over HTTP.
struct Envelope {
    query: String,
    operation: Option<String>,
    variables: Variables,
    consistency_token: Option<String>,
}

impl Envelope {
    fn read(value: Value) -> Result<Self, Problem> {
        let Value::Object(mut members) = value else {
            return Err(Problem::bad_request("send one request as a JSON object; batches are not taken"));
        };
        let Some(Value::String(query)) = members.remove("query") else {
            return Err(Problem::bad_request("`query` must be a string"));
        };
        let operation = match members.remove("operationName") {
            None | Some(Value::Null) => None,
            // Clients that have no name to send often send an empty one.
            Some(Value::String(name)) => Some(name).filter(|name| !name.is_empty()),
            Some(_) => return Err(Problem::bad_request("`operationName` must be a string")),
        };
        let variables = object(&mut members, "variables")?.map(Value::Object).unwrap_or_default();
        let consistency_token = match object(&mut members, "extensions")?
            .and_then(|mut e| e.remove("consistencyToken"))
        {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) => Some(token),
            Some(_) => return Err(Problem::bad_request("`extensions.consistencyToken` must be a string")),
        };
        Ok(Self { query, operation, variables: Variables::from_json(variables), consistency_token })
    }
}

fn object(members: &mut Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, Problem> {
    match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(members)) => Ok(Some(members)),
        Some(_) => Err(Problem::bad_request(format!("`{name}` must be an object"))),
    }
}

/// The response, and whether execution began: until then an error is about the request, not about a field.
async fn run(
    schema: &ApiSchema,
    context: &RequestContext,
    caller: Caller,
    headers: &HeaderMap,
    envelope: Envelope,
    has_waited: bool,
) -> (GraphqlResponse, bool) {
    let checked = match check(&envelope.query, envelope.operation.as_deref(), &Limits::default()) {
        Ok(checked) => checked,
        Err(refusal) => return (GraphqlResponse::from_errors(vec![refusal.into()]), false),
    };
    context.set_subject(checked.root_fields.join(" "));
    let cost = Arc::new(schema.fields.cost(&checked.document, &checked.operation));
    if let Err(refusal) = cost.check(&envelope.variables) {
        return (GraphqlResponse::from_errors(vec![refusal.into()]), false);
    }
    // A mutation waits for no read model.
    let needed = Some(&*cost).filter(|_| !checked.is_mutation);
    if !has_waited && let Err((code, message)) = wait(&caller, headers, &envelope, needed).await {
        return (GraphqlResponse::from_errors(vec![code.server_error(message)]), false);
    }
    let Envelope { query, operation, variables, .. } = envelope;
    let request = GraphqlRequest::new(query).variables(variables).data(context.clone()).data(caller);
    execute(schema, request, operation.as_deref(), &checked, &cost).await
}

/// The executor's response to a checked operation, and whether execution began. A document that it answers without an
/// error gets a plan.
async fn execute(
    schema: &ApiSchema,
    mut request: GraphqlRequest,
    operation: Option<&str>,
    checked: &Checked,
    cost: &Arc<Cost>,
) -> (GraphqlResponse, bool) {
    request.set_parsed_query(checked.document.clone());
    let missing = MissingItems::default();
    request = request.data(missing.clone());
    if let Some(operation) = operation {
        request = request.operation_name(operation);
    }
    let query = request.query.clone();
    let executed = tokio::time::timeout(EXECUTION_TIMEOUT, schema.schema.execute(request)).await;
    let Ok(mut response) = executed else { return (took_too_long(), true) };
    missing.remove_from(&mut response);
    // The library answers a document that does not fit the schema without any data, and with errors of no path.
    let began = response.is_ok() || response.errors.iter().any(|error| !error.path.is_empty());
    arrange(&mut response.data, &checked.selections, &checked.document);
    if response.is_ok() {
        let Checked { document, operation: chosen, root_fields, .. } = checked;
        schema.plans.learn(&query, operation, document, chosen, (root_fields, cost));
    }
    (response, began)
}

impl ApiSchema {
    /// Answers a query without HTTP: the body, and whether a plan wrote it.
    ///
    /// # Errors
    /// [`Refusal`] if the document asks for too much, or is no GraphQL.
    pub async fn query(
        &self,
        caller: &Caller,
        text: &str,
        variables: Value,
    ) -> Result<(Vec<u8>, bool), Refusal> {
        let variables = Variables::from_json(variables);
        if let Some(plan) = self.plans.get(text, None).filter(|plan| plan.cost.check(&variables).is_ok())
            && let Ok(body) = plan.run(caller, &variables).await
        {
            return Ok((body, true));
        }
        let checked = check(text, None, &Limits::default())?;
        let cost = Arc::new(self.fields.cost(&checked.document, &checked.operation));
        cost.check(&variables)?;
        let request = GraphqlRequest::new(text).variables(variables).data(caller.clone());
        let (response, began) = execute(self, request, None, &checked, &cost).await;
        Ok((body(&response, began).unwrap_or_default(), false))
    }
}

/// Waits until the read models behind the operation have reached what the client has seen. A mutation reads none; its
/// token is checked all the same.
async fn wait(
    caller: &Caller,
    headers: &HeaderMap,
    envelope: &Envelope,
    cost: Option<&Cost>,
) -> Result<(), (ErrorCode, &'static str)> {
    let needed: Vec<&str> = cost.iter().flat_map(|cost| &cost.read_models).copied().collect();
    for token in consistency::tokens(headers).chain(envelope.consistency_token.clone()) {
        consistency::map_wait_error(queries::wait_for(&caller.store, &token, &needed).await)?;
    }
    Ok(())
}

fn content_type(headers: &HeaderMap) -> &'static str {
    if prefers(headers, GRAPHQL_JSON, "application/json") { GRAPHQL_JSON } else { "application/json" }
}

/// Status and content type follow the GraphQL-over-HTTP specification: clients of `application/json` read errors from
/// the body alone, clients of `application/graphql-response+json` also from the status.
fn encode(response: &GraphqlResponse, began: bool, headers: &HeaderMap) -> Response {
    let content_type = content_type(headers);
    let strict = content_type == GRAPHQL_JSON;
    let status = if strict && !began { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    match body(response, began) {
        Ok(body) => {
            (status, [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
        }
        Err(error) => Problem::internal(error).for_graphql().into_response(),
    }
}

fn body(response: &GraphqlResponse, began: bool) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Answer {
        data: began.then_some(&response.data),
        errors: &response.errors,
        extensions: &response.extensions,
    })
}

/// The body of an answer. A request that never began to run has no data, not even null.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a async_graphql::Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ServerError],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extensions: &'a BTreeMap<String, async_graphql::Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_request_is_an_object_with_a_query() {
        let read = Envelope::read(json!({
            "query": "{ me { id } }", "operationName": null, "variables": {"a": 1},
            "extensions": {"consistencyToken": "t"},
        }));
        let read = read.expect("complete");
        assert_eq!((read.query.as_str(), read.consistency_token.as_deref()), ("{ me { id } }", Some("t")));
        for bad in [
            json!([{"query": "{ me { id } }"}]),
            json!({}),
            json!({"query": 1}),
            json!({"query": "{ a }", "variables": []}),
            json!({"query": "{ a }", "operationName": 1}),
            json!({"query": "{ a }", "extensions": {"consistencyToken": 1}}),
        ] {
            assert!(Envelope::read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_status_speaks_only_to_those_who_listen_to_it() {
        let response = GraphqlResponse::from_errors(vec![ErrorCode::BadRequest.server_error("no")]);
        let asked = |accept: &'static str, began: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            encode(&response, began, &headers).status()
        };
        assert_eq!(asked("application/json", false), StatusCode::OK);
        assert_eq!(
            asked("application/graphql-response+json, application/json", false),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(asked("application/graphql-response+json", true), StatusCode::OK);
    }
}
