//! Reads a JSON object field by field and collects all errors, so that a client gets them in one response. Wrong types
//! are 400; missing, unknown and invalid fields are 422.

use schemas::engine::InvalidValue;
use serde_json::{Map, Value};

use access::ErrorCode;

use super::problem::{FieldError, Problem};

/// Maximum errors in a response. Further ones are omitted, so that a hostile body does not cause a huge response.
const ERRORS_MAX: usize = 20;
/// Maximum characters of a client's field name in an error.
const FIELD_NAME_CHARS_MAX: usize = 64;

/// A JSON object that is being read.
pub struct JsonFields {
    prefix: String,
    values: Map<String, Value>,
    errors: Vec<FieldError>,
    type_errors: Vec<FieldError>,
}

impl JsonFields {
    /// Starts reading an object.
    pub fn new(values: Map<String, Value>) -> Self {
        Self { prefix: String::new(), values, errors: Vec::new(), type_errors: Vec::new() }
    }

    /// A required text, parsed by a function.
    pub fn required<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        self.check_present(name);
        self.optional(name, parse)
    }

    /// An optional text, parsed by a function. `null` is the same as absent.
    pub fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        match self.values.remove(name)? {
            Value::Null => None,
            Value::String(text) => match parse(&text) {
                Ok(value) => Some(value),
                Err(problem) => {
                    self.errors.push(FieldError::new(self.path(name), problem));
                    None
                }
            },
            _ => {
                self.add_type_error(name, "must be a string");
                None
            }
        }
    }

    /// A value of any type. `null` is the same as absent.
    pub fn any(&mut self, name: &str, required: bool) -> Option<Value> {
        if required {
            self.check_present(name);
        }
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// An integer of 0 or more.
    pub fn whole_number(&mut self, name: &str, required: bool) -> Option<u64> {
        let value = self.any(name, required)?;
        let number = value.as_u64();
        if number.is_none() {
            self.add_type_error(name, "must be a whole number");
        }
        number
    }

    /// An optional boolean.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.any(name, false)?;
        let answer = value.as_bool();
        if answer.is_none() {
            self.add_type_error(name, "must be true or false");
        }
        answer
    }

    /// A required list of texts, each parsed by a function.
    pub fn texts<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) -> Option<Vec<T>> {
        let value = self.any(name, true)?;
        let texts: Option<Vec<&str>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        let Some(texts) = texts else {
            self.add_type_error(name, "must be a list of strings");
            return None;
        };
        let mut parsed = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            match parse(text) {
                Ok(value) => parsed.push(value),
                Err(problem) => {
                    self.errors.push(FieldError::new(self.path(&format!("{name}.{index}")), problem));
                }
            }
        }
        Some(parsed)
    }

    /// A required list of 1 to `max` objects. Pass each object to [`merge`](Self::merge) after it is read.
    pub fn objects(&mut self, name: &str, max: usize) -> Option<Vec<Self>> {
        let Value::Array(list) = self.any(name, true)? else {
            self.add_type_error(name, "must be a list of objects");
            return None;
        };
        if list.is_empty() || list.len() > max {
            let problem = InvalidValue::new("count_invalid", format!("must have 1 to {max} entries"));
            self.errors.push(FieldError::new(self.path(name), problem));
            return None;
        }
        let mut objects = Vec::with_capacity(list.len());
        for (index, value) in list.into_iter().enumerate() {
            let path = format!("{name}.{index}");
            let Value::Object(values) = value else {
                self.add_type_error(&path, "must be an object");
                return None;
            };
            let prefix = format!("{}.", self.path(&path));
            objects.push(Self { prefix, values, errors: Vec::new(), type_errors: Vec::new() });
        }
        Some(objects)
    }

    /// An optional position, as a number or as decimal digits, as in events. `null` is the same as absent.
    pub fn position(&mut self, name: &str) -> Option<u64> {
        let number = match self.values.remove(name)? {
            Value::Null => return None,
            Value::Number(number) => number.as_u64(),
            Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        // PostgreSQL stores positions as signed 64-bit integers.
        let number = number.filter(|&number| i64::try_from(number).is_ok());
        if number.is_none() {
            self.add_type_error(name, "must be a whole number");
        }
        number
    }

    /// A list of texts like [`texts`](Self::texts). Empty when it is absent or `null`.
    pub fn optional_texts<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, InvalidValue>,
    ) -> Option<Vec<T>> {
        if self.values.get(name).is_none_or(Value::is_null) {
            self.values.remove(name);
            return Some(Vec::new());
        }
        self.texts(name, parse)
    }

    /// Adds an error for a field.
    pub fn add_error(&mut self, name: &str, problem: InvalidValue) {
        self.errors.push(FieldError::new(self.path(name), problem));
    }

    /// The fields that are not read yet.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// A nested object. Pass it to [`merge`](Self::merge) after it is read.
    pub fn object(&mut self, name: &str) -> Option<Self> {
        match self.values.remove(name)? {
            Value::Null => None,
            Value::Object(values) => {
                let prefix = format!("{}.", self.path(name));
                Some(Self { prefix, values, errors: Vec::new(), type_errors: Vec::new() })
            }
            _ => {
                self.add_type_error(name, "must be an object");
                None
            }
        }
    }

    /// Adds the errors of a nested object to this one.
    pub fn merge(&mut self, mut inner: Self) {
        inner.add_unknown_fields();
        self.errors.append(&mut inner.errors);
        self.type_errors.append(&mut inner.type_errors);
    }

    /// Ends reading: returns the value that `build` makes. Required fields are present when `build` runs, so it may use
    /// `?` on them.
    ///
    /// # Errors
    /// A problem with all collected errors; unknown fields are errors too.
    pub fn finish<T>(mut self, build: impl FnOnce() -> Option<T>) -> Result<T, Problem> {
        self.add_unknown_fields();
        if !self.type_errors.is_empty() {
            self.type_errors.truncate(ERRORS_MAX);
            return Err(Problem::new(ErrorCode::BadRequest)
                .detail("some fields have the wrong type")
                .errors(self.type_errors));
        }
        if !self.errors.is_empty() {
            self.errors.truncate(ERRORS_MAX);
            return Err(Problem::invalid(self.errors));
        }
        Ok(build().expect("every required field is there when no error was noted"))
    }

    fn check_present(&mut self, name: &str) {
        if self.values.get(name).is_none_or(Value::is_null) {
            let missing = InvalidValue::new("required", "must be given");
            self.errors.push(FieldError::new(self.path(name), missing));
        }
    }

    /// Adds an error for a field of the wrong type.
    pub fn add_type_error(&mut self, name: &str, message: &str) {
        self.type_errors.push(FieldError::new(self.path(name), InvalidValue::new("type_invalid", message)));
    }

    fn add_unknown_fields(&mut self) {
        for name in std::mem::take(&mut self.values).keys() {
            let shown: String = name.chars().take(FIELD_NAME_CHARS_MAX).collect();
            let unknown = InvalidValue::new("unknown_field", "is not a field of this request");
            self.errors.push(FieldError::new(self.path(&shown), unknown));
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use schemas::engine::{Email, Name};
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<(Email, Name, Option<Name>), Problem> {
        let Value::Object(values) = body else { panic!("an object") };
        let mut fields = JsonFields::new(values);
        let email = fields.required("email", Email::parse);
        let name = fields.required("name", Name::parse);
        let nickname = fields.optional("nickname", Name::parse);
        fields.finish(|| Some((email?, name?, nickname)))
    }

    fn listed(problem: &Problem) -> Vec<(String, &str)> {
        problem.field_errors().iter().map(|error| (error.field.clone(), error.code)).collect()
    }

    #[test]
    fn every_error_is_listed_not_only_the_first() {
        let problem = read(json!({"email": "nobody", "colour": "red"})).expect_err("three errors");
        assert_eq!(problem.code(), ErrorCode::Invalid);
        let mut errors = listed(&problem);
        errors.sort();
        let expected = [("colour", "unknown_field"), ("email", "email_invalid"), ("name", "required")];
        assert_eq!(errors, expected.map(|(field, code)| (field.to_owned(), code)));
    }

    #[test]
    fn a_wrong_type_is_a_bad_request() {
        let problem = read(json!({"email": 1, "name": "Ada"})).expect_err("a number");
        assert_eq!(problem.code(), ErrorCode::BadRequest);
        assert_eq!(listed(&problem), [("email".to_owned(), "type_invalid")]);
    }

    #[test]
    fn null_is_absent() {
        assert!(read(json!({"email": "ada@example.com", "name": "Ada", "nickname": null})).is_ok());
        assert!(read(json!({"email": null, "name": "Ada"})).is_err());
    }

    #[test]
    fn inner_fields_are_named_with_dots() {
        let Value::Object(values) = json!({"admin": {"email": "x", "shoe": 1}}) else { panic!("an object") };
        let mut fields = JsonFields::new(values);
        let mut inner = fields.object("admin").expect("an object");
        assert!(inner.required("email", Email::parse).is_none());
        fields.merge(inner);
        let problem = fields.finish(|| Some(())).expect_err("two errors");
        let names: Vec<_> = listed(&problem).into_iter().map(|(field, _)| field).collect();
        assert_eq!(names, ["admin.email", "admin.shoe"]);
    }
}
