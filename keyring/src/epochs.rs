//! Epochs of a key store. Each has the fingerprint of the root key that its data keys are encrypted with.
//! New data keys belong to the newest epoch. There are several epochs only during a rewrap.

use crate::crypto::{Fingerprint, RootKey};
use crate::{KeyringError, RootKeys};

/// An epoch and its number of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// The number, from 1; never used twice.
    pub epoch: i64,
    /// The first 8 bytes of the root key's fingerprint, in hexadecimal.
    pub root: String,
    /// Whether this process has the root key.
    pub root_state: RootKeyState,
    /// The number of data keys of this epoch.
    pub keys: u64,
}

/// How a root key of the store relates to the configured root keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKeyState {
    /// The current root key.
    Current,
    /// The previous root key.
    Previous,
    /// A root key that the process does not have.
    Unknown,
}

/// The result of a run of `rewrap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewrapResult {
    /// The epoch of all keys after the run.
    pub epoch: i64,
    /// The number of keys that the run encrypted again.
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

/// The root key with this fingerprint.
///
/// # Errors
/// [`KeyringError::Unavailable`] when this process does not have it.
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

/// Fails when this process lacks a root key of these epochs.
pub(crate) fn ensure_roots_known(
    roots: &RootKeys,
    epochs: impl IntoIterator<Item = Fingerprint>,
) -> Result<(), KeyringError> {
    epochs.into_iter().try_for_each(|root| root_of(roots, Some(&root)).map(drop))
}

/// Fails when any keys could not be decrypted.
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
