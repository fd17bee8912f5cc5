//! Whole files: what verifies, and what is said of each way to tamper with one.

use super::*;
use crate::export::{Base64, Consistency};
use crate::frame::Frame;
use crate::note::NoteSigner;
use std::collections::HashMap;
use uuid::Uuid;

mod two_verifiers;

// Of RFC 8410.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
const LOG: Uuid = Uuid::from_u128(7);
const ORIGIN: &str = "example.org/tlog/00000000000000000000000000000007";

/// A log as a server would keep it.
struct Log {
    lines: Vec<Line>,
    frontier: Frontier,
    nodes: HashMap<Node, Hash>,
}

fn line(position: u64) -> Line {
    line_of(position, "a.b.c.v1", &format!("{{\"n\":{position}}}"))
}

fn line_of(position: u64, event_type: &str, payload: &str) -> Line {
    let (payload, metadata) = (payload.as_bytes().to_vec(), b"{}".to_vec());
    let entry = Frame {
        log_id: LOG,
        event_id: Uuid::from_u128(position.into()),
        stream: if position.is_multiple_of(3) { "a.b/3" } else { "a.b/1" },
        version: position,
        event_type,
        schema_version: 1,
        recorded_at: 0,
        payload_encoding: 1,
        payload_commitment: commitment(CommitmentKind::Payload, &[1; 16], &payload),
        metadata_commitment: commitment(CommitmentKind::Metadata, &[2; 16], &metadata),
        subject_keys: &[],
    };
    let entry = entry.encode().expect("frames");
    Line {
        position,
        leaf: leaf_hash(&entry).into(),
        entry: Base64(entry),
        payload: Part::Open { salt: Base64(vec![1; 16]), bytes: Base64(payload) },
        metadata: Part::Open { salt: Base64(vec![2; 16]), bytes: Base64(metadata) },
        path: None,
    }
}

impl Log {
    fn of(size: u64) -> Self {
        let mut log = Self { lines: Vec::new(), frontier: Frontier::default(), nodes: HashMap::new() };
        for position in 1..=size {
            log.add(line(position));
        }
        log
    }

    fn add(&mut self, line: Line) {
        let leaf = leaf_hash(&line.entry.0);
        self.nodes.insert(Node { height: 0, index: self.frontier.size() }, leaf);
        let nodes = &mut self.nodes;
        self.frontier.push(leaf, |node, hash| {
            nodes.insert(node, hash);
        });
        self.lines.push(line);
    }

    fn note(&self) -> String {
        let (size, root) = (self.frontier.size(), self.frontier.root());
        let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root };
        signer().sign(ORIGIN, &checkpoint.to_string()).expect("signs")
    }

    fn hashes(&self, nodes: &[Node]) -> Vec<Base64> {
        nodes.iter().map(|node| self.nodes[node].into()).collect()
    }

    fn path(&self, spans: &[Span]) -> Vec<Base64> {
        spans.iter().map(|span| span.hash(&self.nodes).expect("all subtrees").into()).collect()
    }

    fn manifest(&self, from: u64, to: u64) -> Manifest {
        Manifest {
            format: FORMAT.to_owned(),
            tenant: "demo".to_owned(),
            log_id: LOG,
            from,
            to,
            stream: None,
            checkpoint: self.note(),
            before: self.hashes(&Span { start: 0, end: from - 1 }.nodes()),
            after: self.hashes(&Span { start: to, end: self.frontier.size() }.nodes()),
            consistency: Vec::new(),
            keys_to: None,
            exported_at: String::new(),
        }
    }

    fn export(&self, from: u64, to: u64) -> (Manifest, Vec<Line>) {
        (self.manifest(from, to), self.lines[from as usize - 1..to as usize].to_vec())
    }
}

fn signer() -> NoteSigner {
    NoteSigner::from_pem(PEM).expect("a key")
}

fn text((manifest, lines): &(Manifest, Vec<Line>)) -> String {
    let mut text = serde_json::to_string(manifest).expect("JSON");
    for line in lines {
        text += "\n";
        text += &serde_json::to_string(line).expect("JSON");
    }
    text + &format!("\n{{\"events\":{}}}\n", lines.len())
}

fn check(file: &str, known: &Known) -> Result<Report, VerifyError> {
    verify(file.as_bytes(), &signer().verifier_key(ORIGIN).expect("a key"), known)
}

fn checked(export: &(Manifest, Vec<Line>)) -> Result<Report, VerifyError> {
    check(&text(export), &Known::default())
}

#[test]
fn every_range_of_a_log_verifies() {
    let log = Log::of(20);
    for from in 1..=20 {
        for to in from..=20 {
            let report = checked(&log.export(from, to)).expect("verifies");
            assert_eq!((report.events, report.redacted, report.withheld), (to + 1 - from, 0, 0));
        }
    }
}

#[test]
fn a_stream_verifies_by_the_paths_of_its_events() {
    let log = Log::of(20);
    let mut lines: Vec<Line> = log.lines.iter().filter(|line| line.position % 3 == 0).cloned().collect();
    for line in &mut lines {
        line.path = Some(log.path(&tree::inclusion(line.position - 1, 20).expect("in the log")));
    }
    let manifest = Manifest { stream: Some("a.b/3".to_owned()), ..log.manifest(1, 20) };
    assert_eq!(checked(&(manifest.clone(), lines.clone())).expect("verifies").events, 6);
    let mut foreign = log.lines[0].clone();
    foreign.path = Some(log.path(&tree::inclusion(0, 20).expect("in the log")));
    lines.insert(0, foreign);
    let error = checked(&(manifest.clone(), lines.clone())).expect_err("of another stream");
    assert_eq!(error.first_bad_position(), Some(1));
    lines.remove(0);
    lines[2].path = lines[1].path.clone();
    assert_eq!(checked(&(manifest, lines)).expect_err("wrong path").first_bad_position(), Some(9));
}

#[test]
fn parts_may_be_absent_and_are_counted() {
    let mut export = Log::of(5).export(1, 5);
    export.1[1].payload = Part::Absent { absent: Absent::Redacted };
    export.1[3].payload = Part::Absent { absent: Absent::Withheld };
    export.1[3].metadata = Part::Absent { absent: Absent::Withheld };
    let report = checked(&export).expect("verifies");
    assert_eq!((report.events, report.redacted, report.withheld), (5, 1, 1));
}

#[test]
fn a_changed_payload_or_row_is_named_exactly() {
    let log = Log::of(9);
    let mut export = log.export(1, 9);
    let bytes = Base64(b"{\"n\":99}".to_vec());
    export.1[3].payload = Part::Open { salt: Base64(vec![1; 16]), bytes };
    assert_eq!(checked(&export).expect_err("changed").first_bad_position(), Some(4));
    // As an exporter writes it that frames the changed row anew: the kept leaf tells.
    let mut export = log.export(1, 9);
    let leaf = export.1[3].leaf.clone();
    export.1[3] = Line { leaf, ..line(99) };
    export.1[3].position = 4;
    assert_eq!(checked(&export).expect_err("changed").first_bad_position(), Some(4));
}

#[test]
fn missing_added_and_swapped_rows_are_found() {
    let log = Log::of(9);
    let mut missing = log.export(1, 9);
    missing.1.remove(3);
    assert_eq!(checked(&missing).expect_err("missing").first_bad_position(), Some(4));
    let mut cut = log.export(1, 9);
    cut.1.truncate(7);
    assert_eq!(checked(&cut).expect_err("cut").first_bad_position(), Some(8));
    let mut added = log.export(1, 9);
    added.1.insert(4, log.lines[3].clone());
    assert_eq!(checked(&added).expect_err("twice").first_bad_position(), Some(4));
    let mut swapped = log.export(1, 9);
    swapped.1.swap(2, 3);
    (swapped.1[2].position, swapped.1[3].position) = (3, 4);
    assert!(matches!(checked(&swapped), Err(VerifyError::Root { from: 1, to: 9 })));
}

#[test]
fn a_consistent_forgery_is_narrowed_down_by_what_is_known_besides() {
    let honest = Log::of(600);
    let mut forged = Log::of(0);
    for position in 1..=600 {
        let mut line = if position == 300 { line(9_999) } else { line(position) };
        line.position = position;
        forged.add(line);
    }
    // The forger has rewritten leaf and subtrees, but cannot sign: the file carries the honest checkpoint.
    let (mut manifest, lines) = forged.export(1, 600);
    manifest.checkpoint = honest.note();
    let file = text(&(manifest, lines));
    assert!(matches!(check(&file, &Known::default()), Err(VerifyError::Root { .. })));
    let tiles: Vec<Hash> = (0..2).map(|index| honest.nodes[&Node { height: 8, index }]).collect();
    let known = Known { tiles, ..Known::default() };
    assert!(matches!(check(&file, &known), Err(VerifyError::Range { from: 257, to: 512 })));
    let earlier = leaves(text(&honest.export(200, 400)).as_bytes()).expect("reads");
    let known = Known { leaves: earlier, ..Known::default() };
    assert_eq!(check(&file, &known).expect_err("another").first_bad_position(), Some(300));
}

#[test]
fn an_earlier_checkpoint_has_to_be_continued() {
    let (early, log) = (Log::of(7), Log::of(20));
    let known = Known { checkpoints: vec![early.note()], ..Known::default() };
    let mut export = log.export(1, 20);
    assert!(matches!(check(&text(&export), &known), Err(VerifyError::Consistency { from: 7, .. })));
    let path = log.path(&tree::consistency(7, 20).expect("in order"));
    export.0.consistency.push(Consistency { from: 7, path });
    assert!(check(&text(&export), &known).is_ok());
    let mut other = Log::of(6);
    other.add(line(99));
    let known = Known { checkpoints: vec![other.note()], ..Known::default() };
    assert!(matches!(check(&text(&export), &known), Err(VerifyError::Consistency { from: 7, .. })));
    let known = Known { checkpoints: vec![log.note()], ..Known::default() };
    let short = early.export(1, 7);
    assert!(matches!(check(&text(&short), &known), Err(VerifyError::Consistency { from: 20, .. })));
}

#[test]
fn another_key_and_another_log_are_refused() {
    let file = text(&Log::of(3).export(1, 3));
    let other = signer().verifier_key("example.com/tlog/00000000000000000000000000000007").expect("a key");
    assert!(matches!(verify(file.as_bytes(), &other, &Known::default()), Err(VerifyError::Checkpoint(_))));
    let renamed =
        file.replacen("00000000-0000-0000-0000-000000000007", "00000000-0000-0000-0000-000000000008", 1);
    assert!(matches!(check(&renamed, &Known::default()), Err(VerifyError::Checkpoint(_))));
}

#[test]
fn what_is_no_export_is_refused_wherever_it_breaks() {
    let file = text(&Log::of(3).export(1, 3));
    for length in (0..file.len()).filter(|length| file.is_char_boundary(*length)) {
        assert!(check(&file[..length], &Known::default()).is_err(), "{length}");
    }
    assert!(check(&(file.clone() + "x"), &Known::default()).is_err());
    for wrong in ["", "\n", "{}\n", "null\n", "{\"events\":0}\n"] {
        assert!(matches!(check(wrong, &Known::default()), Err(VerifyError::Malformed { line: 1, .. })));
    }
}

/// The file with further lines, each before the line of that number.
fn with(file: &str, more: &[(usize, &str)]) -> String {
    let mut lines: Vec<&str> = file.lines().collect();
    for (at, line) in more.iter().rev() {
        lines.insert(*at, line);
    }
    lines.join("\n") + "\n"
}

#[test]
fn a_schema_stands_once_before_the_first_event_of_its_type() {
    let file = text(&Log::of(3).export(1, 3));
    let of = |event_type: &str, source: &str| format!(r#"{{"type":"{event_type}","schema":{{}},{source}}}"#);
    let schema = of("a.b.c.v1", r#""product":"1""#);
    let said = |more: &[(usize, &str)]| check(&with(&file, more), &Known::default());
    assert_eq!(said(&[(1, &schema)]).expect("verifies").schemas, 1);
    for wrong in [
        vec![(1, schema.as_str()), (1, &schema)],
        vec![(2, &schema)],
        vec![(4, &schema)],
        vec![(1, &of("a.b.d.v1", r#""product":"1""#))],
        vec![(1, &of("a.b.c.v1", r#""product":"1","registered_at":1"#))],
        // The position is in the file and holds something else, or is in no file.
        vec![(1, &of("a.b.c.v1", r#""registered_at":2"#))],
        vec![(1, &of("a.b.c.v1", r#""registered_at":9"#))],
    ] {
        let error = said(&wrong).expect_err("a schema");
        assert!(matches!(error, VerifyError::Schema { .. }), "{wrong:?}: {error}");
    }
    for wrong in [
        of("a.b.c.v1", r#""colour":"red""#),
        of("a.b.c.v1", r#""registered_at":-1"#),
        of("a.b.c.v1", r#""product":null"#),
        r#"{"type":"a.b.c.v1","schema":7,"product":"1"}"#.to_owned(),
        r#"{"keys":"YQ=="}"#.to_owned(),
        r#"{"colour":"red"}"#.to_owned(),
        r#"{"closed":"token_expired"}"#.to_owned(),
    ] {
        assert!(matches!(said(&[(1, &wrong)]), Err(VerifyError::Malformed { line: 2, .. })), "{wrong}");
    }
}

#[test]
fn a_registered_schema_is_the_one_in_the_log() {
    let mut log = Log::of(0);
    let registered = r#"{"type":"ext.a.b.c.v1","schema":{"type":"object"}}"#;
    let wider = r#"{"type":"ext.a.b.c.v1","schema":{}}"#;
    log.add(line_of(1, REGISTERED, registered));
    log.add(line_of(2, "ext.a.b.c.v1", "{}"));
    log.add(line_of(3, "integration.event_type.widened.v1", wider));
    let of = |schema: &str, at: u64| {
        format!(r#"{{"type":"ext.a.b.c.v1","schema":{schema},"registered_at":{at}}}"#)
    };
    let mut export = log.export(1, 3);
    let said = |export: &(Manifest, Vec<Line>), schema: &str, at: u64, line: usize| {
        check(&with(&text(export), &[(line, &of(schema, at))]), &Known::default())
    };
    assert!(said(&export, r#"{"type": "object"}"#, 1, 2).is_ok());
    assert!(said(&export, "{}", 3, 2).is_ok(), "also where the event stands behind");
    for (schema, at) in [("{}", 1), (r#"{"type":"object"}"#, 3), ("{}", 2)] {
        assert!(matches!(said(&export, schema, at, 2), Err(VerifyError::Schema { .. })), "{schema} {at}");
    }
    // Of what is not in the file nothing can be said.
    assert!(said(&log.export(2, 3), "{}", 1, 1).is_ok());
    export.1[0].payload = Part::Absent { absent: Absent::Withheld };
    assert!(said(&export, "{}", 1, 2).is_ok());
}

#[test]
fn keys_are_for_whom_the_manifest_names() {
    let mut export = Log::of(3).export(1, 3);
    let keys = serde_json::to_string(&Keys { keys: Base64(AGE_HEADER.to_vec()) }).expect("JSON");
    let said = |export: &(Manifest, Vec<Line>)| check(&with(&text(export), &[(2, &keys)]), &Known::default());
    assert!(matches!(said(&export), Err(VerifyError::Malformed { line: 3, .. })));
    export.0.keys_to = Some("age1somebody".to_owned());
    assert!(said(&export).is_ok());
    let known = leaves(with(&text(&export), &[(2, &keys)]).as_bytes()).expect("reads");
    assert_eq!(known.len(), 3, "keys are passed over");
}

const REGISTERED: &str = crate::export::REGISTRATION_EVENT_TYPES[0];
const OLD_LOG: Uuid = Uuid::from_u128(6);
const OLD_ORIGIN: &str = "example.org/tlog/00000000000000000000000000000006";

/// The fact that this log came after the old one, at a position, citing a checkpoint.
fn replacing(position: u64, kept_to: u64, checkpoint: &str) -> Line {
    let fact = serde_json::json!({
        "old_log_id": OLD_LOG, "new_log_id": LOG, "kept_to": kept_to, "checkpoint": checkpoint, "reason": "a test",
    });
    let payload = fact.to_string().into_bytes();
    let entry = Frame {
        log_id: LOG,
        event_id: Uuid::from_u128(position.into()),
        stream: "platform.log/1",
        version: 1,
        event_type: "platform.log.replaced.v1",
        schema_version: 1,
        recorded_at: 0,
        payload_encoding: 1,
        payload_commitment: commitment(CommitmentKind::Payload, &[1; 16], &payload),
        metadata_commitment: commitment(CommitmentKind::Metadata, &[2; 16], b"{}"),
        subject_keys: &[],
    };
    let entry = entry.encode().expect("frames");
    let payload = Part::Open { salt: Base64(vec![1; 16]), bytes: Base64(payload) };
    Line { position, leaf: leaf_hash(&entry).into(), entry: Base64(entry), payload, ..line(position) }
}

/// A checkpoint of the old log over the first events of a log, or over others.
fn old_note(log: &Log) -> String {
    let checkpoint =
        Checkpoint { origin: OLD_ORIGIN.to_owned(), size: log.frontier.size(), root: log.frontier.root() };
    signer().sign(OLD_ORIGIN, &checkpoint.to_string()).expect("signs")
}

/// A log of twelve events that came after one of ten, of which eight were kept, with a proof for each earlier size.
fn replaced_log() -> (Manifest, Vec<Line>) {
    let mut log = Log::of(8);
    log.add(replacing(9, 8, &old_note(&Log::of(10))));
    (10..=12).for_each(|position| log.add(line(position)));
    let mut export = log.export(1, 12);
    for from in 1..=12 {
        let path = log.path(&tree::consistency(from, 12).expect("in order"));
        export.0.consistency.push(Consistency { from, path });
    }
    export
}

#[test]
fn a_checkpoint_of_a_replaced_log_is_continued_up_to_where_it_was_kept() {
    let export = replaced_log();
    let report = checked(&export).expect("verifies");
    let told = Replaced { position: 9, old_log_id: OLD_LOG, kept_to: 8, signed_to: Some(10) };
    assert_eq!(report.replaced, [told]);
    let known = |log: &Log| Known { checkpoints: vec![old_note(log)], ..Known::default() };
    for size in 1..=8 {
        assert!(check(&text(&export), &known(&Log::of(size))).is_ok(), "{size}");
    }
    for size in 9..=13 {
        let error = check(&text(&export), &known(&Log::of(size))).expect_err("what was signed is void");
        assert!(
            matches!(error, VerifyError::Replaced { from, position: 9, kept_to: 8, .. } if from == size),
            "{error}"
        );
        assert_eq!(error.first_bad_position(), Some(9));
    }
    // Below the replacement nothing may differ either.
    let mut other = Log::of(6);
    other.add(line(99));
    let error = check(&text(&export), &known(&other)).expect_err("another history");
    assert!(matches!(error, VerifyError::Consistency { from: 7, .. }), "{error}");
}

#[test]
fn a_checkpoint_of_a_log_that_the_file_does_not_tell_of_is_told_apart() {
    let known = Known { checkpoints: vec![old_note(&Log::of(3))], ..Known::default() };
    let untold = Log::of(12).export(1, 12);
    let error = check(&text(&untold), &known).expect_err("nothing tells of it");
    assert!(matches!(error, VerifyError::OtherLog { from: 3, .. }), "{error}");
    // Nor where the fact is withheld, or speaks of another place.
    let mut withheld = replaced_log();
    withheld.1[8].payload = Part::Absent { absent: Absent::Withheld };
    assert!(matches!(check(&text(&withheld), &known), Err(VerifyError::OtherLog { .. })));
    let mut misplaced = Log::of(8);
    misplaced.add(replacing(9, 7, ""));
    assert!(matches!(check(&text(&misplaced.export(1, 9)), &known), Err(VerifyError::OtherLog { .. })));
    // Of somebody else's key it is no checkpoint at all.
    let forged = old_note(&Log::of(3)).replacen("\n3\n", "\n2\n", 1);
    let known = Known { checkpoints: vec![forged], ..Known::default() };
    assert!(matches!(check(&text(&replaced_log()), &known), Err(VerifyError::Checkpoint(_))));
}
