//! `annals audit export`: writes a history or a part of it while it is received. The file gets its name when it is
//! complete.

use std::fs::Permissions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use client::ExportRequest;
use indicatif::{ProgressBar, ProgressStyle};
use keyring::Recipient;

use super::super::remote::Remote;
use super::files::{checkpoint_size, read};
use crate::failure::Failure;
use crate::signals;
use terminal::Exit;

/// `annals audit export ...`
#[derive(Debug, Args)]
pub struct Export {
    /// The first position [default: the beginning]
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// The last position [default: the newest sealed]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// One stream only: `<category>/<id>`
    #[arg(long)]
    stream: Option<String>,
    /// Types whose payload and metadata are left out, with NATS wildcards
    #[arg(long, value_name = "PATTERN")]
    withhold: Vec<String>,
    /// An earlier checkpoint; the file proves that the log continues it
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
    /// Add the keys of personal data, encrypted to this public key. The holder of the file and the private key can read
    /// the data for ever, also of people who are erased later. Needs the scope pii:read
    #[arg(long, value_name = "AGE1...")]
    keys_to: Option<Recipient>,
    /// The file to write; it appears when it is complete [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

impl Export {
    /// Runs it.
    pub async fn run(self) -> Result<Exit, Failure> {
        let earlier = self.since.iter().map(|path| checkpoint_size(&read(path)?));
        let request = ExportRequest {
            from: self.from,
            to: self.to,
            stream: self.stream,
            withhold: self.withhold,
            earlier: earlier.collect::<anyhow::Result<_>>().map_err(Failure::usage)?,
            keys_to: self.keys_to.map(|keys_to| keys_to.to_string()),
        };
        match &self.out {
            Some(path) => {
                let unwritable = || format!("{} cannot be written", path.display());
                let mut file = temporary_file_beside(path).with_context(unwritable)?;
                // Handle Ctrl-C, so that the temporary file is deleted.
                let mut stop = signals::StopSignal::listen()?;
                let downloaded = stop.or(download(&self.remote, &request, &mut file)).await;
                downloaded.ok_or_else(|| Failure::new(Exit::Failed, anyhow!("interrupted")))??;
                file.as_file().sync_all()?;
                file.persist(path).with_context(unwritable)?;
            }
            None => download(&self.remote, &request, &mut io::stdout().lock()).await?,
        }
        Ok(Exit::Ok)
    }
}

/// A temporary file in the folder of `path`. It is deleted unless it is renamed.
fn temporary_file_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The process's umask applies, as for any file.
    tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Receives an export with a progress bar.
///
/// # Errors
/// The export is incomplete.
pub(super) async fn download(
    remote: &Remote,
    request: &ExportRequest,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut export = remote.client()?.export(request).await?;
    let progress = progress_bar(export.positions());
    while let Some(piece) = export.next().await? {
        out.write_all(&piece)?;
        progress.inc(piece.split(|byte| *byte == b'\n').count() as u64 - 1);
    }
    out.flush()?;
    progress.finish_and_clear();
    Ok(())
}

fn progress_bar(positions: u64) -> ProgressBar {
    // Progress lines in a pipe are not useful.
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(positions).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} events, {per_sec}, {eta}")
            .expect("the template is well formed"),
    )
}
