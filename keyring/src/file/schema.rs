//! The key file: its path, its permissions and its tables.

use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::bytes;
use crate::crypto::Fingerprint;
use crate::{KeyringError, RootKeys, epochs};

/// Maximum wait for another process.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay between two attempts where SQLite does not wait by itself.
const BUSY_RETRY_INTERVAL: Duration = Duration::from_millis(5);
const FILE_NAME: &str = "keys.sqlite";
/// The version of the tables below, in `user_version`. Version 1 had the encrypted keys in the rows of `keys`.
const SCHEMA_VERSION: i64 = 2;

/// Encrypted keys have a table of their own: its rows are appended, overwritten in place, and never removed.
/// So SQLite never moves one to another page, which would leave a copy at the old place.
const SCHEMA: &str = "
    create table if not exists epochs (epoch integer primary key, root blob not null);
    create table if not exists wrapped (slot integer primary key, bytes blob not null);
    create table if not exists keys (
        tenant blob not null, subject blob not null, id blob not null, epoch integer not null, slot integer not null,
        created_at integer not null, primary key (tenant, subject)) without rowid;
    create unique index if not exists keys_by_id on keys (tenant, id);
    create table if not exists streams (
        tenant blob not null, subject blob not null, stream text not null,
        primary key (tenant, subject, stream)) without rowid;
    create table if not exists erasures (
        tenant blob not null, subject blob not null, key blob, fenced_at integer not null, destroyed_at integer,
        primary key (tenant, subject)) without rowid;
    create index if not exists erasures_by_key on erasures (tenant, key);
    create table if not exists deployment (
        single integer primary key check (single = 1), id blob not null);";

const VERSION_1_MIGRATION: &str = "
    insert into wrapped (slot, bytes) select row_number() over (order by tenant, subject), wrapped from keys_before;
    insert into keys (tenant, subject, id, epoch, slot, created_at)
        select tenant, subject, id, epoch, row_number() over (order by tenant, subject), created_at from keys_before;
    drop table keys_before;";

/// The path of the key file in a folder.
pub(crate) fn path_in(folder: &Path) -> PathBuf {
    folder.join(FILE_NAME)
}

/// The error for a file that cannot be used.
pub(crate) fn unusable(folder: &Path, error: &dyn std::fmt::Display) -> KeyringError {
    KeyringError::Config(format!("the file of keys in {} cannot be used: {error}", folder.display()))
}

/// Creates the folder and an empty file if missing. Only the account of this process gets access to them.
/// Existing permissions of others are removed.
pub(crate) fn prepare(folder: &Path) -> Result<PathBuf, KeyringError> {
    let path = path_in(folder);
    let prepared = (|| {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        restrict_permissions(folder, 0o700)?;
        // SQLite would create it readable for all. Its other files get the permissions of this one.
        File::options().create(true).append(true).mode(0o600).open(&path)?;
        restrict_permissions(&path, 0o600)?;
        for beside in ["sqlite-wal", "sqlite-shm"] {
            match restrict_permissions(&path.with_extension(beside), 0o600) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                closed => closed?,
            }
        }
        Ok::<_, io::Error>(())
    })();
    prepared.map(|()| path).map_err(|error| unusable(folder, &error))
}

fn restrict_permissions(path: &Path, mode: u32) -> io::Result<()> {
    let is_open = |metadata: &Metadata| metadata.permissions().mode() & 0o077 != 0;
    let metadata = std::fs::metadata(path)?;
    if !is_open(&metadata) {
        return Ok(());
    }
    let had = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| {
        let problem = format!("{shown} is open to other accounts (mode {had:o}) and belongs to another one");
        io::Error::new(error.kind(), format!("{problem}: chmod {mode:o} it, or give it to this account"))
    })?;
    tracing::warn!(path = %shown, mode = format!("{had:o}"), "keys were open to other accounts and are closed to them");
    Ok(())
}

/// Opens the file, and creates its tables and its first epoch if missing.
pub(crate) fn connect(path: &Path, roots: &RootKeys) -> Result<Connection, KeyringError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    enable_write_ahead_log(&connection)?;
    // Temporary data stays in memory, because temporary files would not be overwritten.
    connection
        .execute_batch("pragma synchronous = full; pragma secure_delete = on; pragma temp_store = memory;")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("pragma user_version", [], |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Err(KeyringError::Unavailable(format!("a later version has written it ({version})")));
    }
    let is_earlier = version < SCHEMA_VERSION
        && transaction.prepare("select 1 from sqlite_master where name = 'keys'")?.exists([])?;
    if is_earlier {
        transaction.execute_batch("alter table keys rename to keys_before")?;
    }
    transaction.execute_batch(SCHEMA)?;
    if is_earlier {
        transaction.execute_batch(VERSION_1_MIGRATION)?;
    }
    if version < SCHEMA_VERSION {
        transaction.execute_batch(&format!("pragma user_version = {SCHEMA_VERSION}"))?;
    }
    begin_first_epoch(&transaction, roots)?;
    transaction.commit()?;
    if is_earlier {
        bytes::vacuum(&connection)?;
    }
    Ok(connection)
}

/// Enables the write-ahead log, with retries.
/// When several processes create the file at once, SQLite fails with a lock error instead of waiting.
fn enable_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match connection.execute_batch("pragma journal_mode = wal;") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(BUSY_RETRY_INTERVAL);
            }
            turned => return turned,
        }
    }
}

/// Files of version 1 have the fingerprint of their root key in the table `about`.
fn begin_first_epoch(connection: &Connection, roots: &RootKeys) -> Result<(), KeyringError> {
    if connection.prepare("select 1 from epochs")?.exists([])? {
        return Ok(());
    }
    let named: bool = connection.prepare("select 1 from sqlite_master where name = 'about'")?.exists([])?;
    let named: Option<Fingerprint> = if named {
        let sql = "select value from about where name = 'root'";
        connection.query_row(sql, [], |row| row.get(0)).optional()?
    } else {
        None
    };
    begin_epoch(connection, 1, &named.unwrap_or_else(|| roots.current()))?;
    Ok(connection.execute_batch("drop table if exists about")?)
}

pub(crate) fn begin_epoch(
    connection: &Connection,
    epoch: i64,
    root: &Fingerprint,
) -> Result<(), KeyringError> {
    connection.execute("insert into epochs (epoch, root) values (?1, ?2)", params![epoch, root])?;
    Ok(())
}

/// The newest epoch, for new keys.
pub(crate) fn newest_epoch(connection: &Connection) -> Result<(i64, Fingerprint), KeyringError> {
    let mut statement =
        connection.prepare_cached("select epoch, root from epochs order by epoch desc limit 1")?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Fails when this process lacks a root key of the file.
pub(crate) fn ensure_roots_known(connection: &Connection, roots: &RootKeys) -> Result<(), KeyringError> {
    let mut statement = connection.prepare("select root from epochs")?;
    let known = statement.query_map([], |row| row.get::<_, Fingerprint>(0))?;
    epochs::ensure_roots_known(roots, known.collect::<Result<Vec<_>, _>>()?)
}
