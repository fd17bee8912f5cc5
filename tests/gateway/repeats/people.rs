//! Rows of tenants, users and erasures.

use serde_json::{Value, json};

use super::place::{Asked, Caller, Place, Watched, address, text};
use super::rows::{Case, Kind, PATCH, POST, PUT};
use crate::support::product::PASSWORD;

/// A user that cannot sign in.
pub async fn user(place: &Place) -> String {
    let asked = adding(&place.name("user"), "member");
    text(&place.done(asked).await["user"]["id"])
}

fn adding(name: &str, role: &str) -> Asked {
    let body = json!({"email": format!("{name}@example.com"), "name": name, "roles": [role]});
    Asked::json(POST, "/v1/users", body)
}

/// The second administrator gives a user other names.
pub fn renaming(id: &str, before: usize) -> Asked {
    let body = json!({"name": format!("Renamed {before}")});
    Asked::json(PATCH, format!("/v1/users/{id}"), body).by(Caller::Second)
}

fn renaming_added(first: &Value, before: usize) -> Option<Asked> {
    Some(renaming(first["user"]["id"].as_str()?, before))
}

fn roles_of(id: &str, roles: &[&str]) -> Asked {
    Asked::json(PUT, format!("/v1/users/{id}/roles"), json!({"roles": roles}))
}

pub async fn tenant(place: &Place, kind: Kind) -> Case {
    let fresh = place.name(&format!("{}-new", place.slug()));
    let slug = if kind == Kind::Rejected { place.slug() } else { &fresh };
    let register = |slug: &str, name: &str| {
        let admin = json!({"email": address(slug), "password": PASSWORD, "name": "Admin"});
        let body = json!({"slug": slug, "name": name, "tier": "free", "admin": admin});
        Asked::json(POST, "/v1/tenants", body).by(Caller::Platform)
    };
    Case::new(register(slug, "New"), register(&fresh, "Other"))
        .watching(Watched { tenant: Some(fresh.clone()), ..Watched::default() })
        .changed(|first, before| {
            let (slug, id) = (first["tenant"]["slug"].as_str()?, first["admin"]["user"]["id"].as_str()?);
            Some(renaming(id, before).by(Caller::AdministratorOf(slug.to_owned())))
        })
}

pub async fn registration(place: &Place, kind: Kind) -> Case {
    let (name, other) = (place.name("person"), place.name("person"));
    let register = |address: &str, name: &str| {
        let body = json!({"email": format!("{address}@example.com"), "name": name, "password": PASSWORD});
        Asked::json(POST, "/v1/auth/register", body).by(Caller::Stranger)
    };
    if kind == Kind::Rejected {
        place.done(adding(&name, "member")).await;
        return Case::new(register(&name, "Ada"), register(&other, "Ada")).changed(renaming_added);
    }
    Case::new(register(&name, "Ada"), register(&name, "Bo")).changed(renaming_added)
}

pub async fn addition(place: &Place, kind: Kind) -> Case {
    let name = place.name("person");
    if kind == Kind::Rejected {
        place.done(adding(&name, "member")).await;
        return Case::new(adding(&name, "member"), adding(&place.name("person"), "auditor"))
            .changed(renaming_added);
    }
    Case::new(adding(&name, "member"), adding(&name, "auditor")).changed(renaming_added)
}

pub async fn change(place: &Place, kind: Kind) -> Case {
    let id = user(place).await;
    let rename = |id: &str, name: &str| Asked::json(PATCH, format!("/v1/users/{id}"), json!({"name": name}));
    if kind == Kind::WithoutEffect {
        place.done(rename(&id, "Ada")).await;
    }
    let asked = if kind == Kind::Rejected {
        let stop = json!({"status": "deactivated", "reason": "on leave"});
        Asked::json(PATCH, format!("/v1/users/{}", place.first_id), stop)
    } else {
        rename(&id, "Ada")
    };
    Case::new(asked, rename(&id, "Bo")).changed(move |_, before| Some(renaming(&id, before)))
}

pub async fn roles(place: &Place, kind: Kind) -> Case {
    let id = user(place).await;
    let (asked, opposite): (&[_], &[_]) = match kind {
        Kind::WithoutEffect => (&["member"], &["tenant_admin"]),
        _ => (&["tenant_admin"], &["member"]),
    };
    if kind == Kind::Rejected {
        let stop = json!({"status": "deactivated"});
        place.done(Asked::json(PATCH, format!("/v1/users/{id}"), stop)).await;
    }
    let case = Case::new(roles_of(&id, asked), roles_of(&id, &["member", "auditor"]));
    case.changed(move |_, before| {
        // A user who is stopped can be renamed, and is given no roles.
        let renames = before % 2 == 1 || kind == Kind::Rejected;
        Some(if renames { renaming(&id, before) } else { roles_of(&id, opposite).by(Caller::Second) })
    })
}

pub async fn erasure(place: &Place, kind: Kind) -> Case {
    let id = user(place).await;
    let erase = |reason: &str| Asked::json(POST, "/v1/erasures", json!({"user_id": id, "reason": reason}));
    let case = Case::new(erase("asked for"), erase("asked for again"));
    let again = erase("asked for by another").by(Caller::Second);
    match kind {
        Kind::Effect => {}
        Kind::WithoutEffect => {
            place.done(again.clone()).await;
        }
        Kind::Rejected => {
            place.done(roles_of(&id, &["tenant_admin"])).await;
        }
    }
    // Whoever runs the tenant is not erased before the role is taken.
    case.changed(move |_, before| {
        let takes = kind == Kind::Rejected && before == 0;
        Some(if takes { roles_of(&id, &["member"]).by(Caller::Second) } else { again.clone() })
    })
}
