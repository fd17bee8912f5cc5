//! Cursors: the place of one row in one list. Opaque and authenticated, so that a cursor of another tenant, filter or
//! order is refused and not silently misread.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use store::DeploymentKey;
use uuid::Uuid;

use super::error::QueryError;

const TAG: usize = 16;
const LABEL: &str = "cursor";

/// What a list is sorted by, before the id.
#[derive(Debug, Clone, PartialEq)]
pub enum SortKey {
    /// A time.
    Time(DateTime<Utc>),
    /// A text, compared by its bytes.
    Text(String),
}

/// The place of a row: its sort key, and its id where keys are equal.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct Place {
    pub key: SortKey,
    pub id: Uuid,
}

/// What a cursor belongs to.
#[derive(Clone)]
pub struct CursorScope {
    key: DeploymentKey,
    tenant: TenantId,
    /// List, order and filter, each told apart.
    list: &'static str,
    order: &'static str,
    filter: Vec<u8>,
}

impl CursorScope {
    pub(crate) fn new(
        key: &DeploymentKey,
        tenant: TenantId,
        list: &'static str,
        order: &'static str,
        filter: Vec<u8>,
    ) -> Self {
        Self { key: key.clone(), tenant, list, order, filter }
    }

    pub(crate) fn encode(&self, place: &Place) -> String {
        let mut body = place.id.as_bytes().to_vec();
        match &place.key {
            SortKey::Time(time) => {
                body.push(b't');
                body.extend_from_slice(&time.timestamp_micros().to_be_bytes());
            }
            SortKey::Text(text) => {
                body.push(b'x');
                body.extend_from_slice(text.as_bytes());
            }
        }
        let mut bytes = self.key.mac(LABEL, &self.parts(&body))[..TAG].to_vec();
        bytes.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(crate) fn decode(&self, text: &str) -> Result<Place, QueryError> {
        self.decoded(text).ok_or(QueryError::CursorInvalid)
    }

    fn decoded(&self, text: &str) -> Option<Place> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (tag, body) = bytes.split_at_checked(TAG)?;
        if !self.key.verify(LABEL, &self.parts(body), tag) {
            return None;
        }
        let (id, rest) = body.split_at_checked(16)?;
        let (kind, key) = rest.split_first()?;
        let key = match kind {
            b't' => SortKey::Time(DateTime::from_timestamp_micros(i64::from_be_bytes(key.try_into().ok()?))?),
            b'x' => SortKey::Text(String::from_utf8(key.to_vec()).ok()?),
            _ => return None,
        };
        Some(Place { key, id: Uuid::from_slice(id).ok()? })
    }

    fn parts<'a>(&'a self, body: &'a [u8]) -> [&'a [u8]; 5] {
        [self.tenant.0.as_bytes(), self.list.as_bytes(), self.order.as_bytes(), &self.filter, body]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(key: &DeploymentKey, tenant: u128, order: &'static str, filter: &str) -> CursorScope {
        CursorScope::new(key, TenantId(Uuid::from_u128(tenant)), "customers", order, filter.into())
    }

    fn places() -> [Place; 3] {
        let time = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a valid time");
        [SortKey::Time(time), SortKey::Text("Ada Ä".to_owned()), SortKey::Text(String::new())]
            .map(|key| Place { key, id: Uuid::from_u128(5) })
    }

    #[test]
    fn a_cursor_reads_back_in_its_own_list() {
        let scope = scope(&DeploymentKey::generate(), 1, "name_asc", "{}");
        for place in places() {
            assert_eq!(scope.decode(&scope.encode(&place)).expect("is ours"), place);
        }
    }

    #[test]
    fn a_cursor_of_another_tenant_order_filter_or_key_is_refused() {
        let key = DeploymentKey::generate();
        let cursor = scope(&key, 1, "name_asc", "{}").encode(&places()[0]);
        for other in [
            scope(&key, 2, "name_asc", "{}"),
            scope(&key, 1, "name_desc", "{}"),
            scope(&key, 1, "name_asc", r#"{"status":"active"}"#),
            scope(&DeploymentKey::generate(), 1, "name_asc", "{}"),
        ] {
            assert!(matches!(other.decode(&cursor), Err(QueryError::CursorInvalid)));
        }
    }

    #[test]
    fn a_changed_or_made_up_cursor_is_refused() {
        let scope = scope(&DeploymentKey::generate(), 1, "name_asc", "{}");
        let cursor = scope.encode(&places()[1]);
        for index in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(scope.decode(&String::from_utf8(changed).expect("ASCII")).is_err());
        }
        for made_up in ["", "x", "AAAA", &"A".repeat(300), "not base64!"] {
            assert!(scope.decode(made_up).is_err(), "{made_up}");
        }
    }
}
