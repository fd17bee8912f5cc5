//! Reads what a client sent, and collects every error with its path.

use serde_json::{Map, Value};

use super::field::{Field, ValueObject};

/// An object that a client sent.
pub type Input = Map<String, Value>;

/// Maximum errors that are collected for one input.
const ERRORS_MAX: usize = 100;

/// An error in an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// The path to the value: names of fields, and indexes of items.
    pub path: Vec<String>,
    /// A message for people, in lower case, without a full stop.
    pub message: String,
}

/// Reads an input. It goes on after an error, so that all errors are found.
#[derive(Debug, Default)]
pub struct InputReader {
    path: Vec<String>,
    /// The errors so far, at most 100.
    pub errors: Vec<InputError>,
}

impl InputReader {
    /// The field with this name.
    pub fn field<T: Field>(&mut self, input: &Input, name: &str) -> Option<T> {
        self.at(name, |reader| match input.get(name) {
            None | Some(Value::Null) => T::absent(reader),
            Some(value) => T::read(reader, value),
        })
    }

    /// The list with this name, with at most `items_max` items.
    pub fn bounded_field<T: Field>(&mut self, input: &Input, name: &str, items_max: usize) -> Option<T> {
        if input.get(name).and_then(Value::as_array).is_some_and(|items| items.len() > items_max) {
            return self.at(name, |reader| reader.refuse(format!("must have at most {items_max} items")));
        }
        self.field(input, name)
    }

    /// Adds an error at the current path. Returns `None`, so that a reader can return it.
    pub fn refuse<T>(&mut self, message: impl Into<String>) -> Option<T> {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(InputError { path: self.path.clone(), message: message.into() });
        }
        None
    }

    /// A text.
    pub fn text<'v>(&mut self, value: &'v Value) -> Option<&'v str> {
        value.as_str().or_else(|| self.refuse("must be a text"))
    }

    /// A value object.
    pub fn value_object<T: ValueObject>(&mut self, value: &Value) -> Option<T> {
        match value {
            Value::Object(input) => T::read_fields(self, input),
            _ => self.refuse("must be an object"),
        }
    }

    /// The items of a list. A single value counts as a list of one (GraphQL specification, section 3.11).
    pub fn items<T: Field>(&mut self, value: &Value) -> Option<Vec<T>> {
        let single = std::slice::from_ref(value);
        let items = value.as_array().map_or(single, Vec::as_slice);
        let read =
            items.iter().enumerate().map(|(index, item)| self.at(index, |reader| T::read(reader, item)));
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn at<T>(&mut self, step: impl ToString, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.path.push(step.to_string());
        let found = read(self);
        self.path.pop();
        found
    }
}
