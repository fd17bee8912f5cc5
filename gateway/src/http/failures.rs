//! Maps errors of the layers below to problems for REST clients. No other module does this.

use commands::identity::authority::AuthorityError;
use commands::{ExecuteError, Rejection};
use nats::IntegratorError;
use schemas::engine::InvalidValue;
use store::{Causes, StoreError};

use access::ErrorCode;

use super::problem::{FieldError, Problem};
use crate::auth::passwords::PasswordError;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TenantUnknown => Self::new(ErrorCode::TenantUnknown),
            StoreError::LogReplaced { .. } => Self::new(ErrorCode::LogReplaced),
            error @ StoreError::KeyMissing { .. } => Self::new(ErrorCode::KeyMissing).cause(error),
            error if error.is_unavailable() => Self::unavailable(error),
            error if error.is_invalid_parameter() => {
                Self::bad_request("a value of the request cannot be stored or compared").cause(error)
            }
            error => Self::internal(error),
        }
    }
}

impl<R: Rejection> From<ExecuteError<R>> for Problem {
    fn from(error: ExecuteError<R>) -> Self {
        let code = error.code();
        match error {
            ExecuteError::VersionConflict { actual } => Self::new(code).actual_version(actual),
            ExecuteError::CommandIdReused => {
                Self::new(code).detail("the Idempotency-Key came with another request before")
            }
            ExecuteError::TooLarge { limit, .. } => {
                Self::new(code).detail(format!("an event may have at most {limit} bytes"))
            }
            ExecuteError::Rejected(rejection) => Self::new(code).detail(rejection.to_string()),
            ExecuteError::Invalid(reason) => Self::new(code).detail(reason),
            ExecuteError::Unavailable(error @ StoreError::KeyMissing { .. }) => error.into(),
            ExecuteError::Overloaded | ExecuteError::Unavailable(_) | ExecuteError::Internal { .. } => {
                Self::new(code).cause(Cause::of(&error))
            }
            // The holder of the value may be another customer, so the response does not show it.
            ExecuteError::Reserved { .. }
            | ExecuteError::Exists { .. }
            | ExecuteError::NotFound
            | ExecuteError::Forbidden
            | ExecuteError::SubjectErased
            | ExecuteError::TenantUnknown => Self::new(code),
        }
    }
}

impl From<IntegratorError> for Problem {
    fn from(error: IntegratorError) -> Self {
        match error {
            IntegratorError::Invalid { field, problem } => Self::invalid_field(field, problem),
            IntegratorError::NameTaken => Self::new(ErrorCode::NameTaken),
            IntegratorError::NotFound => Self::new(ErrorCode::NotFound),
            IntegratorError::CommandIdReused => Self::new(ErrorCode::CommandIdReused)
                .detail("the Idempotency-Key came with another request before"),
            error @ IntegratorError::NotInEffect => {
                let detail = error.to_string();
                Self::unavailable(error).detail(detail)
            }
            IntegratorError::Store(error) => error.into(),
        }
    }
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Forbidden => {
                Self::new(ErrorCode::Forbidden).detail("the caller does not hold this permission any more")
            }
            AuthorityError::Busy => Self::unavailable(error),
            AuthorityError::Store(error) => error.into(),
        }
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Overloaded(_) => Self::unavailable(error),
            error => Self::internal(error),
        }
    }
}

/// A rejection that one field causes. The response lists the field with `code`.
pub fn rejected_field(field: &str, code: &'static str, rejection: &impl Rejection) -> Problem {
    Problem::invalid(vec![FieldError::new(field, InvalidValue::new(code, rejection.to_string()))])
}

/// An error and its causes as one line of text, without the type of the rejection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    /// Joins the error and all of its causes.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(Causes(error).to_string())
    }
}

#[cfg(test)]
mod tests {
    use commands::UserRejection;
    use commands::identity::tenant::SLUG;
    use commands::identity::user::EMAIL;
    use schemas::engine::StreamName;

    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_unavailable_and_the_rest_is_internal() {
        assert_eq!(Problem::from(StoreError::Unavailable("gone".to_owned())).code(), ErrorCode::Unavailable);
        assert_eq!(Problem::from(StoreError::Overloaded).code(), ErrorCode::Unavailable);
        assert_eq!(Problem::from(StoreError::Corrupt("row".to_owned())).code(), ErrorCode::Internal);
    }

    #[test]
    fn a_taken_value_is_named_by_its_kind() {
        let holder = StreamName::parse("identity.user/1").expect("valid");
        let taken =
            |kind| Problem::from(ExecuteError::<UserRejection>::Reserved { kind, holder: holder.clone() });
        assert_eq!(taken(EMAIL).code(), ErrorCode::EmailTaken);
        assert_eq!(taken(SLUG).code(), ErrorCode::SlugTaken);
        assert!(!format!("{:?}", taken(EMAIL)).contains("identity.user/1"));
    }
}
