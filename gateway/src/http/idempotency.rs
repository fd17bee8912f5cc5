//! The header `Idempotency-Key` of REST writes: a UUID that becomes the command id.

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;
use uuid::Uuid;

use super::problem::Problem;

/// Carries the command id.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The command id that a client chose, where it chose one.
#[derive(Debug, Clone, Copy)]
pub struct IdempotencyKey(pub Option<Uuid>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let mut given = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = match (given.next(), given.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(key), None) => key.to_str().ok().and_then(|text| Uuid::parse_str(text.trim()).ok()),
            _ => None,
        };
        // The nil UUID is what uninitialised clients send.
        match key {
            Some(key) if !key.is_nil() => Ok(Self(Some(key))),
            _ => Err(Problem::bad_request("Idempotency-Key must be one UUID")),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    async fn read(values: &[&str]) -> Result<Option<Uuid>, Problem> {
        let mut request = Request::post("/");
        for value in values {
            request = request.header("Idempotency-Key", *value);
        }
        let (mut parts, ()) = request.body(()).expect("valid").into_parts();
        IdempotencyKey::from_request_parts(&mut parts, &()).await.map(|key| key.0)
    }

    #[tokio::test]
    async fn a_key_is_one_uuid_or_absent() {
        let key = "0198c0de-0000-7000-8000-000000000001";
        assert!(matches!(read(&[]).await, Ok(None)));
        assert!(matches!(read(&[key]).await, Ok(Some(_))));
        assert!(read(&["abc"]).await.is_err());
        assert!(read(&[key, key]).await.is_err());
        assert!(read(&["00000000-0000-0000-0000-000000000000"]).await.is_err());
    }
}
