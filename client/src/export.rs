//! Exports of a history, received piece by piece.

use bytes::Bytes;
use proofs::export::Item;
use reqwest::Response;
use serde::Deserialize;

use crate::error::ExportClosed;
use crate::{Client, Error};

/// Bytes at the end of a file that are searched for the last line, which is far shorter.
const TAIL_BYTES: usize = 256;

/// Which part of a history an export holds.
#[derive(Debug, Clone, Default)]
pub struct ExportRequest {
    /// The first position; `None` is the beginning.
    pub from: Option<u64>,
    /// The last position; `None` is the newest sealed.
    pub to: Option<u64>,
    /// One stream only: `<category>/<id>`.
    pub stream: Option<String>,
    /// Patterns of types whose payload and metadata are left out.
    pub withhold: Vec<String>,
    /// The sizes of earlier checkpoints that the export proves to continue.
    pub earlier: Vec<u64>,
    /// The age recipient that the keys of personal data are encrypted to. `None`: the export has no keys.
    pub keys_to: Option<String>,
}

/// An export that is being received.
#[derive(Debug)]
pub struct ExportDownload {
    answer: Response,
    positions: u64,
    tail: Vec<u8>,
}

/// The line that the server writes when it ends an export early.
#[derive(Deserialize)]
struct ClosedLine {
    closed: String,
}

impl Client {
    /// Begins an export.
    ///
    /// # Errors
    /// [`Error::Transport`] when no response begins. [`Error::Refused`] when the server refuses the request, for
    /// example because no checkpoint covers a position yet.
    pub async fn export(&self, request: &ExportRequest) -> Result<ExportDownload, Error> {
        let mut parameters = Vec::new();
        parameters.extend(request.from.map(|from| ("from", from.to_string())));
        parameters.extend(request.to.map(|to| ("to", to.to_string())));
        parameters.extend(request.stream.clone().map(|stream| ("stream", stream)));
        parameters.extend(request.keys_to.clone().map(|keys_to| ("keys_to", keys_to)));
        if !request.withhold.is_empty() {
            parameters.push(("withhold", request.withhold.join(",")));
        }
        if !request.earlier.is_empty() {
            let sizes: Vec<String> = request.earlier.iter().map(u64::to_string).collect();
            parameters.push(("earlier", sizes.join(",")));
        }
        let answer = self.get("/v1/audit/export", &parameters).await?;
        let positions = answer.headers().get("annals-positions");
        let positions = positions.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        Ok(ExportDownload { answer, positions, tail: Vec::new() })
    }
}

impl ExportDownload {
    /// How many positions the export covers, as far as the server says; otherwise 0.
    pub fn positions(&self) -> u64 {
        self.positions
    }

    /// The next piece of the file; `None` after the last one.
    ///
    /// # Errors
    /// The export is incomplete: it broke off, or the server ended it early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.answer.chunk().await;
        let piece = piece.map_err(|error| closed(&self.tail).unwrap_or(Error::BrokenOff(error)))?;
        if let Some(piece) = &piece {
            self.tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL_BYTES)..]);
            self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
            return Ok(Some(piece.clone()));
        }
        let end = std::str::from_utf8(last_line(&self.tail)).ok().and_then(|line| Item::parse(line).ok());
        if matches!(end, Some(Item::End(_))) {
            return Ok(None);
        }
        Err(closed(&self.tail).unwrap_or(Error::ExportIncomplete))
    }
}

/// The reason in the last line when the server ended the export early.
fn closed(tail: &[u8]) -> Option<Error> {
    let ClosedLine { closed } = serde_json::from_slice(last_line(tail)).ok()?;
    Some(Error::ExportClosed(ExportClosed::parse(closed)))
}

fn last_line(tail: &[u8]) -> &[u8] {
    let text = tail.strip_suffix(b"\n").unwrap_or(tail);
    text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_tells_why_an_export_broke_off() {
        let why = |tail: &str| closed(tail.as_bytes());
        let told = why("{\"position\":1}\n{\"closed\":\"token_expired\"}\n").expect("is told");
        assert!(matches!(told, Error::ExportClosed(ExportClosed::TokenExpired)));
        assert!(told.to_string().contains("token_expired"), "{told}");
        let told = why("{\"closed\":\"tenant_unknown\"}\n");
        assert!(matches!(told, Some(Error::ExportClosed(ExportClosed::TenantUnknown))));
        for other in ["", "\n", "{\"position\":1}\n", "{\"events\":1}\n", "{\"closed\":"] {
            assert!(why(other).is_none(), "{other}");
        }
    }
}
