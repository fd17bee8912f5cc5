//! The rules of service tokens.

use access::ErrorCode;
use chrono::{DateTime, Days, SubsecRound, Utc};
use describe::rejections;
use schemas::engine::Name;
use schemas::identity::scope::Scope;
use schemas::integration::service_token::{ServiceScope, ServiceTokenCommand, ServiceTokenEvent};
use serde::{Deserialize, Serialize};

use crate::engine::decider::{Decider, Facts};

/// Maximum lifetime of a token in days.
pub const DAYS_MAX: u32 = 365;
/// Maximum lifetime of an auditor's token in days.
pub const AUDITOR_DAYS_MAX: u32 = 30;
/// Maximum scopes of a token.
pub const SCOPES_MAX: usize = 20;

/// Why a service token command was rejected.
#[rejections]
pub enum ServiceTokenRejection {
    #[rejection(ScopesInvalid, "a token has 1 to {SCOPES_MAX} scopes", at = "scopes")]
    Scopes,
    /// The expiry is in the past or too late.
    #[rejection(
        ExpiresDaysInvalid,
        "a token ends within {DAYS_MAX} days, one with audit:read within {AUDITOR_DAYS_MAX}"
    )]
    Days,
    #[rejection(AuditorReadOnly, "a token with audit:read has no scope that changes anything", at = "scopes")]
    AuditorReadOnly,
}

/// What the rules know of a service token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServiceToken {
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
    type Rejection = ServiceTokenRejection;

    const EXISTS: ErrorCode = ErrorCode::ServiceTokenExists;

    fn decide(
        &self,
        command: ServiceTokenCommand,
        facts: &Facts,
    ) -> Result<Vec<ServiceTokenEvent>, ServiceTokenRejection> {
        use ServiceTokenCommand as Command;

        let event = match command {
            Command::IssueServiceToken { name, scopes, expires_days, expires_at } => {
                issue(name, scopes, (expires_days, expires_at), facts.now)?
            }
            Command::RevokeServiceToken {} if self.revoked => return Ok(vec![]),
            Command::RevokeServiceToken {} => ServiceTokenEvent::Revoked {},
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: ServiceTokenEvent) {
        match event {
            ServiceTokenEvent::Issued { name, scopes, issued_at, expires_at } => {
                *self = Self { name: name.into(), scopes, issued_at, expires_at, revoked: false };
            }
            ServiceTokenEvent::Revoked {} => self.revoked = true,
        }
    }
}

fn issue(
    name: Name,
    mut scopes: Vec<ServiceScope>,
    expiry: (Option<u32>, Option<DateTime<Utc>>),
    now: DateTime<Utc>,
) -> Result<ServiceTokenEvent, ServiceTokenRejection> {
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
    let issued_at = now.trunc_subsecs(0);
    let days = |days: u32| issued_at + Days::new(u64::from(days));
    let expires_at = match expiry {
        (Some(given), None) if given <= days_max => days(given),
        (None, Some(given)) => given.trunc_subsecs(0),
        _ => return Err(ServiceTokenRejection::Days),
    };
    if expires_at <= issued_at || expires_at > days(days_max) {
        return Err(ServiceTokenRejection::Days);
    }
    Ok(ServiceTokenEvent::Issued { name, scopes, issued_at, expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::decider::{DecideError, decide};

    type Decision = Result<Vec<ServiceTokenEvent>, DecideError<ServiceTokenRejection>>;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_323_045, 678_000_000).expect("in range")
    }

    fn issue_with(
        scopes: &[&str],
        expires_days: Option<u32>,
        expires_at: Option<DateTime<Utc>>,
    ) -> ServiceTokenCommand {
        ServiceTokenCommand::IssueServiceToken {
            name: Name::parse("loyalty").expect("a valid name"),
            scopes: scopes.iter().map(|scope| ServiceScope::parse(scope).expect("a valid scope")).collect(),
            expires_days,
            expires_at,
        }
    }

    fn issue(scopes: &[&str], expires_days: u32) -> ServiceTokenCommand {
        issue_with(scopes, Some(expires_days), None)
    }

    fn issued() -> ServiceTokenEvent {
        ServiceTokenEvent::Issued {
            name: Name::parse("loyalty").expect("a valid name"),
            scopes: vec![ServiceScope::parse("events:read").expect("a valid scope")],
            issued_at: DateTime::from_timestamp(1_767_323_045, 0).expect("in range"),
            expires_at: DateTime::from_timestamp(1_767_323_045 + 86_400, 0).expect("in range"),
        }
    }

    /// What the command gives at `now` after the events.
    fn given(events: Vec<ServiceTokenEvent>, command: ServiceTokenCommand) -> Decision {
        let (mut token, version) = (ServiceToken::default(), events.len() as u64);
        for event in events {
            token.apply(event);
        }
        decide(&token, version, command, &Facts { now: now() })
    }

    fn rejected(rejection: ServiceTokenRejection) -> Decision {
        Err(DecideError::Rejected(rejection))
    }

    #[test]
    fn a_token_has_rights_and_an_end() {
        assert_eq!(given(vec![], issue(&["events:read", "events:read"], 1)), Ok(vec![issued()]));
        assert_eq!(given(vec![], issue(&[], 1)), rejected(ServiceTokenRejection::Scopes));
        for days in [0, DAYS_MAX + 1] {
            assert_eq!(given(vec![], issue(&["events:read"], days)), rejected(ServiceTokenRejection::Days));
        }
    }

    #[test]
    fn an_auditors_token_reads_and_ends_soon() {
        let audit = ["audit:read", "events:read"];
        assert!(given(vec![], issue(&audit, AUDITOR_DAYS_MAX)).is_ok());
        assert_eq!(given(vec![], issue(&audit, AUDITOR_DAYS_MAX + 1)), rejected(ServiceTokenRejection::Days));
        for writing in ["crm:write", "events:append:ext.a.b", "event_types:write:ext.a.b"] {
            let decision = given(vec![], issue(&["audit:read", writing], 1));
            assert_eq!(decision, rejected(ServiceTokenRejection::AuditorReadOnly));
        }
    }

    #[test]
    fn a_token_ends_after_days_or_at_a_time_and_not_both() {
        let until = |seconds: i64, days: Option<u32>| {
            issue_with(&["events:read"], days, Some(now() + chrono::TimeDelta::seconds(seconds)))
        };
        assert!(given(vec![], until(5, None)).is_ok());
        for wrong in [until(0, None), until(-5, None), until(5, Some(1)), until(366 * 86_400, None)] {
            assert_eq!(given(vec![], wrong), rejected(ServiceTokenRejection::Days));
        }
    }

    #[test]
    fn a_token_is_revoked_once() {
        let (revoke, revoked) = (ServiceTokenCommand::RevokeServiceToken {}, ServiceTokenEvent::Revoked {});
        assert_eq!(given(vec![issued()], revoke.clone()), Ok(vec![revoked.clone()]));
        assert_eq!(given(vec![issued(), revoked], revoke.clone()), Ok(vec![]));
        assert_eq!(given(vec![], revoke), Err(DecideError::NotFound));
    }
}
