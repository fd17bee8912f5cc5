//! Checks the log id that a client sends with a position.

use access::ErrorCode;
use schemas::engine::LogId;
use store::TenantStore;

use super::problem::Problem;

/// Checks that the client's position belongs to the tenant's present log.
///
/// # Errors
/// 410 when the client named another log id. Unknown ids get the same answer: a restored database does not contain the
/// logs that were created after the backup.
pub async fn check_log_id(
    tenant: &TenantStore,
    requested_log: Option<LogId>,
    current: LogId,
) -> Result<(), Problem> {
    let Some(requested_log) = requested_log.filter(|requested_log| *requested_log != current) else {
        return Ok(());
    };
    let detail = match tenant.replaced_log(requested_log).await? {
        Some(replaced) => format!(
            "the tenant's log is now {current}; positions of {requested_log} hold up to {}",
            replaced.last_position
        ),
        None => format!("the tenant's log is now {current}; {requested_log} is not known here"),
    };
    Err(Problem::new(ErrorCode::LogReplaced).detail(detail))
}
