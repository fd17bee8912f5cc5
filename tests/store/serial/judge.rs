//! Whether a history has a serial order. The log gives the order of everything that was written; what was refused, or
//! answered from an earlier append, must fit somewhere between, in the order of real time.
//!
//! A *gap* is a moment of a tenant's serial order: gap `n` stands after `n` appends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::history::{Call, Line, Outcome};
use super::record::{Committed, Record};

/// A call and, where there was one, its return.
struct Asked {
    call: Call,
    answer: Option<(u64, Outcome)>,
}

impl Asked {
    fn returned(&self) -> u64 {
        self.answer.as_ref().map_or(u64::MAX, |(at, _)| *at)
    }
}

/// The values that something had, each from a gap on.
type Story<T> = Vec<(usize, T)>;

/// Everything that a serial execution of a tenant's log leaves behind, by gaps.
#[derive(Default)]
struct Serial<'a> {
    versions: HashMap<&'a str, Story<u64>>,
    holders: HashMap<&'a str, Story<Option<&'a str>>>,
    claims: BTreeMap<Uuid, (usize, u8, &'a Committed)>,
    secrets: BTreeMap<&'a str, &'a str>,
}

pub struct Judge {
    asked: HashMap<String, Asked>,
    /// When the first fault struck: before it nobody may be told that the database is away.
    first_fault: u64,
    pub violations: Vec<String>,
    pub tally: BTreeMap<&'static str, usize>,
}

impl Judge {
    pub fn new(history: Vec<Line>, first_fault: u64) -> Self {
        let (mut asked, mut violations) = (HashMap::new(), Vec::new());
        let mut returns = Vec::new();
        for line in history {
            match line {
                Line::Call(call) => drop(asked.insert(call.name.clone(), Asked { call, answer: None })),
                Line::Return { name, at, outcome } => returns.push((name, at, outcome)),
            }
        }
        for (name, at, outcome) in returns {
            match asked.get_mut(&name) {
                Some(asked) => asked.answer = Some((at, outcome)),
                None => violations.push(format!("{name} returned and was never called")),
            }
        }
        Self { asked, first_fault, violations, tally: BTreeMap::new() }
    }

    fn blame(&mut self, name: &str, what: impl std::fmt::Display) {
        let asked = self.asked.get(name).map(|asked| format!("{:?} -> {:?}", asked.call, asked.answer));
        self.violations.push(format!("{name}: {what}\n    {}", asked.unwrap_or_default()));
    }

    /// Judges one tenant.
    pub fn tenant(&mut self, index: usize, record: &Record) {
        if record.log.last().map_or(0, |last| last.position) != record.head {
            self.violations.push(format!("tenant {index}: the head says {}", record.head));
        }
        for committed in &record.log {
            self.whole_and_once(index, committed);
        }
        let mut names = BTreeSet::new();
        for committed in &record.log {
            if !names.insert(committed.name.as_str()) {
                self.blame(&committed.name, "stands in the log twice, or in two parts");
            }
        }
        let calls: Vec<Call> = record
            .log
            .iter()
            .filter_map(|committed| Some(self.asked.get(&committed.name)?.call.clone()))
            .collect();
        if calls.len() != record.log.len() {
            self.violations.push(format!("tenant {index}: events that nobody wrote"));
            return;
        }
        let serial = self.replay(&record.log, &calls);
        self.compare(index, record, &serial);
        self.place(index, record, &serial, &names);
    }

    fn whole_and_once(&mut self, tenant: usize, committed: &Committed) {
        let Some(asked) = self.asked.get(&committed.name) else { return };
        let call = &asked.call;
        let whole = committed.numbers.iter().copied().eq(0..call.events as u64);
        if !whole || call.tenant != tenant || call.stream != committed.stream || call.poison {
            self.blame(&committed.name, format!("is not what was asked for: {committed:?}"));
        }
    }

    /// Executes the log, one append after the other.
    fn replay<'a>(&mut self, log: &'a [Committed], calls: &'a [Call]) -> Serial<'a> {
        let mut serial = Serial::default();
        for (before, (committed, call)) in log.iter().zip(calls).enumerate() {
            let gap = before + 1;
            let stream = call.stream.as_str();
            let versions = serial.versions.entry(stream).or_insert_with(|| vec![(0, 0)]);
            let version = versions.last().map_or(0, |(_, version)| *version);
            if !call.expected.holds_at(version) {
                self.blame(&call.name, format!("was written upon version {version}"));
            }
            versions.push((gap, version + call.events as u64));
            if let Some((id, digest)) = call.claim
                && serial.claims.insert(id, (gap, digest, committed)).is_some()
            {
                self.blame(&call.name, "was written under a command id that had a receipt");
            }
            for value in &call.reserves {
                let story = serial.holders.entry(value).or_insert_with(|| vec![(0, None)]);
                if let Some((_, Some(holder))) = story.last()
                    && *holder != stream
                {
                    self.blame(&call.name, format!("took {value} from {holder}"));
                }
                story.push((gap, Some(stream)));
            }
            for value in call.releases.iter().filter(|value| !call.reserves.contains(value)) {
                let story = serial.holders.entry(value).or_insert_with(|| vec![(0, None)]);
                if story.last().is_some_and(|(_, holder)| *holder == Some(stream)) {
                    story.push((gap, None));
                }
            }
            if let Some(secret) = &call.secret {
                serial.secrets.insert(stream, secret);
            }
        }
        serial
    }

    /// What stands beside the log must be what the serial execution leaves behind.
    fn compare(&mut self, index: usize, record: &Record, serial: &Serial<'_>) {
        let receipts: BTreeMap<_, _> = serial
            .claims
            .iter()
            .map(|(id, (_, digest, by))| {
                let count = by.numbers.len() as u32;
                (*id, (vec![*digest; 32], by.stream.clone(), by.version, by.first_position, count))
            })
            .collect();
        if receipts != record.receipts {
            self.violations.push(format!("tenant {index}: the receipts are not those of the log"));
        }
        let holders: BTreeMap<String, String> = serial
            .holders
            .iter()
            .filter_map(|(value, story)| Some((value.to_string(), story.last()?.1?.to_owned())))
            .collect();
        if holders != record.holders || record.reservations != holders.len() {
            self.violations.push(format!(
                "tenant {index}: {} reservations, {:?}, where the log says {holders:?}",
                record.reservations, record.holders
            ));
        }
        let secrets = serial.secrets.iter().map(|(stream, value)| (stream.to_string(), value.to_string()));
        let secrets: BTreeMap<_, _> = secrets.collect();
        if secrets != record.secrets {
            self.violations.push(format!(
                "tenant {index}: the secrets are {:?}, where the log says {secrets:?}",
                record.secrets
            ));
        }
    }

    /// Finds a gap for every answer that wrote nothing, and checks those that did.
    fn place(&mut self, index: usize, record: &Record, serial: &Serial<'_>, written: &BTreeSet<&str>) {
        let appends = record.log.len();
        // The latest call up to a gap, and the earliest return behind it.
        let mut called = vec![0; appends + 1];
        let mut returned = vec![u64::MAX; appends + 1];
        for (n, committed) in record.log.iter().enumerate() {
            called[n + 1] = called[n].max(self.asked[&committed.name].call.at);
        }
        for (n, committed) in record.log.iter().enumerate().rev() {
            returned[n] =
                self.asked[&committed.name].returned().min(*returned.get(n + 1).unwrap_or(&u64::MAX));
            if returned[n] < called[n + 1] {
                self.blame(&committed.name, "stands before an append that had returned before it was called");
            }
        }
        let mut reads = Vec::new();
        let mut wrong = Vec::new();
        for (name, asked) in self.asked.iter().filter(|(_, asked)| asked.call.tenant == index) {
            let Some((at, outcome)) = &asked.answer else { continue };
            let there = written.contains(name.as_str());
            *self.tally.entry(kind(outcome)).or_default() += 1;
            match outcome {
                Outcome::Done { version, log_id, first_position, position, count, duplicate: false } => {
                    let by = record.log.iter().find(|committed| committed.name == *name);
                    let holds = by.is_some_and(|by| {
                        (by.version, by.first_position, by.position) == (*version, *first_position, *position)
                            && by.numbers.len() == *count as usize
                            && record.log_id == *log_id
                    });
                    if !holds {
                        wrong.push((name.clone(), format!("has a receipt, and in the log is {by:?}")));
                    }
                }
                Outcome::Unavailable(_) | Outcome::Overloaded if *at < self.first_fault => {
                    wrong.push((name.clone(), "was refused before anything had failed".to_owned()));
                }
                Outcome::Unavailable(_) => {}
                _ if there => wrong.push((name.clone(), "was refused and stands in the log".to_owned())),
                Outcome::Invalid(_) if !asked.call.poison => {
                    wrong.push((name.clone(), "was called invalid".to_owned()));
                }
                Outcome::Overloaded | Outcome::Invalid(_) => {}
                _ => reads.push((asked.call.at, *at, name.clone())),
            }
        }
        for (name, what) in wrong {
            self.blame(&name, what);
        }
        reads.sort_unstable();
        let mut by_return = reads.iter().map(|(_, at, name)| (*at, name.clone())).collect::<Vec<_>>();
        by_return.sort_unstable();
        let mut by_return = by_return.into_iter().peekable();
        let (mut least, mut places) = (0, HashMap::new());
        for (call, at, name) in reads {
            // Whoever had returned before this one was called comes before it.
            while let Some((_, before)) = by_return.next_if(|(returned, _)| *returned < call) {
                least = least.max(places.get(&before).copied().unwrap_or(0));
            }
            let asked = &self.asked[&name];
            let fits = |gap: &usize| fits(&asked.call, asked.answer.as_ref().map(|(_, o)| o), serial, *gap);
            let in_time = |gap: &usize| returned[*gap] >= call && called[*gap] <= at;
            if let Some(gap) = (least..=appends).filter(in_time).find(fits) {
                places.insert(name, gap);
            } else {
                let moments: Vec<usize> = (0..=appends).filter(in_time).collect();
                self.blame(&name, format!("no moment from {least} on of {moments:?} has this answer"));
            }
        }
    }

    /// Tenants are opened by the appends that stand in the log, and by no other.
    pub fn opened(&mut self, records: &[Record], found: &[BTreeSet<Uuid>; 2]) {
        let committed = records.iter().flat_map(|record| &record.log);
        let opened: BTreeSet<Uuid> =
            committed.filter_map(|by| self.asked.get(&by.name)?.call.new_tenant).collect();
        for (table, found) in ["directory", "heads"].into_iter().zip(found) {
            let (more, fewer): (Vec<_>, Vec<_>) =
                (found.difference(&opened).collect(), opened.difference(found).collect());
            if !more.is_empty() || !fewer.is_empty() {
                self.violations.push(format!("{table}: opened by nobody {more:?}, missing {fewer:?}"));
            }
        }
    }
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { duplicate: false, .. } => "done",
        Outcome::Done { .. } => "duplicate",
        Outcome::Conflict { .. } => "conflict",
        Outcome::Reused => "reused",
        Outcome::Reserved { .. } => "reserved",
        Outcome::Invalid(_) => "invalid",
        Outcome::Overloaded => "overloaded",
        Outcome::Unavailable(_) => "unavailable",
    }
}

/// Whether an answer that wrote nothing is right at a gap.
fn fits(call: &Call, outcome: Option<&Outcome>, serial: &Serial<'_>, gap: usize) -> bool {
    let claimed = call.claim.and_then(|(id, digest)| {
        let (since, first, by) = serial.claims.get(&id)?;
        (*since <= gap).then_some((*first == digest, *by))
    });
    match (outcome, claimed) {
        (Some(Outcome::Done { version, first_position, position, count, .. }), Some((true, by))) => {
            (by.version, by.first_position, by.position) == (*version, *first_position, *position)
                && by.numbers.len() == *count as usize
        }
        (Some(Outcome::Reused), Some((same, _))) => !same,
        (Some(Outcome::Conflict { actual }), None) => {
            let version = serial.versions.get(call.stream.as_str()).map_or(0, |story| at(story, gap));
            version == *actual && !call.expected.holds_at(version)
        }
        (Some(Outcome::Reserved { holder }), None) => call.reserves.iter().any(|value| {
            let held = serial.holders.get(value.as_str()).and_then(|story| at(story, gap));
            held == Some(holder.as_str()) && *holder != call.stream
        }),
        _ => false,
    }
}

fn at<T: Copy>(story: &Story<T>, gap: usize) -> T {
    let next = story.partition_point(|(since, _)| *since <= gap);
    story[next - 1].1
}
