//! Tickets for event streams. A browser's `EventSource` cannot send a header, so it sends a ticket in the URL in place
//! of a token. A ticket is valid once, for one path and for thirty seconds. It is signed, so every gateway of the
//! deployment accepts it. Its id is recorded on use.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use schemas::engine::{TenantId, clock, ids};
use store::{DeploymentKey, StoreError, TenantStore};
use uuid::Uuid;

/// How long a ticket is valid.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// How long a used ticket is kept after its expiry. The clocks of two gateways may differ by less.
const CLOCK_SKEW_MAX: Duration = Duration::from_mins(5);

const BODY_BYTES: usize = 3 * 16 + 2 * 8 + 1;
const TAG_BYTES: usize = 32;
const MAC_LABEL: &str = "stream-ticket";

/// A verified ticket that is not used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Its own id.
    pub id: Uuid,
    /// The tenant whose events may be read.
    pub tenant: TenantId,
    /// The user that requested it.
    pub user: Uuid,
    /// When the ticket expires.
    pub expires_at: DateTime<Utc>,
    /// When the stream that it opens must end: the expiry of the token that requested it.
    pub session_ends_at: DateTime<Utc>,
    /// Whether the stream sends decrypted personal data.
    pub personal_data: bool,
}

impl Ticket {
    /// A new ticket, valid for [`TICKET_LIFETIME`].
    pub fn new(tenant: TenantId, user: Uuid, session_ends_at: DateTime<Utc>, personal_data: bool) -> Self {
        let expires_at = (clock::now() + TICKET_LIFETIME).min(session_ends_at);
        Self { id: ids::random_id(), tenant, user, expires_at, session_ends_at, personal_data }
    }

    /// Encodes and signs the ticket for a path.
    pub fn encode(&self, key: &DeploymentKey, path: &str) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + TAG_BYTES);
        for id in [self.id, self.tenant.0, self.user] {
            bytes.extend_from_slice(id.as_bytes());
        }
        for time in [self.expires_at, self.session_ends_at] {
            bytes.extend_from_slice(&time.timestamp_micros().to_be_bytes());
        }
        bytes.push(u8::from(self.personal_data));
        let tag = key.mac(MAC_LABEL, &[path.as_bytes(), &bytes]);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes a ticket. `None` when its signature or path is wrong or it has expired.
    pub fn verify(key: &DeploymentKey, path: &str, text: &str) -> Option<Self> {
        let bytes =
            URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == BODY_BYTES + TAG_BYTES)?;
        let (body, given) = bytes.split_at(BODY_BYTES);
        if !key.verify(MAC_LABEL, &[path.as_bytes(), body], given) {
            return None;
        }
        let id = |at: usize| Uuid::from_slice(&body[at * 16..(at + 1) * 16]).ok();
        let time = |at: usize| {
            let micros = body[48 + at * 8..48 + (at + 1) * 8].try_into().ok()?;
            DateTime::from_timestamp_micros(i64::from_be_bytes(micros))
        };
        let ticket = Self {
            id: id(0)?,
            tenant: TenantId(id(1)?),
            user: id(2)?,
            expires_at: time(0)?,
            session_ends_at: time(1)?,
            personal_data: body[BODY_BYTES - 1] == 1,
        };
        (clock::now() < ticket.expires_at).then_some(ticket)
    }

    /// Uses the ticket. Returns `false` when it was used before, on this or on another gateway.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. The ticket may be used.
    pub async fn redeem(&self, tenant: &TenantStore) -> Result<bool, StoreError> {
        let transaction = tenant.begin_worker_transaction().await?;
        let used = transaction
            .execute(
                "insert into stream_tickets (tenant_id, ticket_id, expires_at) values ($1, $2, $3)
                 on conflict do nothing",
                &[&tenant.id().0, &self.id, &self.expires_at],
            )
            .await?;
        transaction
            .execute(
                "delete from stream_tickets where tenant_id = $1 and expires_at < $2",
                &[&tenant.id().0, &(clock::now() - CLOCK_SKEW_MAX)],
            )
            .await?;
        transaction.commit().await?;
        Ok(used == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/v1/events/stream";

    #[test]
    fn a_ticket_is_good_for_its_path_its_deployment_and_its_time() {
        let key = DeploymentKey::generate();
        let ends = clock::now() + Duration::from_mins(5);
        let ticket = Ticket::new(TenantId(ids::new_id()), ids::new_id(), ends, true);
        let text = ticket.encode(&key, PATH);
        assert_eq!(Ticket::verify(&key, PATH, &text), Some(ticket.clone()));
        assert_eq!(Ticket::verify(&key, "/v1/events/ws", &text), None);
        assert_eq!(Ticket::verify(&DeploymentKey::generate(), PATH, &text), None);
        let late = Ticket { expires_at: clock::now(), ..ticket };
        assert_eq!(Ticket::verify(&key, PATH, &late.encode(&key, PATH)), None);
        for index in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(Ticket::verify(&key, PATH, &changed), None);
        }
        assert_eq!(Ticket::verify(&key, PATH, ""), None);
    }

    #[test]
    fn a_ticket_ends_with_the_token_at_the_latest() {
        let ends = clock::now() + Duration::from_secs(3);
        let ticket = Ticket::new(TenantId(ids::new_id()), ids::new_id(), ends, true);
        assert_eq!((ticket.expires_at, ticket.session_ends_at), (ends, ends));
    }
}
