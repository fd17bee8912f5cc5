//! The binary frame of an event, which is an entry of the tenant's Merkle log.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The first bytes of an entry.
const DOMAIN_LABEL: &[u8] = b"annals-event/v1\0";

/// A SHA-256 digest.
pub type Hash = [u8; 32];
/// The random salt of a commitment.
pub type Salt = [u8; 16];

/// The part of an event that a commitment covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitmentKind {
    /// The payload as stored.
    Payload,
    /// The metadata as stored.
    Metadata,
}

/// Why an event cannot be framed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A name is longer than 65,535 bytes, the maximum of its two-byte length.
    #[error("{0} is longer than 65,535 bytes")]
    NameTooLong(&'static str),
    /// The event has more than 255 subject keys, the maximum of their one-byte count.
    #[error("an event has at most 255 subject keys")]
    TooManySubjectKeys,
}

/// `SHA-256(label || salt || u64 length || bytes)`. It commits to the stored bytes without revealing them, so a payload
/// can be destroyed and the leaf still verifies.
pub fn commitment(kind: CommitmentKind, salt: &Salt, bytes: &[u8]) -> Hash {
    let label: &[u8] = match kind {
        CommitmentKind::Payload => b"annals-payload/v1\0",
        CommitmentKind::Metadata => b"annals-meta/v1\0",
    };
    let mut hasher = Sha256::new();
    hasher.update(label);
    hasher.update(salt);
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
    hasher.finalize().into()
}

/// Everything about one event that its leaf proves.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The log that the event belongs to.
    pub log_id: Uuid,
    /// The event's own id.
    pub event_id: Uuid,
    /// `<context>.<aggregate>/<id>`.
    pub stream: &'a str,
    /// Its version in the stream, from 1.
    pub version: u64,
    /// The type, with the schema version.
    pub event_type: &'a str,
    /// The schema version as a number.
    pub schema_version: u32,
    /// Microseconds since 1970 in UTC.
    pub recorded_at: i64,
    /// The encoding of the payload; 1 is JSON in UTF-8.
    pub payload_encoding: u8,
    /// See [`commitment`].
    pub payload_commitment: Hash,
    /// See [`commitment`].
    pub metadata_commitment: Hash,
    /// The ids of the keys that encrypt parts of the payload, ascending.
    pub subject_keys: &'a [Uuid],
}

impl Frame<'_> {
    /// Encodes the entry.
    ///
    /// # Errors
    /// [`FrameError`] if a name is too long or there are too many subject keys.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut entry = Vec::with_capacity(192 + self.stream.len() + self.event_type.len());
        entry.extend_from_slice(DOMAIN_LABEL);
        entry.extend_from_slice(self.log_id.as_bytes());
        entry.extend_from_slice(self.event_id.as_bytes());
        push_name(&mut entry, "the stream name", self.stream)?;
        entry.extend_from_slice(&self.version.to_be_bytes());
        push_name(&mut entry, "the event type", self.event_type)?;
        entry.extend_from_slice(&self.schema_version.to_be_bytes());
        entry.extend_from_slice(&self.recorded_at.to_be_bytes());
        entry.push(self.payload_encoding);
        entry.extend_from_slice(&self.payload_commitment);
        entry.extend_from_slice(&self.metadata_commitment);
        entry.push(u8::try_from(self.subject_keys.len()).map_err(|_| FrameError::TooManySubjectKeys)?);
        let mut keys = self.subject_keys.to_vec();
        keys.sort_unstable();
        for key in keys {
            entry.extend_from_slice(key.as_bytes());
        }
        Ok(entry)
    }
}

/// A decoded entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The log of the event.
    pub log_id: Uuid,
    /// The event's id.
    pub event_id: Uuid,
    /// `<context>.<aggregate>/<id>`.
    pub stream: &'a str,
    /// The version in the stream, from 1.
    pub version: u64,
    /// The type with its schema version.
    pub event_type: &'a str,
    /// The schema version as a number.
    pub schema_version: u32,
    /// Microseconds since 1970 in UTC.
    pub recorded_at: i64,
    /// The encoding of the payload; 1 is JSON in UTF-8.
    pub payload_encoding: u8,
    /// The [`commitment`] to the payload.
    pub payload_commitment: Hash,
    /// The [`commitment`] to the metadata.
    pub metadata_commitment: Hash,
    /// The ids of the keys that encrypt parts of the payload.
    pub subject_keys: Vec<Uuid>,
}

impl<'a> Entry<'a> {
    /// Decodes an entry; `None` if the bytes are not exactly one entry.
    pub fn decode(entry: &'a [u8]) -> Option<Self> {
        let mut rest = entry.strip_prefix(DOMAIN_LABEL)?;
        let read = Self {
            log_id: Uuid::from_bytes(take(&mut rest)?),
            event_id: Uuid::from_bytes(take(&mut rest)?),
            stream: take_name(&mut rest)?,
            version: u64::from_be_bytes(take(&mut rest)?),
            event_type: take_name(&mut rest)?,
            schema_version: u32::from_be_bytes(take(&mut rest)?),
            recorded_at: i64::from_be_bytes(take(&mut rest)?),
            payload_encoding: u8::from_be_bytes(take(&mut rest)?),
            payload_commitment: take(&mut rest)?,
            metadata_commitment: take(&mut rest)?,
            subject_keys: {
                let count = u8::from_be_bytes(take(&mut rest)?);
                (0..count).map(|_| take(&mut rest).map(Uuid::from_bytes)).collect::<Option<_>>()?
            },
        };
        rest.is_empty().then_some(read)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*bytes)
}

fn take_name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(u16::from_be_bytes(take(rest)?));
    let (name, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(name).ok()
}

/// `SHA-256(0x00 || entry)` (RFC 6962, section 2.1).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(entry);
    hasher.finalize().into()
}

fn push_name(entry: &mut Vec<u8>, what: &'static str, name: &str) -> Result<(), FrameError> {
    let length = u16::try_from(name.len()).map_err(|_| FrameError::NameTooLong(what))?;
    entry.extend_from_slice(&length.to_be_bytes());
    entry.extend_from_slice(name.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: Hash) -> String {
        use std::fmt::Write as _;
        hash.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string");
            text
        })
    }

    fn frame(subject_keys: &[Uuid]) -> Frame<'_> {
        Frame {
            log_id: Uuid::from_u128(0x0101_0101_0101_0101_0101_0101_0101_0101),
            event_id: Uuid::from_u128(0x0202_0202_0202_0202_0202_0202_0202_0202),
            stream: "crm.customer/1",
            version: 3,
            event_type: "crm.customer.renamed.v1",
            schema_version: 1,
            recorded_at: 1_700_000_000_000_001,
            payload_encoding: 1,
            payload_commitment: commitment(CommitmentKind::Payload, &[7; 16], b"{\"name\":\"Ada\"}"),
            metadata_commitment: commitment(CommitmentKind::Metadata, &[8; 16], b"{}"),
            subject_keys,
        }
    }

    // The digests below were computed apart from this code, by docs/audit-vector.py.
    #[test]
    fn the_frame_of_a_known_event_has_its_known_digests() {
        let entry = frame(&[]).encode().expect("frames");
        assert_eq!(hex(frame(&[]).payload_commitment), PAYLOAD_COMMITMENT);
        assert_eq!(hex(leaf_hash(&entry)), LEAF);
    }

    #[test]
    fn an_entry_reads_back_and_a_cut_one_does_not() {
        let keys = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let entry = frame(&keys).encode().expect("frames");
        let read = Entry::decode(&entry).expect("reads");
        assert_eq!((read.stream, read.version, read.subject_keys), ("crm.customer/1", 3, keys.to_vec()));
        for length in 0..entry.len() {
            assert_eq!(Entry::decode(&entry[..length]), None);
        }
        assert_eq!(Entry::decode(&[entry.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn subject_keys_stand_in_ascending_order_whatever_order_they_came_in() {
        let (low, high) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let entry = frame(&[high, low]).encode().expect("frames");
        assert_eq!(entry, frame(&[low, high]).encode().expect("frames"));
        assert_eq!(hex(leaf_hash(&entry)), LEAF_WITH_KEYS);
    }

    #[test]
    fn the_empty_leaf_is_that_of_rfc_6962() {
        assert_eq!(hex(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let name = "x".repeat(65_536);
        assert_eq!(
            Frame { stream: &name, ..frame(&[]) }.encode(),
            Err(FrameError::NameTooLong("the stream name"))
        );
        let keys = vec![Uuid::nil(); 256];
        assert_eq!(frame(&keys).encode(), Err(FrameError::TooManySubjectKeys));
    }

    const PAYLOAD_COMMITMENT: &str = "0652c74ac3da3b2a464707973d9af4f16552b4df394c13f5aec1f1dd227f91ff";
    const LEAF: &str = "a928558fe73b1db87818df03efb0a3c0765a7b3ae06609166d746b3ad90e4930";
    const LEAF_WITH_KEYS: &str = "7cc5896f5ea6c15dab601cd5f3c48d542f824eb931d65c1ea4780ff199d4641b";
}
