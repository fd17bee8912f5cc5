//! A first look at a GraphQL document's text, before any parser sees it: how many tokens, how deeply nested.

/// What the text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scan {
    /// Punctuators, names, numbers and strings.
    pub tokens: usize,
    /// The deepest nesting of brackets of any kind.
    pub nesting: usize,
}

/// Counts in one pass without recursion. Text that is no GraphQL counts somehow; the parser refuses it later.
pub fn scan(text: &str) -> Scan {
    let mut found = Scan::default();
    let mut nesting = 0_usize;
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let taken = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => {
                rest = tail;
                continue;
            }
            b'#' => {
                rest = &rest[length_until(rest, |b| b == b'\n' || b == b'\r')..];
                continue;
            }
            b'"' => string_length(rest),
            b'{' | b'[' | b'(' => {
                nesting += 1;
                found.nesting = found.nesting.max(nesting);
                1
            }
            b'}' | b']' | b')' => {
                nesting = nesting.saturating_sub(1);
                1
            }
            b if is_word(b) => length_until(rest, |b| !is_word(b)),
            _ => 1,
        };
        found.tokens += 1;
        rest = &rest[taken..];
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn length_until(bytes: &[u8], ends: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&b| ends(b)).unwrap_or(bytes.len())
}

/// The length of the string or block string that the bytes start with, to the end of the text where it is not closed.
fn string_length(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\"\"\"") {
        let mut at = 3;
        while at < bytes.len() {
            if bytes[at..].starts_with(b"\\\"\"\"") {
                at += 4;
            } else if bytes[at..].starts_with(b"\"\"\"") {
                return at + 3;
            } else {
                at += 1;
            }
        }
        return bytes.len();
    }
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            b'\n' | b'\r' => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_nesting_are_counted() {
        assert_eq!(scan("{ me { id } }"), Scan { tokens: 6, nesting: 2 });
        assert_eq!(scan("query($id: ID!) { user(id: $id) { name } }").nesting, 2);
        assert_eq!(scan(&"{".repeat(5_000)), Scan { tokens: 5_000, nesting: 5_000 });
    }

    #[test]
    fn strings_and_comments_hide_their_content() {
        let text = "# {{{{ a b c\n{ f(a: \"{{\\\"{{\", b: \"\"\"{ \\\"\"\" { \"quoted\" \"\"\") }";
        assert_eq!(scan(text), Scan { tokens: 11, nesting: 2 });
        assert_eq!(scan("\"unclosed {").tokens, 1);
        assert_eq!(scan("\"\"\"unclosed {").tokens, 1);
        assert_eq!(scan("\"ends in a backslash\\").tokens, 1);
    }
}
