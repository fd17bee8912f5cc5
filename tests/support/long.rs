//! What the environment asks of the tests that have a long form.

/// Whether the long forms are wanted.
pub fn is_wanted() -> bool {
    variable("ANNALS_TEST_LONG").is_some()
}

/// How many faults the long form of the fault harness takes; `None` where the short form is wanted.
pub fn faults() -> Option<usize> {
    let number = |text: String| text.parse().expect("ANNALS_TEST_FAULTS is a number");
    is_wanted().then(|| variable("ANNALS_TEST_FAULTS").map_or(200, number))
}

/// The points of an enumeration, from 1 on, without end: all of them in the long form, else one in so many, beginning with
/// another one in each run.
pub fn points(one_in: u32) -> impl Iterator<Item = u32> {
    let (first, step) = if is_wanted() { (1, 1) } else { (1 + (seed() % u64::from(one_in)) as u32, one_in) };
    (first..).step_by(step as usize)
}

/// How long the long form of a load lasts.
pub fn seconds() -> u64 {
    variable("ANNALS_TEST_SECONDS").map_or(600, |text| text.parse().expect("ANNALS_TEST_SECONDS is a number"))
}

/// How many events the long form of a run has.
pub fn events() -> u64 {
    variable("ANNALS_TEST_EVENTS")
        .map_or(1_000_000, |text| text.parse().expect("ANNALS_TEST_EVENTS is a number"))
}

/// The seed of a run: a given one, or another each time.
pub fn seed() -> u64 {
    match variable("ANNALS_TEST_SEED") {
        Some(text) => text.parse().expect("ANNALS_TEST_SEED is a number"),
        None => {
            u64::from(std::process::id()) ^ u64::from(schemas::engine::clock::now().timestamp_subsec_nanos())
        }
    }
}

fn variable(name: &str) -> Option<String> {
    // Not `var`: settings of the product come from its configuration, and these are none.
    std::env::vars().find(|(known, _)| known == name).map(|(_, value)| value)
}
