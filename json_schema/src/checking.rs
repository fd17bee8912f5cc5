//! Checks data with a compiled schema, within a budget.

use schemas::engine::Json;

use super::compiling::{Check, Program, Range, Schema};
use super::limits::MESSAGE_CHARS_MAX;
use super::patterns::Searches;

/// Maximum errors reported for one event.
const ERRORS_MAX: usize = 20;
/// Budget of all checks of one request, in steps of an automaton: at most about a second of one processor.
const REQUEST_STEPS_MAX: u64 = 128 * 1024 * 1024;
/// Cost of visiting one value, in steps.
const VALUE_STEPS: u64 = 16;

/// The remaining budget of one request.
#[derive(Debug)]
pub struct Budget {
    steps: u64,
}

/// An invalid value in an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidData {
    /// The path to the value, separated by dots; empty for the whole data.
    pub at: String,
    /// A stable code in snake case.
    pub code: &'static str,
    /// A message for people. It never contains the value.
    pub message: String,
}

/// The budget is spent.
#[derive(Debug)]
struct BudgetExhausted;

impl Budget {
    /// The budget of a request.
    pub fn new() -> Self {
        Self { steps: REQUEST_STEPS_MAX }
    }

    fn take(&mut self, steps: u64) -> Result<(), BudgetExhausted> {
        let rest = self.steps.checked_sub(steps);
        self.steps = rest.unwrap_or(0);
        rest.map(|_| ()).ok_or(BudgetExhausted)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn check(program: &Program, data: &Json, budget: &mut Budget) -> Vec<InvalidData> {
    let mut run =
        Run { program, budget, searches: Searches::default(), place: Vec::new(), errors: Vec::new() };
    if let Err(BudgetExhausted) = run.schema(&program.root, data, true) {
        let message = "takes more work to check against its schema than one request may cost".to_owned();
        return vec![InvalidData { at: String::new(), code: "schema_work_exceeded", message }];
    }
    run.errors
}

enum PathSegment<'a> {
    Member(&'a str),
    Item(usize),
}

struct Run<'a> {
    program: &'a Program,
    budget: &'a mut Budget,
    searches: Searches,
    place: Vec<PathSegment<'a>>,
    errors: Vec<InvalidData>,
}

impl<'a> Run<'a> {
    /// Whether the data are valid. If `told`, errors are recorded; otherwise the first error ends the check.
    fn schema(&mut self, schema: &'a Schema, data: &'a Json, told: bool) -> Result<bool, BudgetExhausted> {
        self.budget.take(VALUE_STEPS)?;
        let checks = match schema {
            Schema::Nothing => return Ok(self.fault(told, "the value is not allowed")),
            Schema::All(checks) => checks,
        };
        let mut valid = true;
        for check in checks {
            valid &= self.check(check, data, told)?;
            if !valid && (!told || self.errors.len() >= ERRORS_MAX) {
                return Ok(false);
            }
        }
        Ok(valid)
    }

    fn check(&mut self, check: &'a Check, data: &'a Json, told: bool) -> Result<bool, BudgetExhausted> {
        match (check, data) {
            (Check::Types(types), _) => {
                Ok(types.admit(data)
                    || self.fault(told, &format!("the value is not of type {}", types.names())))
            }
            (Check::Enum(values), _) => {
                self.compare(data, values.len())?;
                let is_listed = values.binary_search(data).is_ok();
                Ok(is_listed || self.fault(told, "the value is none of those listed"))
            }
            (Check::Const(value), _) => {
                self.compare(data, 1)?;
                Ok(value == data || self.fault(told, "the value is not the one that is expected"))
            }
            (Check::AllOf(_) | Check::AnyOf(_) | Check::OneOf(_) | Check::Not(_) | Check::If { .. }, _) => {
                self.combination(check, data, told)
            }
            (_, Json::Number(_) | Json::String(_)) => self.scalar(check, data, told),
            (_, Json::Array(items)) => self.array(check, items, told),
            (_, Json::Object(_)) => self.object(check, data, told),
            (_, Json::Null | Json::Bool(_)) => Ok(true),
        }
    }

    fn combination(&mut self, check: &'a Check, data: &'a Json, told: bool) -> Result<bool, BudgetExhausted> {
        match check {
            Check::AllOf(all) => {
                let mut valid = true;
                for schema in all {
                    valid &= self.schema(schema, data, told)?;
                    if !valid && (!told || self.errors.len() >= ERRORS_MAX) {
                        break;
                    }
                }
                Ok(valid)
            }
            Check::AnyOf(any) => {
                for schema in any {
                    if self.schema(schema, data, false)? {
                        return Ok(true);
                    }
                }
                Ok(self.fault(told, "the value keeps to none of the schemas of anyOf"))
            }
            Check::OneOf(one) => {
                let mut kept = 0;
                for schema in one {
                    kept += u32::from(self.schema(schema, data, false)?);
                    if kept > 1 {
                        return Ok(
                            self.fault(told, "the value keeps to more than one of the schemas of oneOf")
                        );
                    }
                }
                Ok(kept == 1 || self.fault(told, "the value keeps to none of the schemas of oneOf"))
            }
            Check::Not(schema) => {
                let refused = !self.schema(schema, data, false)?;
                Ok(refused || self.fault(told, "the value keeps to the schema of not"))
            }
            Check::If { test, then, otherwise } => {
                let branch = if self.schema(test, data, false)? { then } else { otherwise };
                branch.as_ref().map_or(Ok(true), |schema| self.schema(schema, data, told))
            }
            _ => Ok(true),
        }
    }

    fn scalar(&mut self, check: &'a Check, data: &'a Json, told: bool) -> Result<bool, BudgetExhausted> {
        match (check, data) {
            (Check::Minimum { limit, is_open }, Json::Number(number)) => {
                self.compare(data, 1)?;
                let valid = if *is_open { number > limit } else { number >= limit };
                let bound = if *is_open { "above" } else { "at least" };
                Ok(valid || self.fault(told, &format!("the value must be {bound} {limit}")))
            }
            (Check::Maximum { limit, is_open }, Json::Number(number)) => {
                self.compare(data, 1)?;
                let valid = if *is_open { number < limit } else { number <= limit };
                let bound = if *is_open { "below" } else { "at most" };
                Ok(valid || self.fault(told, &format!("the value must be {bound} {limit}")))
            }
            (Check::MultipleOf(divisor), Json::Number(number)) => {
                self.budget.take(data.size() as u64 * VALUE_STEPS)?;
                let valid = number.is_multiple_of(divisor);
                Ok(valid || self.fault(told, &format!("the value must be a multiple of {divisor}")))
            }
            (Check::Chars(range), Json::String(text)) => {
                self.budget.take(text.len() as u64)?;
                Ok(self.within(*range, text.chars().count(), "characters", told))
            }
            (Check::Pattern(number), Json::String(text)) => {
                let valid = self.matches(*number, text)?;
                Ok(valid || self.fault(told, "the value does not match the pattern"))
            }
            _ => Ok(true),
        }
    }

    fn array(&mut self, check: &'a Check, items: &'a [Json], told: bool) -> Result<bool, BudgetExhausted> {
        match check {
            Check::Length(range) => Ok(self.within(*range, items.len(), "items", told)),
            Check::UniqueItems => {
                self.budget.take(items.len() as u64)?;
                for item in items {
                    self.compare(item, items.len())?;
                }
                let mut sorted: Vec<&Json> = items.iter().collect();
                sorted.sort_unstable();
                let valid = sorted.windows(2).all(|pair| pair[0] != pair[1]);
                Ok(valid || self.fault(told, "the items must be different from each other"))
            }
            Check::Items { first, others } => {
                let mut valid = true;
                for (index, item) in items.iter().enumerate() {
                    let Some(schema) = first.get(index).or(others.as_deref()) else { break };
                    self.place.push(PathSegment::Item(index));
                    valid &= self.schema(schema, item, told)?;
                    self.place.pop();
                    if !valid && (!told || self.errors.len() >= ERRORS_MAX) {
                        break;
                    }
                }
                Ok(valid)
            }
            Check::Contains { schema, range } => {
                let mut count = 0;
                for item in items {
                    count += usize::from(self.schema(schema, item, false)?);
                    if count > range.most || (range.most == usize::MAX && count >= range.least) {
                        break;
                    }
                }
                Ok(self.within(*range, count, "items that keep to the schema of contains", told))
            }
            _ => Ok(true),
        }
    }

    fn object(&mut self, check: &'a Check, data: &'a Json, told: bool) -> Result<bool, BudgetExhausted> {
        let Json::Object(members) = data else { return Ok(true) };
        let mut valid = true;
        match check {
            Check::Members(range) => valid = self.within(*range, members.len(), "members", told),
            Check::Required(names) => {
                for name in names {
                    self.budget.take(VALUE_STEPS)?;
                    if !members.contains_key(name) {
                        valid = self.fault(told, &format!("the member {name} is missing"));
                        if !told || self.errors.len() >= ERRORS_MAX {
                            break;
                        }
                    }
                }
            }
            Check::DependentRequired(dependent) => {
                for (name, needed) in dependent {
                    self.budget.take(VALUE_STEPS * (1 + needed.len() as u64))?;
                    if members.contains_key(name) && !needed.iter().all(|name| members.contains_key(name)) {
                        valid = self.fault(told, &format!("members that {name} needs are missing"));
                    }
                }
            }
            Check::DependentSchemas(dependent) => {
                for (name, schema) in dependent {
                    self.budget.take(VALUE_STEPS)?;
                    if members.contains_key(name) {
                        valid &= self.schema(schema, data, told)?;
                    }
                }
            }
            Check::Names(schema) => {
                for name in members.keys() {
                    if !self.name(schema, name)? {
                        valid = self.fault(told, "the name of a member is not allowed");
                        break;
                    }
                }
            }
            Check::Properties { named, patterned, others } => {
                for (name, value) in members {
                    self.budget.take(VALUE_STEPS)?;
                    self.place.push(PathSegment::Member(name));
                    let mut is_known = false;
                    if let Some(schema) = named.get(name) {
                        is_known = true;
                        valid &= self.schema(schema, value, told)?;
                    }
                    for (number, schema) in patterned {
                        if self.matches(*number, name)? {
                            is_known = true;
                            valid &= self.schema(schema, value, told)?;
                        }
                    }
                    let is_refused = match others.as_deref() {
                        Some(Schema::Nothing) => !is_known,
                        Some(schema) if !is_known => {
                            valid &= self.schema(schema, value, told)?;
                            false
                        }
                        _ => false,
                    };
                    self.place.pop();
                    if is_refused {
                        // The error is reported for the object.
                        valid = self.fault(told, &format!("the member {name} is not allowed"));
                    }
                    if !valid && (!told || self.errors.len() >= ERRORS_MAX) {
                        break;
                    }
                }
            }
            _ => {}
        }
        Ok(valid)
    }

    /// Whether the name of a member is valid by a schema.
    fn name(&mut self, schema: &Schema, name: &str) -> Result<bool, BudgetExhausted> {
        self.budget.take(VALUE_STEPS + name.len() as u64)?;
        let name = Json::String(name.into());
        let mut names = Run {
            program: self.program,
            budget: self.budget,
            searches: Searches::default(),
            place: Vec::new(),
            errors: Vec::new(),
        };
        // The search caches are reused for the next name.
        std::mem::swap(&mut names.searches, &mut self.searches);
        let valid = names.schema(schema, &name, false);
        let searches = names.searches;
        self.searches = searches;
        valid
    }

    fn matches(&mut self, number: usize, text: &str) -> Result<bool, BudgetExhausted> {
        self.budget.take(self.program.patterns.cost(number, text.len()))?;
        Ok(self.program.patterns.matches(number, text, &mut self.searches))
    }

    /// Charges a binary search of the data among `among` values, or its share of sorting them.
    fn compare(&mut self, data: &Json, among: usize) -> Result<(), BudgetExhausted> {
        let rounds = u64::from(usize::BITS - among.leading_zeros());
        self.budget.take(data.size() as u64 * (1 + rounds))
    }

    fn within(&mut self, range: Range, count: usize, what: &str, told: bool) -> bool {
        range.contains(count)
            || if count < range.least {
                self.fault(told, &format!("there must be at least {} {what}", range.least))
            } else {
                self.fault(told, &format!("there must be at most {} {what}", range.most))
            }
    }

    /// Records an error if `told`. Always returns `false`, as the result of the check.
    fn fault(&mut self, told: bool, message: &str) -> bool {
        if told && self.errors.len() < ERRORS_MAX {
            let steps = self.place.iter().map(|step| match step {
                PathSegment::Member(name) => (*name).to_owned(),
                PathSegment::Item(index) => index.to_string(),
            });
            let at = steps.collect::<Vec<_>>().join(".").chars().take(MESSAGE_CHARS_MAX).collect();
            let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
            self.errors.push(InvalidData { at, code: "schema_violated", message });
        }
        false
    }
}
