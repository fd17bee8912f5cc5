//! Files of auditors: checkpoints and keys.

use std::path::Path;

use anyhow::Context;

/// The text of a file.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// The size in a signed checkpoint. The signature is not checked.
pub(super) fn checkpoint_size(note: &str) -> anyhow::Result<u64> {
    Ok(proofs::Checkpoint::parse(note).context("not a checkpoint")?.size)
}
