//! Formats an error with its sources, for logs.

use std::error::Error;
use std::fmt;

use tokio_postgres::Error as PostgresError;

/// An error and its sources as one line, for logs and operators, never for clients.
/// For an error of PostgreSQL it shows the text of [`describe`], because the details may have values of rows.
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        let mut next = Some(self.0);
        while let Some(error) = next {
            next = error.source();
            let text = if let Some(error) = error.downcast_ref::<PostgresError>() {
                next = None;
                describe(error)
            } else {
                error.to_string()
            };
            // Some libraries include the text of the source in their own text.
            if line.ends_with(&text) {
                continue;
            }
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        f.write_str(&line)
    }
}

/// The server's message with its SQLSTATE, or the client's error with its cause. For logs and operators.
/// It has no parameters, but names tables, columns and roles, so clients of the product must not get it.
pub fn describe(error: &PostgresError) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let cause = error.source().map(ToString::to_string);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Example {
        #[error("the log cannot be read")]
        Reading(#[source] Box<Example>),
        #[error("request failed: {0}")]
        Request(#[source] std::io::Error),
    }

    #[test]
    fn every_source_is_named_once() {
        let request = Example::Request(std::io::Error::other("connection refused"));
        let error = Example::Reading(Box::new(request));
        assert_eq!(error.to_string(), "the log cannot be read");
        assert_eq!(Causes(&error).to_string(), "the log cannot be read: request failed: connection refused");
    }
}
