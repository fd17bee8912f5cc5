//! Cursors: the place of one row in one list. Opaque and authenticated, so that a cursor of another tenant, filter or
//! order is refused and not silently misread.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, NaiveDate};
use schemas::engine::TenantId;
use store::DeploymentKey;
use uuid::Uuid;

use super::error::QueryError;
use super::value::Parameter;

const TAG: usize = 16;
const LABEL: &str = "cursor";

/// The place of a row: the value of the order's column, and the id where values are equal.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The value of the order's column.
    pub key: Parameter,
    /// The id of the row.
    pub id: Uuid,
}

/// What a cursor belongs to: a tenant, and a list with its filter and order.
#[derive(Clone)]
pub struct CursorScope {
    key: DeploymentKey,
    tenant: TenantId,
    list: &'static str,
    /// Order and filter.
    scope: String,
}

impl CursorScope {
    pub(crate) fn new(key: &DeploymentKey, tenant: TenantId, list: &'static str, scope: String) -> Self {
        Self { key: key.clone(), tenant, list, scope }
    }

    /// The cursor of a place.
    pub fn encode(&self, place: &Place) -> String {
        let mut body = place.id.as_bytes().to_vec();
        match &place.key {
            Parameter::Time(time) => tagged(&mut body, b't', &time.timestamp_micros().to_be_bytes()),
            Parameter::Text(text) => tagged(&mut body, b'x', text.as_bytes()),
            Parameter::Number(number) => tagged(&mut body, b'n', &number.to_be_bytes()),
            Parameter::Integer(number) => tagged(&mut body, b'i', &number.to_be_bytes()),
            Parameter::Date(date) => tagged(&mut body, b'd', &date.num_days_from_ce().to_be_bytes()),
            Parameter::Uuid(uuid) => tagged(&mut body, b'u', uuid.as_bytes()),
            Parameter::Boolean(boolean) => tagged(&mut body, b'b', &[u8::from(*boolean)]),
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
            b't' => {
                Parameter::Time(DateTime::from_timestamp_micros(i64::from_be_bytes(key.try_into().ok()?))?)
            }
            b'x' => Parameter::Text(String::from_utf8(key.to_vec()).ok()?),
            b'n' => Parameter::Number(i64::from_be_bytes(key.try_into().ok()?)),
            b'i' => Parameter::Integer(i32::from_be_bytes(key.try_into().ok()?)),
            b'd' => {
                let days = i32::from_be_bytes(key.try_into().ok()?);
                Parameter::Date(NaiveDate::from_num_days_from_ce_opt(days)?)
            }
            b'u' => Parameter::Uuid(Uuid::from_slice(key).ok()?),
            b'b' => Parameter::Boolean(*key.first()? != 0),
            _ => return None,
        };
        Some(Place { key, id: Uuid::from_slice(id).ok()? })
    }

    fn parts<'a>(&'a self, body: &'a [u8]) -> [&'a [u8]; 4] {
        [self.tenant.0.as_bytes(), self.list.as_bytes(), self.scope.as_bytes(), body]
    }
}

fn tagged(body: &mut Vec<u8>, tag: u8, key: &[u8]) {
    body.push(tag);
    body.extend_from_slice(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(key: &DeploymentKey, tenant: u128, order: &str, filter: &str) -> CursorScope {
        CursorScope::new(key, TenantId(Uuid::from_u128(tenant)), "customers", format!("{order} {filter}"))
    }

    fn places() -> [Place; 8] {
        let time = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a valid time");
        [
            Parameter::Time(time),
            Parameter::Text("Ada Ä".to_owned()),
            Parameter::Text(String::new()),
            Parameter::Number(-7),
            Parameter::Integer(7),
            Parameter::Date(time.date_naive()),
            Parameter::Uuid(Uuid::from_u128(9)),
            Parameter::Boolean(true),
        ]
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
