//! Somebody who may follow a tenant's events, whatever showed it: an access token or a ticket.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use commands::User;
use schemas::identity::role::Role;
use store::TenantRecord;

use super::principal::Principal;
use super::tickets::Ticket;
use super::tokens::Claims;
use crate::edge::tenancy;
use crate::edge::{Code, Problem, RequestContext};
use crate::gateway::Gateway;
use crate::rest::events::{EVENTS_SCOPE, PERSONAL_SCOPE};

/// A reader of events of one tenant.
pub struct Watcher {
    /// The tenant.
    pub record: Arc<TenantRecord>,
    /// Whether personal data is read open.
    pub personal: bool,
    /// When the right to read ends.
    pub expires_at: DateTime<Utc>,
    /// The token that showed it, which may be taken back.
    pub claims: Option<Arc<Claims>>,
}

impl Watcher {
    /// The caller, who needs the scope of events.
    pub fn from(principal: Principal) -> Result<Self, Problem> {
        principal.needs(EVENTS_SCOPE)?;
        Ok(Self {
            personal: principal.may(PERSONAL_SCOPE),
            expires_at: principal.expires_at(),
            record: principal.record,
            claims: Some(principal.claims),
        })
    }

    /// Whoever holds a ticket for this path, which is used up by this.
    pub async fn with_ticket(
        ticket: &str,
        path: &str,
        headers: &HeaderMap,
        request: &RequestContext,
        gateway: &Gateway,
    ) -> Result<Self, Problem> {
        if headers.contains_key(header::AUTHORIZATION) {
            return Err(Problem::bad_request("send an access token or a ticket, not both"));
        }
        let refused = || Problem::new(Code::Unauthenticated).detail("the ticket is not accepted");
        let ticket = Ticket::read(gateway.store.key(), path, ticket).ok_or_else(refused)?;
        request.note_user(ticket.user);
        let record = gateway.store.tenant_by_id(ticket.tenant).await?;
        let record = record.filter(|record| !record.suspended).ok_or(Problem::new(Code::TenantUnknown))?;
        tenancy::agree(headers, gateway.config.public_host.as_deref(), &record.slug)?;
        request.note_tenant(&record);
        let handle = gateway.store.tenant(record.id);
        if !handle.use_stream_ticket(ticket.id, ticket.expires_at).await? {
            return Err(refused());
        }
        // A ticket says nothing of roles, and what auditors read is recorded.
        let user = gateway.executor.load::<User>(record.id, ticket.user).await?;
        if user.is_some_and(|(user, _)| user.roles.contains(&Role::Auditor)) {
            request.note_auditor();
        }
        let (personal, expires_at) = (ticket.personal, ticket.session_ends_at);
        Ok(Self { record, personal, expires_at, claims: None })
    }
}
