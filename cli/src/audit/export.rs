//! `annals audit export`: writes a history or a part of it while it is received. The file gets its name when it is
//! complete.

use std::fs::Permissions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use keyring::Recipient;
use proofs::export::Item;
use serde::Deserialize;

use super::super::remote::Remote;
use super::super::{Exit, Failure};
use super::{checkpoint_size, read};
use crate::signals;

/// Bytes at the end of a file that are searched for the last line, which is far shorter.
const TAIL_BYTES: usize = 256;

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

/// The line that the server writes when it ends an export early.
#[derive(Deserialize)]
struct ClosedLine {
    closed: String,
}

impl Export {
    /// Runs it.
    pub async fn run(self) -> Result<Exit, Failure> {
        let mut parameters = Vec::new();
        parameters.extend(self.from.map(|from| ("from", from.to_string())));
        parameters.extend(self.to.map(|to| ("to", to.to_string())));
        parameters.extend(self.stream.map(|stream| ("stream", stream)));
        parameters.extend(self.keys_to.map(|keys_to| ("keys_to", keys_to.to_string())));
        if !self.withhold.is_empty() {
            parameters.push(("withhold", self.withhold.join(",")));
        }
        let earlier = self.since.iter().map(|path| Ok(checkpoint_size(&read(path)?)?.to_string()));
        let earlier = earlier.collect::<anyhow::Result<Vec<String>>>().map_err(Failure::usage)?;
        if !earlier.is_empty() {
            parameters.push(("earlier", earlier.join(",")));
        }
        match &self.out {
            Some(path) => {
                let unwritable = || format!("{} cannot be written", path.display());
                let mut file = temporary_file_beside(path).with_context(unwritable)?;
                // Handle Ctrl-C, so that the temporary file is deleted.
                let mut stop = signals::StopSignal::listen()?;
                tokio::select! {
                    () = stop.requested() => return Err(Failure::new(Exit::Failed, anyhow!("interrupted"))),
                    done = download(&self.remote, &parameters, &mut file) => done?,
                }
                file.as_file().sync_all()?;
                file.persist(path).with_context(unwritable)?;
            }
            None => download(&self.remote, &parameters, &mut io::stdout().lock()).await?,
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
    parameters: &[(&str, String)],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let answer = remote.get("/v1/audit/export", parameters).await?;
    let positions = answer.headers().get("annals-positions");
    let positions = positions.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let progress = progress_bar(positions);
    let (mut body, mut tail) = (answer.bytes_stream(), Vec::new());
    while let Some(next) = body.next().await {
        let broken = |error| closed(&tail).unwrap_or(Failure::new(Exit::Unavailable, error));
        let bytes = next.map_err(broken)?;
        out.write_all(&bytes)?;
        tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        progress.inc(bytes.split(|byte| *byte == b'\n').count() as u64 - 1);
    }
    let end = std::str::from_utf8(last_line(&tail)).ok().and_then(|line| Item::parse(line).ok());
    if !matches!(end, Some(Item::End(_))) {
        return Err(
            closed(&tail).unwrap_or(Failure::new(Exit::Unavailable, anyhow!("the export has no end")))
        );
    }
    out.flush()?;
    progress.finish_and_clear();
    Ok(())
}

/// The reason in the last line when the server ended the export early.
fn closed(tail: &[u8]) -> Option<Failure> {
    let ClosedLine { closed } = serde_json::from_slice(last_line(tail)).ok()?;
    let (exit, why) = match closed.as_str() {
        "token_expired" => (Exit::Denied, "the access token has expired"),
        "token_revoked" => (Exit::Denied, "the access token was revoked"),
        "tenant_unknown" => (Exit::NotFound, "the tenant is on hold"),
        "log_replaced" => (Exit::NotFound, "the tenant's log is another one by now"),
        "stopping" => (Exit::Unavailable, "the server stops, try again"),
        _ => (Exit::Unavailable, "the server cannot go on, try again"),
    };
    Some(Failure::new(exit, anyhow!("the export broke off: {why} ({closed})")))
}

fn last_line(tail: &[u8]) -> &[u8] {
    let text = tail.strip_suffix(b"\n").unwrap_or(tail);
    text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_tells_why_an_export_broke_off() {
        let why = |tail: &str| closed(tail.as_bytes()).map(|failure| (failure.exit, failure.to_string()));
        let (exit, told) = why("{\"position\":1}\n{\"closed\":\"token_expired\"}\n").expect("is told");
        assert!(exit == Exit::Denied && told.contains("token_expired"), "{told}");
        assert_eq!(why("{\"closed\":\"tenant_unknown\"}\n").map(|(exit, _)| exit), Some(Exit::NotFound));
        for other in ["", "\n", "{\"position\":1}\n", "{\"events\":1}\n", "{\"closed\":"] {
            assert!(why(other).is_none(), "{other}");
        }
    }
}
