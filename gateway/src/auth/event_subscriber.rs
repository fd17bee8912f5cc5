//! A client that may follow a tenant's events, authenticated by an access token or a ticket.

use std::sync::Arc;

use access::policy::{EVENTS_READ, PERSONAL_DATA_READ};
use access::{ErrorCode, Principal};
use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use commands::{Executor, User};
use store::TenantRecord;

use super::caller::Caller;
use super::tickets::Ticket;
use super::tokens::Claims;
use crate::http::problem::Problem;
use crate::http::request_log::RequestContext;
use crate::http::tenancy::Tenancy;

/// A reader of events of one tenant.
pub struct EventSubscriber {
    /// The tenant.
    pub record: Arc<TenantRecord>,
    /// Whether the client gets decrypted personal data.
    pub personal_data: bool,
    /// When the right to read expires.
    pub expires_at: DateTime<Utc>,
    /// The claims of the access token, which may be revoked. `None` for a ticket.
    pub claims: Option<Arc<Claims>>,
}

impl EventSubscriber {
    /// A subscriber with an access token.
    ///
    /// # Errors
    /// 403 without the permission to read events.
    pub fn from(caller: Caller) -> Result<Self, Problem> {
        caller.require_permission(&EVENTS_READ)?;
        Ok(Self {
            personal_data: caller.has_permission(&PERSONAL_DATA_READ),
            expires_at: caller.expires_at(),
            record: caller.record,
            claims: Some(caller.claims),
        })
    }

    /// A subscriber with a ticket for this path. The ticket is used up.
    ///
    /// # Errors
    /// `bad_request` when the request has an access token too; `unauthenticated` when the ticket is malformed, expired,
    /// used, or for another path; `tenant_unknown` for an unknown or suspended tenant; `tenant_mismatch` when the
    /// request names another tenant; `key_missing` when the user's data cannot be decrypted; `unavailable` when the
    /// database does not answer.
    pub async fn with_ticket(
        ticket: &str,
        path: &str,
        headers: &HeaderMap,
        request: &RequestContext,
        tenancy: &Tenancy,
        executor: &Executor,
    ) -> Result<Self, Problem> {
        if headers.contains_key(header::AUTHORIZATION) {
            return Err(Problem::bad_request("send an access token or a ticket, not both"));
        }
        let refused = || Problem::new(ErrorCode::Unauthenticated).detail("the ticket is not accepted");
        let store = executor.store();
        let ticket = Ticket::verify(store.key(), path, ticket).ok_or_else(refused)?;
        let record = store.tenant_by_id(ticket.tenant).await?;
        let record =
            record.filter(|record| !record.suspended).ok_or(Problem::new(ErrorCode::TenantUnknown))?;
        tenancy.check(headers, &record.slug)?;
        request.set_tenant(&record);
        let handle = store.tenant(record.id);
        if !ticket.redeem(&handle).await? {
            return Err(refused());
        }
        // A ticket contains no roles. The user is loaded, because what auditors read is recorded.
        let user = executor.load::<User>(record.id, ticket.user).await?;
        let roles = user.map(|(user, _)| user.roles).unwrap_or_default();
        request.set_principal(&Principal::user(ticket.user, roles));
        let (personal_data, expires_at) = (ticket.personal_data, ticket.session_ends_at);
        Ok(Self { record, personal_data, expires_at, claims: None })
    }
}
