//! The answer to one group, message by message.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::error::{Failure, ReadError, protocol};
use super::rows::RawRows;
use super::statements::{Prepared, Statements};

/// Maximum bytes of the rows of one group. The rest of a larger answer is received and dropped.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An answer that is being received.
pub(super) struct Answer {
    statements: Vec<Arc<Prepared>>,
    /// The statements that the group prepares and the server has not described yet.
    preparing: VecDeque<Arc<Prepared>>,
    rows: Vec<RawRows>,
    bytes: usize,
    error: Option<ReadError>,
    is_outdated: bool,
}

impl Answer {
    pub(super) fn new(statements: Vec<Arc<Prepared>>, preparing: VecDeque<Arc<Prepared>>) -> Self {
        Self { statements, preparing, rows: Vec::new(), bytes: 0, error: None, is_outdated: false }
    }

    /// Takes one message. Returns whether it is the last one.
    ///
    /// # Errors
    /// When the message does not follow the protocol: then the connection cannot be used any more.
    pub(super) fn receive(&mut self, tag: u8, body: &[u8]) -> io::Result<bool> {
        match tag {
            b'D' => self.receive_row(body)?,
            // BindComplete: the columns of the statement are known by then.
            b'2' => {
                let columns =
                    self.statements.get(self.rows.len()).and_then(|statement| statement.columns.get());
                let columns = columns.ok_or_else(|| protocol("an unknown statement is executed"))?;
                self.rows.push(RawRows::new(Arc::clone(columns)));
            }
            b'T' => self.receive_columns(columns(body)?)?,
            b'n' => self.receive_columns(Arc::default())?,
            b'E' => {
                let error = server_error(body)?;
                self.is_outdated |= error.is_outdated;
                self.error.get_or_insert(error.error);
            }
            // CommandComplete, ParseComplete, CloseComplete, ParameterDescription, EmptyQueryResponse.
            b'C' | b'1' | b'3' | b't' | b'I' => {}
            // ReadyForQuery, outside a transaction.
            b'Z' if body == b"I" => return Ok(true),
            _ => return Err(protocol("an unexpected message")),
        }
        Ok(false)
    }

    fn receive_row(&mut self, body: &[u8]) -> io::Result<()> {
        self.bytes += body.len();
        if self.bytes > ANSWER_BYTES_MAX {
            self.rows.clear();
            self.rows.shrink_to_fit();
            self.error.get_or_insert(ReadError::TooLarge);
        }
        if self.error.is_some() {
            return Ok(());
        }
        self.rows.last_mut().ok_or_else(|| protocol("a row without a statement"))?.push(body)
    }

    fn receive_columns(&mut self, columns: Arc<[Type]>) -> io::Result<()> {
        let prepared = self.preparing.pop_front().ok_or_else(|| protocol("an unexpected description"))?;
        prepared.columns.set(columns).map_err(|_| protocol("a second description"))
    }

    /// The rows of each statement, after the last message.
    pub(super) fn finish(self, statements: &mut Statements) -> Result<Vec<RawRows>, Failure> {
        for prepared in &self.preparing {
            statements.forget(prepared);
        }
        if self.is_outdated {
            for prepared in &self.statements {
                statements.forget(prepared);
            }
        }
        match self.error {
            Some(error) => Err(Failure { error, can_run_again: self.is_outdated }),
            None if self.rows.len() == self.statements.len() => Ok(self.rows),
            None => {
                let error = ReadError::broken(protocol("a statement was not answered"));
                Err(Failure { error, can_run_again: false })
            }
        }
    }

    /// The error of the server, when the connection ends with one.
    pub(super) fn into_error(self) -> Option<ReadError> {
        self.error
    }
}

/// The types of the columns in a `RowDescription`.
fn columns(body: &[u8]) -> io::Result<Arc<[Type]>> {
    let malformed = || protocol("a description is malformed");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let name = rest.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        // Table (4 bytes), column (2), type (4), size (2), modifier (4), format (2).
        let (field, behind) = rest[name + 1..].split_first_chunk::<18>().ok_or_else(malformed)?;
        rest = behind;
        let oid = u32::from_be_bytes([field[6], field[7], field[8], field[9]]);
        columns.push(Type::from_oid(oid).unwrap_or(Type::UNKNOWN));
    }
    Ok(columns.into())
}

pub(super) struct ServerError {
    pub(super) error: ReadError,
    /// Whether the prepared statement is gone, or its plan cannot be used after a change of the schema.
    is_outdated: bool,
}

/// Reads an `ErrorResponse`: the SQLSTATE, the message and the routine of the server.
pub(super) fn server_error(body: &[u8]) -> io::Result<ServerError> {
    let (mut code, mut message, mut routine) = (None, String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'C' => code = Some(text),
            b'M' => message = text,
            b'R' => routine = text,
            _ => {}
        }
    }
    let code = code.filter(|code| code.len() == 5 && code.is_ascii());
    let state = SqlState::from_code(&code.ok_or_else(|| protocol("an error without a code"))?);
    let is_outdated = state == SqlState::INVALID_SQL_STATEMENT_NAME
        || (state == SqlState::FEATURE_NOT_SUPPORTED && routine == "RevalidateCachedQuery");
    Ok(ServerError { error: ReadError::Refused { state, message }, is_outdated })
}

#[cfg(test)]
mod tests {
    use super::super::group::{Group, Read};
    use super::super::statements::STATEMENTS_MAX;
    use super::*;

    const COLUMNS: &[u8] = &[0, 1, b'n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 0];
    const ROW: &[u8] = &[0, 1, 0, 0, 0, 4, 0, 0, 0, 9];

    fn begin() -> (Answer, Statements) {
        let mut statements = Statements::new(STATEMENTS_MAX);
        let group = Group::new(&[Read { sql: "select 9", values: &[] }]).expect("small");
        let (prepared, _) = statements.get(&group.statements[0]);
        (Answer::new(vec![Arc::clone(&prepared)], [prepared].into()), statements)
    }

    #[test]
    fn rows_come_behind_their_description_and_end_with_the_group() {
        let (mut answer, mut statements) = begin();
        let messages: [(u8, &[u8]); 7] = [
            (b'1', b""),
            (b't', &[0, 0]),
            (b'T', COLUMNS),
            (b'2', b""),
            (b'D', ROW),
            (b'C', b"SELECT 1\0"),
            (b'Z', b"I"),
        ];
        for (index, (tag, body)) in messages.iter().enumerate() {
            assert_eq!(answer.receive(*tag, body).expect("in order"), index == 6);
        }
        let rows = answer.finish(&mut statements).expect("rows");
        assert_eq!((rows.len(), rows[0].row(0).get::<i32>(0).expect("a number")), (1, 9));
    }

    #[test]
    fn messages_out_of_order_are_refused() {
        let refused: [&[(u8, &[u8])]; 8] = [
            &[(b'D', ROW)],
            &[(b'2', b"")],
            &[(b'T', COLUMNS), (b'T', COLUMNS)],
            &[(b'T', COLUMNS), (b'2', b""), (b'2', b"")],
            &[(b'T', &COLUMNS[..21])],
            &[(b'Z', b"T")],
            &[(b'G', b"")],
            &[(b'E', b"Mtext\0\0")],
        ];
        for messages in refused {
            let (mut answer, _) = begin();
            let refused = messages.iter().any(|(tag, body)| answer.receive(*tag, body).is_err());
            assert!(refused, "{messages:?}");
        }
        let (answer, mut statements) = begin();
        assert!(answer.finish(&mut statements).is_err(), "nothing was answered");
    }

    #[test]
    fn an_error_forgets_what_was_not_prepared_and_an_outdated_plan_runs_again() {
        for (body, again) in [
            (&b"SERROR\0C42P01\0Mno table\0RparserOpenTable\0\0"[..], false),
            (b"SERROR\0C0A000\0Mcached plan\0RRevalidateCachedQuery\0\0", true),
            (b"SERROR\0C0A000\0Mnot supported\0Rother\0\0", false),
            (b"SERROR\0C26000\0Mno statement\0\0", true),
        ] {
            let (mut answer, mut statements) = begin();
            assert!(!answer.receive(b'E', body).expect("an error"));
            assert!(answer.receive(b'Z', b"I").expect("the end"));
            let failure = answer.finish(&mut statements).expect_err("it failed");
            assert_eq!(failure.can_run_again, again);
            assert!(matches!(failure.error, ReadError::Refused { .. }));
            assert_eq!(statements.take_closing(), ["r1"]);
        }
    }

    #[test]
    fn rows_beyond_the_maximum_are_dropped() {
        let (mut answer, mut statements) = begin();
        answer.receive(b'T', COLUMNS).expect("a description");
        answer.receive(b'2', b"").expect("bound");
        answer.bytes = ANSWER_BYTES_MAX;
        answer.receive(b'D', ROW).expect("dropped");
        answer.receive(b'C', b"SELECT 1\0").expect("complete");
        let failure = answer.finish(&mut statements).expect_err("too large");
        assert!(matches!(failure.error, ReadError::TooLarge) && !failure.can_run_again);
    }
}
