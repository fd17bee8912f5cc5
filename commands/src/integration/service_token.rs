//! The rules of service tokens.

use access::ErrorCode;
use chrono::{DateTime, Days, SubsecRound, Utc};
use schemas::identity::scope::Scope;
use schemas::integration::service_token::{
    IssueServiceToken, RevokeServiceToken, ServiceScope, ServiceTokenEvent, ServiceTokenIssued,
    ServiceTokenRevoked,
};
use serde::{Deserialize, Serialize};

use crate::engine::decider::{Decider, Rejection};

/// Maximum lifetime of a token in days.
pub const DAYS_MAX: u32 = 365;
/// Maximum lifetime of an auditor's token in days.
pub const AUDITOR_DAYS_MAX: u32 = 30;
/// Maximum scopes of a token.
pub const SCOPES_MAX: usize = 20;

crate::commands! {
    /// The commands of a service token.
    pub enum ServiceTokenCommand {
        creates Issue(IssueServiceToken);
        changes Revoke(RevokeServiceToken);
    }
}

/// Why a service token command was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceTokenRejection {
    /// A token with this id exists.
    #[error("the token is issued already")]
    AlreadyIssued,
    /// The token does not exist.
    #[error("there is no such token")]
    NotIssued,
    /// A token needs 1 to [`SCOPES_MAX`] scopes.
    #[error("a token has 1 to {SCOPES_MAX} scopes")]
    Scopes,
    /// The expiry is in the past or too late.
    #[error("a token ends within {DAYS_MAX} days, one with audit:read within {AUDITOR_DAYS_MAX}")]
    Days,
    /// An auditor's token must not have a scope that allows changes.
    #[error("a token with audit:read has no scope that changes anything")]
    AuditorReadOnly,
}

impl Rejection for ServiceTokenRejection {
    fn code(&self) -> ErrorCode {
        match self {
            Self::AlreadyIssued => ErrorCode::ServiceTokenExists,
            Self::NotIssued => ErrorCode::ServiceTokenUnknown,
            Self::Scopes => ErrorCode::ScopesInvalid,
            Self::Days => ErrorCode::ExpiresDaysInvalid,
            Self::AuditorReadOnly => ErrorCode::AuditorReadOnly,
        }
    }
}

/// A service token, folded from its events.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServiceToken {
    /// False before the first event.
    pub issued: bool,
    /// Name of the token, for people.
    pub name: String,
    /// Scopes of the token.
    pub scopes: Vec<ServiceScope>,
    /// When it was issued, in whole seconds.
    pub issued_at: DateTime<Utc>,
    /// When it expires, in whole seconds.
    pub expires_at: DateTime<Utc>,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl Decider for ServiceToken {
    type Command = ServiceTokenCommand;
    type Event = ServiceTokenEvent;
    type Error = ServiceTokenRejection;

    fn apply(&mut self, event: ServiceTokenEvent) {
        match event {
            ServiceTokenEvent::Issued(issued) => {
                *self = Self {
                    issued: true,
                    name: issued.name.into(),
                    scopes: issued.scopes,
                    issued_at: issued.issued_at,
                    expires_at: issued.expires_at,
                    revoked: false,
                }
            }
            ServiceTokenEvent::Revoked(_) => self.revoked = true,
        }
    }

    fn decide(&self, command: ServiceTokenCommand) -> Result<Vec<ServiceTokenEvent>, ServiceTokenRejection> {
        match (self.issued, command) {
            (true, ServiceTokenCommand::Issue(_)) => Err(ServiceTokenRejection::AlreadyIssued),
            (false, ServiceTokenCommand::Issue(new)) => issue(new).map(|event| vec![event]),
            (false, ServiceTokenCommand::Revoke(_)) => Err(ServiceTokenRejection::NotIssued),
            (true, ServiceTokenCommand::Revoke(_)) if self.revoked => Ok(Vec::new()),
            (true, ServiceTokenCommand::Revoke(_)) => {
                Ok(vec![ServiceTokenEvent::Revoked(ServiceTokenRevoked {})])
            }
        }
    }

    fn exists(&self) -> bool {
        self.issued
    }
}

fn issue(new: IssueServiceToken) -> Result<ServiceTokenEvent, ServiceTokenRejection> {
    let mut scopes = new.scopes;
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() || scopes.len() > SCOPES_MAX {
        return Err(ServiceTokenRejection::Scopes);
    }
    let audits = scopes.iter().any(|scope| *scope.scope() == Scope::AuditRead);
    if audits && !scopes.iter().all(|scope| scope.scope().only_reads()) {
        return Err(ServiceTokenRejection::AuditorReadOnly);
    }
    let days_max = if audits { AUDITOR_DAYS_MAX } else { DAYS_MAX };
    // Tokens have whole seconds.
    let issued_at = new.now.trunc_subsecs(0);
    let days = |days: u32| issued_at + Days::new(u64::from(days));
    let expires_at = match (new.expires_days, new.expires_at) {
        (Some(given), None) if given <= days_max => days(given),
        (None, Some(given)) => given.trunc_subsecs(0),
        _ => return Err(ServiceTokenRejection::Days),
    };
    if expires_at <= issued_at || expires_at > days(days_max) {
        return Err(ServiceTokenRejection::Days);
    }
    Ok(ServiceTokenEvent::Issued(ServiceTokenIssued { name: new.name, scopes, issued_at, expires_at }))
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};
    use schemas::engine::Name;

    use super::*;
    use crate::CqrsAggregate;

    fn issue(scopes: &[&str], expires_days: u32) -> IssueServiceToken {
        IssueServiceToken {
            name: Name::parse("loyalty").expect("a valid name"),
            scopes: scopes.iter().map(|scope| ServiceScope::parse(scope).expect("a valid scope")).collect(),
            expires_days: Some(expires_days),
            expires_at: None,
            now: DateTime::from_timestamp(1_767_323_045, 678_000_000).expect("in range"),
        }
    }

    fn issued() -> ServiceTokenEvent {
        ServiceTokenEvent::Issued(ServiceTokenIssued {
            name: Name::parse("loyalty").expect("a valid name"),
            scopes: vec![ServiceScope::parse("events:read").expect("a valid scope")],
            issued_at: DateTime::from_timestamp(1_767_323_045, 0).expect("in range"),
            expires_at: DateTime::from_timestamp(1_767_323_045 + 86_400, 0).expect("in range"),
        })
    }

    fn given(events: Vec<ServiceTokenEvent>) -> AggregateTestExecutor<CqrsAggregate<ServiceToken>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn a_token_has_rights_and_an_end() {
        given(vec![])
            .when(issue(&["events:read", "events:read"], 1).into())
            .then_expect_events(vec![issued()]);
        given(vec![]).when(issue(&[], 1).into()).then_expect_error(ServiceTokenRejection::Scopes);
        for days in [0, DAYS_MAX + 1] {
            given(vec![])
                .when(issue(&["events:read"], days).into())
                .then_expect_error(ServiceTokenRejection::Days);
        }
    }

    #[test]
    fn an_auditors_token_reads_and_ends_soon() {
        let audit = ["audit:read", "events:read"];
        assert!(given(vec![]).when(issue(&audit, AUDITOR_DAYS_MAX).into()).inspect_result().is_ok());
        given(vec![])
            .when(issue(&audit, AUDITOR_DAYS_MAX + 1).into())
            .then_expect_error(ServiceTokenRejection::Days);
        for writing in ["crm:write", "events:append:ext.a.b", "event_types:write:ext.a.b"] {
            given(vec![])
                .when(issue(&["audit:read", writing], 1).into())
                .then_expect_error(ServiceTokenRejection::AuditorReadOnly);
        }
    }

    #[test]
    fn a_token_ends_after_days_or_at_a_time_and_not_both() {
        let until = |seconds: i64, expires_days: Option<u32>| {
            let new = issue(&["events:read"], 1);
            let expires_at = Some(new.now + chrono::TimeDelta::seconds(seconds));
            IssueServiceToken { expires_at, expires_days, ..new }
        };
        assert!(given(vec![]).when(until(5, None).into()).inspect_result().is_ok());
        for wrong in [until(0, None), until(-5, None), until(5, Some(1)), until(366 * 86_400, None)] {
            given(vec![]).when(wrong.into()).then_expect_error(ServiceTokenRejection::Days);
        }
    }

    #[test]
    fn a_token_is_revoked_once() {
        let revoke = || ServiceTokenCommand::from(RevokeServiceToken {});
        let revoked = ServiceTokenEvent::Revoked(ServiceTokenRevoked {});
        given(vec![issued()]).when(revoke()).then_expect_events(vec![revoked.clone()]);
        given(vec![issued(), revoked]).when(revoke()).then_expect_events(vec![]);
        given(vec![]).when(revoke()).then_expect_error(ServiceTokenRejection::NotIssued);
    }

    #[test]
    fn the_time_of_issue_does_not_make_a_repeat_another_command() {
        let (first, mut again) = (issue(&["events:read"], 1), issue(&["events:read"], 1));
        again.now = again.now + Days::new(1);
        let text = |command| serde_json::to_string(&command).expect("serialises");
        assert_eq!(text(first), text(again));
    }
}
