//! What the compiler says about mistakes in descriptions: each message is at the word at fault.
//!
//! Each file of `describe/tests/compile_errors` is compiled alone, without code, against the crates that this binary is
//! built from. The `.stderr` beside it has one line an error: line and column, the word there, the message.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/describe/tests/compile_errors");
/// The case without a mistake.
const SOUND: &str = "sound";
/// The crates that cases name, or that the attributes name for them.
const CRATES: [&str; 12] = [
    "access",
    "chrono",
    "commands",
    "cqrs_es",
    "describe",
    "projections",
    "schemas",
    "schemars",
    "serde",
    "serde_json",
    "thiserror",
    "uuid",
];

type Libraries = BTreeMap<&'static str, PathBuf>;

/// The folder with what cargo has built for this binary.
fn dependencies() -> PathBuf {
    let program = std::env::current_exe().expect("this binary has a path");
    program.parent().expect("it is in a folder").to_owned()
}

/// The libraries that this binary is built from. Crates that build scripts use as well are there twice.
fn candidates() -> BTreeMap<&'static str, Vec<PathBuf>> {
    let dependencies = dependencies();
    let target = dependencies.ancestors().nth(2).expect("<target>/<profile>/deps");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["test", "--test", "annals", "--no-run", "--offline", "--message-format=json"]);
    cargo.arg("--target-dir").arg(target);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let Output { stdout, stderr, status } = cargo.output().expect("cargo runs");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let mut found = BTreeMap::<&str, Vec<PathBuf>>::new();
    for message in lines_of_json(&stdout) {
        let name = message["target"]["name"].as_str().unwrap_or_default().replace('-', "_");
        let Some(name) = CRATES.into_iter().find(|known| *known == name) else { continue };
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let libraries = files.filter(|file| [".rlib", ".so", ".dylib"].iter().any(|end| file.ends_with(end)));
        found.entry(name).or_default().extend(libraries.map(PathBuf::from));
    }
    found
}

/// The libraries that fit together: the case without a mistake compiles with them.
fn libraries() -> Libraries {
    let mut choices: Vec<Libraries> = vec![Libraries::new()];
    for (name, files) in candidates() {
        let with = |choice: &Libraries, file: &PathBuf| {
            choice.iter().map(|(name, file)| (*name, file.clone())).chain([(name, file.clone())]).collect()
        };
        choices = choices.iter().flat_map(|choice| files.iter().map(|file| with(choice, file))).collect();
    }
    let fits = choices.iter().find(|choice| compile(SOUND, choice).status.success());
    fits.cloned().unwrap_or_else(|| panic!("{SOUND}.rs:\n{}", errors(SOUND, &choices[0])))
}

fn compile(case: &str, libraries: &Libraries) -> Output {
    let mut rustc = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
    rustc.args(["--edition=2024", "--crate-type=lib", "--emit=metadata"]);
    // The compiler replaces its output file, so it gets a folder of this build: a device would be replaced, too.
    rustc.arg("--out-dir").arg(env!("CARGO_TARGET_TMPDIR"));
    rustc.args(["--error-format=json", "--cap-lints=allow"]);
    rustc.arg("-L").arg(format!("dependency={}", dependencies().display()));
    for (name, file) in libraries {
        rustc.arg("--extern").arg(format!("{name}={}", file.display()));
    }
    rustc.arg(format!("{FOLDER}/{case}.rs")).output().expect("rustc runs")
}

/// The errors of a case, in the order of the source.
fn errors(case: &str, libraries: &Libraries) -> String {
    let output = compile(case, libraries);
    let mut found: Vec<(u64, u64, String)> = Vec::new();
    for diagnostic in lines_of_json(&output.stderr).filter(|diagnostic| diagnostic["level"] == "error") {
        let message = diagnostic["message"].as_str().unwrap_or_default();
        let spans = diagnostic["spans"].as_array().into_iter().flatten();
        let Some(mut span) = spans.clone().find(|span| span["is_primary"] == true) else { continue };
        // The place where a macro of another file was called.
        while !span["file_name"].as_str().is_some_and(|file| file.starts_with(FOLDER)) {
            span = &span["expansion"]["span"];
            assert!(span.is_object(), "{case}: an error is in no file of ours: {diagnostic}");
        }
        let (line, column) = (number(&span["line_start"]), number(&span["column_start"]));
        let text = &span["text"][0];
        let (start, end) =
            (number(&text["highlight_start"]) as usize, number(&text["highlight_end"]) as usize);
        let word = &text["text"].as_str().unwrap_or_default()[start - 1..end - 1];
        let error = (line, column, format!("{line}:{column} `{word}`: {message}\n"));
        if !found.contains(&error) {
            found.push(error);
        }
    }
    found.sort();
    found.into_iter().map(|(.., text)| text).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn lines_of_json(output: &[u8]) -> impl Iterator<Item = Value> {
    output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn cases() -> Vec<String> {
    let files = std::fs::read_dir(FOLDER).expect("the folder is there").flatten().map(|entry| entry.path());
    let mut names: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Changed errors are written beside the committed ones for review.
fn compare(case: &str, libraries: &Libraries) -> Option<String> {
    let committed = format!("{FOLDER}/{case}.stderr");
    let errors = errors(case, libraries);
    if std::fs::read_to_string(&committed).unwrap_or_default() == errors {
        return None;
    }
    std::fs::write(format!("{committed}.new"), &errors).expect("the folder can be written");
    Some(format!("review {committed}.new and move it over {committed}:\n{errors}"))
}

#[test]
fn each_mistake_in_a_description_is_an_error_at_the_word_at_fault() {
    let (libraries, cases) = (libraries(), cases());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let parts = cases.chunks(cases.len().div_ceil(threads));
    let changed: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = parts
            .map(|part| scope.spawn(|| part.iter().filter_map(|case| compare(case, &libraries)).collect()))
            .collect();
        workers.into_iter().flat_map(|worker| -> Vec<String> { worker.join().expect("no panic") }).collect()
    });
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}
