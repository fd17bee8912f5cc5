//! Every idempotent write of the API, REST and GraphQL, as one property. For any interleaving of a request under a key, its
//! repeats, other requests under the same key and changes by others: the first answer is given again to the same request,
//! every other request is refused, and nothing acts twice. A refused request uses no key: its repeat is decided anew. An
//! answer with a secret is given for a day; after that the repeat is told so, and still does not act.
//!
//! Layout: `rows` is the table of what is asked, built in `people`, `services`, `webhooks` and `mutations`; `place` sends and
//! looks from outside; `play` judges. `ANNALS_TEST_SEED` repeats the scripts of a run.

mod mutations;
mod people;
mod place;
mod play;
mod rows;
mod services;
mod webhooks;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use gateway::router::public_route_table;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use reqwest::Client;
use serde_json::json;
use tokio::runtime::Runtime;

use self::place::Place;
use self::play::{Step, Tally, play};
use self::rows::{Kind, ROWS, Row};
use crate::support::product::Product;
use crate::support::{dice::Dice, long};

/// Cases that share a tenant. Its lists fit one page.
const CASES_PER_TENANT: usize = 8;
/// Scripts that are tried to make a failing one shorter.
const SHRINKS_MAX: u32 = 24;

#[test]
fn for_any_interleaving_a_write_is_answered_as_the_first_time_and_acts_once() {
    run(false);
}

#[test]
fn long_for_any_interleaving_a_write_is_answered_as_the_first_time_and_acts_once() {
    if long::is_wanted() {
        run(true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_idempotent_write_has_a_row() {
    let routes = public_route_table().all();
    let mut writes: BTreeSet<String> =
        routes.iter().filter(|route| route.is_idempotent()).map(|route| rows::name_of(route)).collect();
    let tenant = Product::shared().tenant().await;
    let query = "{ __schema { mutationType { fields { name } } } }";
    let schema = tenant.graphql(query, json!({})).await;
    let mutations = schema["__schema"]["mutationType"]["fields"].as_array().expect("mutations").clone();
    writes.extend(mutations.iter().map(|field| format!("mutation {}", place::text(&field["name"]))));
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.name.to_owned()).collect();
    assert_eq!(rows, writes);
}

/// The tenant in which cases are played, until it has had enough of them.
struct Site {
    client: Client,
    place: RefCell<Option<(Rc<Place>, usize)>>,
    tally: RefCell<Tally>,
}

impl Site {
    async fn place(&self) -> Rc<Place> {
        let kept = self.place.take();
        let (place, played) = match kept.filter(|(_, played)| *played < CASES_PER_TENANT) {
            Some(kept) => kept,
            None => (Rc::new(Place::new(&self.client).await), 0),
        };
        self.place.replace(Some((Rc::clone(&place), played + 1)));
        place
    }
}

/// The short form plays one script of one kind a row, the long form many of every kind.
fn run(is_long: bool) {
    let (seed, began) = (long::seed(), Instant::now());
    println!("seed {seed}");
    let runtime = Runtime::new().expect("a runtime");
    let site = Site { client: Client::new(), place: RefCell::default(), tally: RefCell::default() };
    let mut dice = Dice::new(seed);
    let mut cases = 0;
    for row in ROWS {
        let some = [row.kinds[dice.below(row.kinds.len() as u64) as usize]];
        for kind in if is_long { row.kinds } else { &some } {
            let scripts = if is_long { 12 } else { 1 };
            check(&runtime, &site, *row, *kind, dice.next(), scripts);
            cases += scripts;
        }
    }
    println!("{cases} cases in {:.1} s: {:?}", began.elapsed().as_secs_f64(), site.tally.borrow());
}

fn check(runtime: &Runtime, site: &Site, row: Row, kind: Kind, seed: u64, scripts: u32) {
    let config = Config {
        cases: scripts,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: SHRINKS_MAX,
        ..Config::default()
    };
    let played = TestRunner::new(config).run(&script(), |steps| {
        runtime.block_on(async {
            let place = site.place().await;
            let case = (row.prepare)(&place, kind).await;
            let tally = play(&place, case, kind, &steps).await.map_err(TestCaseError::fail)?;
            site.tally.borrow_mut().add(tally);
            Ok(())
        })
    });
    if let Err(error) = played {
        panic!("{} ({kind:?}): {error}", row.name);
    }
}

/// Any steps, and at last what most faults show in: somebody else's change, and another repeat.
fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|spaced| Step::Repeat { spaced }),
        2 => (2_usize..6).prop_map(Step::RepeatsAtOnce),
        1 => (2_usize..5).prop_map(Step::MixedAtOnce),
        1 => (1_usize..4).prop_map(Step::RepeatsDuringChange),
        3 => Just(Step::Change),
        2 => Just(Step::OtherBody),
        1 => any::<prop::sample::Index>().prop_map(Step::InvalidBody),
        2 => any::<prop::sample::Index>().prop_map(Step::OtherRoute),
        1 => Just(Step::DayPasses),
    ];
    vec(step, 1..6).prop_map(|mut steps| {
        steps.extend([Step::Repeat { spaced: false }, Step::Change, Step::Repeat { spaced: false }]);
        steps
    })
}
