//! `/v1/erasures`: tenant administrators request the erasure of a person.

use access::policy::TENANT_ADMINISTER;
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use commands::{CommandResult, ExecuteError, Executor, Subject, SubjectRejection};
use privacy::{ErasureProgress, request_erasure, subject_of_customer, subject_of_user};
use schemas::engine::{InvalidValue, Reason};
use serde::Serialize;
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

/// An erasure as REST shows it.
#[derive(Debug, Serialize)]
pub struct ShownErasure {
    #[serde(flatten)]
    progress: ErasureProgress,
    /// Where the proof of the event is that records the erasure.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// In the answer to a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    consistency_token: Option<String>,
}

impl From<ErasureProgress> for ShownErasure {
    fn from(progress: ErasureProgress) -> Self {
        let proof = |position: u64| format!("/v1/audit/proofs/{position}");
        let certificate = progress.recorded.as_ref().map(|recorded| proof(recorded.position));
        Self { progress, certificate, consistency_token: None }
    }
}

/// `POST /v1/erasures` `{user_id | customer_id, reason?}`: 202. The erasure continues in the background; its progress
/// is found under its subject. A second request changes nothing.
async fn request(
    State(executor): State<Executor>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<ShownErasure>), Problem> {
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
        (Some(user), None) => subject_of_user(&executor, tenant, user).await?,
        (None, Some(customer)) => subject_of_customer(&executor, tenant, customer).await?,
        _ => {
            let problem = InvalidValue::new("one_of", "name either a user or a customer".to_owned());
            return Err(Problem::invalid(vec![FieldError::new("user_id", problem)]));
        }
    };
    let subject = subject.ok_or(Problem::new(ErrorCode::NotFound))?;
    let executed = request_erasure(&executor, &context, subject, reason).await.map_err(to_problem)?;
    accepted(&caller.store, &executed).await
}

/// The erasure as of the request. A repeated request gets the same answer.
async fn accepted(
    store: &TenantStore,
    executed: &CommandResult<Subject>,
) -> Result<(StatusCode, Json<ShownErasure>), Problem> {
    let erasure = shown(store, executed.id, executed.version).await?;
    let consistency_token = Some(executed.consistency_token.clone());
    Ok((StatusCode::ACCEPTED, Json(ShownErasure { consistency_token, ..erasure })))
}

/// `GET /v1/erasures`: pages in a stable order without meaning. The list is enough to request all erasures again after
/// a restore, so operators should keep a copy elsewhere.
async fn list(caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    let page = PageQuery::read(&uri)?;
    let (subjects, next_after) = page.ids::<Subject>(&caller.store).await?;
    let mut erasures = Vec::with_capacity(subjects.len());
    for subject in &subjects {
        erasures
            .extend(ErasureProgress::load(&caller.store, *subject, u64::MAX).await?.map(ShownErasure::from));
    }
    Ok(Json(json!({ "erasures": erasures, "next_after": next_after })))
}

/// `GET /v1/erasures/{subject}`: the progress. When the erasure is done, `position` is the position of the event that
/// records it. The proof of that event is the certificate.
async fn show(caller: Caller, Path(subject): Path<String>) -> Result<Json<ShownErasure>, Problem> {
    let subject: Uuid = subject.parse().map_err(|_| Problem::new(ErrorCode::NotFound))?;
    shown(&caller.store, subject, u64::MAX).await.map(Json)
}

/// The erasure at a version of the subject's stream.
async fn shown(store: &TenantStore, subject: Uuid, version: u64) -> Result<ShownErasure, Problem> {
    let progress = ErasureProgress::load(store, subject, version).await?;
    progress.map(ShownErasure::from).ok_or(Problem::new(ErrorCode::NotFound))
}

fn to_problem(error: ExecuteError<SubjectRejection>) -> Problem {
    match error {
        ExecuteError::Rejected(rejection @ SubjectRejection::SubjectIsAdmin) => {
            rejected_field("user_id", "subject_is_admin", &rejection)
        }
        error => error.into(),
    }
}
