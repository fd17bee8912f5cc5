//! Users as the judge knows them: from the public events, and as GraphQL shows them.

use std::collections::BTreeMap;

use serde_json::Value;

/// A user, whichever side it is read from.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    name: String,
    email: String,
    roles: Vec<String>,
    status: &'static str,
    version: String,
}

impl User {
    /// A node `{ name email roles status version }`.
    pub fn of_node(node: &Value) -> Self {
        let status =
            ["UNCONFIRMED", "ACTIVE", "DEACTIVATED"].into_iter().find(|known| node["status"] == *known);
        Self {
            name: text(&node["name"]),
            email: text(&node["email"]),
            roles: roles(&node["roles"]),
            status: status.unwrap_or_else(|| panic!("no status: {node}")),
            version: text(&node["version"]),
        }
    }
}

/// The users that a log's events make.
pub fn users_of(events: &[Value]) -> BTreeMap<String, User> {
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for event in events {
        let subject = text(&event["subject"]);
        let Some(("identity.user", id)) = subject.split_once('/') else { continue };
        let data = &event["data"];
        let event_type = text(&event["type"]);
        if event_type == "identity.user.registered.v1" {
            let (name, email) = (personal(data, "name"), personal(data, "email"));
            let roles = roles(&data["roles"]);
            let user = User { name, email, roles, status: "UNCONFIRMED", version: String::new() };
            users.insert(id.to_owned(), user);
        }
        let user = users.get_mut(id).expect("nothing happens to a user before it registers");
        match event_type.as_str() {
            "identity.user.name_changed.v1" => user.name = text(&data["name"]),
            "identity.user.email_confirmed.v1" => user.status = "ACTIVE",
            "identity.user.deactivated.v1" => user.status = "DEACTIVATED",
            "identity.user.erased.v1" => {
                (user.name, user.email) = (String::new(), String::new());
                user.status = "DEACTIVATED";
            }
            _ => {}
        }
        user.version = text(&event["streamversion"]);
    }
    users
}

/// A field of a person; empty where they were erased.
fn personal(data: &Value, field: &str) -> String {
    if data["$erased"].is_object() { String::new() } else { text(&data[field]) }
}

fn roles(value: &Value) -> Vec<String> {
    let roles = value.as_array().into_iter().flatten();
    roles.map(|role| text(role).to_lowercase()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
