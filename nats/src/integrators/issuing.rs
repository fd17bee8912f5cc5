//! Creates, rotates, revokes and resets integrators' credentials.
//! Each function changes only the registry in PostgreSQL, and then waits for the credential reconciler to apply it to
//! NATS.
//! So it works in any process, and a NATS outage loses no change.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use schemas::engine::{InvalidValue, TypePattern, clock, ids};
use store::{Store, StoreError, TenantRecord};
use uuid::Uuid;

use super::issuer::{IntegratorConnection, Issuer, public_key};
use super::registry::IntegratorCredential;
use super::registry::commands::{
    self, IntegratorChange, IntegratorCommand, IntegratorOutcome, NewCredential, NewKey,
};

/// Maximum lifetime of a key.
pub const LIFETIME_MAX: TimeDelta = TimeDelta::days(90);
/// Maximum type patterns of one credential.
const PATTERNS_MAX: usize = 20;
/// How long a caller waits until NATS has applied a change.
const APPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a request about credentials fails.
#[derive(Debug, thiserror::Error)]
pub enum IntegratorError {
    /// A value breaks its rule.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong.
        problem: InvalidValue,
    },
    /// Another credential of the tenant has the name.
    #[error("there is a credential of this name")]
    NameTaken,
    /// The tenant has no credential of this name.
    #[error("there is no credential of this name")]
    NotFound,
    /// The command id was used before with another request.
    #[error("the command id came with another request before")]
    CommandIdReused,
    /// The change is in the registry and not yet in NATS. The reconciler applies it later.
    #[error("it is recorded and not in effect yet: NATS is away or the role relay does not run")]
    NotInEffect,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn invalid(field: &'static str, code: &'static str, message: impl Into<String>) -> IntegratorError {
    IntegratorError::Invalid { field, problem: InvalidValue::new(code, message) }
}

/// A request for a new credential.
#[derive(Debug, Clone)]
pub struct NewIntegrator {
    /// `[a-z][a-z0-9-]{0,30}`, unique in the tenant.
    pub name: String,
    /// Patterns of event types; empty means all types.
    pub types: Vec<TypePattern>,
    /// The consumer starts after this position.
    pub after: u64,
    /// How long the key is valid.
    pub lifetime: TimeDelta,
}

/// A key that was issued.
#[derive(Debug, Clone)]
pub struct IssuedCredential {
    /// The credential.
    pub credential: IntegratorCredential,
    /// What the integrator receives.
    pub connection: IntegratorConnection,
    /// When the key expires.
    pub expires_at: DateTime<Utc>,
    /// Whether NATS has applied it. If not, the reconciler applies it as soon as NATS is available.
    pub in_effect: bool,
}

/// The credentials of a deployment.
#[derive(Clone)]
pub struct Integrators {
    store: Store,
    issuer: Issuer,
}

impl Integrators {
    /// Creates the service for the registry of `store`.
    pub fn new(store: Store, issuer: Issuer) -> Self {
        Self { store, issuer }
    }

    /// Issues a credential and waits for its consumer.
    ///
    /// # Errors
    /// [`IntegratorError::Invalid`], [`IntegratorError::NameTaken`], or [`IntegratorError::CommandIdReused`].
    pub async fn create(
        &self,
        tenant: &TenantRecord,
        request: NewIntegrator,
        command_id: Option<Uuid>,
    ) -> Result<IssuedCredential, IntegratorError> {
        let handle = self.store.tenant(tenant.id);
        let types: Vec<String> = request.types.iter().map(ToString::to_string).collect();
        let lifetime = request.lifetime.num_seconds().to_string();
        let parts = [request.name.as_str(), &types.join(" "), &request.after.to_string(), &lifetime];
        let command = self.command(command_id, "create", &parts);
        if let Some(first) = self.previous_change(tenant, command).await? {
            return self.issued(first).await;
        }
        check_name(&request.name)?;
        check_types(&request.types)?;
        let head = handle.head().await?;
        check_after(request.after, head.position)?;
        let key = self.new_key(tenant, request.lifetime)?;
        let unique = hex::encode(&key.id.as_bytes()[12..]);
        let new = NewCredential {
            id: ids::new_id(),
            consumer: format!("{}_{}_{unique}", tenant.slug, request.name),
            name: request.name,
            types,
            after: request.after,
            log_id: head.log_id,
            key,
        };
        let change = into_change(commands::issue(&handle, &new, command).await?)?;
        tracing::info!(tenant = %tenant.slug, name = new.name, "a credential was issued");
        self.issued(change).await
    }

    /// Issues a further key for a credential. The earlier keys expire after `overlap`.
    ///
    /// # Errors
    /// [`IntegratorError::NotFound`], [`IntegratorError::Invalid`], or [`IntegratorError::CommandIdReused`].
    pub async fn rotate(
        &self,
        tenant: &TenantRecord,
        name: &str,
        lifetime: TimeDelta,
        overlap: TimeDelta,
        command_id: Option<Uuid>,
    ) -> Result<IssuedCredential, IntegratorError> {
        let seconds = |time: TimeDelta| time.num_seconds().to_string();
        let command = self.command(command_id, "rotate", &[name, &seconds(lifetime), &seconds(overlap)]);
        let key = self.new_key(tenant, lifetime)?;
        let until = key.issued_at + overlap;
        let outcome = commands::rotate(&self.store.tenant(tenant.id), name, &key, until, command).await?;
        let change = into_change(outcome)?;
        tracing::info!(tenant = %tenant.slug, name, "a credential was rotated");
        self.issued(change).await
    }

    /// Revokes a credential: closes its connections and removes its consumer.
    ///
    /// # Errors
    /// [`IntegratorError::NotFound`], or [`IntegratorError::NotInEffect`] if NATS has not applied it in time.
    pub async fn revoke(
        &self,
        tenant: &TenantRecord,
        name: &str,
        command_id: Option<Uuid>,
    ) -> Result<(), IntegratorError> {
        let handle = self.store.tenant(tenant.id);
        let command = self.command(command_id, "revoke", &[name]);
        let change = into_change(commands::revoke(&handle, name, command).await?)?;
        tracing::info!(tenant = %tenant.slug, name, "a credential was revoked");
        if commands::wait_until_applied(&handle, &change, APPLY_TIMEOUT).await? {
            Ok(())
        } else {
            Err(IntegratorError::NotInEffect)
        }
    }

    /// Restarts a credential's consumer after a position or at a time.
    ///
    /// # Errors
    /// [`IntegratorError::NotFound`], or [`IntegratorError::NotInEffect`] if NATS has not applied it in time.
    pub async fn reset(
        &self,
        tenant: &TenantRecord,
        name: &str,
        after: ResetPoint,
        command_id: Option<Uuid>,
    ) -> Result<IntegratorCredential, IntegratorError> {
        let handle = self.store.tenant(tenant.id);
        let asked = match after {
            ResetPoint::Position(position) => position.to_string(),
            ResetPoint::Time(time) => time.to_rfc3339(),
        };
        let command = self.command(command_id, "reset", &[name, &asked]);
        let change = if let Some(first) = self.previous_change(tenant, command).await? {
            first
        } else {
            let (log_id, position) = match after {
                ResetPoint::Time(time) => handle.position_before(time).await?,
                ResetPoint::Position(position) => {
                    let head = handle.head().await?;
                    check_after(position, head.position)?;
                    (head.log_id, position)
                }
            };
            into_change(commands::reset(&handle, name, log_id, position, command).await?)?
        };
        tracing::info!(tenant = %tenant.slug, name, "a credential was set back");
        if commands::wait_until_applied(&handle, &change, APPLY_TIMEOUT).await? {
            Ok(change.credential)
        } else {
            Err(IntegratorError::NotInEffect)
        }
    }

    async fn previous_change(
        &self,
        tenant: &TenantRecord,
        command: Option<IntegratorCommand>,
    ) -> Result<Option<IntegratorChange>, IntegratorError> {
        let Some(command) = command else { return Ok(None) };
        commands::previous(&self.store.tenant(tenant.id), command).await?.map(into_change).transpose()
    }

    async fn issued(&self, change: IntegratorChange) -> Result<IssuedCredential, IntegratorError> {
        let missing = || StoreError::Corrupt("a command has lost the key that it issued".to_owned());
        let key = change.key.as_ref().ok_or_else(missing)?;
        let connection = self.issuer.connection(self.store.key(), &change.credential, key);
        let expires_at = key.expires_at;
        let handle = self.store.tenant(change.credential.tenant);
        let in_effect = commands::wait_until_applied(&handle, &change, APPLY_TIMEOUT).await?;
        Ok(IssuedCredential { credential: change.credential, connection, expires_at, in_effect })
    }

    fn command(&self, id: Option<Uuid>, action: &str, parts: &[&str]) -> Option<IntegratorCommand> {
        let parts: Vec<&[u8]> =
            std::iter::once(action).chain(parts.iter().copied()).map(str::as_bytes).collect();
        Some(IntegratorCommand { id: id?, digest: self.store.key().mac("integrator command", &parts) })
    }

    fn new_key(&self, tenant: &TenantRecord, lifetime: TimeDelta) -> Result<NewKey, IntegratorError> {
        if lifetime <= TimeDelta::zero() || lifetime > LIFETIME_MAX {
            return Err(invalid("expires", "lifetime_invalid", "must be at most 90 days"));
        }
        let (id, issued_at) = (ids::random_id(), clock::now());
        let public_key = public_key(self.store.key(), tenant.id, id);
        Ok(NewKey { id, public_key, issued_at, expires_at: issued_at + lifetime })
    }
}

/// Where a consumer restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetPoint {
    /// After a position.
    Position(u64),
    /// At the first event recorded at or after a time.
    Time(DateTime<Utc>),
}

fn into_change(outcome: IntegratorOutcome) -> Result<IntegratorChange, IntegratorError> {
    match outcome {
        IntegratorOutcome::Done(change) => Ok(*change),
        IntegratorOutcome::NameTaken => Err(IntegratorError::NameTaken),
        IntegratorOutcome::NotFound => Err(IntegratorError::NotFound),
        IntegratorOutcome::CommandIdReused => Err(IntegratorError::CommandIdReused),
        IntegratorOutcome::TooMany => {
            Err(invalid("name", "too_many", "the tenant has as many credentials as it may have"))
        }
    }
}

fn check_name(name: &str) -> Result<(), IntegratorError> {
    let well_formed = (1..=31).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if well_formed { Ok(()) } else { Err(invalid("name", "name_invalid", "must match [a-z][a-z0-9-]{0,30}")) }
}

/// Checks the number of patterns, and that none overlap: JetStream rejects overlapping filters.
fn check_types(types: &[TypePattern]) -> Result<(), IntegratorError> {
    if types.len() > PATTERNS_MAX {
        return Err(invalid("types", "too_many", format!("may have at most {PATTERNS_MAX} patterns")));
    }
    for (index, one) in types.iter().enumerate() {
        if let Some(two) = types[index + 1..].iter().find(|two| one.overlaps(two)) {
            return Err(invalid(
                "types",
                "types_overlap",
                format!("{one} and {two} overlap; give one of them"),
            ));
        }
    }
    Ok(())
}

fn check_after(after: u64, head: u64) -> Result<(), IntegratorError> {
    if after <= head {
        Ok(())
    } else {
        Err(invalid("after", "beyond_head", format!("must be at most {head}, the end of the log")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_token_of_a_subject() {
        for good in ["a", "billing", "erp-2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "2x", "a.b", "a*", "a>", "a b", "a_b", "é", &"a".repeat(32)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_that_overlap_are_refused_with_both_names() {
        let types = |patterns: &[&str]| {
            let patterns: Vec<TypePattern> = patterns.iter().map(|one| one.parse().expect("valid")).collect();
            check_types(&patterns)
        };
        assert!(types(&[]).is_ok() && types(&["crm.>", "identity.user.>"]).is_ok());
        let error = types(&["crm.>", "identity.>", "*.customer.>"]).expect_err("overlap").to_string();
        assert!(error.contains("crm.> and *.customer.>"), "{error}");
    }
}
