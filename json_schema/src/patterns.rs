//! Patterns: ECMA-262 expressions as automata. Look-around and back-references are not supported, so a search takes
//! linear time.

use std::collections::HashMap;

use regex_automata::meta::{Cache, Regex};
use regex_automata::nfa::thompson::{NFA, WhichCaptures};
use regex_automata::util::syntax;
use regex_automata::{Input, nfa::thompson};

use super::error::{InvalidSchema, invalid};
use super::limits::{PATTERN_BYTES_MAX, PATTERNS_BYTES_MAX};

/// Minimum bytes of an automaton for each step that it may take on one byte of text.
const BYTES_PER_STEP: usize = 16;
/// Maximum bytes of the deterministic form that a search caches. It is dropped after the check.
const SEARCH_BYTES_MAX: usize = 128 * 1024;

/// The automata of a schema; each pattern is compiled once.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    known: HashMap<String, usize>,
    automata: Vec<Automaton>,
    /// Bytes of the automata, counted once for each use of a pattern.
    used: usize,
}

#[derive(Debug)]
struct Automaton {
    regex: Regex,
    bytes: usize,
}

/// The search caches of one check, by pattern.
#[derive(Default)]
pub(super) struct Searches(Vec<Option<Cache>>);

impl Patterns {
    /// The number of the pattern; a new pattern is compiled.
    pub(super) fn add(&mut self, pattern: &str, at: &str) -> Result<usize, InvalidSchema> {
        let number = if let Some(number) = self.known.get(pattern) {
            *number
        } else {
            self.automata.push(compile(pattern).map_err(|why| invalid(at, why))?);
            self.known.insert(pattern.to_owned(), self.automata.len() - 1);
            self.automata.len() - 1
        };
        self.used += self.automata[number].bytes;
        if self.used > PATTERNS_BYTES_MAX {
            let most =
                format!("the automata of a schema's patterns have at most {PATTERNS_BYTES_MAX} bytes in all");
            return Err(invalid(at, most));
        }
        Ok(number)
    }

    /// Maximum steps of a search in a text of this length.
    pub(super) fn cost(&self, number: usize, bytes: usize) -> u64 {
        (self.automata[number].bytes / BYTES_PER_STEP) as u64 * (bytes as u64 + 1)
    }

    pub(super) fn matches(&self, number: usize, text: &str, searches: &mut Searches) -> bool {
        if searches.0.len() <= number {
            searches.0.resize_with(number + 1, || None);
        }
        let regex = &self.automata[number].regex;
        let cache = searches.0[number].get_or_insert_with(|| regex.create_cache());
        regex.search_half_with(cache, &Input::new(text).earliest(true)).is_some()
    }

    /// Their approximate memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.automata.iter().map(|automaton| automaton.bytes.max(automaton.regex.memory_usage())).sum()
    }
}

fn compile(pattern: &str) -> Result<Automaton, String> {
    let unusable = || "is no regular expression that can be used here".to_owned();
    let rust = jsonschema_regex::to_rust_regex(pattern).map_err(|()| unusable())?;
    let expression = syntax::parse(&rust)
        .map_err(|_| "is no regular expression without look-around and back-references".to_owned())?;
    let too_large = |_| format!("its automaton has more than {PATTERN_BYTES_MAX} bytes");
    let limits =
        thompson::Config::new().nfa_size_limit(Some(PATTERN_BYTES_MAX)).which_captures(WhichCaptures::None);
    let automaton = NFA::compiler().configure(limits).build_from_hir(&expression).map_err(too_large)?;
    let config = Regex::config()
        .nfa_size_limit(Some(PATTERN_BYTES_MAX))
        .onepass_size_limit(Some(SEARCH_BYTES_MAX))
        .dfa_size_limit(Some(SEARCH_BYTES_MAX))
        .hybrid_cache_capacity(SEARCH_BYTES_MAX)
        .which_captures(WhichCaptures::Implicit);
    let regex = Regex::builder()
        .configure(config)
        .build_from_hir(&expression)
        .map_err(|_| format!("its automaton has more than {PATTERN_BYTES_MAX} bytes"))?;
    Ok(Automaton { regex, bytes: automaton.memory_usage() })
}
