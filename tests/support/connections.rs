//! Fixtures of the tests in `tests/database`.

use std::path::PathBuf;

use database::{Connection, DatabaseConfig, TlsConfig};

use crate::support::postgres::password_of;
use crate::support::postgres_server::DATABASE;

/// How a role reaches a server of a test.
pub fn login(host: &str, port: u16, role: &str, tls: TlsConfig) -> DatabaseConfig {
    DatabaseConfig {
        host: host.to_owned(),
        port,
        name: DATABASE.to_owned(),
        user: role.to_owned(),
        password: password_of(role).into(),
        application_name: role.to_owned(),
        options: String::new(),
        tls,
    }
}

/// Whether the server says that a connection is encrypted.
pub async fn is_encrypted(connection: &Connection) -> bool {
    let statement = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    connection.client.query_one(statement, &[]).await.expect("reads").get(0)
}

/// A file of `tests/support/tls`.
pub fn certificate(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}
