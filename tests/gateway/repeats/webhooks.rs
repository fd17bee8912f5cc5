//! Rows of webhooks and their dead letters.

use serde_json::{Value, json};

use super::place::{Asked, Caller, Place, Watched, text};
use super::rows::{Case, Change, DELETE, Kind, NOTHING, PATCH, POST};

const WEBHOOKS: &str = "/v1/webhooks";

fn register(description: &str) -> Asked {
    // Nothing of this type is recorded, so nothing is delivered.
    let body = json!({
        "url": "https://hooks.example.com/hook", "types": ["ext.absent.>"], "description": description,
    });
    Asked::json(POST, WEBHOOKS, body)
}

fn patch(id: &str, body: Value) -> Asked {
    Asked::json(PATCH, format!("{WEBHOOKS}/{id}"), body)
}

fn described(id: &str, before: usize) -> Asked {
    patch(id, json!({"description": format!("described {before}")})).by(Caller::Second)
}

fn of(id: &str, action: &str) -> Asked {
    Asked::new(POST, format!("{WEBHOOKS}/{id}/{action}"))
}

/// A webhook that is disabled, so that it stands still.
async fn webhook(place: &Place) -> String {
    let id = text(&place.done(register("prepared")).await["id"]);
    place.done(patch(&id, json!({"status": "disabled"}))).await;
    id
}

/// Two webhooks, and the id that is asked for: of the first one, or of nothing.
async fn two(place: &Place, kind: Kind) -> (String, String, String) {
    let (id, other) = (webhook(place).await, webhook(place).await);
    let asked = if kind == Kind::Rejected { NOTHING.to_owned() } else { id.clone() };
    (id, other, asked)
}

pub async fn registration(_place: &Place, kind: Kind) -> Case {
    let mut asked = register("first");
    if kind == Kind::Rejected {
        asked = Asked::json(POST, WEBHOOKS, json!({"url": "https://hooks.example.com/", "after": 1_000_000}));
    }
    Case::new(asked, register("other")).changed(|first, before| {
        let id = first["id"].as_str()?;
        let remove = Asked::new(DELETE, format!("{WEBHOOKS}/{id}")).by(Caller::Second);
        Some(if before == 0 { described(id, before) } else { remove })
    })
}

pub async fn change(place: &Place, kind: Kind) -> Case {
    let (id, _, asked) = two(place, kind).await;
    let asked = patch(&asked, json!({"description": "first", "ordering": "parallel"}));
    Case::new(asked, patch(&id, json!({"ordering": "in_order"})))
        .changed(move |_, before| Some(described(&id, before)))
}

pub async fn removal(place: &Place, kind: Kind) -> Case {
    let (_, other, asked) = two(place, kind).await;
    let remove = |id: &str| Asked::new(DELETE, format!("{WEBHOOKS}/{id}"));
    Case::new(remove(&asked), remove(&other)).changed(move |_, before| Some(described(&other, before)))
}

pub async fn rotation(place: &Place, kind: Kind) -> Case {
    let (id, other, asked) = two(place, kind).await;
    Case::new(of(&asked, "rotate-secret"), of(&other, "rotate-secret"))
        .changed(move |_, _| Some(of(&id, "rotate-secret").by(Caller::Second)))
}

pub async fn replay(place: &Place, kind: Kind) -> Case {
    let id = webhook(place).await;
    let replay =
        |after: usize| Asked::json(POST, format!("{WEBHOOKS}/{id}/replay"), json!({ "after": after }));
    let (asked, other) = (replay(if kind == Kind::Rejected { 1_000_000 } else { 1 }), replay(0));
    let replay = replay(2).by(Caller::Second);
    Case::new(asked, other).changed(move |_, _| Some(replay.clone()))
}

pub async fn enabling(place: &Place, kind: Kind) -> Case {
    let (id, other, asked) = two(place, kind).await;
    if kind == Kind::WithoutEffect {
        place.done(patch(&id, json!({"status": "active"}))).await;
    }
    Case::new(of(&asked, "enable"), of(&other, "enable"))
        .changed(move |_, _| Some(patch(&id, json!({"status": "disabled"})).by(Caller::Second)))
}

pub async fn discard_all(place: &Place, kind: Kind) -> Case {
    dead_letters(place, kind, |id| Asked::new(DELETE, format!("{WEBHOOKS}/{id}/dead-letters"))).await
}

pub async fn retry_all(place: &Place, kind: Kind) -> Case {
    dead_letters(place, kind, |id| of(id, "dead-letters/retry")).await
}

async fn dead_letters(place: &Place, kind: Kind, ask: impl Fn(&str) -> Asked) -> Case {
    let (id, other, asked) = two(place, kind).await;
    place.dead_letter(&other, 1).await;
    if kind == Kind::Effect {
        place.dead_letter(&id, 1).await;
    }
    let watched = Watched { webhooks: vec![id.clone(), other.clone()], ..Watched::default() };
    // The same position is given up again, or a further one.
    Case::new(ask(&asked), ask(&other))
        .watching(watched)
        .changed_otherwise(move |_, before| Some(Change::DeadLetter(id.clone(), 1 + before as u64 % 2)))
}

pub async fn discard_one(place: &Place, kind: Kind) -> Case {
    let ask = |id: &str, at: u64| Asked::new(DELETE, format!("{WEBHOOKS}/{id}/dead-letters/{at}"));
    dead_letter(place, kind, ask).await
}

pub async fn retry_one(place: &Place, kind: Kind) -> Case {
    dead_letter(place, kind, |id, at| of(id, &format!("dead-letters/{at}/retry"))).await
}

async fn dead_letter(place: &Place, kind: Kind, ask: impl Fn(&str, u64) -> Asked) -> Case {
    let id = webhook(place).await;
    place.dead_letter(&id, 2).await;
    if kind == Kind::Effect {
        place.dead_letter(&id, 1).await;
    }
    let watched = Watched { webhooks: vec![id.clone()], ..Watched::default() };
    // Where the delivery was not given up before, a repeat finds it.
    Case::new(ask(&id, 1), ask(&id, 2))
        .watching(watched)
        .changed_otherwise(move |_, _| Some(Change::DeadLetter(id.clone(), 1)))
}
