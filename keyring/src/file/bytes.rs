//! Clears deleted keys from the bytes of the key file.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::schema::BUSY_TIMEOUT;
use crate::KeyringError;

/// Delay between two attempts to truncate the write-ahead log.
const TRUNCATE_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Truncates the write-ahead log, with retries while readers of other processes use it.
/// An attempt must not wait for readers, because it would block all writers meanwhile.
pub(crate) fn truncate_write_ahead_log(connection: &Connection) -> Result<(), KeyringError> {
    connection.busy_timeout(Duration::ZERO)?;
    let emptied = try_truncate_write_ahead_log(connection);
    connection.busy_timeout(BUSY_TIMEOUT)?;
    emptied
}

fn try_truncate_write_ahead_log(connection: &Connection) -> Result<(), KeyringError> {
    let begun = Instant::now();
    loop {
        let busy: i64 = connection.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))?;
        if busy == 0 {
            return Ok(());
        }
        if begun.elapsed() > BUSY_TIMEOUT {
            return Err(KeyringError::Unavailable("the file of keys is busy".to_owned()));
        }
        std::thread::sleep(TRUNCATE_RETRY_INTERVAL);
    }
}

/// Rewrites the file, so that its pages contain current rows only.
pub(crate) fn vacuum(connection: &Connection) -> Result<(), KeyringError> {
    connection.execute_batch("vacuum")?;
    truncate_write_ahead_log(connection)
}

/// Whether the file or its write-ahead log contains `length` bytes for which `is_wanted` is true.
pub(crate) fn contains(
    path: &Path,
    length: usize,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> Result<bool, KeyringError> {
    let log = path.with_extension("sqlite-wal");
    let unreadable = |error: std::io::Error| KeyringError::Unavailable(error.to_string());
    for path in [path, &log] {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        if contains_in(file, length, &is_wanted).map_err(unreadable)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the input contains such bytes, also across chunk borders.
fn contains_in(
    mut from: impl Read,
    length: usize,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> std::io::Result<bool> {
    const CHUNK_BYTES: usize = 1 << 20;
    let mut window = Vec::with_capacity(CHUNK_BYTES + length);
    loop {
        if from.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut window)? == 0 {
            return Ok(false);
        }
        if window.windows(length).any(&is_wanted) {
            return Ok(true);
        }
        window.drain(..window.len().saturating_sub(length - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_write_while_a_reader_holds_back_the_emptying_of_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || {
            let connection = Connection::open(folder.path().join("keys.sqlite")).expect("opens");
            connection.busy_timeout(BUSY_TIMEOUT).expect("waits");
            connection.execute_batch("pragma journal_mode = wal").expect("a write-ahead log");
            connection
        };
        let (emptying, reader, writer) = (open(), open(), open());
        writer
            .execute_batch("create table numbers (number); insert into numbers values (0)")
            .expect("a table");
        let count = |connection: &Connection| {
            connection
                .query_row("select count(*) from numbers", [], |row| row.get::<_, i64>(0))
                .expect("a count")
        };
        reader.execute_batch("begin").expect("begins");
        assert_eq!(count(&reader), 1);
        writer.execute_batch("insert into numbers values (1)").expect("writes");
        let emptied = std::thread::spawn(move || truncate_write_ahead_log(&emptying));
        for number in 2..50 {
            writer.execute("insert into numbers values (?1)", [number]).expect("writes");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!emptied.is_finished(), "the reader holds it back all the while");
        reader.execute_batch("commit").expect("ends");
        emptied.join().expect("runs").expect("is emptied");
        assert_eq!(count(&writer), 50);
        let log = folder.path().join("keys.sqlite-wal");
        assert_eq!(std::fs::metadata(log).expect("a log").len(), 0);
    }

    #[test]
    fn bytes_are_found_across_the_pieces_that_are_read() {
        let mut file = vec![0_u8; (1 << 20) - 2];
        file.extend(b"needle");
        file.extend(vec![0; 100]);
        assert!(contains_in(file.as_slice(), 6, |bytes| bytes == b"needle").expect("reads"));
        assert!(!contains_in(file.as_slice(), 6, |bytes| bytes == b"noodle").expect("reads"));
    }
}
