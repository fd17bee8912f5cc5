//! Epochs of the file of keys: each names, by its fingerprint, the root key that its keys are wrapped under. New keys are of
//! the newest epoch; there are several only while keys are wrapped anew.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use crate::crypto::Fingerprint;
use crate::table::{self, FILE};
use crate::{KeyringError, RootKeys};

/// An epoch, and how many keys are of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Its number, from 1; none is used twice.
    pub epoch: i64,
    /// The beginning of the fingerprint of its root key, in hexadecimal.
    pub root: String,
    /// Where that root key is.
    pub standing: RootStanding,
    /// Keys that are wrapped under it.
    pub keys: u64,
}

/// What a root key of the file is to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootStanding {
    /// The one that keys are to be wrapped under.
    Current,
    /// The one before it.
    Previous,
    /// The process does not have it.
    Unknown,
}

/// The epochs of the file in a folder, oldest first; `None` where there is no file yet.
pub fn epochs(folder: &Path, roots: &RootKeys) -> Result<Option<Vec<Epoch>>, KeyringError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let connection = table::connect(&path, roots).map_err(|error| table::unusable(folder, &error))?;
    let mut statement = connection.prepare(
        "select epoch, root, (select count(*) from keys where keys.epoch = epochs.epoch) from epochs order by epoch",
    )?;
    let rows = statement.query_map([], |row| {
        let root: Fingerprint = row.get(1)?;
        let standing = match roots.find(&root) {
            Some(_) if root == roots.current() => RootStanding::Current,
            Some(_) => RootStanding::Previous,
            None => RootStanding::Unknown,
        };
        let keys: u32 = row.get(2)?;
        Ok(Epoch { epoch: row.get(0)?, root: hex::encode(&root[..8]), standing, keys: keys.into() })
    })?;
    Ok(Some(rows.collect::<Result<_, _>>()?))
}

/// Begins the first epoch of a new file. Files of earlier versions name its root key elsewhere.
pub(crate) fn begin_first(connection: &Connection, roots: &RootKeys) -> Result<(), KeyringError> {
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
    begin(connection, 1, &named.unwrap_or_else(|| roots.current()))?;
    Ok(connection.execute_batch("drop table if exists about")?)
}

/// Begins an epoch.
pub(crate) fn begin(connection: &Connection, epoch: i64, root: &Fingerprint) -> Result<(), KeyringError> {
    connection.execute("insert into epochs (epoch, root) values (?1, ?2)", params![epoch, root])?;
    Ok(())
}

/// The epoch that new keys are of.
pub(crate) fn newest(connection: &Connection) -> Result<(i64, Fingerprint), KeyringError> {
    let mut statement =
        connection.prepare_cached("select epoch, root from epochs order by epoch desc limit 1")?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Whether keys are being wrapped anew.
pub(crate) fn are_several(connection: &Connection) -> Result<bool, KeyringError> {
    Ok(connection.query_row("select count(*) > 1 from epochs", [], |row| row.get(0))?)
}

/// Refuses a file some of whose keys nobody here could unwrap.
pub(crate) fn all_known(connection: &Connection, roots: &RootKeys) -> Result<(), KeyringError> {
    let mut statement = connection.prepare("select root from epochs")?;
    let known = statement.query_map([], |row| row.get::<_, Fingerprint>(0))?;
    for root in known {
        root_of(roots, Some(&root?))?;
    }
    Ok(())
}

/// The root key with a fingerprint, where this process has it.
pub(crate) fn root_of<'a>(
    roots: &'a RootKeys,
    fingerprint: Option<&Fingerprint>,
) -> Result<&'a crate::RootKey, KeyringError> {
    fingerprint.and_then(|root| roots.find(root)).ok_or_else(|| {
        let shown = fingerprint.map_or_else(|| "unknown".to_owned(), |root| hex::encode(&root[..8]));
        KeyringError::Unavailable(format!(
            "keys are wrapped under the root key {shown}, which is neither privacy.root_key nor privacy.previous_root_key"
        ))
    })
}
