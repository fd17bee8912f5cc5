//! NATS in operator mode: the accounts, what they export and import, and their keys (ADR 16).
//!
//! - `SYS` is the server's own account.
//! - `APP` is the product's account and holds the streams.
//! - `EDGE` is for integrators and has no streams. It imports three services of `APP` and nothing else.
//!
//! Integrators have their own account because a client of an account with streams can make JetStream publish to any
//! subject of the account: it chooses the reply subject.

mod jwt;

use std::collections::BTreeMap;
use std::path::Path;

use nkeys::{KeyPair, KeyPairType};
use schemas::engine::{clock, ids};
use serde_json::{Value, json};

pub use jwt::{Claims, credentials_file};

use crate::connection::STREAM;

/// The prefix of JetStream's API for integrators: the local name under which `EDGE` imports it.
pub const API_PREFIX: &str = "JS.app.API";

/// Maximum connections of all integrators. Above it the server refuses with `maximum account active connections
/// exceeded`, so integrators cannot use up the connections of the server.
pub const EDGE_CONNECTIONS_MAX: i64 = 4_096;
/// Maximum subscriptions of all integrators.
const EDGE_SUBSCRIPTIONS_MAX: i64 = 65_536;
/// Maximum subscriptions of one connection of an integrator. A client has one for each consumer that it pulls from.
pub const EDGE_USER_SUBSCRIPTIONS_MAX: i64 = 200;
/// Maximum bytes of a message that an integrator publishes. Requests and acknowledgements have fewer than 1,000.
pub const EDGE_PAYLOAD_BYTES_MAX: i64 = 4_096;

/// A key or a JWT cannot be parsed: the name of the value, and what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not {1}")]
pub struct KeyError(pub &'static str, pub &'static str);

/// Parses the seed of a key of the given kind.
///
/// # Errors
/// [`KeyError`] if the text is not such a seed.
pub fn seed(name: &'static str, text: &str, kind: KeyPairType) -> Result<KeyPair, KeyError> {
    let key = KeyPair::from_seed(text.trim()).ok().filter(|key| key.key_pair_type() == kind);
    key.ok_or(KeyError(
        name,
        match kind {
            KeyPairType::Operator => "the seed of an operator key (SO...)",
            KeyPairType::Account => "the seed of an account key (SA...)",
            _ => "the seed of a user key (SU...)",
        },
    ))
}

/// Checks an account's public key.
///
/// # Errors
/// [`KeyError`] if the text is not the public key of an account.
pub fn account_key(name: &'static str, text: &str) -> Result<String, KeyError> {
    let key = KeyPair::from_public_key(text.trim()).ok();
    match key {
        Some(key) if key.key_pair_type() == KeyPairType::Account => Ok(key.public_key()),
        _ => Err(KeyError(name, "the public key of an account (A...)")),
    }
}

/// The keys of a NATS in operator mode, as `annals dev` and `annals credential setup` create them.
pub struct OperatorKeys {
    operator: KeyPair,
    operator_signing: KeyPair,
    system: KeyPair,
    system_user: KeyPair,
    application: KeyPair,
    application_user: KeyPair,
    edge: KeyPair,
    edge_signing: KeyPair,
}

impl OperatorKeys {
    /// Loads or creates all keys. `keep` gets the name of each key and a new seed, and returns the stored seed.
    ///
    /// # Errors
    /// The error of `keep`, or [`KeyError`] if a stored seed is invalid.
    pub fn load_or_create<E: From<KeyError>>(
        mut keep: impl FnMut(&'static str, String) -> Result<String, E>,
    ) -> Result<Self, E> {
        let mut key = |name: &'static str, kind: KeyPairType| -> Result<KeyPair, E> {
            let fresh = KeyPair::new(kind.clone()).seed().expect("a fresh key has a seed");
            Ok(seed(name, &keep(name, fresh)?, kind)?)
        };
        Ok(Self {
            operator: key("operator", KeyPairType::Operator)?,
            operator_signing: key("operator-signing", KeyPairType::Operator)?,
            system: key("system", KeyPairType::Account)?,
            system_user: key("system-user", KeyPairType::User)?,
            application: key("application", KeyPairType::Account)?,
            application_user: key("application-user", KeyPairType::User)?,
            edge: key("edge", KeyPairType::Account)?,
            edge_signing: key("edge-signing", KeyPairType::Account)?,
        })
    }

    /// The public key of `EDGE`.
    pub fn edge_account(&self) -> String {
        self.edge.public_key()
    }

    /// The credentials file of the product's own user in `APP`.
    pub fn application_credentials(&self) -> String {
        own_user(&self.application, &self.application_user, "annals")
    }

    /// The credentials file of the product's user in `SYS`, which pushes the JWT of `EDGE`.
    pub fn system_credentials(&self) -> String {
        own_user(&self.system, &self.system_user, "annals")
    }

    /// The server's settings for this operator. `folder` is the directory of the accounts' JWTs. `EDGE` is not
    /// included: the product pushes it with its revocations.
    pub fn server_settings(&self, folder: &Path) -> String {
        let operator = Claims::new(
            &self.operator,
            self.operator.public_key(),
            "annals",
            json!({
                "type": "operator", "version": 2, "system_account": self.system.public_key(),
                "signing_keys": [self.operator_signing.public_key()],
            }),
        )
        .sign(&self.operator);
        let folder = Value::from(folder.display().to_string());
        let (system, application) = (self.system.public_key(), self.application.public_key());
        format!(
            "operator: {operator}\n\
             system_account: {system}\n\
             resolver {{\n  type: full\n  dir: {folder}\n  allow_delete: false\n  interval: \"2m\"\n}}\n\
             resolver_preload {{\n  {system}: {}\n  {application}: {}\n}}\n",
            self.account(&self.system, "SYS", system_account()),
            self.account(&self.application, "APP", application_account()),
        )
    }

    fn account(&self, account: &KeyPair, name: &str, nats: Value) -> String {
        Claims::new(&self.operator_signing, account.public_key(), name, nats).sign(&self.operator_signing)
    }
}

fn own_user(account: &KeyPair, user: &KeyPair, name: &str) -> String {
    let nats =
        json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    let token = Claims::new(account, user.public_key(), name, nats).sign(account);
    credentials_file(&token, user)
}

fn system_account() -> Value {
    json!({"type": "account", "version": 2, "limits": limits(0)})
}

/// Limits of an account. `leaf` is the maximum number of leaf nodes.
fn limits(leaf: i64) -> Value {
    json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": leaf,
    })
}

/// Limits of `EDGE`, without leaf nodes. `data` has no limit, because servers do not enforce it.
fn edge_limits() -> Value {
    let mut limits = limits(0);
    let bounds = [
        ("conn", EDGE_CONNECTIONS_MAX),
        ("subs", EDGE_SUBSCRIPTIONS_MAX),
        ("payload", EDGE_PAYLOAD_BYTES_MAX),
        ("imports", services().len() as i64),
        ("exports", 0),
    ];
    for (name, bound) in bounds {
        limits[name] = bound.into();
    }
    limits
}

/// The services that `EDGE` imports from `APP`: name, subject in `APP`, local subject.
fn services() -> [(&'static str, String, String); 3] {
    let api = |call: &str, prefix: &str| format!("{prefix}.CONSUMER.{call}.{STREAM}.*");
    let acks = format!("$JS.ACK.{STREAM}.*.>");
    [
        ("next", api("MSG.NEXT", "$JS.API"), api("MSG.NEXT", API_PREFIX)),
        ("info", api("INFO", "$JS.API"), api("INFO", API_PREFIX)),
        ("ack", acks.clone(), acks),
    ]
}

/// The claims of `APP`: JetStream, and the services that `EDGE` imports.
pub fn application_account() -> Value {
    let exports: Vec<Value> = services()
        .into_iter()
        .map(|(name, subject, _)| {
            let mut export = json!({"name": name, "subject": subject, "type": "service"});
            if name == "next" {
                // One request gets many responses.
                export["response_type"] = "Stream".into();
            }
            export
        })
        .collect();
    let mut limits = limits(-1);
    for jetstream in ["mem_storage", "disk_storage", "streams", "consumer"] {
        limits[jetstream] = (-1).into();
    }
    json!({"type": "account", "version": 2, "exports": exports, "limits": limits})
}

/// The claims of `EDGE`: no JetStream, the imports, and the revocations. `revocations` maps a user's key to a time in
/// Unix seconds; JWTs issued up to it are invalid.
pub fn edge_account(
    application: &str,
    signing_keys: &[String],
    revocations: &BTreeMap<String, i64>,
) -> Value {
    let imports: Vec<Value> = services()
        .into_iter()
        .map(|(name, subject, local)| {
            let mut import =
                json!({"name": name, "subject": subject, "account": application, "type": "service"});
            if local != subject {
                import["local_subject"] = local.into();
            }
            import
        })
        .collect();
    json!({
        "type": "account", "version": 2, "imports": imports, "limits": edge_limits(), "signing_keys": signing_keys,
        "revocations": revocations,
    })
}

/// The permissions of a user of `EDGE`: pull from one consumer, read its state, acknowledge, and receive in one inbox.
pub fn edge_user(account: &str, consumer: &str, inbox_prefix: &str) -> Value {
    json!({
        "type": "user", "version": 2, "issuer_account": account,
        "pub": {"allow": [
            format!("{API_PREFIX}.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"),
            format!("{API_PREFIX}.CONSUMER.INFO.{STREAM}.{consumer}"),
            format!("$JS.ACK.{STREAM}.{consumer}.>"),
        ]},
        "sub": {"allow": [format!("{inbox_prefix}.>")]},
        "subs": EDGE_USER_SUBSCRIPTIONS_MAX, "data": -1, "payload": EDGE_PAYLOAD_BYTES_MAX,
        // Leaf nodes and MQTT are not allowed.
        "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
    })
}

impl OperatorKeys {
    /// The seed of the key that signs accounts; the setting `nats.operator_signing_seed`.
    pub fn operator_signing_seed(&self) -> String {
        self.operator_signing.seed().expect("kept keys have seeds")
    }

    /// The seed of the key that signs integrators' credentials; the setting `nats.edge_signing_seed`.
    pub fn edge_signing_seed(&self) -> String {
        self.edge_signing.seed().expect("kept keys have seeds")
    }
}

/// The account of a credentials file; `None` if the text has no valid JWT.
pub fn account_of_credentials(text: &str) -> Option<String> {
    let token =
        text.lines().map(str::trim).find(|line| line.split('.').count() == 3 && line.starts_with("ey"))?;
    let claims = Claims::read(token)?;
    let account = claims.nats.get("issuer_account").and_then(Value::as_str).filter(|key| !key.is_empty());
    Some(account.map_or(claims.iss, str::to_owned))
}

/// A random JWT id. The server distinguishes two JWTs by it.
fn token_id() -> String {
    ids::random_id().simple().to_string()
}

fn now() -> i64 {
    clock::now().timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> OperatorKeys {
        OperatorKeys::load_or_create(|_, fresh| Ok::<_, KeyError>(fresh)).expect("fresh seeds read")
    }

    #[test]
    fn edge_has_no_jetstream_and_takes_three_services() {
        let edge = edge_account("AAPP", &["AKEY".to_owned()], &BTreeMap::new());
        for jetstream in ["mem_storage", "disk_storage", "streams", "consumer"] {
            assert!(edge["limits"].get(jetstream).is_none(), "{jetstream}");
        }
        for bounded in ["conn", "subs", "payload"] {
            assert!(edge["limits"][bounded].as_i64().is_some_and(|bound| bound > 0), "{bounded}");
        }
        assert_eq!((&edge["limits"]["leaf"], &edge["limits"]["exports"]), (&json!(0), &json!(0)));
        let user = edge_user("AEDGE", "consumer", "_INBOX_x");
        assert!(
            ["subs", "payload"].iter().all(|bounded| user[*bounded].as_i64().is_some_and(|bound| bound > 0))
        );
        let imports: Vec<&str> = edge["imports"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["subject"].as_str())
            .collect();
        let exports = application_account();
        let exports: Vec<&str> = exports["exports"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["subject"].as_str())
            .collect();
        assert_eq!(imports, exports);
        assert_eq!(imports.len(), 3);
    }

    #[test]
    fn a_credentials_file_tells_its_account() {
        let keys = keys();
        let own = account_of_credentials(&keys.application_credentials());
        assert_eq!(own, Some(keys.application.public_key()));
        assert_eq!(account_of_credentials("nothing of the sort"), None);
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let keys = keys();
        assert!(seed("x", &keys.edge_signing_seed(), KeyPairType::Operator).is_err());
        assert!(seed("x", "SA", KeyPairType::Account).is_err());
        assert!(account_key("x", &keys.edge_account()).is_ok());
        assert!(account_key("x", &keys.operator.public_key()).is_err());
    }
}
