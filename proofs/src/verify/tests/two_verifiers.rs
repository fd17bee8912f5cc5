//! The verifier of this crate and `docs/audit-verify.py` say the same of every file: of files that were changed in known
//! ways, and of files that were changed at random.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use super::*;

/// Files that are changed at random.
const RANDOM_FILES: usize = 3_000;

/// Judges the files on standard input, each behind its length. A signature is verified once for all of them.
const DRIVER: &str = r#"
import functools, importlib.util, io, sys
spec = importlib.util.spec_from_file_location("verifier", sys.argv[1])
verifier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verifier)
verifier.signature_holds = functools.lru_cache(verifier.signature_holds)
while length := sys.stdin.buffer.read(4):
    file = io.BytesIO(sys.stdin.buffer.read(int.from_bytes(length, "big")))
    said, _, code = verifier.judge(file, sys.argv[2])
    print(said if code else "verified")
"#;

fn said_by_python(files: &[Vec<u8>]) -> Vec<String> {
    let key = signer().verifier_key(ORIGIN).expect("a key").to_string();
    let verifier = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/audit-verify.py");
    let mut python = Command::new("python3")
        .args(["-c", DRIVER, verifier, &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut input = python.stdin.take().expect("a pipe");
    let mut output = String::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for file in files {
                input.write_all(&(file.len() as u32).to_be_bytes()).expect("writes");
                input.write_all(file).expect("writes");
            }
        });
        python.stdout.take().expect("a pipe").read_to_string(&mut output).expect("reads");
    });
    assert!(python.wait().expect("ends").success());
    output.lines().map(str::to_owned).collect()
}

fn said_here(file: &[u8]) -> String {
    match verify(file, &signer().verifier_key(ORIGIN).expect("a key"), &Known::default()) {
        Ok(_) => "verified".to_owned(),
        Err(error) => {
            error.first_bad_position().map_or("not verified".to_owned(), |position| position.to_string())
        }
    }
}

/// What both say of each file; fails where they differ.
fn both_say(files: &[(String, Vec<u8>)]) -> Vec<String> {
    let bytes: Vec<Vec<u8>> = files.iter().map(|(_, file)| file.clone()).collect();
    let said: Vec<String> = bytes.iter().map(|file| said_here(file)).collect();
    let python = said_by_python(&bytes);
    assert_eq!(python.len(), files.len());
    for (((what, file), here), there) in files.iter().zip(&said).zip(&python) {
        assert_eq!(here, there, "here and there, of {what}:\n{}", String::from_utf8_lossy(file));
    }
    said
}

/// Files that verify, with everything in them that a file can hold.
fn honest() -> Vec<String> {
    let mut log = Log::of(3);
    let registered =
        r#"{"type":"ext.a.b.c.v1","schema":{"type":"object","maximum":10,"x":[null,{"y":"é"}]},"n":1}"#;
    log.add(line_of(4, REGISTERED, registered));
    log.add(line_of(5, "ext.a.b.c.v1", "{}"));
    for position in 6..=11 {
        log.add(line(position));
    }
    let described = [
        r#"{"type":"a.b.c.v1","schema":{"title":"n","minimum":1e2},"product":"0.1.0"}"#,
        r#"{"type":"ext.a.b.c.v1","schema":{"x":[null,{"y":"\u00e9"}],"maximum":10.0,"type":"object"},"registered_at":4}"#,
    ];
    let keys = serde_json::to_string(&Keys { keys: Base64(AGE_HEADER.to_vec()) }).expect("JSON");
    let mut range = log.export(2, 10);
    range.0.keys_to = Some("age1auditor".to_owned());
    range
        .0
        .consistency
        .push(Consistency { from: 7, path: log.path(&tree::consistency(7, 11).expect("in order")) });
    range.1[1].payload = Part::Absent { absent: Absent::Withheld };
    range.1[7].metadata = Part::Absent { absent: Absent::Redacted };
    let range = with(&text(&range), &[(1, described[0]), (2, described[1]), (5, &keys)]);
    let mut stream = log.export(1, 11);
    stream.0 = Manifest { stream: Some("a.b/1".to_owned()), before: vec![], after: vec![], ..stream.0 };
    stream.1.retain(|line| !line.position.is_multiple_of(3));
    for line in &mut stream.1 {
        line.path = Some(log.path(&tree::inclusion(line.position - 1, 11).expect("in the log")));
    }
    let one = Log::of(1);
    let mut single = one.export(1, 1);
    single.0.stream = Some("a.b/1".to_owned());
    single.1[0].path = Some(Vec::new());
    vec![range, text(&stream), text(&single)]
}

/// Changes that the readers of JSON and base64 in many languages let pass, of the first honest file. Each is made once.
const LENIENCES: &[(&str, &str, &str)] = &[
    ("a member of the manifest twice", r#"{"format":"#, r#"{"format":"annals-export/v1","format":"#),
    (
        "a member twice, once in another spelling",
        r#"{"format":"#,
        r#"{"f\u006frmat":"annals-export/v1","format":"#,
    ),
    ("a member of an event twice", r#"{"position":5,"#, r#"{"position":5,"position":5,"#),
    ("a member of a part twice", r#""payload":{"#, r#""payload":{"salt":"AQEBAQEBAQEBAQEBAQEBAQ==","#),
    ("a member of a schema twice", r#""schema":{"x":"#, r#""schema":{"x":1,"x":"#),
    ("a member deep in a schema twice", r#"{"y":"#, r#"{"y":1,"y":"#),
    (
        "a member of a schema of the product twice",
        r#""schema":{"title":"n","#,
        r#""schema":{"title":"n","title":"n","#,
    ),
    ("a member of the end twice", r#"{"events":"#, r#"{"events":9,"events":"#),
    ("an unknown member of the manifest", r#"{"format":"#, r#"{"colour":"red","format":"#),
    ("an unknown member of a proof", r#"{"from":7,"#, r#"{"colour":1,"from":7,"#),
    ("a number with a fraction", r#""position":5,"#, r#""position":5.0,"#),
    ("a number with an exponent", r#""position":5,"#, r#""position":5e0,"#),
    ("a bound with a fraction", r#""from":2,"#, r#""from":2.0,"#),
    ("true for one", r#""from":2,"#, r#""from":true,"#),
    ("a number in quotes", r#""position":5,"#, r#""position":"5","#),
    ("a number beyond 64 bits", r#""from":7,"#, r#""from":18446744073709551616,"#),
    ("a number beyond 63 bits", r#""from":7,"#, r#""from":9223372036854775808,"#),
    ("a negative zero", r#""from":7,"#, r#""from":-0,"#),
    ("a number of thousands of digits", r#""minimum":1e2"#, r#""minimum":NINES,"x":NaN"#),
    ("not a number", r#""minimum":1e2"#, r#""minimum":NaN"#),
    ("infinity", r#""minimum":1e2"#, r#""minimum":-Infinity"#),
    ("an endless exponent", r#""minimum":1e2"#, r#""minimum":1e9999999999"#),
    ("another schema by a boolean", r#""maximum":10.0"#, r#""maximum":true"#),
    ("another schema by a digit far behind", r#""maximum":10.0"#, r#""maximum":10.00000000000000000001"#),
    ("half a surrogate pair", r#""title":"n""#, r#""title":"\ud800""#),
    ("half a surrogate pair in a name", r#""title":"n""#, r#""\udfff":"n""#),
    ("a control character", r#""title":"n""#, "\"title\":\"\u{1}\""),
    ("a byte order mark", r#"{"format":"#, "\u{feff}{\"format\":"),
    ("a comment", r#""title":"n""#, r#""title":/* */"n""#),
    ("a comma too many", r#""minimum":1e2}"#, r#""minimum":1e2,}"#),
    ("single quotes", r#""title":"n""#, "'title':'n'"),
    ("another space", r#""title":"n""#, "\u{a0}\"title\":\"n\""),
    ("a null for what is not there", r#""exported_at":"#, r#""stream":null,"exported_at":"#),
    ("a null for a source", r#""product":"0.1.0""#, r#""product":"0.1.0","registered_at":null"#),
    ("a null for a path", r#""position":5,"#, r#""path":null,"position":5,"#),
    ("a path in a file of a range", r#""position":5,"#, r#""path":[],"position":5,"#),
    ("an object for a word", r#""withheld""#, r#"{"withheld":null}"#),
    ("an empty line", "\n{\"position\":5,", "\n\n{\"position\":5,"),
    ("a line of spaces", "\n{\"position\":5,", "\n \n{\"position\":5,"),
    ("a line end of old times", "\n{\"position\":5,", "\r{\"position\":5,"),
    ("a separator of lines", "\n{\"position\":5,", "\u{2028}{\"position\":5,"),
    ("an id in upper case", "-000000000007\"", "-00000000000A\""),
    ("an id without hyphens", "00000000-0000-0000-0000-000000000007", "00000000000000000000000000000007"),
    ("an id in braces", "00000000-0000-0000-0000-000000000007", "{00000000-0000-0000-0000-000000000007}"),
    ("base64 without its end", "\"AQEBAQEBAQEBAQEBAQEBAQ==\"", "\"AQEBAQEBAQEBAQEBAQEBAQ\""),
    ("base64 with bits behind its end", "\"AQEBAQEBAQEBAQEBAQEBAQ==\"", "\"AQEBAQEBAQEBAQEBAQEBAR==\""),
    ("base64 with a space", "\"AQEBAQEBAQEBAQEBAQEBAQ==\"", "\" AQEBAQEBAQEBAQEBAQEBAQ==\""),
    ("base64 with a line end", "\"AQEBAQEBAQEBAQEBAQEBAQ==\"", "\"AQEBAQEBAQEB\\nAQEBAQEBAQ==\""),
    ("base64 with more of an end", "\"AQEBAQEBAQEBAQEBAQEBAQ==\"", "\"AQEBAQEBAQEBAQEBAQEBAQ====\""),
    (
        "a shorter hash in a proof",
        "\"consistency\":[{\"from\":7,\"path\":[\"",
        "\"consistency\":[{\"from\":7,\"path\":[\"AAAA\",\"",
    ),
    ("a carriage return in the note", "\\n11\\n", "\\r\\n11\\n"),
    ("a separator of lines in the note", "\\n11\\n", "\\u2028\\n11\\n"),
    ("a size in the note with a zero before it", "\\n11\\n", "\\n011\\n"),
];

/// Changes of the spelling alone: both verifiers take them.
const SPELLINGS: &[(&str, &str, &str)] = &[
    ("spaces between tokens", r#""position":5,"#, " \t\"position\" : 5 ,\r"),
    ("a line end of two characters", "\n{\"position\":5,", "\r\n{\"position\":5,"),
    ("an escape", r#"{"position":5,"#, r#"{"p\u006Fsition":5,"#),
    (
        "members in another order",
        r#""tenant":"demo","log_id":"00000000-0000-0000-0000-000000000007","#,
        r#""log_id":"00000000-0000-0000-0000-000000000007","tenant":"demo","#,
    ),
    ("an equal number in a schema", r#""maximum":10.0"#, r#""maximum":1E+1"#),
    ("a large number in a schema of the product", r#""minimum":1e2"#, r#""minimum":1e400"#),
    ("a pair of surrogates", r#""title":"n""#, r#""title":"\ud83d\ude00""#),
];

#[test]
fn two_verifiers_refuse_what_lenient_readers_let_pass() {
    let honest = honest();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (what, old, new) in LENIENCES {
        assert!(honest[0].contains(old), "{what}: {old}");
        let new = new.replace("NINES", &"9".repeat(5_000));
        files.push(((*what).to_owned(), honest[0].replacen(old, &new, 1).into_bytes()));
    }
    let file = honest[0].as_bytes();
    let array = honest[0].replacen("{\"events\":9}", "[9]", 1);
    let nested = honest[0].replacen("\"n\"", &format!("{}1{}", "[".repeat(200), "]".repeat(200)), 1);
    let deep = honest[0].replacen("\"n\"", &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), 1);
    let long = honest[0].replacen("\"n\"", &format!("\"{}\"", "n".repeat(4 << 20)), 1);
    let single = honest[2].replacen(",\"path\":[]", ",\"path\":null", 1);
    let pathless = honest[2].replacen(",\"path\":[]", "", 1);
    let subtrees = honest[1].replacen("\"before\":[]", &format!("\"before\":[\"{}=\"]", "A".repeat(43)), 1);
    let invalid = [&file[..file.len() - 3], b"\xff}\n"].concat();
    let surrogate = [&file[..1], b"\"\xed\xa0\x80\":1,", &file[1..]].concat();
    let garbage = [file, b"\0"].concat();
    files.extend([
        ("no last line end".to_owned(), file[..file.len() - 1].to_vec()),
        ("an empty line at the end".to_owned(), [file, b"\n"].concat()),
        ("bytes behind the end".to_owned(), garbage),
        ("bytes that are not UTF-8".to_owned(), invalid),
        ("a surrogate in UTF-8".to_owned(), surrogate),
        ("an array for an object".to_owned(), array.into_bytes()),
        ("values nested deep".to_owned(), nested.into_bytes()),
        ("values nested very deep".to_owned(), deep.into_bytes()),
        ("a line that is too long".to_owned(), long.into_bytes()),
        ("null for an empty path".to_owned(), single.into_bytes()),
        ("no path".to_owned(), pathless.into_bytes()),
        ("subtrees in a file of one stream".to_owned(), subtrees.into_bytes()),
    ]);
    for ((what, _), said) in files.iter().zip(both_say(&files)) {
        assert_ne!(said, "verified", "{what}");
    }
}

#[test]
fn two_verifiers_take_honest_files_however_they_are_spelled() {
    let honest = honest();
    let mut files: Vec<(String, Vec<u8>)> =
        honest.iter().map(|file| ("an honest file".to_owned(), file.clone().into_bytes())).collect();
    for (what, old, new) in SPELLINGS {
        assert!(honest[0].contains(old), "{what}: {old}");
        files.push(((*what).to_owned(), honest[0].replacen(old, new, 1).into_bytes()));
    }
    for ((what, _), said) in files.iter().zip(both_say(&files)) {
        assert_eq!(said, "verified", "{what}");
    }
}

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// Values that stand in a place of something else.
const ODD: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "1.0",
    "1e0",
    "-1",
    "01",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e999",
    "NaN",
    "Infinity",
    "\"\"",
    "\"1\"",
    "\"AA==\"",
    "\"AB==\"",
    "\"A A=\"",
    "\"__8=\"",
    "\"\\ud800\"",
    "\"withheld\"",
    "\"redacted\"",
    "[]",
    "[null]",
    "[\"\"]",
    "{}",
    "{\"absent\":\"withheld\"}",
    "{\"a\":1,\"a\":1}",
    "\"annals-export/v1\"",
    "\"a.b/1\"",
    "\"a.b.c.v1\"",
];
/// Bytes that mean something to a reader.
const BYTES: &[u8] = b"\"\\{}[]:,0123456789eE+-._=/ \t\r\nAa\0\x7f\xef\xff";

/// The tokens of JSON, or what looks like them.
fn tokens(text: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            byte if byte.is_ascii_alphanumeric() || b"+-.".contains(&byte) => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len())
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token);
        rest = behind;
    }
    tokens
}

/// A file that was changed a little, and how.
fn changed(file: &str, dice: &mut Dice) -> (String, Vec<u8>) {
    let mut lines: Vec<String> = file.lines().map(str::to_owned).collect();
    let at = dice.below(lines.len());
    let what = match dice.below(10) {
        0 => {
            let mut bytes = file.as_bytes().to_vec();
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] = dice.of(BYTES),
                1 => bytes.insert(at, dice.of(BYTES)),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
            return (format!("a byte at {at}"), bytes);
        }
        1 => {
            let line = lines.remove(at);
            let to = dice.below(lines.len() + 1);
            lines.insert(to, line);
            "a line moved"
        }
        2 => {
            let to = dice.below(lines.len() + 1);
            lines.insert(to, lines[at].clone());
            "a line twice"
        }
        3 => {
            lines.remove(at);
            "a line gone"
        }
        kind => {
            let text = lines[at].clone();
            let mut tokens = tokens(&text);
            let place = dice.below(tokens.len());
            let values: Vec<usize> =
                (0..tokens.len()).filter(|at| *at > 0 && ":[,".contains(tokens[at - 1])).collect();
            match kind {
                4 => drop(tokens.remove(place)),
                5 => tokens.insert(place, dice.of(&[" ", "\t", "\r", "\u{a0}", "\u{2028}", "\u{feff}"])),
                6 => {
                    // A member again, or another value in a list.
                    let end = (place + dice.below(8)).min(tokens.len());
                    let again: Vec<&str> = tokens[place..end].to_vec();
                    tokens.splice(place..place, again);
                }
                7 => {
                    let other = dice.below(tokens.len());
                    tokens.swap(place, other);
                }
                _ if !values.is_empty() => tokens[dice.of(&values)] = dice.of(ODD),
                _ => tokens.push(dice.of(ODD)),
            }
            lines[at] = tokens.concat();
            "tokens"
        }
    };
    (format!("{what} in line {at}"), (lines.join("\n") + "\n").into_bytes())
}

#[test]
fn two_verifiers_say_the_same_of_files_that_were_changed_at_random() {
    let honest = honest();
    let mut dice = Dice(7);
    let files: Vec<_> =
        (0..RANDOM_FILES).map(|number| changed(&honest[number % honest.len()], &mut dice)).collect();
    let said = both_say(&files);
    let verified = said.iter().filter(|said| *said == "verified").count();
    assert!(verified > 10 && verified < RANDOM_FILES / 2, "{verified} of {RANDOM_FILES} files verify");
}
