//! Migrates a database: roles, tables, policies and read tables.
//! Several processes may call it at once: an advisory lock lets one work, and the others find it done.

use database::{Connection, DatabaseConfig, TlsConfig, describe};
use tokio_postgres::Client;

use crate::StoreError;
use crate::pools::role_password;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The login that owns the schema: a superuser, or the owner of the database with the right to create roles.
#[derive(Clone)]
pub struct OwnerConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// The role.
    pub user: String,
    /// The password of the role.
    pub password: String,
    /// Encryption of the connection.
    pub tls: TlsConfig,
}

/// The table of a read model. Read tables are rebuilt, never migrated: another shape gets another name.
/// There are two of each, `name` and `name_b`: one is read while a rebuild fills the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadTable {
    /// The name of the table, such as `customers_v1`.
    pub name: &'static str,
    /// The column definitions without `tenant_id`.
    pub columns: String,
    /// The primary key, as the columns after `tenant_id`.
    pub key: &'static str,
    /// Each index as a list of columns; `tenant_id` is prepended.
    pub indexes: Vec<String>,
}

/// The id of an advisory lock; it must differ from the other lock ids.
const MIGRATION_LOCK_ID: i64 = 0x414e_4e41_4c53;

pub(crate) const RUNTIME_ROLES: [&str; 8] = [
    "annals_appender",
    "annals_lookup",
    "annals_tenant",
    "annals_projector",
    "annals_scratch",
    "annals_worker",
    "annals_relay",
    "annals_sealer",
];

/// Creates what is missing, and sets the passwords of the runtime roles, derived from `runtime_password`.
///
/// # Errors
/// [`StoreError::Migration`] when a statement or migration fails.
pub async fn run(
    owner: &OwnerConfig,
    runtime_password: &str,
    read_tables: &[ReadTable],
) -> Result<(), StoreError> {
    let mut connection = connect(owner).await?;
    let client = &mut connection.client;
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK_ID]).await?;
    // The lock ends with the connection.
    create_roles(client, runtime_password).await?;
    client.batch_execute("set role annals_owner").await?;
    embedded::migrations::runner()
        .run_async(client)
        .await
        .map_err(|error| StoreError::Migration(error.to_string()))?;
    for table in read_tables {
        for generation in 0..2 {
            create_read_table(client, table, &table.at(generation)).await?;
        }
    }
    open_platform(client).await
}

/// Rewrites the tables of read models with `vacuum full`, so that no old row versions remain on disk.
/// Each table is locked meanwhile; `written` is called with its name afterwards.
///
/// # Errors
/// [`StoreError::NotConnected`] when the database cannot be reached.
/// [`StoreError::Database`] when PostgreSQL refuses the login.
/// [`StoreError::Migration`] when PostgreSQL refuses to rewrite a table; the tables before it stay rewritten.
pub async fn compact(
    owner: &OwnerConfig,
    read_tables: &[ReadTable],
    mut written: impl FnMut(&str),
) -> Result<(), StoreError> {
    let Connection { client, driver: _driver } = connect(owner).await?;
    client.batch_execute("set role annals_owner").await?;
    for table in read_tables {
        for generation in 0..2 {
            let name = table.at(generation);
            client.batch_execute(&format!("vacuum (full, analyze) {name}")).await.map_err(failed)?;
            written(&name);
        }
    }
    Ok(())
}

/// Creates the reserved tenant `platform`. Its log has the events of the platform itself.
async fn open_platform(client: &Client) -> Result<(), StoreError> {
    let platform = schemas::engine::ids::PLATFORM.0;
    let log_id = schemas::engine::ids::random_id();
    client
        .batch_execute(&format!(
            "insert into tenants (tenant_id, slug, name, tier, registration)
             values ('{platform}', 'platform', 'Platform', 'enterprise', 'closed') on conflict do nothing;
             insert into heads (tenant_id, log_id, position, recorded_at)
             values ('{platform}', '{log_id}', 0, now()) on conflict do nothing;"
        ))
        .await
        .map_err(failed)
}

async fn connect(owner: &OwnerConfig) -> Result<Connection, StoreError> {
    let config = DatabaseConfig {
        host: owner.host.clone(),
        port: owner.port,
        name: owner.database.clone(),
        user: owner.user.clone(),
        password: owner.password.as_str().into(),
        application_name: "annals_migrate".to_owned(),
        options: String::new(),
        tls: owner.tls.clone(),
    };
    Ok(database::connect(&config).await?)
}

async fn create_roles(client: &Client, runtime_password: &str) -> Result<(), StoreError> {
    let mut script =
        String::from("begin; select pg_advisory_xact_lock(hashtext('annals roles')); do $$ begin\n");
    for group in ["annals_owner", "annals_tenants"] {
        script.push_str(&create_role(group, "nologin"));
    }
    for role in RUNTIME_ROLES {
        script.push_str(&create_role(role, "login"));
    }
    script.push_str("end $$;\n");
    for role in RUNTIME_ROLES {
        // Hash the password here, so that it does not appear in the server log.
        let password = role_password(runtime_password, role);
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        script.push_str("alter role ");
        script.push_str(role);
        script.push_str(" with login password '");
        script.push_str(&verifier);
        script.push_str("';\n");
    }
    script.push_str(&limit_roles());
    script.push_str(
        "grant annals_tenants to annals_tenant, annals_projector, annals_scratch;
         alter role annals_tenant set default_transaction_read_only = on;
         grant annals_owner to current_user;
         grant create, usage on schema public to annals_owner;
         do $$ begin
             execute format('revoke temporary on database %I from public', current_database());
             execute format('grant temporary on database %I to annals_scratch', current_database());
         end $$;
         commit;",
    );
    // Roles belong to the cluster, the lock to one database: migrations of other databases may change the same roles.
    for _ in 0..20 {
        match client.batch_execute(&script).await {
            Ok(()) => return warn_of_temporary_tables(client).await,
            Err(error)
                if error.as_db_error().is_some_and(|db| db.message().contains("concurrently updated")) =>
            {
                client.batch_execute("rollback").await?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(StoreError::Migration("other migrations keep changing the same roles".to_owned()))
}

/// Warns when runtime roles may create temporary tables.
/// Only the owner of the database or a superuser can revoke that right; for others PostgreSQL silently does nothing.
async fn warn_of_temporary_tables(client: &Client) -> Result<(), StoreError> {
    let statement = "select has_database_privilege('annals_tenant', current_database(), 'temporary')";
    if client.query_one(statement, &[]).await?.get(0) {
        tracing::warn!("roles may still make temporary tables: migrate as the owner of the database");
    }
    Ok(())
}

/// SQL that removes superuser and `bypassrls` from the runtime roles, because both bypass row-level security.
/// Only a superuser may run that; another owner gets an error if a role has one of them.
fn limit_roles() -> String {
    let names = RUNTIME_ROLES.map(|name| format!("'{name}'")).join(", ");
    format!(
        "do $$
         declare role_name text;
         begin
             for role_name in select rolname from pg_roles where rolname in ({names}) and (rolsuper or rolbypassrls)
             loop
                 if not (select rolsuper from pg_roles where rolname = current_user) then
                     raise exception 'the role % passes row-level security; a superuser has to take that from it', role_name;
                 end if;
                 execute format('alter role %I with nosuperuser nobypassrls', role_name);
             end loop;
         end $$;\n"
    )
}

fn create_role(name: &str, login: &str) -> String {
    format!(
        "begin create role {name} {login}; exception when duplicate_object or unique_violation then null; end;\n"
    )
}

async fn create_read_table(client: &Client, table: &ReadTable, name: &str) -> Result<(), StoreError> {
    let ReadTable { columns, key, indexes, .. } = table;
    let exists = client.query_one("select to_regclass($1) is not null", &[&name]).await?.get::<_, bool>(0);
    // Every time, because the table may be older than the role.
    let scratch = format!("grant select on {name} to annals_scratch");
    if exists {
        return client.batch_execute(&scratch).await.map_err(failed);
    }
    let fence = "tenant_id = (select nullif(current_setting('annals.tenant', true), '')::uuid)";
    let mut script = format!(
        "begin;
         create table {name} (tenant_id uuid not null, {columns}, primary key (tenant_id, {key}));
         alter table {name} enable row level security;
         alter table {name} force row level security;
         create policy tenant_base on {name} as permissive for all to annals_tenants using (true) with check (true);
         create policy tenant_fence on {name} as restrictive for all to annals_tenants
             using ({fence}) with check ({fence});
         grant select on {name} to annals_tenant;
         grant select, insert, update, delete on {name} to annals_projector;\n"
    );
    let index = |columns: &String| format!("create index on {name} (tenant_id, {columns});\n");
    script.extend(indexes.iter().map(index));
    script.push_str(&scratch);
    script.push_str(";\ncommit;");
    client.batch_execute(&script).await.map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Database(error) => StoreError::Migration(describe(&error)),
        other => other,
    }
}
