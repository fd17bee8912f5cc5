//! The metadata of an event: the actor, and the ids of command, request and cause.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids;

/// The actor: `user:<id>`, `service:<id>`, `saga:<name>`, `system:<part>` or `anonymous`. It is never a name or an
/// address, because metadata contains no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(String);

impl Actor {
    /// A signed-in user.
    pub fn user(id: Uuid) -> Self {
        Self(format!("user:{id}"))
    }

    /// A service of the tenant, by the id of its token.
    pub fn service(id: Uuid) -> Self {
        Self(format!("service:{id}"))
    }

    /// A saga, by its name.
    pub fn saga(name: &str) -> Self {
        Self(format!("saga:{name}"))
    }

    /// A part of the product, such as `cli`.
    pub fn system(part: &str) -> Self {
        Self(format!("system:{part}"))
    }

    /// A caller that is not signed in, for example at registration.
    pub fn anonymous() -> Self {
        Self("anonymous".to_owned())
    }

    /// An actor from stored metadata; it is not checked.
    pub fn recorded(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The actor as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of one request, `[A-Za-z0-9._-]{1,64}`: safe in headers, logs and subjects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(String);

impl RequestId {
    /// The given id if it is well formed, otherwise `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        well_formed.then(|| Self(text.to_owned()))
    }

    /// A new id.
    pub fn generate() -> Self {
        Self(ids::new_id().to_string())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The metadata of an event, stored as JSON bytes with the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The actor.
    pub actor: Actor,
    /// The command that produced the event.
    pub command_id: Uuid,
    /// Shared by all events and commands that one outside request caused.
    pub correlation_id: Uuid,
    /// The event that caused the command, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<Uuid>,
    /// The request with the command, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// W3C Trace Context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Metadata {
    /// Metadata of a command without a cause.
    pub fn new(actor: Actor, command_id: Uuid) -> Self {
        Self {
            actor,
            command_id,
            correlation_id: command_id,
            causation_id: None,
            request_id: None,
            traceparent: None,
        }
    }
}

/// The given W3C traceparent (version 00) if it is well formed.
pub fn parse_traceparent(text: &str) -> Option<String> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        ["00", trace, parent, flags] if hex(trace, 32) && hex(parent, 16) && hex(flags, 2) => {
            Some(text.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_safe_in_a_header() {
        assert!(RequestId::parse("abc.DEF_1-2").is_some());
        for bad in ["", "a b", "a\r\nb", "ä", &"x".repeat(65)] {
            assert!(RequestId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_traceparent_has_four_hexadecimal_parts() {
        assert!(parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_some());
        assert!(parse_traceparent("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01").is_none());
        assert!(parse_traceparent("00-xyz").is_none());
    }
}
