//! Export files: verified with a progress bar, and read item by item.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use proofs::VerifierKey;
use proofs::export::Item;
use proofs::verify::{Known, Report, VerifyError, verify};

use crate::Error;

/// Verifies a file with a progress bar on standard error. Afterwards the file is at the position where reading ended.
///
/// # Errors
/// The file cannot be opened.
pub fn verify_file(
    path: &Path,
    key: &VerifierKey,
    known: &Known,
) -> Result<(File, Result<Report, VerifyError>), Error> {
    let file = File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let progress = ProgressBar::new(file.metadata()?.len()).with_style(
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta}")
            .expect("the template is well formed"),
    );
    let reader = BufReader::with_capacity(1 << 20, progress.wrap_read(&file));
    let verdict = verify(reader, key, known);
    progress.finish_and_clear();
    Ok((file, verdict))
}

/// The items after the manifest of a verified file.
pub fn items(file: File) -> impl Iterator<Item = Result<Item, Error>> {
    BufReader::new(file).lines().skip(1).map(|line| Ok(Item::parse(&line?)?))
}
