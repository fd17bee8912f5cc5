//! The table of idempotent writes: for each, how a request is built whose first answer is known, another one, and what
//! somebody else changes in between.

use futures::future::BoxFuture;
use gateway::http::route::Route;
use reqwest::Method;
use serde_json::Value;

use super::place::{Asked, Place, Watched};
use super::{mutations, people, services, webhooks};

pub const POST: Method = Method::POST;
pub const PUT: Method = Method::PUT;
pub const PATCH: Method = Method::PATCH;
pub const DELETE: Method = Method::DELETE;
/// An id that nothing has.
pub const NOTHING: &str = "0198c0de-0000-7000-8000-00000000dead";

/// What comes of the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It changes something.
    Effect,
    /// It is accepted and changes nothing.
    WithoutEffect,
    /// It is refused. That uses no key, so a repeat is decided anew.
    Rejected,
}

/// What somebody else does.
#[derive(Debug, Clone)]
pub enum Change {
    Asked(Asked),
    /// A delivery is given up.
    DeadLetter(String, u64),
    /// A ticket is used, which works once.
    Ticket(String),
}

/// What somebody else does next, from the body of the first answer, where there is one, and the number of changes before.
type Changes = Box<dyn Fn(&Value, usize) -> Option<Change> + Send + Sync>;

/// One prepared request.
pub struct Case {
    pub asked: Asked,
    /// Another request on the same route that is well formed.
    pub other: Asked,
    changes: Changes,
    pub watched: Watched,
    /// Whether an effect can be seen in events and lists.
    pub effect_shows: bool,
}

impl Case {
    /// A case in which nobody else does anything.
    pub fn new(asked: Asked, other: Asked) -> Self {
        Self { asked, other, changes: Box::new(|_, _| None), watched: Watched::default(), effect_shows: true }
    }

    /// The same with requests of somebody else.
    pub fn changed(self, changes: impl Fn(&Value, usize) -> Option<Asked> + Send + Sync + 'static) -> Self {
        self.changed_otherwise(move |first, before| changes(first, before).map(Change::Asked))
    }

    /// The same with other changes.
    pub fn changed_otherwise(
        self,
        changes: impl Fn(&Value, usize) -> Option<Change> + Send + Sync + 'static,
    ) -> Self {
        Self { changes: Box::new(changes), ..self }
    }

    pub fn watching(self, watched: Watched) -> Self {
        Self { watched, ..self }
    }

    pub fn hidden(self) -> Self {
        Self { effect_shows: false, ..self }
    }

    pub fn change(&self, first: &Value, before: usize) -> Option<Change> {
        (self.changes)(first, before)
    }
}

/// One idempotent write.
#[derive(Clone, Copy)]
pub struct Row {
    /// Method and pattern, or `mutation` and its name.
    pub name: &'static str,
    pub kinds: &'static [Kind],
    pub prepare: for<'a> fn(&'a Place, Kind) -> BoxFuture<'a, Case>,
}

/// The name of a route's row.
pub fn name_of(route: &Route) -> String {
    format!("{} {}", route.method_name(), route.path)
}

macro_rules! rows {
    ($($name:literal: $($kind:ident)|+ => $prepare:path,)+) => {
        &[$(Row { name: $name, kinds: &[$(Kind::$kind),+], prepare: |place, kind| Box::pin($prepare(place, kind)) }),+]
    };
}

/// Every idempotent write of the API.
pub const ROWS: &[Row] = rows! {
    "POST /v1/tenants": Effect | Rejected => people::tenant,
    "POST /v1/auth/register": Effect | Rejected => people::registration,
    "POST /v1/users": Effect | Rejected => people::addition,
    "PATCH /v1/users/{id}": Effect | WithoutEffect | Rejected => people::change,
    "PUT /v1/users/{id}/roles": Effect | WithoutEffect | Rejected => people::roles,
    "POST /v1/erasures": Effect | WithoutEffect | Rejected => people::erasure,
    "POST /v1/stream-tickets": WithoutEffect | Rejected => services::ticket,
    "PUT /v1/event-types/{type}": Effect | WithoutEffect | Rejected => services::event_type,
    "POST /v1/streams/{category}/{id}/events": Effect | Rejected => services::events,
    "POST /v1/service-tokens": Effect | Rejected => services::token,
    "DELETE /v1/service-tokens/{id}": Effect | WithoutEffect | Rejected => services::revocation,
    "POST /v1/integrations/credentials": Effect | Rejected => services::credential,
    "DELETE /v1/integrations/credentials/{name}": Effect | Rejected => services::credential_revocation,
    "POST /v1/integrations/credentials/{name}/reset": Effect | Rejected => services::credential_reset,
    "POST /v1/integrations/credentials/{name}/rotate": Effect | Rejected => services::credential_rotation,
    "POST /v1/webhooks": Effect | Rejected => webhooks::registration,
    "PATCH /v1/webhooks/{id}": Effect | Rejected => webhooks::change,
    "DELETE /v1/webhooks/{id}": Effect | Rejected => webhooks::removal,
    "POST /v1/webhooks/{id}/rotate-secret": Effect | Rejected => webhooks::rotation,
    "POST /v1/webhooks/{id}/replay": Effect | Rejected => webhooks::replay,
    "POST /v1/webhooks/{id}/enable": Effect | WithoutEffect | Rejected => webhooks::enabling,
    "DELETE /v1/webhooks/{id}/dead-letters": Effect | WithoutEffect | Rejected => webhooks::discard_all,
    "POST /v1/webhooks/{id}/dead-letters/retry": Effect | WithoutEffect | Rejected => webhooks::retry_all,
    "DELETE /v1/webhooks/{id}/dead-letters/{position}": Effect | Rejected => webhooks::discard_one,
    "POST /v1/webhooks/{id}/dead-letters/{position}/retry": Effect | Rejected => webhooks::retry_one,
    "mutation registerCustomer": Effect | Rejected => mutations::register_customer,
    "mutation renameCustomer": Effect | WithoutEffect | Rejected => mutations::rename_customer,
    "mutation resumeCustomer": Effect | WithoutEffect | Rejected => mutations::resume_customer,
    "mutation changeCustomerContact": Effect | WithoutEffect | Rejected => mutations::change_customer_contact,
    "mutation suspendCustomer": Effect | WithoutEffect | Rejected => mutations::suspend_customer,
    "mutation closeCustomer": Effect | WithoutEffect | Rejected => mutations::close_customer,
    "mutation changeUserName": Effect | WithoutEffect | Rejected => mutations::change_user_name,
    "mutation deactivateUser": Effect | WithoutEffect | Rejected => mutations::deactivate_user,
};
