//! Progress on standard error: a bar on a terminal, otherwise one line a second.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of one task.
pub struct ProgressReporter {
    name: String,
    unit: &'static str,
    bar: ProgressBar,
    /// The highest position reported, and when the last line was printed.
    last_reported: Mutex<(u64, Option<Instant>)>,
}

/// Minimum interval between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

impl ProgressReporter {
    /// A task over a known number of events. Appends may raise the number.
    pub fn new(name: impl Into<String>, total: u64) -> Self {
        Self::with_unit(name, "events", total)
    }

    /// A task over a known number of units.
    pub fn with_unit(name: impl Into<String>, unit: &'static str, total: u64) -> Self {
        let name = name.into();
        let template = format!("{{msg}} [{{wide_bar}}] {{human_pos}}/{{human_len}} {unit} {{eta}}");
        let style = ProgressStyle::with_template(&template).expect("the template is valid");
        let bar = ProgressBar::new(total).with_style(style).with_message(name.clone());
        Self { name, unit, bar, last_reported: Mutex::new((0, None)) }
    }

    /// A task over an unknown number of rows.
    pub fn rows(name: impl Into<String>) -> Self {
        let name = name.into();
        let style = ProgressStyle::with_template("{msg} {spinner} {human_pos} rows {per_sec}")
            .expect("the template is valid");
        let bar = ProgressBar::no_length().with_style(style).with_message(name.clone());
        Self { name, unit: "rows", bar, last_reported: Mutex::new((0, None)) }
    }

    /// Shows the progress. A position that is not higher than before is ignored.
    pub fn at(&self, position: u64) {
        let mut last_reported = self.last_reported.lock().expect("nothing panics while telling");
        if position <= last_reported.0 {
            return;
        }
        last_reported.0 = position;
        // Appends have moved the end of the log.
        if self.bar.length().is_some_and(|length| length < position) {
            self.bar.set_length(position);
        }
        self.bar.set_position(position);
        if !std::io::stderr().is_terminal() && last_reported.1.is_none_or(|at| at.elapsed() >= LINE_INTERVAL)
        {
            last_reported.1 = Some(Instant::now());
            let Self { name, unit, .. } = self;
            match self.bar.length() {
                Some(length) => eprintln!("{name}: {position} of {length} {unit}"),
                None => eprintln!("{name}: {position} {unit}"),
            }
        }
    }

    /// Sets the number when it becomes known.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
