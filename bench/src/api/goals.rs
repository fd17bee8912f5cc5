//! The ratios and costs that have a goal, and tables of them.

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::measure::{Figures, Measured};
use super::names::{
    ACCOUNT, ANNALS, BARE_INSERT, LIST, OBJECT, PEER, PEER_CLUSTER, PGBENCH, REFERENCE, REGISTER, RENAME,
    RENAME_ALONE, RENAME_OLD, RENAME_WITH_CONFLICTS, RENAME_WITH_ID, VISIBLE,
};
use crate::report::median_of;
use crate::usage::rounded;

type Figure = fn(&Figures) -> Option<f64>;

const RATE: Figure = |figures| Some(figures.per_second);
const P50: Figure = |figures| figures.p50_ms;
const P99: Figure = |figures| figures.p99_ms;
const CPU: Figure = |figures| figures.cpu_us.as_ref().map(super::measure::Cpu::servers);

/// A figure of the product, alone or divided by the same figure of something else in the same round.
pub struct Goal {
    name: &'static str,
    row: &'static str,
    figure: Figure,
    against: Option<(&'static str, &'static str)>,
    bound: Bound,
}

/// What is required, and what is aimed at.
enum Bound {
    AtLeast(f64, f64),
    AtMost(f64, f64),
    None,
}

#[derive(Serialize)]
pub struct Ratio {
    name: &'static str,
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_met: Option<bool>,
}

const fn goal(
    name: &'static str,
    row: &'static str,
    figure: Figure,
    against: Option<(&'static str, &'static str)>,
    bound: Bound,
) -> Goal {
    Goal { name, row, figure, against, bound }
}

impl Goal {
    pub const ALL: [Self; 23] = {
        use Bound::{AtLeast, AtMost, None as Unbound};
        [
            goal("list of 100, over PostGraphile", LIST, RATE, Some((LIST, PEER)), AtLeast(5.0, 8.0)),
            goal("list of 100, over two PostGraphiles", LIST, RATE, Some((LIST, PEER_CLUSTER)), Unbound),
            goal("list of 100, over pgbench", LIST, RATE, Some((LIST, PGBENCH)), AtLeast(0.55, 0.7)),
            goal("list of 100, over the reference executor", LIST, RATE, Some((LIST, REFERENCE)), Unbound),
            goal("list of 100, µs of all servers", LIST, CPU, None, AtMost(200.0, 200.0)),
            goal("object by id, over PostGraphile", OBJECT, RATE, Some((OBJECT, PEER)), AtLeast(5.0, 7.0)),
            goal("object by id, over two PostGraphiles", OBJECT, RATE, Some((OBJECT, PEER_CLUSTER)), Unbound),
            goal(
                "object by id, over the reference executor",
                OBJECT,
                RATE,
                Some((OBJECT, REFERENCE)),
                Unbound,
            ),
            goal("object by id, µs of all servers", OBJECT, CPU, None, AtMost(80.0, 80.0)),
            goal("rename, over PostGraphile's update", RENAME, RATE, Some((RENAME, PEER)), AtLeast(3.0, 6.0)),
            goal("rename, over two PostGraphiles", RENAME, RATE, Some((RENAME, PEER_CLUSTER)), Unbound),
            goal("rename, µs of all servers", RENAME, CPU, None, AtMost(350.0, 350.0)),
            goal(
                "rename with command id, over without",
                RENAME_WITH_ID,
                RATE,
                Some((RENAME, ANNALS)),
                Unbound,
            ),
            goal(
                "rename with conflicts, over without",
                RENAME_WITH_CONFLICTS,
                RATE,
                Some((RENAME, ANNALS)),
                Unbound,
            ),
            goal(
                "register, over PostGraphile's create",
                REGISTER,
                RATE,
                Some((REGISTER, PEER)),
                AtLeast(3.0, 6.0),
            ),
            goal("register, over two PostGraphiles", REGISTER, RATE, Some((REGISTER, PEER_CLUSTER)), Unbound),
            goal("one rename, p50 in ms", RENAME_ALONE, P50, None, AtMost(1.5, 1.5)),
            goal(
                "one rename, p50 over a bare INSERT",
                RENAME_ALONE,
                P50,
                Some((RENAME_ALONE, BARE_INSERT)),
                AtMost(f64::INFINITY, 1.2),
            ),
            goal(
                "one rename, p50 over PostGraphile's update",
                RENAME_ALONE,
                P50,
                Some((RENAME_ALONE, PEER)),
                Unbound,
            ),
            goal(
                "one rename, p50 of old over young",
                RENAME_OLD,
                P50,
                Some((RENAME_ALONE, ANNALS)),
                AtMost(1.1, 1.1),
            ),
            goal("visible, p50 in ms", VISIBLE, P50, None, AtMost(5.0, 5.0)),
            goal("visible, p99 in ms", VISIBLE, P99, None, AtMost(25.0, 25.0)),
            goal("GET /v1/auth/me, requests/s", ACCOUNT, RATE, None, AtLeast(15_000.0, 15_000.0)),
        ]
    };

    /// The median over the rounds.
    pub fn ratio(&self, measured: &[Measured]) -> Ratio {
        let figure = |round: usize, row: &str, system: &str| {
            let one = measured.iter().find(|one| (one.round, one.row, one.system) == (round, row, system));
            one.and_then(|one| (self.figure)(&one.figures))
        };
        let rounds = measured.iter().filter(|one| (one.row, one.system) == (self.row, ANNALS));
        let values = rounds.map(|one| {
            let value = (self.figure)(&one.figures)?;
            match self.against {
                Some((row, system)) => Some(value / figure(one.round, row, system)?),
                None => Some(value),
            }
        });
        let value = median_of(values).map(|value| rounded(value, 3));
        let (at_least, at_most, goal) = match self.bound {
            Bound::AtLeast(bound, goal) => (Some(bound), None, Some(goal)),
            Bound::AtMost(bound, goal) => (None, Some(bound).filter(|bound| bound.is_finite()), Some(goal)),
            Bound::None => (None, None, None),
        };
        let is_met = value.and_then(|value| {
            at_least.map(|bound| value >= bound).or_else(|| at_most.map(|bound| value <= bound))
        });
        Ratio { name: self.name, value, at_least, at_most, goal, is_met }
    }
}

/// A table whose numbers are on the right.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.set_header(header);
    table
}

pub fn ratios_table(ratios: &[Ratio]) -> Table {
    let mut table = table(&["ratio or cost", "value", "required", "goal", ""]);
    for ratio in ratios {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let required = match (ratio.at_least, ratio.at_most) {
            (Some(bound), _) => format!(">= {bound}"),
            (None, Some(bound)) => format!("<= {bound}"),
            (None, None) => String::new(),
        };
        let verdict = match ratio.is_met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        table.add_row([
            ratio.name.to_owned(),
            number(ratio.value),
            required,
            number(ratio.goal),
            verdict.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
