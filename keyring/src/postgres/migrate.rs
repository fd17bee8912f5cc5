//! Migrates the key database: the role of the product, and the tables. Several processes may call it at once.

use database::Password;
use tokio_postgres::Client;

use crate::{KeyDatabase, KeyringError};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The id of an advisory lock; it must differ from the other lock ids.
const MIGRATION_LOCK_ID: i64 = 0x414e_4e41_4c53_4b45;

/// Maximum attempts to change the role while another migration changes it.
const ROLE_ATTEMPTS_MAX: u32 = 20;

/// The login that owns the tables: a superuser, or the owner of the database with the right to create roles.
#[derive(Debug, Clone)]
pub struct KeyDatabaseOwner {
    /// The role.
    pub user: String,
    /// The password of the role.
    pub password: Password,
}

/// Creates what is missing, and sets the password and the rights of the product's role.
/// The role may create and change keys, but not delete them.
///
/// # Errors
/// [`KeyringError::Config`] when the TLS settings are invalid.
/// [`KeyringError::Database`] when the database cannot be reached, or refuses the login or a right.
/// [`KeyringError::Unavailable`] when a migration fails, or when other migrations keep changing the same role.
pub async fn migrate(database: &KeyDatabase, owner: &KeyDatabaseOwner) -> Result<(), KeyringError> {
    let login = database.login(&owner.user, owner.password.reveal(), "");
    let mut connection = database::connect(&login).await?;
    let client = &mut connection.client;
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK_ID]).await?;
    // The lock ends with the connection.
    embedded::migrations::runner()
        .run_async(client)
        .await
        .map_err(|error| KeyringError::Unavailable(format!("migration failed: {error}")))?;
    grant_privileges(client, database).await
}

async fn grant_privileges(client: &Client, database: &KeyDatabase) -> Result<(), KeyringError> {
    // Hash the password here, so that it does not appear in the server log.
    let verifier = postgres_protocol::password::scram_sha_256(database.password.reveal().as_bytes());
    let (role, name) = (quote_identifier(&database.user), quote_identifier(&database.name));
    let script = format!(
        "begin;
         do $$ begin create role {role} login; exception when duplicate_object or unique_violation then null; end $$;
         alter role {role} with login nosuperuser nocreatedb nocreaterole nobypassrls noreplication password '{verifier}';
         revoke all on database {name} from public;
         revoke all on schema public from public;
         grant connect on database {name} to {role};
         grant usage on schema public to {role};
         grant select, insert, delete on epochs to {role};
         grant select, insert, update on keys to {role};
         grant select, insert on streams to {role};
         grant select, insert on deployment to {role};
         commit;"
    );
    // Roles belong to the server, the lock to one database: migrations of other databases may change the same role.
    for _ in 0..ROLE_ATTEMPTS_MAX {
        match client.batch_execute(&script).await {
            Err(error)
                if error.as_db_error().is_some_and(|db| db.message().contains("concurrently updated")) =>
            {
                client.batch_execute("rollback").await?;
            }
            done => return Ok(done?),
        }
    }
    Err(KeyringError::Unavailable("other migrations keep changing the same role".to_owned()))
}

/// Quotes an SQL identifier.
fn quote_identifier(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
