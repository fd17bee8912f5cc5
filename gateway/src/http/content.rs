//! Reads request bodies: limited in size, JSON by content type, one object.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use serde_json::Value;

use super::fields::JsonFields;
use super::json::read_json;
use access::ErrorCode;

use super::problem::Problem;

/// Maximum size of a request body in bytes. A larger body gets 413.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Maximum bytes of a too large body that are read and discarded. A client that is still sending when the connection
/// closes never reads the response.
const DISCARDED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A request body that is a JSON object.
pub struct JsonBody(pub JsonFields);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let bytes = json_bytes(request).await?;
        match read_json(&bytes)? {
            Value::Object(values) => Ok(Self(JsonFields::new(values))),
            _ => Err(Problem::bad_request("the body must be a JSON object")),
        }
    }
}

/// The bytes of a body whose content type is JSON.
///
/// # Errors
/// Another content type or content coding, and a body above [`BODY_BYTES_MAX`].
pub async fn json_bytes(request: Request) -> Result<Bytes, Problem> {
    require_json(request.headers())?;
    read_body(request.into_body()).await
}

/// Reads the whole body into memory and returns the request with it.
///
/// # Errors
/// A body above [`BODY_BYTES_MAX`].
pub async fn buffer_body(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    Ok(Request::from_parts(parts, bytes.into()))
}

/// Reads the whole body, up to [`BODY_BYTES_MAX`].
async fn read_body(body: axum::body::Body) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::new();
    let mut seen = 0;
    while seen <= DISCARDED_BYTES_MAX {
        match chunks.try_next().await {
            Ok(Some(chunk)) => {
                seen += chunk.len();
                if seen <= BODY_BYTES_MAX {
                    bytes.extend_from_slice(&chunk);
                }
            }
            Ok(None) => break,
            Err(_) => return Err(Problem::bad_request("the body could not be read")),
        }
    }
    if seen > BODY_BYTES_MAX {
        return Err(Problem::new(ErrorCode::TooLarge)
            .detail(format!("a body may have at most {BODY_BYTES_MAX} bytes")));
    }
    Ok(bytes.freeze())
}

/// Checks that the body is declared as JSON in UTF-8 without a content coding (RFC 9110, sections 8.3 and 8.4).
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail: &'static str| Problem::new(ErrorCode::UnsupportedMediaType).detail(detail);
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(given), None) = (types.next(), types.next()) else {
        return Err(unsupported("the content type must be application/json"));
    };
    let mut parts = given.to_str().unwrap_or_default().split(';').map(str::trim);
    if !parts.next().unwrap_or_default().eq_ignore_ascii_case("application/json") {
        return Err(unsupported("the content type must be application/json"));
    }
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim().eq_ignore_ascii_case("charset")
            && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        {
            return Err(unsupported("the character set must be utf-8"));
        }
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("the body must not be compressed or encoded otherwise"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body as AxumBody;

    use super::*;

    async fn code(content_type: Option<&str>, body: Vec<u8>) -> Option<ErrorCode> {
        let mut request = Request::post("/");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(AxumBody::from(body)).expect("valid");
        JsonBody::from_request(request, &()).await.err().map(|problem| problem.code())
    }

    #[tokio::test]
    async fn only_json_objects_pass() {
        let json = Some("application/json");
        assert_eq!(code(json, b"{}".to_vec()).await, None);
        assert_eq!(code(Some("Application/JSON; charset=utf-8"), b"{}".to_vec()).await, None);
        assert_eq!(code(json, b"{".to_vec()).await, Some(ErrorCode::BadRequest));
        assert_eq!(code(json, b"[]".to_vec()).await, Some(ErrorCode::BadRequest));
        assert_eq!(code(json, vec![0xff]).await, Some(ErrorCode::BadRequest));
        assert_eq!(code(Some("text/plain"), b"{}".to_vec()).await, Some(ErrorCode::UnsupportedMediaType));
        assert_eq!(code(None, b"{}".to_vec()).await, Some(ErrorCode::UnsupportedMediaType));
        let other = Some("application/json; charset=iso-8859-1");
        assert_eq!(code(other, b"{}".to_vec()).await, Some(ErrorCode::UnsupportedMediaType));
        assert_eq!(code(Some("application/json;charset=\"UTF-8\""), b"{}".to_vec()).await, None);
        assert_eq!(code(json, br#"{"a":1,"a":2}"#.to_vec()).await, Some(ErrorCode::BadRequest));
        assert_eq!(code(json, vec![b' '; BODY_BYTES_MAX + 1]).await, Some(ErrorCode::TooLarge));
    }

    #[tokio::test]
    async fn a_compressed_body_is_not_supported() {
        for (encoding, expected) in
            [("gzip", Some(ErrorCode::UnsupportedMediaType)), ("identity", None), ("Identity", None)]
        {
            let request = Request::post("/")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::CONTENT_ENCODING, encoding)
                .body(AxumBody::from("{}"))
                .expect("valid");
            let code = JsonBody::from_request(request, &()).await.err().map(|problem| problem.code());
            assert_eq!(code, expected, "{encoding}");
        }
    }
}
