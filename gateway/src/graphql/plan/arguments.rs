//! The arguments of a request, read as strictly as the library coerces them. Whatever is unusual makes the plan give up,
//! so that the library says what is wrong.

use async_graphql::parser::types::VariableDefinition;
use async_graphql::{Name, Positioned, Value, Variables};
use queries::{PageRequest, Select};
use schemas::engine::{Input, Model};
use serde_json::Value as Json;
use uuid::Uuid;

use super::{Arguments, GivenUp};
use crate::graphql::engine::pages::{page_request, page_size};

/// The values of the variables of one request.
pub(super) struct Values<'a> {
    definitions: &'a [Positioned<VariableDefinition>],
    given: &'a Variables,
}

impl<'a> Values<'a> {
    /// Checks that no variable is null or absent that must not be.
    pub(super) fn new(
        definitions: &'a [Positioned<VariableDefinition>],
        given: &'a Variables,
    ) -> Option<Self> {
        let fits = |definition: &Positioned<VariableDefinition>| {
            let definition = &definition.node;
            match given.get(&definition.name.node) {
                None => definition.default_value().is_some() || definition.var_type.node.nullable,
                Some(Value::Null) => definition.var_type.node.nullable,
                Some(_) => true,
            }
        };
        definitions.iter().all(fits).then_some(Self { definitions, given })
    }

    fn variable(&self, name: &Name) -> Option<Value> {
        let definition = self.definitions.iter().find(|definition| definition.node.name.node == *name)?;
        self.given.get(name).or_else(|| definition.node.default_value()).cloned()
    }

    /// The value of an argument; `Null` if it is absent, or a variable that is absent.
    pub(super) fn argument(&self, arguments: &Arguments, name: &str) -> Option<Value> {
        match arguments.iter().find(|(known, _)| known.as_str() == name) {
            Some((_, async_graphql_value::Value::Variable(name))) => {
                Some(self.variable(name).unwrap_or_default())
            }
            Some((_, value)) => value.clone().into_const_with(|name| self.variable(&name).ok_or(())).ok(),
            None => Some(Value::Null),
        }
    }

    /// A number of 32 bits, unless it is absent or null.
    fn number(&self, arguments: &Arguments, name: &str) -> Result<Option<i64>, GivenUp> {
        match self.argument(arguments, name).ok_or(GivenUp)? {
            Value::Null => Ok(None),
            Value::Number(number) => {
                let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
                number.map(|number| Some(i64::from(number))).ok_or(GivenUp)
            }
            _ => Err(GivenUp),
        }
    }

    /// A text, unless it is absent or null.
    fn text(&self, arguments: &Arguments, name: &str) -> Result<Option<String>, GivenUp> {
        match self.argument(arguments, name).ok_or(GivenUp)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(GivenUp),
        }
    }

    /// The id that is looked up; `None` if the text is no UUID.
    pub(super) fn id(&self, arguments: &Arguments) -> Result<Option<Uuid>, GivenUp> {
        Ok(Uuid::parse_str(&self.text(arguments, "id")?.ok_or(GivenUp)?).ok())
    }

    /// The page that is requested.
    pub(super) fn page(&self, arguments: &Arguments) -> Option<PageRequest> {
        let (first, last) = (self.number(arguments, "first").ok()?, self.number(arguments, "last").ok()?);
        let (after, before) = (self.text(arguments, "after").ok()?, self.text(arguments, "before").ok()?);
        page_request(first, after, last, before).ok()
    }

    /// The size of the page of a relation.
    pub(super) fn first(&self, arguments: &Arguments) -> Option<usize> {
        page_size(self.number(arguments, "first").ok()?).ok()
    }

    /// The rows that filter and order request.
    pub(super) fn select(&self, arguments: &Arguments, model: &'static Model) -> Option<Select> {
        let filter = match self.argument(arguments, "filter")?.into_json().ok()? {
            Json::Null => Input::new(),
            Json::Object(filter) => filter,
            _ => return None,
        };
        if !is_known(&filter, model) {
            return None;
        }
        let select = Select::of(model).filtered(&filter).ok()?;
        let order = match self.argument(arguments, "orderBy")? {
            Value::Null => return Some(select),
            Value::Enum(name) => name.to_string(),
            Value::String(name) => name,
            _ => return None,
        };
        let is_order = |column: &schemas::engine::Column| {
            let name = column.name.to_uppercase();
            order.strip_prefix(&name).is_some_and(|direction| matches!(direction, "_ASC" | "_DESC"))
        };
        model.orders().any(is_order).then(|| select.ordered(&order))
    }
}

/// Whether a filter has only fields that the input type has.
fn is_known(filter: &Input, model: &Model) -> bool {
    filter.iter().all(|(name, value)| {
        let column = model.filters().find(|column| column.filter_name == name);
        column.is_some_and(|column| match value {
            Json::Null => true,
            Json::Object(range) => {
                column.range && range.keys().all(|bound| bound == "from" || bound == "before")
            }
            _ => !column.range,
        })
    })
}
