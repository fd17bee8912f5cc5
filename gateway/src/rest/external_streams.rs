//! `/v1/streams/{category}/{id}/events`: external services append to their streams and read streams.

use access::policy::EVENTS_READ;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use commands::integration::external_append::{EVENTS_MAX, ExternalReceipt, InvalidField};
use commands::{
    EventTypeRejection, ExecuteError, ExternalAppend, ExternalAppendError, ExternalEvent, ExternalEvents,
};
use schemas::engine::{InvalidValue, LogId, RecordedEvent, StreamName};
use schemas::integration::names::{ExternalCategory, ExternalType, RESERVED_CONTEXT};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{ExpectedVersion, PageLimit, TenantStore};
use uuid::Uuid;

use super::event_pages::{self, EventLocation, EventSource};
use super::event_types::{parse_external_name, reserved_name_problem};
use super::events::position;
use super::pages::{limit, unique_pairs, unknown_parameter};
use crate::auth::Caller;
use crate::http::content::json_bytes;
use crate::http::json::{self, read_json};
use crate::http::log_id::check_log_id;
use crate::http::route::{AccessRule, Idempotency, Route};
use crate::http::{ErrorCode, FieldError, IdempotencyKey, JsonFields, Path, Problem, RequestContext};
use crate::routes::Routes;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: u64 = 1_000;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    // Rights depend on the category, so the handlers check who may append to a stream or read it.
    let route =
        |method| Route::public(method, "/v1/streams/{category}/{id}/events").access(AccessRule::Token);
    routes.add(route(Method::GET), page).add(route(Method::POST).idempotency(Idempotency::Rebuilt), append)
}

/// `POST`: appends all events or none.
async fn append(
    State(external_events): State<ExternalEvents>,
    context: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Path((category, id)): Path<(String, String)>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let category = parse_external_name("category", &category, ExternalCategory::parse)?;
    let stream = StreamName::parse(&format!("{category}/{id}"))
        .map_err(|error| Problem::invalid_field("id", error))?;
    let append = read(category, stream, &json_bytes(request).await?)?;
    let command = caller.command_context(&context, key.0);
    let receipt = external_events.append(&command, append).await.map_err(to_problem)?;
    let ExternalReceipt { stream, version, position, count, consistency_token, .. } = receipt;
    Ok((
        StatusCode::CREATED,
        Json(json!({
            "stream": stream,
            "version": version,
            "position": position,
            "count": count,
            "consistency_token": consistency_token,
        })),
    ))
}

/// `GET`: a page of a stream. A stream without events is returned as empty and not as 404, so that a service can start
/// it.
async fn page(
    caller: Caller,
    Path((category, id)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    // A service that may append to a category may also read its streams.
    let appends = ExternalCategory::parse(&category).is_ok_and(|own| caller.principal().may_append(&own));
    if !appends {
        caller.require_permission(&EVENTS_READ)?;
    }
    let stream = StreamName::parse(&format!("{category}/{id}"))
        .map_err(|error| Problem::invalid_field("stream", error))?;
    let (from, limit) = parse_range(&uri)?;
    let store = caller.store.clone();
    let source = StreamSource { store, stream, next: from, read: None };
    event_pages::respond(caller, limit, source).await
}

/// A page of a stream.
struct StreamSource {
    store: TenantStore,
    stream: StreamName,
    /// The version at which the next chunk starts.
    next: u64,
    /// The log id and the stream's version when the page began.
    read: Option<(LogId, u64)>,
}

impl EventSource for StreamSource {
    async fn read(&mut self, limit: PageLimit) -> Result<Vec<RecordedEvent>, Problem> {
        let page = self.store.read_stream_page(&self.stream, self.next, limit).await?;
        check_log_id(&self.store, self.read.map(|(log, _)| log), page.log_id).await?;
        self.read.get_or_insert((page.log_id, page.version));
        self.next = page.events.last().map_or(self.next, |last| last.version + 1);
        Ok(page.events)
    }

    fn has_more_after(&self, last: &RecordedEvent) -> bool {
        self.read.is_some_and(|(_, version)| last.version < version)
    }

    fn leading_fields(&self) -> Value {
        let (log, version) = self.read.unzip();
        json!({ "log_id": log, "stream": self.stream, "version": version })
    }

    fn trailing_fields(&self, truncated_after: Option<EventLocation>) -> Value {
        let next = truncated_after.map_or(self.next, |last| last.version + 1);
        let next = self.read.map(|(_, version)| version).filter(|version| next <= *version).map(|_| next);
        json!({ "next_from_version": next })
    }
}

fn parse_range(uri: &Uri) -> Result<(u64, usize), Problem> {
    let (mut from, mut max) = (1, PAGE_SIZE_DEFAULT);
    let mut wrong = Vec::new();
    for (name, value) in unique_pairs(uri)? {
        let accepted = match name.as_str() {
            "from_version" => position(&value)
                .map(|version| from = version.max(1))
                .ok_or_else(|| InvalidValue::new("type_invalid", "must be a whole number")),
            "limit" => limit(&value, PAGE_SIZE_MAX).map(|limit| max = limit),
            unknown => {
                wrong.push(unknown_parameter(unknown));
                continue;
            }
        };
        if let Err(problem) = accepted {
            wrong.push(FieldError::new(name, problem));
        }
    }
    if wrong.is_empty() { Ok((from, max)) } else { Err(Problem::invalid(wrong)) }
}

/// The data of the events as received. The same bytes are stored.
#[derive(Deserialize)]
struct RawBody<'a> {
    #[serde(borrow)]
    events: Vec<RawEvent<'a>>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

fn read(category: ExternalCategory, stream: StreamName, bytes: &Bytes) -> Result<ExternalAppend, Problem> {
    let Value::Object(values) = read_json(bytes)? else {
        return Err(Problem::bad_request("the body must be a JSON object"));
    };
    let mut body = JsonFields::new(values);
    let expected = match body.any("expected_version", false) {
        None => ExpectedVersion::Any,
        Some(Value::String(text)) if text == "any" => ExpectedVersion::Any,
        Some(Value::String(text)) if text == "no_stream" => ExpectedVersion::NoStream,
        Some(value) => match value.as_u64().filter(|&version| i64::try_from(version).is_ok()) {
            Some(0) => ExpectedVersion::NoStream,
            Some(version) => ExpectedVersion::Exact(version),
            None => {
                body.add_type_error("expected_version", "must be a whole number, \"any\" or \"no_stream\"");
                ExpectedVersion::Any
            }
        },
    };
    let mut events = Vec::new();
    let mut accepted: Option<InvalidValue> = None;
    for mut event in body.objects("events", EVENTS_MAX).unwrap_or_default() {
        let id = event.optional("id", event_id);
        let event_type = event.required("type", |text| {
            ExternalType::parse(text).inspect_err(|error| {
                if error.code == RESERVED_CONTEXT {
                    accepted = Some(error.clone());
                }
            })
        });
        let value = event.any("data", true);
        body.merge(event);
        if let (Some(event_type), Some(value)) = (event_type, value) {
            events.push(ExternalEvent { id, event_type, data: Bytes::new(), value });
        }
    }
    if let Some(error) = accepted {
        return Err(reserved_name_problem(&error));
    }
    let mut events = body.finish(|| Some(events))?;
    let raw: RawBody = serde_json::from_slice(bytes).map_err(|error| json::json_problem(&error))?;
    for (event, raw) in events.iter_mut().zip(raw.events) {
        event.data = bytes.slice_ref(raw.data.get().as_bytes());
    }
    Ok(ExternalAppend { category, stream, expected, events })
}

fn event_id(text: &str) -> Result<Uuid, InvalidValue> {
    let id = text.parse().ok().filter(|id: &Uuid| !id.is_nil());
    id.ok_or_else(|| InvalidValue::new("id_invalid", "must be a UUID"))
}

fn to_problem(refusal: ExternalAppendError) -> Problem {
    match refusal {
        ExternalAppendError::Forbidden => Problem::new(ErrorCode::Forbidden)
            .detail("needs tenant_admin or the scope events:append:<category>"),
        ExternalAppendError::Invalid(mut wrong) => {
            wrong.truncate(20);
            let as_error = |InvalidField { field, code, message }| {
                FieldError::new(field, InvalidValue::new(code, message))
            };
            Problem::invalid(wrong.into_iter().map(as_error).collect())
        }
        ExternalAppendError::EventIdTaken(id) => Problem::new(ErrorCode::EventIdTaken)
            .detail(format!("an event with the id {id} is recorded already")),
        ExternalAppendError::Append(error) => ExecuteError::<EventTypeRejection>::from(error).into(),
        ExternalAppendError::Store(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> Result<ExternalAppend, Problem> {
        let category = ExternalCategory::parse("ext.loyalty.account").expect("valid");
        let stream = StreamName::parse("ext.loyalty.account/1").expect("valid");
        read(category, stream, &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn with(data: &str) -> String {
        format!(r#"{{"events":[{{"type":"ext.loyalty.account.opened.v1","data":{data}}}]}}"#)
    }

    #[test]
    fn data_keep_their_bytes() {
        let data = r#"{ "b": 12345678901234567890123456789, "a" : 1.10 }"#;
        let append = parsed(&with(data)).expect("valid");
        assert_eq!(append.events[0].data, data);
        assert_eq!(append.expected, ExpectedVersion::Any);
    }

    #[test]
    fn expectations_are_numbers_or_words() {
        let expected = |text: &str| {
            let body = format!(
                r#"{{"expected_version":{text},"events":[{{"type":"ext.loyalty.account.opened.v1","data":1}}]}}"#
            );
            parsed(&body).map(|append| append.expected).map_err(|problem| problem.code())
        };
        assert_eq!(expected("0"), Ok(ExpectedVersion::NoStream));
        assert_eq!(expected("7"), Ok(ExpectedVersion::Exact(7)));
        assert_eq!(expected("null"), Ok(ExpectedVersion::Any));
        assert_eq!(expected("\"no_stream\""), Ok(ExpectedVersion::NoStream));
        for bad in ["-1", "1.5", "\"7\"", "[]", "18446744073709551615"] {
            assert_eq!(expected(bad), Err(ErrorCode::BadRequest), "{bad}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_not_the_services_own_is_refused() {
        let code = |body: &str| parsed(body).map(|_| ()).map_err(|problem| problem.code());
        assert_eq!(code(&with(r#"{"a":1,"a":2}"#)), Err(ErrorCode::BadRequest));
        assert_eq!(code(&with(r#"{"a":[{"b":1,"\u0062":2}]}"#)), Err(ErrorCode::BadRequest));
        assert_eq!(code(r#"{"events":[]}"#), Err(ErrorCode::Invalid));
        assert_eq!(code(r#"{"events":[1]}"#), Err(ErrorCode::BadRequest));
        assert_eq!(code("{}"), Err(ErrorCode::Invalid));
        assert_eq!(
            code(r#"{"events":[{"type":"identity.user.registered.v1","data":{}}]}"#),
            Err(ErrorCode::ReservedContext)
        );
        assert_eq!(code(r#"{"events":[{"type":"ext.loyalty.account.opened.v1"}]}"#), Err(ErrorCode::Invalid));
        assert_eq!(
            code(r#"{"events":[{"type":"ext.loyalty.account.opened.v1","data":1,"colour":1}]}"#),
            Err(ErrorCode::Invalid)
        );
        let many = vec![r#"{"type":"ext.loyalty.account.opened.v1","data":1}"#; EVENTS_MAX + 1].join(",");
        assert_eq!(code(&format!(r#"{{"events":[{many}]}}"#)), Err(ErrorCode::Invalid));
    }
}
