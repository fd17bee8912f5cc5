//! SQL with named parameters: `:name` in the text, and values by name.
//!
//! PostgreSQL numbers its parameters. Two columns of one type that change places then pass every check.

use std::iter::Peekable;
use std::str::CharIndices;

use tokio_postgres::types::ToSql;

/// A parameter by name.
pub type Parameter<'a> = (&'static str, &'a (dyn ToSql + Sync));

/// A statement with numbered parameters, made from one with named ones. A name may occur several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSql {
    /// The text for PostgreSQL.
    pub text: String,
    /// The names, in the order of their numbers.
    pub names: Vec<String>,
}

impl NamedSql {
    /// Numbers the parameters of a text. `::` is a cast. Colons in quotes and in comments are no parameters.
    pub fn parse(sql: &str) -> Self {
        let mut text = String::with_capacity(sql.len());
        let mut names: Vec<String> = Vec::new();
        let mut letters = sql.char_indices().peekable();
        let mut previous = ' ';
        while let Some((start, letter)) = letters.next() {
            match letter {
                '\'' | '"' => copy_until(sql, start, &mut letters, letter, &mut text),
                '-' if previous == '-' => copy_until(sql, start, &mut letters, '\n', &mut text),
                ':' if previous != ':' && letters.peek().is_some_and(|(_, next)| is_name_start(*next)) => {
                    let name = read_name(sql, start + 1, &mut letters);
                    let number = names.iter().position(|known| known == name).unwrap_or_else(|| {
                        names.push(name.to_owned());
                        names.len() - 1
                    });
                    text.push('$');
                    text.push_str(&(number + 1).to_string());
                }
                _ => text.push(letter),
            }
            previous = letter;
        }
        Self { text, names }
    }

    /// Puts the values in the order of the numbers.
    ///
    /// # Panics
    /// When a name has no value, or a value no name: the text and its call do not belong together.
    pub fn bind<'a>(&self, parameters: &[Parameter<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
        for (name, _) in parameters {
            assert!(self.names.iter().any(|known| known == name), "the statement has no parameter :{name}");
        }
        let value_of = |name: &String| {
            let found = parameters.iter().find(|(known, _)| known == name);
            found.unwrap_or_else(|| panic!("the parameter :{name} has no value")).1
        };
        self.names.iter().map(value_of).collect()
    }
}

fn is_name_start(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter == '_'
}

fn read_name<'a>(sql: &'a str, start: usize, letters: &mut Peekable<CharIndices<'_>>) -> &'a str {
    let mut end = start;
    while let Some((at, letter)) = letters.next_if(|(_, next)| is_name_start(*next) || next.is_ascii_digit())
    {
        end = at + letter.len_utf8();
    }
    &sql[start..end]
}

/// Copies from `start` to the next `last`, inclusive.
fn copy_until(
    sql: &str,
    start: usize,
    letters: &mut Peekable<CharIndices<'_>>,
    last: char,
    text: &mut String,
) {
    let end = letters.find(|(_, letter)| *letter == last).map_or(sql.len(), |(at, _)| at + last.len_utf8());
    text.push_str(&sql[start..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(sql: &str) -> (String, Vec<String>) {
        let NamedSql { text, names } = NamedSql::parse(sql);
        (text, names)
    }

    #[test]
    fn names_become_numbers_in_the_order_of_their_first_use() {
        let (text, names) = parsed("select :b, :a_1::int8, :b from t where c = any(:a_1::int8[])");
        assert_eq!(text, "select $1, $2::int8, $1 from t where c = any($2::int8[])");
        assert_eq!(names, ["b", "a_1"]);
    }

    #[test]
    fn casts_quotes_and_comments_have_no_parameters() {
        for sql in [
            "select null::uuid, ''::bytea, 'a :b', \"c:d\", 'it''s :e'",
            "select 1 -- one :a\n, 2",
            "select 'open :a",
            "select a[1:2], a[:2]",
        ] {
            assert_eq!(parsed(sql), (sql.to_owned(), Vec::new()), "{sql}");
        }
    }

    #[test]
    fn values_are_bound_by_name() {
        let sql = NamedSql::parse("select :first, :second, :first");
        let bound = sql.bind(&[("second", &"two"), ("first", &"one")]);
        let shown: Vec<String> = bound.iter().map(|value| format!("{value:?}")).collect();
        assert_eq!(shown, ["\"one\"", "\"two\""]);
    }

    #[test]
    #[should_panic(expected = "the parameter :second has no value")]
    fn a_missing_value_is_a_mistake_of_the_program() {
        NamedSql::parse("select :first, :second").bind(&[("first", &1_i32)]);
    }

    #[test]
    #[should_panic(expected = "the statement has no parameter :third")]
    fn an_unused_value_is_a_mistake_of_the_program() {
        NamedSql::parse("select :first").bind(&[("first", &1_i32), ("third", &1_i32)]);
    }
}
