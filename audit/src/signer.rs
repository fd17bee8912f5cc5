//! The signer: the private key, and a record of what it has signed, in a folder outside PostgreSQL and its backups.
//! A signature is returned only after the record is on disk, so that a restored or rewritten database is detected.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use proofs::{Checkpoint, Hash, Node, NoteSigner, VerifierKey};
use schemas::engine::{LogId, ids};

use crate::AuditError;

/// The height of the subtrees (tiles) whose roots the signer stores: 256 leaves.
pub const TILE_HEIGHT: u8 = 8;

/// Settings of a signer.
#[derive(Clone)]
pub struct SignerConfig {
    /// The deployment's name, the first part of the origin of each log.
    pub deployment: String,
    /// The Ed25519 private key, as PKCS #8 PEM.
    pub key: String,
    /// The previous key. It signs too while verifiers change to the new key.
    pub previous_signing_key: Option<String>,
    /// The folder of the record of signed checkpoints.
    pub folder: PathBuf,
}

/// Signs checkpoints.
pub struct Signer {
    deployment: String,
    key: NoteSigner,
    previous_signing_key: Option<NoteSigner>,
    folder: PathBuf,
}

impl Signer {
    /// Reads the keys, and creates the folder if it is missing.
    ///
    /// # Errors
    /// [`AuditError::Note`] if a key or the name is invalid, [`AuditError::Folder`] if the folder cannot be used.
    pub fn open(config: &SignerConfig) -> Result<Self, AuditError> {
        let signer = Self {
            deployment: config.deployment.clone(),
            key: NoteSigner::from_pem(&config.key)?,
            previous_signing_key: config
                .previous_signing_key
                .as_deref()
                .map(NoteSigner::from_pem)
                .transpose()?,
            folder: config.folder.clone(),
        };
        // An invalid name is reported at the start.
        signer.key.verifier_key(&signer.deployment)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&signer.folder)
            .map_err(|source| signer.folder_error(source))?;
        Ok(signer)
    }

    /// The origin of a log's checkpoints, which is also the name of the signing key.
    pub fn origin(&self, log: LogId) -> String {
        format!("{}/tlog/{}", self.deployment, log.0.simple())
    }

    /// The public key of a log's checkpoints.
    ///
    /// # Errors
    /// [`AuditError::Note`] if the deployment's name is not allowed.
    pub fn verifier_key(&self, log: LogId) -> Result<VerifierKey, AuditError> {
        Ok(self.key.verifier_key(&self.origin(log))?)
    }

    /// The checkpoint of a note that one of this signer's keys has signed for this log.
    ///
    /// # Errors
    /// [`AuditError::Note`] if no valid signature is found or the note is malformed.
    pub fn verify_own(&self, log: LogId, note: &str) -> Result<Checkpoint, AuditError> {
        let origin = self.origin(log);
        let text = match (self.verifier_key(log)?.verify(note), &self.previous_signing_key) {
            (Err(_), Some(previous)) => previous.verifier_key(&origin)?.verify(note)?,
            (verified, _) => verified?,
        };
        let checkpoint = Checkpoint::parse(text)?;
        if checkpoint.origin != origin {
            return Err(AuditError::Rejected(format!(
                "a checkpoint of {} is kept for {origin}",
                checkpoint.origin
            )));
        }
        Ok(checkpoint)
    }

    /// The newest checkpoint of a log that was signed with this folder, as a signed note.
    ///
    /// # Errors
    /// [`AuditError::Folder`] if the folder cannot be read.
    pub fn last_signed(&self, log: LogId) -> Result<Option<String>, AuditError> {
        last_signed_in(&self.folder, log)
    }

    /// The roots of a log's complete tiles that were signed with this folder.
    ///
    /// # Errors
    /// [`AuditError::Folder`] if the folder cannot be read.
    pub fn signed_tiles(&self, log: LogId) -> Result<Vec<Hash>, AuditError> {
        match std::fs::read(self.tiles(log)) {
            Ok(bytes) => Ok(bytes.as_chunks().0.to_vec()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(self.folder_error(source)),
        }
    }

    /// Signs, and returns the note after it and the completed tiles are on disk. Blocks.
    ///
    /// # Errors
    /// [`AuditError`] if the record cannot be written, or if a larger tree was signed meanwhile.
    pub fn sign(
        &self,
        log: LogId,
        checkpoint: &Checkpoint,
        subtrees: &[(Node, Hash)],
    ) -> Result<String, AuditError> {
        let before = self.last_signed(log)?.map(|note| Checkpoint::parse(&note)).transpose()?;
        if before.is_some_and(|before| before.size > checkpoint.size) {
            // Another process signed first; the next round reads what it signed.
            return Err(AuditError::Bounds("a larger tree was signed meanwhile"));
        }
        let origin = self.origin(log);
        let note = self.key.sign(&origin, &checkpoint.to_string())?;
        let note = match &self.previous_signing_key {
            Some(previous) => previous.sign(&origin, &note)?,
            None => note,
        };
        self.store_signed(log, &note, subtrees).map_err(|source| self.folder_error(source))?;
        Ok(note)
    }

    fn store_signed(&self, log: LogId, note: &str, subtrees: &[(Node, Hash)]) -> std::io::Result<()> {
        let tiles: Vec<_> = subtrees.iter().filter(|(node, _)| node.height == TILE_HEIGHT).collect();
        if !tiles.is_empty() {
            let file = private().create(true).write(true).truncate(false).open(self.file(log, "tiles"))?;
            for (node, hash) in tiles {
                file.write_all_at(hash, node.index * hash.len() as u64)?;
            }
            file.sync_data()?;
        }
        // Other processes may use the same folder, also with the same process id on other machines. So the unfinished
        // file needs a unique name.
        let partial = self.file(log, &format!("checkpoint.{}", ids::random_id().simple()));
        let mut file = private().create(true).write(true).truncate(true).open(&partial)?;
        file.write_all(note.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&partial, self.file(log, "checkpoint"))?;
        File::open(&self.folder)?.sync_all()
    }

    /// The file with the roots of a log's complete tiles, 32 bytes each.
    pub fn tiles(&self, log: LogId) -> PathBuf {
        self.file(log, "tiles")
    }

    fn file(&self, log: LogId, extension: &str) -> PathBuf {
        file_in(&self.folder, log, extension)
    }

    fn folder_error(&self, source: std::io::Error) -> AuditError {
        AuditError::Folder { folder: self.folder.clone(), source }
    }
}

/// The newest checkpoint of a log that was signed with this folder, as a signed note.
///
/// # Errors
/// [`AuditError::Folder`] if the folder cannot be read.
pub fn last_signed_in(folder: &Path, log: LogId) -> Result<Option<String>, AuditError> {
    match std::fs::read_to_string(file_in(folder, log, "checkpoint")) {
        Ok(note) => Ok(Some(note)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuditError::Folder { folder: folder.to_owned(), source }),
    }
}

fn file_in(folder: &Path, log: LogId, extension: &str) -> PathBuf {
    folder.join(format!("{}.{extension}", log.0.simple()))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    // Of RFC 8410 and of RFC 8032, section 7.1.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                       -----END PRIVATE KEY-----\n";
    const OLD_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                       -----END PRIVATE KEY-----\n";
    const LOG: LogId = LogId(Uuid::from_u128(7));

    fn signer(folder: &Path, key: &str, previous_signing_key: Option<&str>) -> Signer {
        let config = SignerConfig {
            deployment: "example.org".to_owned(),
            key: key.to_owned(),
            previous_signing_key: previous_signing_key.map(str::to_owned),
            folder: folder.join("signer"),
        };
        Signer::open(&config).expect("opens")
    }

    fn checkpoint(size: u64) -> Checkpoint {
        let origin = "example.org/tlog/00000000000000000000000000000007".to_owned();
        Checkpoint { origin, size, root: [size as u8; 32] }
    }

    #[test]
    fn what_was_signed_is_remembered_and_nothing_smaller_is_signed() {
        let folder = tempfile::tempdir().expect("a folder");
        let note = signer(folder.path(), KEY, None).sign(LOG, &checkpoint(5), &[]).expect("signs");
        let again = signer(folder.path(), KEY, None);
        assert_eq!(again.verify_own(LOG, &note).expect("its own"), checkpoint(5));
        assert_eq!(again.last_signed(LOG).expect("reads"), Some(note));
        assert!(matches!(again.sign(LOG, &checkpoint(4), &[]), Err(AuditError::Bounds(_))));
        assert_eq!(again.last_signed(LogId(Uuid::from_u128(8))).expect("reads"), None);
    }

    #[test]
    fn tiles_stand_at_their_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let signer = signer(folder.path(), KEY, None);
        let tile = |index, byte| (Node { height: TILE_HEIGHT, index }, [byte; 32]);
        let higher = (Node { height: 16, index: 0 }, [9; 32]);
        signer.sign(LOG, &checkpoint(1), &[tile(0, 1), tile(1, 2), higher]).expect("signs");
        signer.sign(LOG, &checkpoint(2), &[tile(2, 3)]).expect("signs");
        assert_eq!(signer.signed_tiles(LOG).expect("reads"), [[1; 32], [2; 32], [3; 32]]);
        assert_eq!(signer.signed_tiles(LogId(Uuid::from_u128(8))).expect("reads"), [[0; 32]; 0]);
    }

    #[test]
    fn while_keys_change_both_sign_and_the_old_one_is_recognised() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = signer(folder.path(), OLD_KEY, None);
        let note = old.sign(LOG, &checkpoint(1), &[]).expect("signs");
        let both = signer(folder.path(), KEY, Some(OLD_KEY));
        assert_eq!(both.verify_own(LOG, &note).expect("the old key's"), checkpoint(1));
        let note = both.sign(LOG, &checkpoint(2), &[]).expect("signs");
        for key in [old.verifier_key(LOG), both.verifier_key(LOG)] {
            assert!(key.expect("a key").verify(&note).is_ok());
        }
        assert!(signer(folder.path(), KEY, None).verify_own(LOG, &note).is_ok());
    }
}
