//! Rows as PostgreSQL sends them: the bytes of each field, in the binary format.

use std::error::Error;
use std::io;
use std::sync::Arc;

use tokio_postgres::types::{FromSql, Type};

use super::error::protocol;

/// The rows of one statement.
#[derive(Debug)]
pub struct RawRows {
    columns: Arc<[Type]>,
    bytes: Vec<u8>,
    /// The fields of all rows, row by row.
    fields: Vec<Field>,
    count: usize,
}

/// The place of a field in the bytes. A null ends before it starts.
#[derive(Debug, Clone, Copy)]
struct Field {
    start: u32,
    end: u32,
}

const NULL: Field = Field { start: 1, end: 0 };

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct RawRow<'a> {
    columns: &'a [Type],
    bytes: &'a [u8],
    fields: &'a [Field],
}

impl RawRows {
    pub(super) fn new(columns: Arc<[Type]>) -> Self {
        Self { columns, bytes: Vec::new(), fields: Vec::new(), count: 0 }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The types of the columns.
    pub fn columns(&self) -> &[Type] {
        &self.columns
    }

    /// The row at an index, which must be below [`len`](Self::len).
    pub fn row(&self, index: usize) -> RawRow<'_> {
        assert!(index < self.count, "row {index} of {}", self.count);
        let width = self.columns.len();
        let fields = &self.fields[index * width..(index + 1) * width];
        RawRow { columns: &self.columns, bytes: &self.bytes, fields }
    }

    /// All rows.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RawRow<'_>> {
        (0..self.count).map(|index| self.row(index))
    }

    /// Appends the row of a `DataRow`. Its lengths are checked here and nowhere else.
    pub(super) fn push(&mut self, body: &[u8]) -> io::Result<()> {
        let malformed = || protocol("a row is malformed");
        let base = self.bytes.len();
        let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
        if usize::from(u16::from_be_bytes(*count)) != self.columns.len() {
            return Err(malformed());
        }
        for _ in 0..self.columns.len() {
            let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
            rest = behind;
            let length = i32::from_be_bytes(*length);
            if length == -1 {
                self.fields.push(NULL);
                continue;
            }
            let length = usize::try_from(length).map_err(|_| malformed())?;
            let start = base + (body.len() - rest.len());
            rest = rest.get(length..).ok_or_else(malformed)?;
            let place = |offset: usize| u32::try_from(offset).map_err(|_| malformed());
            self.fields.push(Field { start: place(start)?, end: place(start + length)? });
        }
        if !rest.is_empty() {
            return Err(malformed());
        }
        self.bytes.extend_from_slice(body);
        self.count += 1;
        Ok(())
    }
}

impl<'a> RawRow<'a> {
    /// The bytes of a field, or `None` for a null. The index must be below the number of columns.
    pub fn field(&self, index: usize) -> Option<&'a [u8]> {
        let Field { start, end } = self.fields[index];
        (start <= end).then(|| &self.bytes[start as usize..end as usize])
    }

    /// The value of a field.
    ///
    /// # Errors
    /// When the column does not exist, has another type, or holds a null that `T` does not take.
    pub fn get<T: FromSql<'a>>(&self, index: usize) -> Result<T, Box<dyn Error + Sync + Send>> {
        let column = self.columns.get(index).ok_or_else(|| format!("there is no column {index}"))?;
        if !T::accepts(column) {
            return Err(format!("column {index} has the type {column}").into());
        }
        T::from_sql_nullable(column, self.field(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> RawRows {
        RawRows::new(Arc::from([Type::INT4, Type::TEXT]))
    }

    const ROW: [u8; 15] = [0, 2, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 1, b'a'];
    const NULLS: [u8; 10] = [0, 2, 255, 255, 255, 255, 0, 0, 0, 0];

    #[test]
    fn fields_are_the_bytes_of_the_row() {
        let mut rows = rows();
        rows.push(&ROW).expect("a row");
        rows.push(&NULLS).expect("a row");
        rows.push(&ROW).expect("a row");
        assert_eq!((rows.len(), rows.is_empty(), rows.iter().len()), (3, false, 3));
        assert_eq!(rows.row(2).field(1), Some(&b"a"[..]));
        assert_eq!((rows.row(1).field(0), rows.row(1).field(1)), (None, Some(&b""[..])));
        assert_eq!(rows.row(0).get::<i32>(0).expect("a number"), 9);
        assert_eq!(rows.row(1).get::<Option<i32>>(0).expect("a null"), None);
        assert!(rows.row(1).get::<i32>(0).is_err());
        assert!(rows.row(0).get::<i64>(0).is_err(), "another type");
        assert!(rows.row(0).get::<i64>(2).is_err(), "no such column");
    }

    #[test]
    fn every_shortened_or_lengthened_row_is_malformed() {
        for length in 0..ROW.len() {
            assert!(rows().push(&ROW[..length]).is_err(), "{length}");
        }
        assert!(rows().push(&[&ROW[..], &[0]].concat()).is_err());
        let mut negative = ROW;
        negative[2..6].copy_from_slice(&(-2_i32).to_be_bytes());
        assert!(rows().push(&negative).is_err());
        let mut three = ROW;
        three[1] = 3;
        assert!(rows().push(&three).is_err());
    }
}
