//! Canonical JSON: the same bytes for the same content.
//!
//! - Members are sorted by the bytes of their names.
//! - Strings are unescaped and escaped again.
//! - Whitespace is removed.
//! - Numbers are compared by their exact value: `1.0`, `1` and `10e-1` are equal, `100000000000000000001` and
//!   `100000000000000000002` are different. Floating-point numbers are never used.
//! - A name that occurs twice in an object is an error, because its meaning is not defined.

mod number;
mod ser;

use std::fmt;

/// Maximum nesting of objects and arrays, as in `serde_json`.
pub const DEPTH_MAX: usize = 128;

/// Why a text has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// It is not JSON.
    #[error("not JSON at byte {0}")]
    Invalid(usize),
    /// An object has two members with the same name.
    #[error("the member {0:?} occurs twice")]
    DuplicateMember(String),
    /// It is nested more deeply than [`DEPTH_MAX`].
    #[error("nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// A value cannot be serialised.
    #[error("{0}")]
    Unserialisable(String),
}

impl serde::ser::Error for CanonicalError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Unserialisable(message.to_string())
    }
}

/// The canonical form of a JSON text.
///
/// # Errors
/// [`CanonicalError`] if the text is not JSON, has a duplicate member or is nested too deeply.
pub fn of_text(text: &[u8]) -> Result<Vec<u8>, CanonicalError> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let mut canonical = Vec::with_capacity(text.len());
    reader.value(&mut canonical)?;
    reader.skip_space();
    if reader.at == text.len() { Ok(canonical) } else { Err(reader.invalid()) }
}

/// The canonical form of a typed value as JSON. An absent optional field (`None`) is left out, so that a field of a
/// later version does not change the result. A null inside JSON data is kept.
///
/// # Errors
/// [`CanonicalError`] if the value cannot be serialised.
pub fn of_value(value: &impl serde::Serialize) -> Result<Vec<u8>, CanonicalError> {
    ser::canonical(value)
}

/// Parses a text in one pass.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn invalid(&self) -> CanonicalError {
        CanonicalError::Invalid(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips whitespace and consumes `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.nested(out, Self::object),
            Some(b'[') => self.nested(out, Self::array),
            Some(b'"') => {
                let text = self.string()?;
                write_string(&text, out);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = self.number()?;
                number::write(number, out);
                Ok(())
            }
            Some(b't') => self.literal("true", out),
            Some(b'f') => self.literal("false", out),
            Some(b'n') => self.literal("null", out),
            _ => Err(self.invalid()),
        }
    }

    fn nested(
        &mut self,
        out: &mut Vec<u8>,
        read: fn(&mut Self, &mut Vec<u8>) -> Result<(), CanonicalError>,
    ) -> Result<(), CanonicalError> {
        if self.depth == DEPTH_MAX {
            return Err(CanonicalError::TooDeep);
        }
        self.at += 1;
        self.depth += 1;
        read(self, out)?;
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        let mut members = Members::default();
        if !self.take(b'}') {
            loop {
                self.skip_space();
                let name = self.string()?;
                if !self.take(b':') {
                    return Err(self.invalid());
                }
                let mut value = Vec::new();
                self.value(&mut value)?;
                members.0.push((name, value));
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.invalid());
                }
            }
        }
        members.write(out)
    }

    fn array(&mut self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        out.push(b'[');
        if !self.take(b']') {
            loop {
                self.value(out)?;
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.invalid());
                }
                out.push(b',');
            }
        }
        out.push(b']');
        Ok(())
    }

    fn string(&mut self) -> Result<String, CanonicalError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.invalid());
        }
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(CanonicalError::Invalid(start)),
            }
        }
        self.at += 1;
        // The library checks escapes, surrogates, control characters and UTF-8.
        serde_json::from_slice(&self.text[start..self.at]).map_err(|_| CanonicalError::Invalid(start))
    }

    fn digits(&mut self) -> Result<(), CanonicalError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.invalid()) }
    }

    /// Parses a number and returns its text (RFC 8259, section 6).
    fn number(&mut self) -> Result<&'a str, CanonicalError> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        std::str::from_utf8(&self.text[start..self.at]).map_err(|_| CanonicalError::Invalid(start))
    }

    fn literal(&mut self, word: &str, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return Err(self.invalid());
        }
        self.at += word.len();
        out.extend_from_slice(word.as_bytes());
        Ok(())
    }
}

/// The members of an object: names and canonical values.
#[derive(Default)]
struct Members(Vec<(String, Vec<u8>)>);

impl Members {
    fn write(mut self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        self.0.sort_unstable();
        if let Some(twice) = self.0.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(CanonicalError::DuplicateMember(twice[0].0.clone()));
        }
        out.push(b'{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(name, out);
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        Ok(())
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string serialises into memory");
}

#[cfg(test)]
mod tests;
