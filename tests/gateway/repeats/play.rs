//! Plays a script under one key and judges each step by what was answered before and by what can be seen from outside.

use futures::future::{join, join_all};
use gateway::router::public_route_table;
use proptest::sample::Index;
use schemas::engine::ids;
use serde_json::Value;
use uuid::Uuid;

use super::super::authority::path_of;
use super::mutations::rename;
use super::place::{Answer, Asked, Caller, Content, Place, Seen};
use super::rows::{Case, Change, Kind, NOTHING, POST, PUT, name_of};

/// Bodies that no route takes.
const INVALID: [Content; 3] =
    [Content::Text("{\"colour\":\"red\"}"), Content::Text("{"), Content::Text("[]")];

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Step {
    /// The request itself, perhaps with other white space.
    Repeat { spaced: bool },
    /// The request, several times at once.
    RepeatsAtOnce(usize),
    /// The request and another one, several times at once.
    MixedAtOnce(usize),
    /// The request, several times while somebody else changes something.
    RepeatsDuringChange(usize),
    /// Somebody else changes something.
    Change,
    /// The same route with another body or target.
    OtherBody,
    /// The same route with a body that is not valid.
    InvalidBody(Index),
    /// Another route, or a mutation.
    OtherRoute(Index),
    /// A day, after which no answer with a secret is kept.
    DayPasses,
}

/// What was seen in a run, so that a run shows that it tried what it should.
#[derive(Debug, Default)]
pub struct Tally {
    pub first_answers: usize,
    pub repeats: usize,
    pub reuses_refused: usize,
    pub rejections: usize,
    pub changes: usize,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.first_answers += other.first_answers;
        self.repeats += other.repeats;
        self.reuses_refused += other.reuses_refused;
        self.rejections += other.rejections;
        self.changes += other.changes;
    }
}

/// What is wrong, in words.
type Judged<T = ()> = Result<T, String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err(what()) }
}

struct Play<'a> {
    place: &'a Place,
    case: Case,
    kind: Kind,
    key: Uuid,
    /// The request that used the key, and how it was answered.
    first: Option<(Asked, Answer)>,
    /// Whether that was a day ago.
    is_old: bool,
    /// Changes by others.
    changes: usize,
    tally: Tally,
}

/// Plays the steps; the error says which step went wrong and how.
pub async fn play(place: &Place, case: Case, kind: Kind, steps: &[Step]) -> Judged<Tally> {
    let (key, tally) = (ids::random_id(), Tally::default());
    let mut play = Play { place, case, kind, key, first: None, is_old: false, changes: 0, tally };
    for (number, step) in steps.iter().enumerate() {
        play.step(step).await.map_err(|wrong| format!("step {}, {step:?}: {wrong}", number + 1))?;
    }
    Ok(play.tally)
}

impl Play<'_> {
    async fn step(&mut self, step: &Step) -> Judged {
        let asked = self.case.asked.clone();
        match step {
            Step::Repeat { spaced } => self.alone(asked, *spaced).await,
            Step::RepeatsAtOnce(times) => self.at_once(vec![asked; *times], None).await,
            Step::MixedAtOnce(times) => {
                let mixed = [asked, self.case.other.clone()];
                self.at_once(mixed.into_iter().cycle().take(*times).collect(), None).await
            }
            Step::RepeatsDuringChange(times) => {
                let change = self.change();
                self.at_once(vec![asked; *times], change).await
            }
            Step::Change => {
                let change = self.change();
                self.at_once(Vec::new(), change).await
            }
            Step::OtherBody => self.alone(self.case.other.clone(), false).await,
            Step::InvalidBody(index) => self.alone(asked.with(index.get(&INVALID).clone()), false).await,
            Step::OtherRoute(index) => {
                let elsewhere = elsewhere(&asked.caller);
                // A stranger may use one route only.
                if elsewhere.is_empty() {
                    return Ok(());
                }
                self.alone(index.get(&elsewhere).clone(), false).await
            }
            Step::DayPasses => {
                self.place.day_passes().await;
                self.is_old = self.first.is_some();
                Ok(())
            }
        }
    }

    /// What somebody else does next.
    fn change(&self) -> Option<Change> {
        let body = self.first.as_ref().map_or(&Value::Null, |(_, answer)| &answer.body);
        self.case.change(body, self.changes)
    }

    /// One request under the key.
    async fn alone(&mut self, asked: Asked, spaced: bool) -> Judged {
        let before = self.place.look(&self.case.watched).await;
        let answer = self.place.send_written(&asked, Some(self.key), spaced).await;
        let after = self.place.look(&self.case.watched).await;
        if self.first.is_some() || !answer.is_success() {
            unchanged(&before, &after, &asked, &answer)?;
        }
        if self.first.is_none() && self.changes == 0 && asked == self.case.asked {
            self.expected(&answer, &before, &after)?;
        }
        if self.first.is_none() && answer.is_success() {
            ensure(answer.outcome().is_none_or(|outcome| outcome == "APPLIED"), || {
                format!("nothing was done before {answer:?}")
            })?;
            acted_once(&before, &after)?;
        }
        self.judge(asked, answer)
    }

    /// Several requests under the key, and what somebody else does, at once.
    async fn at_once(&mut self, asked: Vec<Asked>, change: Option<Change>) -> Judged {
        let (place, key, was_used) = (self.place, self.key, self.first.is_some());
        let before = place.look(&self.case.watched).await;
        let requests = asked.iter().map(|asked| place.send(asked, Some(key)));
        let (answers, changed) = join(join_all(requests), self.carry_out(change.as_ref())).await;
        changed?;
        let after = place.look(&self.case.watched).await;
        // Of mutations, the one that acted says so.
        let applied = answers.iter().filter(|answer| answer.outcome() == Some("APPLIED")).count();
        let mutated = answers.iter().any(|answer| answer.outcome().is_some() && answer.is_success());
        let acts = usize::from(mutated && !was_used);
        ensure(applied == acts, || format!("{applied} and not {acts} acted: {answers:?}"))?;

        let is_settled = was_used || answers.iter().all(|answer| !answer.is_success());
        if change.is_none() && is_settled {
            ensure(before == after, || format!("{answers:?}: {before:?} became {after:?}"))?;
        } else if change.is_none() {
            acted_once(&before, &after)?;
        } else if is_settled {
            let caused = |seen| place.events_of(seen, &self.case.asked.caller);
            ensure(caused(&before) == caused(&after), || format!("{answers:?} recorded events"))?;
        }

        let mut pairs: Vec<_> = asked.into_iter().zip(answers).collect();
        // The order in which they were carried out is not known: what was accepted comes first.
        pairs.sort_by_key(|(_, answer)| (!answer.is_success(), answer.outcome() == Some("DUPLICATE")));
        for (asked, answer) in pairs {
            let is_first = |(first, _): &(Asked, Answer)| *first == asked;
            let may_have_been_before = !was_used
                && !answer.is_success()
                && (change.is_some() || !self.first.as_ref().is_some_and(is_first));
            if may_have_been_before {
                self.tally.rejections += 1;
            } else {
                self.judge(asked, answer)?;
            }
        }
        Ok(())
    }

    /// The answer by what is known of the key.
    fn judge(&mut self, asked: Asked, answer: Answer) -> Judged {
        match &self.first {
            Some((first, first_answer)) if *first == asked => {
                self.tally.repeats += 1;
                if self.is_old && first_answer.holds_secret() {
                    return ensure(answer.is_expiry(), || format!("the secret was kept: {answer:?}"));
                }
                let expected = first_answer.repeated();
                ensure(answer == expected, || format!("{answer:?} is not the first answer {expected:?}"))
            }
            Some((first, _)) => {
                self.tally.reuses_refused += 1;
                // GraphQL reads what was sent before it looks at the key in it.
                let refused = answer.is_reuse() || asked.is_mutation() && answer.is_invalid();
                ensure(refused, || format!("the key of {first:?} was used for {asked:?}: {answer:?}"))
            }
            None if answer.is_success() => {
                self.tally.first_answers += 1;
                self.first = Some((asked, answer));
                Ok(())
            }
            None => {
                self.tally.rejections += 1;
                ensure(!answer.is_reuse(), || format!("nothing used the key of {asked:?}"))?;
                ensure(!answer.status.is_server_error(), || format!("{asked:?}: {answer:?}"))
            }
        }
    }

    /// Whether the first answer is what the row says.
    fn expected(&self, answer: &Answer, before: &Seen, after: &Seen) -> Judged {
        let holds = match self.kind {
            Kind::Effect => answer.is_success() && (before != after || !self.case.effect_shows),
            Kind::WithoutEffect => answer.is_success() && before == after,
            Kind::Rejected => !answer.is_success(),
        };
        ensure(holds, || format!("the first answer is not {:?}: {answer:?}", self.kind))
    }

    /// Somebody else's change.
    async fn carry_out(&mut self, change: Option<&Change>) -> Judged {
        let Some(change) = change else { return Ok(()) };
        match change {
            Change::Asked(asked) => {
                let answer = self.place.send(asked, None).await;
                ensure(!answer.status.is_server_error(), || format!("{asked:?}: {answer:?}"))?;
                if asked.path.ends_with("/rotate") && answer.is_success() {
                    self.case.watched.file = Some(answer.body);
                }
            }
            Change::DeadLetter(webhook, position) => self.place.dead_letter(webhook, *position).await,
            Change::Ticket(ticket) => {
                let opens = self.place.ticket_opens(ticket).await;
                ensure(opens == (self.changes == 0), || format!("the ticket opens: {opens}"))?;
            }
        }
        self.changes += 1;
        self.tally.changes += 1;
        Ok(())
    }
}

fn unchanged(before: &Seen, after: &Seen, asked: &Asked, answer: &Answer) -> Judged {
    ensure(before == after, || format!("{asked:?}, {answer:?}: {before:?} became {after:?}"))
}

/// One act records at most one event in a log, and adds at most one row to a list.
fn acted_once(before: &Seen, after: &Seen) -> Judged {
    let events = after.events.iter().all(|(who, count)| *count <= before.events.get(who).unwrap_or(&0) + 1);
    let rows = after.lists.iter().all(|(list, rows)| rows.len() <= before.lists[list].len() + 1);
    ensure(events && rows, || format!("more than one act: {before:?} became {after:?}"))
}

/// Requests under the same key elsewhere. Without the key each of them is refused.
fn elsewhere(caller: &Caller) -> Vec<Asked> {
    let garbage = Content::Text("{\"colour\":\"red\"}");
    match caller {
        Caller::First => {
            let routes = public_route_table().all();
            let own = |name: &str| name != "POST /v1/tenants" && name != "POST /v1/auth/register";
            let routes = routes.iter().filter(|route| route.is_idempotent() && own(&name_of(route)));
            let asked = routes.map(|route| {
                let method = route.method.clone().expect("a write names its method");
                Asked::new(method, path_of(route)).with(garbage.clone())
            });
            asked.chain([rename(NOTHING, "Nobody")]).collect()
        }
        Caller::Platform => [(POST, "/v1/users".to_owned()), (PUT, format!("/v1/users/{NOTHING}/roles"))]
            .map(|(method, path)| Asked::new(method, path).with(garbage.clone()).by(Caller::Platform))
            .into(),
        _ => Vec::new(),
    }
}
