//! Rows of what services use: tickets, event types, events, tokens, credentials.

use serde_json::{Value, json};

use super::place::{Asked, Caller, Place, text};
use super::rows::{Case, Change, DELETE, Kind, NOTHING, POST, PUT};

pub async fn ticket(_place: &Place, kind: Kind) -> Case {
    let path = if kind == Kind::Rejected { "/v1/events" } else { "/v1/events/stream" };
    let ask = |route: &str| Asked::json(POST, route, json!({ "path": path }));
    // No other body is well formed. The target counts as well.
    Case::new(ask("/v1/stream-tickets"), ask("/v1/stream-tickets?other"))
        .changed_otherwise(|first, _| Some(Change::Ticket(first["ticket"].as_str()?.to_owned())))
}

fn register_type(event_type: &str, description: &str) -> Asked {
    let body = json!({"schema": {"type": "object"}, "description": description});
    Asked::json(PUT, format!("/v1/event-types/{event_type}"), body)
}

pub async fn event_type(place: &Place, kind: Kind) -> Case {
    let fact = format!("ext.loyalty.account.{}", place.name("fact"));
    let (v1, v2) = (format!("{fact}.v1"), format!("{fact}.v2"));
    if kind == Kind::WithoutEffect {
        place.done(register_type(&v1, "first")).await;
    }
    let asked = if kind == Kind::Rejected { &v2 } else { &v1 };
    Case::new(register_type(asked, "first"), register_type(asked, "other"))
        .changed(move |_, before| Some(register_type(&v1, &format!("another {before}")).by(Caller::Second)))
}

pub async fn events(place: &Place, kind: Kind) -> Case {
    let event_type = format!("ext.loyalty.account.{}.v1", place.name("fact"));
    let path = format!("/v1/streams/ext.loyalty.account/{}/events", place.name("stream"));
    if kind == Kind::Effect {
        place.done(register_type(&event_type, "counted")).await;
    }
    let append = |n: usize| {
        let event = json!({"type": event_type, "data": {"n": n}});
        Asked::json(POST, path.as_str(), json!({"events": [event]}))
    };
    let (asked, other) = (append(1), append(2));
    let append = append(3).by(Caller::Second);
    Case::new(asked, other).changed(move |_, before| {
        // The type is registered where that is what is missing.
        let registers = kind == Kind::Rejected && before == 0;
        let register = register_type(&event_type, "counted").by(Caller::Second);
        Some(if registers { register } else { append.clone() })
    })
}

fn issue(name: &str, scopes: &[&str]) -> Asked {
    let body = json!({"name": name, "scopes": scopes, "expires_days": 1});
    Asked::json(POST, "/v1/service-tokens", body)
}

fn revoke(id: &str) -> Asked {
    Asked::new(DELETE, format!("/v1/service-tokens/{id}"))
}

pub async fn token(_place: &Place, kind: Kind) -> Case {
    let scopes: &[_] = if kind == Kind::Rejected { &["audit:read", "crm:write"] } else { &["events:read"] };
    Case::new(issue("erp", scopes), issue("shop", &["events:read"]))
        .changed(|first, _| Some(revoke(first["service_token"]["id"].as_str()?).by(Caller::Second)))
}

pub async fn revocation(place: &Place, kind: Kind) -> Case {
    let id = text(&place.done(issue("erp", &["crm:read"])).await["service_token"]["id"]);
    let other = text(&place.done(issue("shop", &["crm:read"])).await["service_token"]["id"]);
    if kind == Kind::WithoutEffect {
        place.done(revoke(&id)).await;
    }
    let asked = revoke(if kind == Kind::Rejected { NOTHING } else { &id });
    // Nothing brings a token back, so the other one is revoked as well.
    Case::new(asked, revoke(&other)).changed(move |_, before| {
        Some(revoke(if before.is_multiple_of(2) { &other } else { &id }).by(Caller::Second))
    })
}

const CREDENTIALS: &str = "/v1/integrations/credentials";

fn create(name: &str, body: Value) -> Asked {
    let mut body = body;
    body["name"] = name.into();
    Asked::json(POST, CREDENTIALS, body)
}

fn of_credential(name: &str, action: &str, body: Value) -> Asked {
    Asked::json(POST, format!("{CREDENTIALS}/{name}/{action}"), body)
}

fn revoke_credential(name: &str) -> Asked {
    Asked::new(DELETE, format!("{CREDENTIALS}/{name}"))
}

pub async fn credential(place: &Place, kind: Kind) -> Case {
    let name = place.name("erp");
    if kind == Kind::Rejected {
        place.done(create(&name, json!({}))).await;
    }
    let (asked, other) = (create(&name, json!({})), create(&name, json!({"types": ["crm.>"]})));
    Case::new(asked, other).changed(move |_, before| {
        let asked =
            if before.is_multiple_of(2) { revoke_credential(&name) } else { create(&name, json!({})) };
        Some(asked.by(Caller::Second))
    })
}

pub async fn credential_revocation(place: &Place, kind: Kind) -> Case {
    let (name, other) = (place.name("erp"), place.name("shop"));
    place.done(create(&other, json!({}))).await;
    if kind == Kind::Effect {
        place.done(create(&name, json!({}))).await;
    }
    Case::new(revoke_credential(&name), revoke_credential(&other))
        .changed(move |_, _| Some(create(&name, json!({})).by(Caller::Second)))
}

pub async fn credential_reset(place: &Place, kind: Kind) -> Case {
    let name = place.name("erp");
    // Nothing of this type is recorded, so the place moves by requests alone.
    let types = json!({"types": ["ext.absent.>"]});
    if kind == Kind::Effect {
        place.done(create(&name, types.clone())).await;
    }
    let reset = |after: usize| of_credential(&name, "reset", json!({ "after": after }));
    let (asked, other) = (reset(1), reset(2));
    let reset = reset(0).by(Caller::Second);
    Case::new(asked, other).changed(move |_, before| {
        let creates = kind == Kind::Rejected && before == 0;
        let create = create(&name, types.clone()).by(Caller::Second);
        Some(if creates { create } else { reset.clone() })
    })
}

pub async fn credential_rotation(place: &Place, kind: Kind) -> Case {
    let name = place.name("erp");
    if kind == Kind::Effect {
        place.done(create(&name, json!({}))).await;
    }
    let rotate = |hours: usize| of_credential(&name, "rotate", json!({ "overlap_hours": hours }));
    let (asked, other) = (rotate(0), rotate(1));
    let rotate = asked.clone().by(Caller::Second);
    let case = Case::new(asked, other).changed(move |_, before| {
        let creates = kind == Kind::Rejected && before == 0;
        let create = create(&name, json!({})).by(Caller::Second);
        Some(if creates { create } else { rotate.clone() })
    });
    // A file more shows in no list. A repeat that acts shows in the second administrator's file, which it ends.
    case.hidden()
}
