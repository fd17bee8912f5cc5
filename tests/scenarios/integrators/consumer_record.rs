//! What a follower writes down: a file of positions and event ids, from which it resumes and which is judged at the end.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Bytes of an entry: position, event id.
const ENTRY: u64 = 24;

/// What became of an event that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was the next one and is written down.
    Written,
    /// It stands in the record already.
    Repeated,
    /// Others have to come first.
    Early,
}

/// A follower's record. Every entry is the position behind the one before it: nothing else can be written.
pub struct Record {
    pub name: &'static str,
    kept: Mutex<Kept>,
}

/// The file, and what happened on the way to it.
pub struct Kept {
    file: File,
    last: u64,
    written_at: Instant,
    /// Arrivals of what was written before.
    pub repeated: u64,
    /// Arrivals ahead of what has to come first.
    pub early: u64,
    /// How often the follower began again from its record.
    pub resumed: u64,
    /// The longest time between two entries.
    pub longest: Duration,
    /// What must not be.
    pub violations: Vec<String>,
}

impl Record {
    /// An empty record in this folder.
    pub fn new(folder: &Path, name: &'static str) -> Self {
        let path = folder.join(name);
        let file = File::options().create_new(true).read(true).append(true).open(path).expect("a fresh file");
        let kept = Kept {
            file,
            last: 0,
            written_at: Instant::now(),
            repeated: 0,
            early: 0,
            resumed: 0,
            longest: Duration::ZERO,
            violations: Vec::new(),
        };
        Self { name, kept: Mutex::new(kept) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of the last entry, as the file has it: what a follower that begins again knows.
    pub fn resume(&self) -> u64 {
        let mut kept = self.lock();
        let entries = kept.file.metadata().expect("the file is there").len() / ENTRY;
        kept.last = entries.checked_sub(1).map_or(0, |last| kept.entry(last).0);
        kept.resumed += 1;
        kept.last
    }

    /// The position of the last entry.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// How long ago it was written.
    pub fn quiet_for(&self) -> Duration {
        self.lock().written_at.elapsed()
    }

    /// Takes an event in and writes it down where it is the next.
    pub fn take(&self, position: u64, id: Uuid) -> Arrival {
        let mut kept = self.lock();
        if position > kept.last + 1 {
            kept.early += 1;
            return Arrival::Early;
        }
        if position <= kept.last {
            kept.repeated += 1;
            if kept.entry(position.saturating_sub(1)) != (position, id) {
                kept.violations.push(format!("position {position} comes again as {id}"));
            }
            return Arrival::Repeated;
        }
        let mut entry = [0; ENTRY as usize];
        entry[..8].copy_from_slice(&position.to_be_bytes());
        entry[8..].copy_from_slice(id.as_bytes());
        kept.file.write_all(&entry).expect("the record can be written");
        kept.longest = kept.longest.max(kept.written_at.elapsed());
        kept.written_at = Instant::now();
        kept.last = position;
        Arrival::Written
    }

    /// Notes something that must not be.
    pub fn violation(&self, what: String) {
        println!("violation: {}: {what}", self.name);
        self.lock().violations.push(what);
    }
}

impl Kept {
    /// The entry at this index.
    pub fn entry(&self, index: u64) -> (u64, Uuid) {
        let mut entry = [0; ENTRY as usize];
        self.file.read_exact_at(&mut entry, index * ENTRY).expect("the entry is there");
        let (position, id) = entry.split_at(8);
        (u64::from_be_bytes(position.try_into().expect("8 bytes")), Uuid::from_slice(id).expect("16 bytes"))
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.file.metadata().expect("the file is there").len() / ENTRY
    }
}
