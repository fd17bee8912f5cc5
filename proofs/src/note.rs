//! Signed notes and checkpoints: C2SP signed-note and tlog-checkpoint, with Ed25519.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::frame::Hash;

/// The signature type of Ed25519 in key ids and keys.
const ED25519: u8 = 1;
/// Maximum bytes of a note.
const NOTE_BYTES_MAX: usize = 64 * 1024;

/// Why a note or a key is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a verifier key: `name+hash+base64`.
    #[error("not a verifier key of the form name+hash+base64 for Ed25519")]
    VerifierKey,
    /// Not a private key.
    #[error("not an Ed25519 private key in PKCS #8 PEM")]
    SigningKey,
    /// The name is not allowed in signed notes.
    #[error("a key's name must not be empty or contain spaces or plus signs")]
    Name,
    /// The text is not a signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// No signature is by a known key.
    #[error("no signature by the key {0}")]
    Unsigned(String),
    /// A signature by a known key is wrong for the text.
    #[error("the signature by {0} is wrong")]
    WrongSignature(String),
    /// The note's text is not a checkpoint.
    #[error("not a checkpoint: {0}")]
    Checkpoint(&'static str),
}

/// A public key with its name, as in signed notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: VerifyingKey,
}

impl VerifierKey {
    /// The name in its signatures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same public key with another name.
    ///
    /// # Errors
    /// [`NoteError::Name`] if the name is not allowed.
    pub fn under(&self, name: &str) -> Result<Self, NoteError> {
        Ok(Self { name: checked_name(name)?.to_owned(), key: self.key })
    }

    /// `SHA-256(name || 0x0A || type || public key)[..4]`.
    fn id(&self) -> [u8; 4] {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update([b'\n', ED25519]);
        hasher.update(self.key.as_bytes());
        let digest: Hash = hasher.finalize().into();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// Verifies a note and returns its text.
    ///
    /// # Errors
    /// [`NoteError`] if the note is malformed, or has no valid signature by this key.
    pub fn verify<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let (text, signatures) = split(note)?;
        for line in signatures.lines() {
            let (name, id, signature) = signature_line(line)?;
            if name != self.name || id != self.id() {
                continue;
            }
            let signature = Signature::from_slice(&signature)
                .map_err(|_| NoteError::WrongSignature(self.name.clone()))?;
            return match self.key.verify_strict(text.as_bytes(), &signature) {
                Ok(()) => Ok(text),
                Err(_) => Err(NoteError::WrongSignature(self.name.clone())),
            };
        }
        Err(NoteError::Unsigned(self.name.clone()))
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id());
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{id:08x}+{}", self.name, STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        // The key itself may contain plus signs, name and hash may not.
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::VerifierKey);
        };
        let key = STANDARD.decode(key).map_err(|_| NoteError::VerifierKey)?;
        let Some((&ED25519, key)) = key.split_first() else { return Err(NoteError::VerifierKey) };
        let key = key.try_into().map_err(|_| NoteError::VerifierKey)?;
        let key = VerifyingKey::from_bytes(key).map_err(|_| NoteError::VerifierKey)?;
        let key = Self { name: checked_name(name)?.to_owned(), key };
        let is_canonical = key.key.to_edwards().compress().as_bytes() == key.key.as_bytes();
        if !is_canonical || id != format!("{:08x}", u32::from_be_bytes(key.id())) {
            return Err(NoteError::VerifierKey);
        }
        Ok(key)
    }
}

/// A private key. It signs under any name; a log signs under its origin.
pub struct NoteSigner(SigningKey);

impl NoteSigner {
    /// Reads a PKCS #8 PEM file, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// [`NoteError::SigningKey`] if the text is not such a key.
    pub fn from_pem(pem: &str) -> Result<Self, NoteError> {
        SigningKey::from_pkcs8_pem(pem.trim()).map(Self).map_err(|_| NoteError::SigningKey)
    }

    /// The public key with a name.
    ///
    /// # Errors
    /// [`NoteError::Name`] if the name is not allowed.
    pub fn verifier_key(&self, name: &str) -> Result<VerifierKey, NoteError> {
        Ok(VerifierKey { name: checked_name(name)?.to_owned(), key: self.0.verifying_key() })
    }

    /// Signs a text, or adds a signature to a signed note.
    ///
    /// # Errors
    /// [`NoteError`] if the name or the note is invalid.
    pub fn sign(&self, name: &str, note: &str) -> Result<String, NoteError> {
        let key = self.verifier_key(name)?;
        let (text, signatures) = match split(note) {
            Ok(parts) => parts,
            Err(_) if note.ends_with('\n') && !note.contains("\n\n") => (note, ""),
            Err(error) => return Err(error),
        };
        let mut signature = key.id().to_vec();
        signature.extend_from_slice(&self.0.sign(text.as_bytes()).to_bytes());
        Ok(format!("{text}\n{signatures}\u{2014} {name} {}\n", STANDARD.encode(signature)))
    }
}

/// A state of a log's tree: origin, number of leaves and root (C2SP tlog-checkpoint, without extensions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log: `<deployment>/tlog/<log id in hexadecimal>`.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// The root of the tree.
    pub root: Hash,
}

impl Checkpoint {
    /// The log id in its origin; `None` if the origin has another form.
    pub fn log_id(&self) -> Option<Uuid> {
        let (_, id) = self.origin.rsplit_once("/tlog/")?;
        Uuid::try_parse(id).ok().filter(|log| log.simple().to_string() == id)
    }

    /// The checkpoint of a signed note, without verification of the signatures.
    ///
    /// # Errors
    /// [`NoteError`] if the note or the checkpoint is malformed.
    pub fn unverified(note: &str) -> Result<Self, NoteError> {
        Self::parse(split(note)?.0)
    }

    /// Parses the text of a note.
    ///
    /// # Errors
    /// [`NoteError::Checkpoint`] if the text is not a checkpoint.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let origin = lines.next().filter(|origin| !origin.is_empty());
        let size = lines.next().filter(|size| *size == "0" || !size.starts_with(['0', '+']));
        let root = lines.next().and_then(|root| STANDARD.decode(root).ok());
        Ok(Self {
            origin: origin.ok_or(NoteError::Checkpoint("it names no log"))?.to_owned(),
            size: size.and_then(|size| size.parse().ok()).ok_or(NoteError::Checkpoint("it has no size"))?,
            root: root
                .and_then(|root| root.try_into().ok())
                .ok_or(NoteError::Checkpoint("it has no root of 32 bytes"))?,
        })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }
}

/// Splits a note into its text, which ends with a line feed, and its signatures.
fn split(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(NoteError::Malformed("it is too long"));
    }
    if note.chars().any(|c| c.is_control() && c != '\n') {
        return Err(NoteError::Malformed("it contains control characters"));
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Malformed("it has no signatures"))?;
    let (text, signatures) = (&note[..=at], &note[at + 2..]);
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(NoteError::Malformed("it has no signatures"));
    }
    Ok((text, signatures))
}

/// `— <name> base64(<id> || <signature>)`.
fn signature_line(line: &str) -> Result<(&str, [u8; 4], Vec<u8>), NoteError> {
    let malformed = NoteError::Malformed("a line is no signature");
    let rest = line.strip_prefix("\u{2014} ").ok_or(malformed.clone())?;
    let (name, signature) = rest.split_once(' ').ok_or(malformed.clone())?;
    checked_name(name).map_err(|_| malformed.clone())?;
    let bytes = STANDARD.decode(signature).map_err(|_| malformed.clone())?;
    let (id, signature) = bytes.split_first_chunk::<4>().ok_or(malformed)?;
    Ok((name, *id, signature.to_vec()))
}

fn checked_name(name: &str) -> Result<&str, NoteError> {
    let fits = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+');
    if fits { Ok(name) } else { Err(NoteError::Name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Appendix A of RFC 8410, whose private key OpenSSL writes in the same form.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                       -----END PRIVATE KEY-----\n";

    fn signer() -> NoteSigner {
        NoteSigner::from_pem(PEM).expect("a key")
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "example.org/tlog/01".to_owned(), size: 7, root: [5; 32] }
    }

    #[test]
    fn a_note_is_read_by_an_implementation_that_nobody_here_wrote() {
        let note = signer().sign("example.org/tlog/01", &checkpoint().to_string()).expect("signs");
        let key = signer().verifier_key("example.org/tlog/01").expect("a name").to_string();
        let key = signed_note::StandardVerifier::new(&key).expect("a key");
        let read = signed_note::Note::from_bytes(note.as_bytes()).expect("a note");
        let (verified, _) =
            read.verify(&signed_note::VerifierList::new(vec![Box::new(key)])).expect("verifies");
        assert_eq!(verified.len(), 1);
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let key = signer().verifier_key("example.org").expect("a name");
        let note = signer().sign("example.org", &checkpoint().to_string()).expect("signs");
        assert_eq!(Checkpoint::parse(key.verify(&note).expect("verifies")), Ok(checkpoint()));
        let changed = note.replacen("\n7\n", "\n8\n", 1);
        assert_eq!(key.verify(&changed), Err(NoteError::WrongSignature("example.org".to_owned())));
        let other = signer().verifier_key("example.com").expect("a name");
        assert_eq!(other.verify(&note), Err(NoteError::Unsigned("example.com".to_owned())));
    }

    #[test]
    fn two_keys_may_sign_one_note() {
        let twice = signer().sign("new", &signer().sign("old", "text\n").expect("signs")).expect("signs");
        for name in ["old", "new"] {
            assert_eq!(signer().verifier_key(name).expect("a name").verify(&twice), Ok("text\n"));
        }
    }

    #[test]
    fn a_verifier_key_reads_back_and_a_wrong_one_is_refused() {
        let key = signer().verifier_key("example.org").expect("a name");
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let text = key.to_string();
        let (name, rest) = text.split_once('+').expect("three parts");
        let upper = format!("{name}+{}", rest.replacen(&rest[..8], &rest[..8].to_uppercase(), 1));
        assert_ne!(upper, text);
        for wrong in [&text[1..], &text[..text.len() - 4], "", "a+b", "a+00000000+AQ==", &upper] {
            assert_eq!(wrong.parse::<VerifierKey>(), Err(NoteError::VerifierKey), "{wrong}");
        }
        assert!(signer().verifier_key("a b").is_err());
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let key = signer().verifier_key("a").expect("a name");
        for wrong in [
            "",
            "text\n",
            "text\n\n",
            "text\n\n- a AAAA\n",
            "text\n\n\u{2014} a AAAA",
            "te\u{7}xt\n\n\u{2014} a AAAAAAAA\n",
        ] {
            assert!(matches!(key.verify(wrong), Err(NoteError::Malformed(_))), "{wrong}");
        }
        for wrong in ["", "a\n", "a\n01\n", "a\n1\nAAAA\n"] {
            assert!(Checkpoint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
