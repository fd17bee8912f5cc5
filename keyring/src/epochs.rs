//! Epochs of a store of keys: each names, by its fingerprint, the root key that its keys are wrapped under. New keys are of
//! the newest epoch; there are several only while keys are wrapped anew.

use crate::crypto::{Fingerprint, RootKey};
use crate::{KeyringError, RootKeys};

/// An epoch, and how many keys are of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Its number, from 1; none is used twice.
    pub epoch: i64,
    /// The beginning of the fingerprint of its root key, in hexadecimal.
    pub root: String,
    /// Where that root key is.
    pub root_state: RootKeyState,
    /// Keys that are wrapped under it.
    pub keys: u64,
}

/// What a root key of the store is to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKeyState {
    /// The one that keys are to be wrapped under.
    Current,
    /// The one before it.
    Previous,
    /// The process does not have it.
    Unknown,
}

/// What a run of `rewrap` has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewrapResult {
    /// The epoch that all keys are of now.
    pub epoch: i64,
    /// Keys that this run has wrapped anew.
    pub keys: u64,
}

impl Epoch {
    pub(crate) fn new(epoch: i64, root: &Fingerprint, keys: u64, roots: &RootKeys) -> Self {
        let root_state = match roots.find(root) {
            Some(_) if *root == roots.current() => RootKeyState::Current,
            Some(_) => RootKeyState::Previous,
            None => RootKeyState::Unknown,
        };
        Self { epoch, root: short_fingerprint(root), root_state, keys }
    }
}

/// The root key with a fingerprint, where this process has it.
pub(crate) fn root_of<'a>(
    roots: &'a RootKeys,
    fingerprint: Option<&Fingerprint>,
) -> Result<&'a RootKey, KeyringError> {
    fingerprint.and_then(|root| roots.find(root)).ok_or_else(|| {
        let shown = fingerprint.map_or_else(|| "unknown".to_owned(), short_fingerprint);
        KeyringError::Unavailable(format!(
            "keys are wrapped under the root key {shown}, which is neither privacy.root_key nor privacy.previous_root_key"
        ))
    })
}

/// Refuses a store some of whose keys this process could not unwrap.
pub(crate) fn ensure_roots_known(
    roots: &RootKeys,
    epochs: impl IntoIterator<Item = Fingerprint>,
) -> Result<(), KeyringError> {
    epochs.into_iter().try_for_each(|root| root_of(roots, Some(&root)).map(drop))
}

/// The error of keys that do not unwrap, where there are any.
pub(crate) fn ensure_unwrapped(broken: &[uuid::Uuid]) -> Result<(), KeyringError> {
    let Some(first) = broken.first() else { return Ok(()) };
    let count = broken.len();
    Err(KeyringError::Unavailable(format!(
        "{count} keys do not unwrap under the root key of their epoch and stay as they are; the first is {first}"
    )))
}

fn short_fingerprint(root: &Fingerprint) -> String {
    hex::encode(&root[..8])
}
