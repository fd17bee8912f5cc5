//! `/v1/erasures`: tenant administrators request the erasure of a person.

use access::policy::TENANT_ADMINISTER;
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use commands::identity::administration::request_erasure;
use commands::privacy::erasure;
use commands::{CommandResult, Decider, ExecuteError, Executor, Subject, SubjectRejection};
use futures::{TryStreamExt, pin_mut};
use schemas::engine::recorded::timestamp;
use schemas::engine::{InvalidValue, Reason, StreamName};
use schemas::privacy::subject::{RequestErasure, SubjectEvent};
use serde_json::{Value, json};
use store::TenantStore;
use uuid::Uuid;

use super::pages::PageQuery;
use crate::auth::Caller;
use crate::http::failures::rejected_field;
use crate::http::route::{AuthoritySource, Route};
use crate::http::{ErrorCode, FieldError, IdempotencyKey, JsonBody, Path, Problem, RequestContext};
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let request_route =
        Route::write(Method::POST, "/v1/erasures", &TENANT_ADMINISTER).authority(AuthoritySource::UseCase);
    routes
        .add(Route::get("/v1/erasures", &TENANT_ADMINISTER), list)
        .add(request_route, request)
        .add(Route::get("/v1/erasures/{subject}", &TENANT_ADMINISTER), show)
}

/// `POST /v1/erasures` `{user_id | customer_id, reason?}`: 202. The erasure continues in the background; its progress
/// is found under its subject. A second request changes nothing.
async fn request(
    State(executor): State<Executor>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = |text: &str| {
        Uuid::parse_str(text).map_err(|_| InvalidValue::new("id_invalid", "must be a UUID".to_owned()))
    };
    let user = body.optional("user_id", id);
    let customer = body.optional("customer_id", id);
    let reason = body.optional("reason", Reason::parse);
    let (user, customer, reason) = body.finish(|| Some((user, customer, reason)))?;
    let context = caller.command_context(&request, key.0);
    if let Some(first) = executor.previous_request_result::<Subject>(&context).await.map_err(to_problem)? {
        return accepted(&caller.store, &first).await;
    }
    let tenant = caller.record.id;
    let subject = match (user, customer) {
        (Some(user), None) => erasure::subject_of_user(&executor, tenant, user).await?,
        (None, Some(customer)) => erasure::subject_of_customer(&executor, tenant, customer).await?,
        _ => {
            let problem = InvalidValue::new("one_of", "name either a user or a customer".to_owned());
            return Err(Problem::invalid(vec![FieldError::new("user_id", problem)]));
        }
    };
    let subject = subject.ok_or(Problem::new(ErrorCode::NotFound))?;
    let command = RequestErasure { reason };
    let executed = request_erasure(&executor, &context, subject, command).await.map_err(to_problem)?;
    accepted(&caller.store, &executed).await
}

/// The erasure as of the request. A repeated request gets the same answer.
async fn accepted(
    store: &TenantStore,
    executed: &CommandResult<Subject>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let erasure = progress(store, executed.id, executed.version).await?;
    let mut erasure = erasure.ok_or(Problem::new(ErrorCode::NotFound))?;
    erasure["consistency_token"] = executed.consistency_token.clone().into();
    Ok((StatusCode::ACCEPTED, Json(erasure)))
}

/// `GET /v1/erasures`: pages in a stable order without meaning. The list is enough to request all erasures again after
/// a restore, so operators should keep a copy elsewhere.
async fn list(caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    let page = PageQuery::read(&uri)?;
    let (subjects, next_after) = page.ids::<Subject>(&caller.store).await?;
    let mut erasures = Vec::with_capacity(subjects.len());
    for subject in &subjects {
        erasures.extend(progress(&caller.store, *subject, u64::MAX).await?);
    }
    Ok(Json(json!({ "erasures": erasures, "next_after": next_after })))
}

/// `GET /v1/erasures/{subject}`: the progress. When the erasure is done, `position` is the position of the event that
/// records it. The proof of that event is the certificate.
async fn show(caller: Caller, Path(subject): Path<String>) -> Result<Json<Value>, Problem> {
    let subject: Uuid = subject.parse().map_err(|_| Problem::new(ErrorCode::NotFound))?;
    progress(&caller.store, subject, u64::MAX).await?.map(Json).ok_or(Problem::new(ErrorCode::NotFound))
}

/// The progress of the erasure at a version of the subject's stream. The stream is short, so all of it is read.
async fn progress(store: &TenantStore, subject: Uuid, version: u64) -> Result<Option<Value>, Problem> {
    let stream = StreamName::new(Subject::CATEGORY, subject);
    let events = store.read_stream(&stream, 1);
    pin_mut!(events);
    let mut erasure = None;
    while let Some(event) = events.try_next().await? {
        if event.version > version {
            break;
        }
        match event.decode::<SubjectEvent>().map_err(Problem::internal)? {
            Some(SubjectEvent::ErasureRequested(requested)) => {
                erasure = Some(json!({
                    "subject": subject,
                    "status": "requested",
                    "reason": requested.reason,
                    "requested_at": timestamp(event.recorded_at),
                }));
            }
            Some(SubjectEvent::Erased(erased)) => {
                let Some(erasure) = erasure.as_mut() else { continue };
                erasure["status"] = "erased".into();
                erasure["erased_at"] = timestamp(event.recorded_at).into();
                erasure["log_id"] = json!(event.log_id);
                erasure["position"] = event.position.into();
                erasure["key"] = json!(erased.key);
                erasure["streams"] = json!(erased.streams);
                erasure["certificate"] = format!("/v1/audit/proofs/{}", event.position).into();
            }
            None => {}
        }
    }
    Ok(erasure)
}

fn to_problem(error: ExecuteError<SubjectRejection>) -> Problem {
    match error {
        ExecuteError::Rejected(rejection @ SubjectRejection::SubjectIsAdmin) => {
            rejected_field("user_id", "subject_is_admin", &rejection)
        }
        error => error.into(),
    }
}
