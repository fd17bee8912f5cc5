//! The requests of both systems. They ask for the same rows, the same fields and the same effects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::engine::ids;
use serde_json::{Value, json};
use uuid::Uuid;

use super::http::Endpoint;
use super::load::{Exchange, Work};

/// Rows of the list.
pub const LIST_ROWS: usize = 100;
/// Every so many renames one has an outdated expected version.
const CONFLICT_INTERVAL: usize = 10;

const LIST: &str =
    "query List($n: Int!) { customers(first: $n) { nodes { id name email status version registeredAt } } }";
const OBJECT: &str =
    "query Object($id: ID!) { customer(id: $id) { id name email status version registeredAt } }";
const RENAME: &str = "mutation Rename($input: RenameCustomerInput!) { \
     renameCustomer(input: $input) { userErrors { code } customer { id name version } } }";
const REGISTER: &str = "mutation Register($name: String!, $email: String!) { \
     registerCustomer(input: { name: $name, email: $email }) { userErrors { code } customer { id name version } } }";

const PEER_LIST: &str = "query List($n: Int!) { allCustomers(first: $n, orderBy: REGISTERED_AT_ASC) { \
     nodes { rowId name email status version registeredAt } } }";
const PEER_OBJECT: &str = "query Object($id: UUID!) { \
     customerByRowId(rowId: $id) { rowId name email status version registeredAt } }";
const PEER_UPDATE: &str = "mutation Rename($id: UUID!, $name: String!) { \
     updateCustomerByRowId(input: { rowId: $id, customerPatch: { name: $name } }) { customer { rowId name version } } }";
const PEER_CREATE: &str = "mutation Register($name: String!, $email: String!) { \
     createCustomer(input: { customer: { name: $name, email: $email, emailKey: $email } }) { \
     customer { rowId name version } } }";

/// What a rename says besides the name.
#[derive(Clone, Copy, PartialEq)]
pub enum RenameKind {
    Plain,
    WithCommandId,
    /// One of ten renames expects an outdated version and is rejected.
    WithConflicts,
}

/// Customers that work goes through, shared out among the connections so that two of them never meet.
#[derive(Clone)]
pub struct Customers {
    pub ids: Arc<[Uuid]>,
    pub connections: usize,
}

impl Customers {
    fn id(&self, connection: usize, turn: usize) -> Uuid {
        self.ids[(connection + turn * self.connections) % self.ids.len()]
    }
}

/// A name that no request had before.
fn new_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("Ada Lovelace {}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn once(text: String) -> (String, usize) {
    (text, 1)
}

fn has_no_user_errors() -> (String, usize) {
    once(r#""userErrors":[]"#.to_owned())
}

fn has_name(name: &str) -> (String, usize) {
    once(format!(r#""name":"{name}""#))
}

pub fn list(endpoint: &Endpoint, is_peer: bool) -> Work {
    let request = endpoint.graphql(if is_peer { PEER_LIST } else { LIST }, &json!({"n": LIST_ROWS}));
    Arc::new(move |_, _| Exchange {
        request: request.clone(),
        expected: vec![(r#""registeredAt":"#.to_owned(), LIST_ROWS)],
    })
}

pub fn object(endpoint: &Endpoint, customers: &Customers, is_peer: bool) -> Work {
    let (endpoint, customers) = (endpoint.clone(), customers.clone());
    Arc::new(move |connection, turn| one_object(&endpoint, customers.id(connection, turn), is_peer, None))
}

/// A read of one customer, who must have this name if one is given.
pub fn one_object(endpoint: &Endpoint, id: Uuid, is_peer: bool, name: Option<&str>) -> Exchange {
    let request = endpoint.graphql(if is_peer { PEER_OBJECT } else { OBJECT }, &json!({"id": id}));
    let mut expected = vec![once(format!(r#"d":"{id}""#))];
    expected.extend(name.map(has_name));
    Exchange { request, expected }
}

pub fn rename(endpoint: &Endpoint, customers: &Customers, kind: RenameKind) -> Work {
    let (endpoint, customers) = (endpoint.clone(), customers.clone());
    Arc::new(move |connection, turn| {
        let (id, name) = (customers.id(connection, turn), new_name());
        let mut input = json!({"id": id, "name": name});
        match kind {
            RenameKind::Plain => {}
            RenameKind::WithCommandId => input["commandId"] = json!(ids::random_id()),
            RenameKind::WithConflicts if turn % CONFLICT_INTERVAL == CONFLICT_INTERVAL - 1 => {
                input["expectedVersion"] = json!("1");
                let expected = vec![once(r#""code":"VERSION_CONFLICT""#.to_owned())];
                return Exchange { request: rename_request(&endpoint, &input), expected };
            }
            RenameKind::WithConflicts => {}
        }
        let expected = vec![has_no_user_errors(), has_name(&name)];
        Exchange { request: rename_request(&endpoint, &input), expected }
    })
}

fn rename_request(endpoint: &Endpoint, input: &Value) -> bytes::Bytes {
    endpoint.graphql(RENAME, &json!({"input": input}))
}

/// A rename of one customer, and the new name.
pub fn one_rename(endpoint: &Endpoint, id: Uuid) -> (Exchange, String) {
    let name = new_name();
    let request = rename_request(endpoint, &json!({"id": id, "name": name}));
    (Exchange { request, expected: vec![has_no_user_errors(), has_name(&name)] }, name)
}

pub fn peer_update(endpoint: &Endpoint, customers: &Customers) -> Work {
    let (endpoint, customers) = (endpoint.clone(), customers.clone());
    Arc::new(move |connection, turn| {
        let name = new_name();
        let variables = json!({"id": customers.id(connection, turn), "name": name});
        Exchange { request: endpoint.graphql(PEER_UPDATE, &variables), expected: vec![has_name(&name)] }
    })
}

pub fn register(endpoint: &Endpoint, is_peer: bool) -> Work {
    let endpoint = endpoint.clone();
    Arc::new(move |_, _| {
        let name = new_name();
        let email = format!("{}@example.com", name.replace(' ', ".").to_lowercase());
        let document = if is_peer { PEER_CREATE } else { REGISTER };
        let request = endpoint.graphql(document, &json!({"name": name, "email": email}));
        let mut expected = vec![has_name(&name)];
        if !is_peer {
            expected.push(has_no_user_errors());
        }
        Exchange { request, expected }
    })
}

/// The caller's own account.
pub fn account(endpoint: &Endpoint) -> Work {
    let request = endpoint.get("/v1/auth/me");
    Arc::new(move |_, _| Exchange {
        request: request.clone(),
        expected: vec![once(r#""email":"admin@demo.example""#.to_owned())],
    })
}
