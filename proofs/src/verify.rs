//! The offline verifier. With an export file and a public key it checks whether the history is the signed one.
//! If not, it reports the position as exactly as the file allows.

mod error;
mod replaced;
mod schemas;

use std::collections::BTreeMap;
use std::io::BufRead;

pub use self::error::VerifyError;
pub use self::replaced::Replaced;
use self::schemas::Schemas;
use crate::export::{
    Absent, Base64, End, FORMAT, FormatError, INTEGER_MAX, Item, Keys, Line, Manifest, Part,
};
use crate::frame::{CommitmentKind, Entry, Hash, commitment, leaf_hash};
use crate::note::{Checkpoint, VerifierKey};
use crate::tree::{self, Frontier, Node, Span};

/// Maximum bytes of a line. An event of 256 KiB in base64 is far below it.
const LINE_BYTES_MAX: usize = 4 << 20;
/// The first bytes of a file in the age format.
const AGE_HEADER: &[u8] = b"age-encryption.org/v1\n";
/// The height of the subtrees (tiles) whose roots the signer stores.
const TILE_HEIGHT: u8 = 8;

/// Further knowledge of the log, beyond the file.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Leaves by position, from an earlier export of the same log. With them a changed event is named exactly.
    pub leaves: BTreeMap<u64, Hash>,
    /// The roots of the log's tiles of 256 leaves, as the signer stores them. With them a changed event is narrowed to
    /// its tile.
    pub tiles: Vec<Hash>,
    /// Earlier checkpoints signed by the same key. The file must prove that it continues them.
    /// They may belong to a log that the file's log replaced, if the file contains the replacement.
    pub checkpoints: Vec<String>,
}

/// Result of a successful verification.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The manifest of the file.
    pub manifest: Manifest,
    /// The signed checkpoint of the manifest.
    pub checkpoint: Checkpoint,
    /// Number of events in the file.
    pub events: u64,
    /// Number of events with destroyed parts.
    pub redacted: u64,
    /// Number of events with parts that the exporter left out.
    pub withheld: u64,
    /// Number of types whose schemas are in the file.
    pub schemas: u64,
    /// The logs that this one replaced, as far as the file shows.
    pub replaced: Vec<Replaced>,
}

/// Verifies an export.
///
/// # Errors
/// [`VerifyError`] says what differs, and at which position if known.
pub fn verify(reader: impl BufRead, key: &VerifierKey, known: &Known) -> Result<Report, VerifyError> {
    let mut lines = Lines { reader, number: 0 };
    let manifest = lines.parse(Manifest::parse)?;
    if manifest.format != FORMAT {
        return Err(lines.malformed(format!("the format is {:?}, not {FORMAT:?}", manifest.format)));
    }
    let checkpoint = Checkpoint::parse(key.verify(&manifest.checkpoint)?)?;
    if checkpoint.origin != key.name() || checkpoint.log_id() != Some(manifest.log_id) {
        return Err(VerifyError::Checkpoint(format!("it is one of {}", checkpoint.origin)));
    }
    let fits = manifest.from > 0 && manifest.from - 1 <= manifest.to && manifest.to <= checkpoint.size;
    if !fits || checkpoint.size > INTEGER_MAX {
        return Err(lines.malformed("its range does not fit the checkpoint".to_owned()));
    }
    let mut older = Vec::new();
    for note in &known.checkpoints {
        let earlier = replaced::signed(note, key)?;
        if earlier.origin == checkpoint.origin {
            continues(&manifest, &checkpoint, &earlier)?;
        } else {
            older.push(earlier);
        }
    }
    let mut checking = ExportVerifier::begin(&manifest, &checkpoint, key, known)
        .ok_or_else(|| lines.malformed("its subtrees do not fit its range".to_owned()))?;
    loop {
        match lines.parse(Item::parse)? {
            Item::Event(line) if line.path.is_some() != manifest.stream.is_some() => {
                return Err(lines.malformed("paths are for files of one stream".to_owned()));
            }
            Item::Event(line) => checking.event(line)?,
            Item::Schema(line) => checking.schemas.describe(line)?,
            Item::Keys(Keys { keys }) => {
                if manifest.keys_to.is_none() || !keys.0.starts_with(AGE_HEADER) {
                    return Err(lines.malformed("keys that are for nobody".to_owned()));
                }
            }
            Item::End(End { events }) if events == checking.events => break,
            Item::End(End { events }) => {
                return Err(lines.malformed(format!("{events} events announced, {} there", checking.events)));
            }
        }
    }
    if lines.has_more()? {
        return Err(lines.malformed("there is more behind the end".to_owned()));
    }
    checking.end()?;
    let schemas = checking.schemas.end(&manifest, checkpoint.size)?;
    let ExportVerifier { events, redacted, withheld, replaced, .. } = checking;
    for older in &older {
        replaced::continues_older(&manifest, &checkpoint, older, &replaced)?;
    }
    let (manifest, checkpoint) = (manifest.clone(), checkpoint.clone());
    Ok(Report { manifest, checkpoint, events, redacted, withheld, schemas, replaced })
}

/// The leaves of a verified export by position, for [`Known::leaves`].
///
/// # Errors
/// [`VerifyError::Malformed`] if the file is not an export.
pub fn leaves(reader: impl BufRead) -> Result<BTreeMap<u64, Hash>, VerifyError> {
    let mut lines = Lines { reader, number: 0 };
    let _manifest = lines.parse(Manifest::parse)?;
    let mut leaves = BTreeMap::new();
    loop {
        match lines.parse(Item::parse)? {
            Item::Event(line) => drop(leaves.insert(line.position, leaf_hash(&line.entry.0))),
            Item::Schema(_) | Item::Keys(_) => {}
            Item::End(_) => return Ok(leaves),
        }
    }
}

/// Checks whether an earlier checkpoint covers the beginning of the file's log.
fn continues(manifest: &Manifest, checkpoint: &Checkpoint, earlier: &Checkpoint) -> Result<(), VerifyError> {
    let from = earlier.size;
    if from > checkpoint.size {
        return Err(VerifyError::Consistency { from, problem: "the file's log is shorter" });
    }
    let same = from == checkpoint.size && earlier.root == checkpoint.root;
    let proof = manifest.consistency.iter().find(|proof| proof.from == from);
    let path = match proof {
        _ if same || from == 0 => return Ok(()),
        Some(proof) => hashes(&proof.path),
        None => return Err(VerifyError::Consistency { from, problem: "the file holds no proof" }),
    };
    let holds = path.is_some_and(|path| {
        tree::verify_consistency(from, &earlier.root, checkpoint.size, &checkpoint.root, &path)
    });
    if holds { Ok(()) } else { Err(VerifyError::Consistency { from, problem: "the proof does not hold" }) }
}

struct ExportVerifier<'a> {
    manifest: &'a Manifest,
    checkpoint: &'a Checkpoint,
    key: &'a VerifierKey,
    known: &'a Known,
    frontier: Frontier,
    next: u64,
    events: u64,
    redacted: u64,
    withheld: u64,
    schemas: Schemas,
    replaced: Vec<Replaced>,
}

impl<'a> ExportVerifier<'a> {
    fn begin(
        manifest: &'a Manifest,
        checkpoint: &'a Checkpoint,
        key: &'a VerifierKey,
        known: &'a Known,
    ) -> Option<Self> {
        let frontier = match manifest.stream {
            Some(_) if manifest.before.is_empty() && manifest.after.is_empty() => Frontier::default(),
            Some(_) => return None,
            None => Frontier::new(manifest.from - 1, hashes(&manifest.before)?)?,
        };
        Some(Self {
            manifest,
            checkpoint,
            key,
            known,
            frontier,
            next: manifest.from,
            events: 0,
            redacted: 0,
            withheld: 0,
            schemas: Schemas::default(),
            replaced: Vec::new(),
        })
    }

    fn event(&mut self, line: Line) -> Result<(), VerifyError> {
        let position = line.position;
        if position < self.next || position > self.manifest.to {
            return Err(VerifyError::Position { position, problem: "the event is not in its place" });
        }
        if self.manifest.stream.is_none() && position > self.next {
            return Err(VerifyError::Position { position: self.next, problem: "the event is missing" });
        }
        let wrong = |problem| VerifyError::Position { position, problem };
        let leaf = leaf_hash(&line.entry.0);
        if line.leaf.0 != leaf {
            return Err(wrong("the event does not make its leaf"));
        }
        let entry = Entry::decode(&line.entry.0).ok_or_else(|| wrong("the entry does not read"))?;
        if let Some(stream) = &self.manifest.stream
            && entry.stream != stream
        {
            return Err(wrong("the event belongs to another stream"));
        }
        let payload = part(CommitmentKind::Payload, &line.payload, &entry.payload_commitment);
        let metadata = part(CommitmentKind::Metadata, &line.metadata, &entry.metadata_commitment);
        let (payload, metadata) = (
            payload.ok_or_else(|| wrong("the payload is not the one committed to"))?,
            metadata.ok_or_else(|| wrong("the metadata are not those committed to"))?,
        );
        self.redacted += u64::from([payload, metadata].contains(&Some(Absent::Redacted)));
        self.withheld += u64::from([payload, metadata].contains(&Some(Absent::Withheld)));
        if self.known.leaves.get(&position).is_some_and(|known| *known != leaf) {
            return Err(wrong("the event is not the one exported earlier"));
        }
        self.place(position, leaf, &line)?;
        self.schemas.event(position, entry.event_type, &line.payload);
        self.replaced.extend(replaced::read_replacement(position, &entry, &line.payload, self.key));
        self.events += 1;
        self.next = position + 1;
        Ok(())
    }

    fn place(&mut self, position: u64, leaf: Hash, line: &Line) -> Result<(), VerifyError> {
        if self.manifest.stream.is_some() {
            let path = line.path.as_deref().and_then(hashes).unwrap_or_default();
            let Checkpoint { size, root, .. } = self.checkpoint;
            if !tree::verify_inclusion(position - 1, *size, &leaf, &path, root) {
                let problem = "the event is not in the signed log";
                return Err(VerifyError::Position { position, problem });
            }
            return Ok(());
        }
        let (mut bad, tiles, first) = (None, &self.known.tiles, self.manifest.from - 1);
        self.frontier.push(leaf, |node: Node, hash| {
            let whole = node.height == TILE_HEIGHT && node.index << TILE_HEIGHT >= first;
            if whole && tiles.get(node.index as usize).is_some_and(|known| *known != hash) {
                bad = Some(node.index);
            }
        });
        match bad {
            Some(tile) => {
                Err(VerifyError::Range { from: (tile << TILE_HEIGHT) + 1, to: (tile + 1) << TILE_HEIGHT })
            }
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), VerifyError> {
        if self.manifest.stream.is_some() {
            return Ok(());
        }
        if self.next <= self.manifest.to {
            return Err(VerifyError::Position { position: self.next, problem: "the event is missing" });
        }
        let wrong = || VerifyError::Root { from: self.manifest.from, to: self.manifest.to };
        let nodes = Span { start: self.manifest.to, end: self.checkpoint.size }.nodes();
        let after = hashes(&self.manifest.after).filter(|after| after.len() == nodes.len());
        for (node, hash) in nodes.iter().zip(after.ok_or_else(wrong)?) {
            if !self.frontier.push_subtree(node.height, hash) {
                return Err(wrong());
            }
        }
        if self.frontier.root() == self.checkpoint.root { Ok(()) } else { Err(wrong()) }
    }
}

/// Checks the bytes against their commitment. The inner value is the reason for absent bytes.
#[expect(
    clippy::option_option,
    reason = "the outer one says whether it fits, the inner one why it is absent"
)]
fn part(kind: CommitmentKind, part: &Part, committed: &Hash) -> Option<Option<Absent>> {
    match part {
        Part::Absent { absent } => Some(Some(*absent)),
        Part::Open { salt, bytes } => {
            let salt = salt.0.as_slice().try_into().ok()?;
            (commitment(kind, &salt, &bytes.0) == *committed).then_some(None)
        }
    }
}

fn hashes(encoded: &[Base64]) -> Option<Vec<Hash>> {
    encoded.iter().map(|hash| hash.0.as_slice().try_into().ok()).collect()
}

struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<String, VerifyError> {
        self.number += 1;
        let mut line = Vec::new();
        let mut bounded = std::io::Read::take(&mut self.reader, LINE_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(self.malformed("the file breaks off, or the line is too long".to_owned()));
        }
        String::from_utf8(line).map_err(|_| self.malformed("it is not UTF-8".to_owned()))
    }

    fn parse<T>(&mut self, parse: impl Fn(&str) -> Result<T, FormatError>) -> Result<T, VerifyError> {
        let text = self.next()?;
        parse(&text).map_err(|error| self.malformed(error.to_string()))
    }

    fn has_more(&mut self) -> Result<bool, VerifyError> {
        Ok(!self.reader.fill_buf()?.is_empty())
    }

    fn malformed(&self, problem: String) -> VerifyError {
        VerifyError::Malformed { line: self.number, problem }
    }
}

#[cfg(test)]
mod tests;
