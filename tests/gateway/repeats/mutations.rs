//! Rows of GraphQL mutations.

use serde_json::{Value, json};

use super::people::{renaming, user};
use super::place::{Asked, Caller, Place, text};
use super::rows::{Case, Kind, NOTHING};

async fn customer(place: &Place) -> String {
    let registered = place.done(register("Ada", "ada@example.com")).await;
    text(&registered["data"]["done"]["customer"]["id"])
}

fn register(name: &str, email: &str) -> Asked {
    Asked::mutation("registerCustomer", json!({"name": name, "email": email}))
}

pub fn rename(id: &str, name: &str) -> Asked {
    Asked::mutation("renameCustomer", json!({"id": id, "name": name}))
}

fn close(id: &str) -> Asked {
    Asked::mutation("closeCustomer", json!({"id": id, "reason": "moved away"}))
}

/// The second administrator renames a customer, and closes it at last.
fn change(id: &str, before: usize) -> Asked {
    let asked = if before < 2 { rename(id, &format!("Renamed {before}")) } else { close(id) };
    asked.by(Caller::Second)
}

pub async fn register_customer(_place: &Place, kind: Kind) -> Case {
    let email = if kind == Kind::Rejected { "no address" } else { "ada@example.com" };
    Case::new(register("Ada", email), register("Bo", "bo@example.com")).changed(|first: &Value, before| {
        Some(change(first.pointer("/data/done/customer/id")?.as_str()?, before))
    })
}

pub async fn rename_customer(place: &Place, kind: Kind) -> Case {
    let id = customer(place).await;
    if kind == Kind::Rejected {
        place.done(close(&id)).await;
    }
    let name = if kind == Kind::WithoutEffect { "Ada" } else { "Bo" };
    Case::new(rename(&id, name), rename(&id, "Cy")).changed(move |_, before| Some(change(&id, before)))
}

pub async fn suspend_customer(place: &Place, kind: Kind) -> Case {
    let id = customer(place).await;
    let suspend =
        |reason: &str| Asked::mutation("suspendCustomer", json!({"id": id.as_str(), "reason": reason}));
    let (asked, other) = (suspend("unpaid"), suspend("asked for"));
    match kind {
        Kind::Effect => {}
        Kind::WithoutEffect => {
            place.done(suspend("before")).await;
        }
        Kind::Rejected => {
            place.done(close(&id)).await;
        }
    }
    Case::new(asked, other).changed(move |_, before| Some(change(&id, before)))
}

pub async fn resume_customer(place: &Place, kind: Kind) -> Case {
    let (id, another) = (customer(place).await, customer(place).await);
    let ask = |name: &str, id: &str| Asked::mutation(name, json!({"id": id}));
    match kind {
        Kind::Effect => {
            place.done(ask("suspendCustomer", &id)).await;
        }
        Kind::WithoutEffect => {}
        Kind::Rejected => {
            place.done(close(&id)).await;
        }
    }
    let (asked, other) = (ask("resumeCustomer", &id), ask("resumeCustomer", &another));
    Case::new(asked, other).changed(move |_, before| Some(change(&id, before)))
}

pub async fn change_customer_contact(place: &Place, kind: Kind) -> Case {
    let id = customer(place).await;
    let contact =
        |email: &str| Asked::mutation("changeCustomerContact", json!({"id": id.as_str(), "email": email}));
    if kind == Kind::Rejected {
        place.done(close(&id)).await;
    }
    let email = if kind == Kind::WithoutEffect { "ada@example.com" } else { "bo@example.com" };
    let (asked, other) = (contact(email), contact("cy@example.com"));
    Case::new(asked, other).changed(move |_, before| Some(change(&id, before)))
}

pub async fn close_customer(place: &Place, kind: Kind) -> Case {
    let id = customer(place).await;
    if kind == Kind::WithoutEffect {
        place.done(close(&id)).await;
    }
    let other = Asked::mutation("closeCustomer", json!({"id": id.as_str()}));
    let asked = close(if kind == Kind::Rejected { NOTHING } else { &id });
    Case::new(asked, other).changed(move |_, before| Some(change(&id, before)))
}

pub async fn change_user_name(place: &Place, kind: Kind) -> Case {
    let id = user(place).await;
    let name = |id: &str, name: &str| Asked::mutation("changeUserName", json!({"id": id, "name": name}));
    if kind == Kind::WithoutEffect {
        place.done(name(&id, "Ada")).await;
    }
    let asked = name(if kind == Kind::Rejected { NOTHING } else { &id }, "Ada");
    Case::new(asked, name(&id, "Bo")).changed(move |_, before| Some(renaming(&id, before)))
}

pub async fn deactivate_user(place: &Place, kind: Kind) -> Case {
    let id = user(place).await;
    let stop =
        |id: &str, reason: &str| Asked::mutation("deactivateUser", json!({"id": id, "reason": reason}));
    if kind == Kind::WithoutEffect {
        place.done(stop(&id, "before")).await;
    }
    // Nobody stops itself.
    let asked = stop(if kind == Kind::Rejected { &place.first_id } else { &id }, "left");
    Case::new(asked, stop(&id, "on leave")).changed(move |_, before| Some(renaming(&id, before)))
}
