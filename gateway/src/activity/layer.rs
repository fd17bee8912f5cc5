//! Records the outcomes of requests in the activity log.

use std::net::SocketAddr;

use activity::{ACCEPTED, ActivityKind};
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use schemas::engine::ids::PLATFORM;

use super::log::{ActivityLog, entry};
use crate::http::route::{AuditRule, Route};
use crate::http::{ErrorCode, Problem, RequestContext};

/// Maximum length of an action in bytes. A longer one is cut.
const ACTION_BYTES_MAX: usize = 300;

/// The layer, for `axum::middleware::from_fn_with_state`.
pub async fn record_activity(State(log): State<ActivityLog>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let context = request.extensions().get::<RequestContext>().cloned();
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
    let response = next.run(request).await;
    let Some(context) = context else { return response };
    let problem = response.extensions().get::<Problem>().map(Problem::code);
    record_request(&log, &context, &path, problem, address);
    response
}

/// Records the outcome of a request. Handlers that leave HTTP, such as WebSockets, call it themselves.
pub fn record_request(
    log: &ActivityLog,
    context: &RequestContext,
    path: &str,
    problem: Option<ErrorCode>,
    address: Option<String>,
) {
    let Some(route) = context.route() else { return };
    // Requests of operators are recorded in the platform's activity log, unless they are about one tenant.
    let operates = route.audit == AuditRule::Operator;
    let Some(tenant) = context.tenant().or(operates.then_some(PLATFORM)) else { return };
    let actor = context.principal().actor();
    let outcome = problem.map_or(ACCEPTED, ErrorCode::as_str);
    let mut entries = Vec::new();
    if let Some(kind) =
        kind(context.audit().unwrap_or(route.audit), problem, context.principal().is_auditor())
    {
        entries.push(entry(kind, &actor, action(kind, &route, path, context.subject()), outcome));
    }
    for (command, code) in context.take_rejections() {
        entries.push(entry(ActivityKind::RejectedCommand, &actor, command, &code.graphql()));
    }
    for mut entry in entries {
        entry.request_id = Some(context.id().to_string());
        entry.address.clone_from(&address);
        log.record(tenant, entry);
    }
}

/// The text of an entry. Accesses and changes need the real path and the subject. For other kinds the pattern of the
/// route is enough.
fn action(kind: ActivityKind, route: &Route, path: &str, subject: Option<&str>) -> String {
    use ActivityKind::{AuditAccess, CredentialChange, OperatorAccess, RightsChange};
    let method = route.method_name();
    let mut action = match (kind, subject) {
        (AuditAccess | CredentialChange | OperatorAccess | RightsChange, Some(subject)) => {
            format!("{method} {path} {subject}")
        }
        (AuditAccess | CredentialChange | OperatorAccess | RightsChange, None) => format!("{method} {path}"),
        _ => format!("{method} {}", route.path),
    };
    action.truncate(action.floor_char_boundary(ACTION_BYTES_MAX));
    action
}

fn kind(audit: AuditRule, problem: Option<ErrorCode>, auditor: bool) -> Option<ActivityKind> {
    if audit == AuditRule::SignIn {
        let recorded_outcomes = [None, Some(ErrorCode::InvalidCredentials), Some(ErrorCode::Unavailable)];
        return recorded_outcomes.contains(&problem).then_some(ActivityKind::SignIn);
    }
    match problem {
        Some(
            ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::TenantMismatch
            | ErrorCode::ReservedContext,
        ) => Some(ActivityKind::Refusal),
        Some(
            ErrorCode::Invalid
            | ErrorCode::EmailTaken
            | ErrorCode::VersionConflict
            | ErrorCode::CommandIdReused
            | ErrorCode::EventIdTaken
            | ErrorCode::EventTypeVersionGap
            | ErrorCode::SchemaIncompatible,
        ) => Some(ActivityKind::RejectedCommand),
        None if audit == AuditRule::CredentialChange => Some(ActivityKind::CredentialChange),
        None if audit == AuditRule::RightsChange => Some(ActivityKind::RightsChange),
        _ if audit == AuditRule::Operator => Some(ActivityKind::OperatorAccess),
        _ if audit == AuditRule::Access || auditor => Some(ActivityKind::AuditAccess),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_members_are_not_recorded_and_those_of_auditors_are() {
        assert_eq!(kind(AuditRule::Auditors, None, false), None);
        assert_eq!(kind(AuditRule::Auditors, None, true), Some(ActivityKind::AuditAccess));
        assert_eq!(kind(AuditRule::Access, None, false), Some(ActivityKind::AuditAccess));
        assert_eq!(kind(AuditRule::Auditors, Some(ErrorCode::Forbidden), true), Some(ActivityKind::Refusal));
        let refused = Some(ErrorCode::InvalidCredentials);
        assert_eq!(kind(AuditRule::SignIn, refused, false), Some(ActivityKind::SignIn));
        assert_eq!(kind(AuditRule::SignIn, Some(ErrorCode::TenantUnknown), false), None);
    }

    #[test]
    fn credentials_are_recorded_when_they_change_and_operators_always() {
        assert_eq!(kind(AuditRule::CredentialChange, None, false), Some(ActivityKind::CredentialChange));
        assert_eq!(kind(AuditRule::CredentialChange, Some(ErrorCode::NotFound), false), None);
        let missing = Some(ErrorCode::NotFound);
        assert_eq!(kind(AuditRule::Operator, missing, false), Some(ActivityKind::OperatorAccess));
    }
}
