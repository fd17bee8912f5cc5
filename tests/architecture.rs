//! The directions between crates, the same name in each layer, and the size of files: rules that a machine can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each crate may use of the product's own crates.
const ARROWS: [(&str, &[&str]); 26] = [
    ("describe", &[]),
    ("schemas", &["describe"]),
    ("json_schema", &["schemas"]),
    ("access", &["schemas"]),
    ("proofs", &[]),
    ("database", &[]),
    ("fairness", &[]),
    ("keyring", &["database", "schemas"]),
    ("store", &["database", "fairness", "keyring", "schemas", "proofs"]),
    ("nats", &["store", "schemas"]),
    ("commands", &["access", "describe", "json_schema", "store", "schemas", "fairness"]),
    ("projections", &["store", "schemas"]),
    ("queries", &["fairness", "projections", "store", "schemas"]),
    ("sagas", &["access", "commands", "store", "schemas", "fairness"]),
    ("privacy", &["access", "commands", "keyring", "nats", "store", "schemas"]),
    ("audit", &["nats", "store", "proofs", "schemas"]),
    ("activity", &["store"]),
    ("webhooks", &["store", "schemas", "fairness"]),
    (
        "gateway",
        &[
            "access", "activity", "commands", "privacy", "queries", "audit", "webhooks", "store", "nats",
            "schemas", "fairness",
        ],
    ),
    ("settings", &["database", "gateway", "keyring", "nats"]),
    ("devserver", &["access", "commands", "database", "gateway", "nats", "schemas", "settings", "store"]),
    (
        "wiring",
        &[
            "audit",
            "commands",
            "database",
            "devserver",
            "gateway",
            "keyring",
            "nats",
            "privacy",
            "projections",
            "sagas",
            "schemas",
            "settings",
            "store",
            "webhooks",
        ],
    ),
    ("terminal", &[]),
    ("client", &["proofs", "schemas"]),
    ("verifier", &["json_schema", "proofs", "schemas", "terminal"]),
    (
        "cli",
        &[
            "access",
            "activity",
            "client",
            "commands",
            "database",
            "devserver",
            "gateway",
            "keyring",
            "nats",
            "privacy",
            "projections",
            "proofs",
            "sagas",
            "schemas",
            "settings",
            "store",
            "terminal",
            "verifier",
            "wiring",
        ],
    ),
];

/// Lines at which a file has become two.
const LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(path).expect("the manifest is there").parse().expect("the manifest is TOML")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ARROWS.iter().map(|(name, _)| *name).chain(["tests", "bench"]) {
        let folder = root().join(folder);
        sources(&if folder.join("src").exists() { folder.join("src") } else { folder }, &mut found);
    }
    sources(&root().join("src"), &mut found);
    found
}

#[test]
fn crates_use_each_other_in_the_allowed_directions_only() {
    let own: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in ARROWS {
        let manifest = manifest(name);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for dependency in dependencies.keys().filter(|dependency| own.contains(dependency.as_str())) {
                assert!(allowed.contains(&dependency.as_str()), "{name} must not use {dependency}");
            }
        }
    }
}

#[test]
fn the_vocabulary_does_no_input_or_output() {
    let dependencies = manifest("schemas");
    let dependencies = dependencies["dependencies"].as_table().expect("a table");
    for banned in ["tokio", "tokio-postgres", "async-nats", "axum", "reqwest"] {
        assert!(!dependencies.contains_key(banned), "schemas must not use {banned}");
    }
}

#[test]
fn sql_stands_in_the_files_of_rows_alone() {
    let allowed = [
        "store/",
        "database/src/named_sql.rs",
        "database/src/reads/",
        "keyring/",
        "activity/src/lib.rs",
        "audit/src/merkle.rs",
        "audit/src/sealer/rows.rs",
        "gateway/src/auth/tickets.rs",
        "nats/src/integrators/registry",
        "nats/src/relay/progress.rs",
        "projections/src/engine/",
        "queries/src/",
        "sagas/src/engine/",
        "privacy/src/key_rows.rs",
        "webhooks/src/attempts.rs",
        "webhooks/src/failures.rs",
        "webhooks/src/registry.rs",
        "tests/",
        "bench/",
    ];
    for path in all_sources() {
        let relative = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        if allowed.iter().any(|prefix| relative.starts_with(prefix)) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            let statement = ["\"select ", "\"insert into ", "\"update ", "\"delete from "];
            assert!(!statement.iter().any(|start| line.contains(start)), "SQL in {relative}: {line}");
        }
    }
}

/// The text of an error alone often says no more than that something failed.
#[test]
fn errors_are_logged_with_their_sources() {
    for path in all_sources() {
        let relative = path.strip_prefix(root()).expect("below the root");
        if relative.starts_with("tests") || relative.starts_with("bench") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            let shortened = ["%error", "?error", "error = error.to_string()"];
            let mut values = ["error = %", "cause = %"].iter().filter_map(|name| line.split(name).nth(1));
            let is_whole = !shortened.iter().any(|text| line.contains(text))
                && values.all(|value| value.starts_with("Causes(") || value.starts_with("Cause::of("));
            assert!(is_whole, "{} logs an error without its sources: {line}", relative.display());
        }
    }
}

/// A metric that is not in the catalogue has no meaning in `/metrics` and no line in `docs/metrics.md`.
#[test]
fn every_metric_is_in_the_catalogue() {
    let mut used = BTreeSet::new();
    for path in all_sources() {
        let relative = path.strip_prefix(root()).expect("below the root");
        if relative.starts_with("tests")
            || relative.starts_with("bench")
            || relative.ends_with("src/metrics.rs")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for start in ["counter!(", "gauge!(", "histogram!("] {
            for call in text.split(start).skip(1) {
                let name = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                used.insert(name.expect("a metric is named by a literal").to_owned());
            }
        }
    }
    let known: BTreeSet<String> =
        gateway::metrics::METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(used, known);
}

#[test]
fn an_aggregate_has_the_same_file_name_in_each_layer() {
    let has = |layer: &str, category: &str| {
        let path = root().join(layer).join(format!("{}.rs", category.replace('.', "/")));
        assert!(path.is_file(), "{} is missing", path.display());
    };
    for aggregate in commands::AGGREGATES.iter() {
        has("schemas/src", aggregate.category);
        has("commands/src", aggregate.category);
    }
    for read_model in projections::READ_MODELS.iter() {
        has("projections/src", read_model.category);
    }
}

#[test]
fn a_described_aggregate_has_at_most_300_lines_and_65_for_a_command() {
    let mut per_command = Vec::new();
    println!(
        "{:<28}{:>11}{:>9}{:>13}{:>7}{:>10}{:>8}",
        "aggregate", "vocabulary", "rules", "read model", "lines", "commands", "each"
    );
    for aggregate in commands::AGGREGATES.iter() {
        let file = aggregate.category.replace('.', "/");
        let lines = ["schemas/src", "commands/src", "projections/src"].map(|layer| {
            let text =
                std::fs::read_to_string(root().join(layer).join(format!("{file}.rs"))).unwrap_or_default();
            text.lines().take_while(|line| *line != "#[cfg(test)]").count()
        });
        let (all, commands) = (lines.iter().sum::<usize>(), aggregate.commands.len());
        let [vocabulary, rules, read_model] = lines;
        println!(
            "{:<28}{vocabulary:>11}{rules:>9}{read_model:>13}{all:>7}{commands:>10}{:>8}",
            aggregate.category,
            all / commands
        );
        // Aggregates without a read model carry engines of their own in their files.
        if read_model > 0 {
            per_command.push(all / commands);
            assert!(all <= 300, "{file} has {all} lines");
        }
    }
    per_command.sort_unstable();
    assert!(per_command[per_command.len() / 2] <= 65, "lines for a command: {per_command:?}");
}

#[test]
fn every_file_opens_with_what_lives_in_it_and_none_is_too_long() {
    let mut long = BTreeMap::new();
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("//!"), "{} does not say what lives in it", path.display());
        let lines = text.lines().count();
        if lines > LINES {
            long.insert(path, lines);
        }
    }
    assert!(long.is_empty(), "cut these: {long:?}");
}

#[test]
fn every_decision_record_is_numbered_and_has_its_three_parts() {
    let mut numbers = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("docs/adr")).expect("the records").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number: u32 = name.get(..4).and_then(|digits| digits.parse().ok()).expect("a number in front");
        assert!(numbers.insert(number), "two records have the number {number}");
        let text = std::fs::read_to_string(entry.path()).expect("readable");
        for part in ["**Context.**", "**Decision.**", "**Consequences.**"] {
            assert!(text.contains(part), "{name} lacks {part}");
        }
    }
}
