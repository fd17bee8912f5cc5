//! Selects the signed checkpoint that a replacement event cites: the newest valid one.

use proofs::{Checkpoint, VerifierKey};
use schemas::engine::LogId;

/// A checkpoint of the database, with the key to verify it.
pub(super) struct StoredNote {
    pub(super) note: String,
    pub(super) verifier_key: String,
}

/// A signed note of the log, and the number of events it covers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CitedNote {
    pub(super) note: String,
    pub(super) size: u64,
}

/// The newest valid note of the stored one and the supplied ones.
///
/// A note is skipped when it names another log, or when the stored key did not sign it.
/// Without a stored key the signature is not checked here; readers of the event must verify it.
pub(super) fn newest(log: LogId, kept: Option<StoredNote>, supplied: &[String]) -> Option<CitedNote> {
    let key = kept.as_ref().and_then(|kept| kept.verifier_key.parse().ok());
    let kept = kept.map(|kept| kept.note);
    let notes = kept.as_ref().into_iter().chain(supplied);
    notes.filter_map(|note| cited_note(log, note, key.as_ref())).max_by_key(|cited_note| cited_note.size)
}

fn cited_note(log: LogId, note: &str, key: Option<&VerifierKey>) -> Option<CitedNote> {
    let checkpoint = match key {
        Some(key) => Checkpoint::parse(key.verify(note).ok()?).ok()?,
        None => Checkpoint::unverified(note).ok()?,
    };
    (checkpoint.log_id() == Some(log.0)).then(|| CitedNote { note: note.to_owned(), size: checkpoint.size })
}

#[cfg(test)]
mod tests {
    use proofs::NoteSigner;
    use uuid::Uuid;

    use super::*;

    // Of RFC 8410 and of RFC 8032, section 7.1.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                       -----END PRIVATE KEY-----\n";
    const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                             MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                             -----END PRIVATE KEY-----\n";
    const LOG: LogId = LogId(Uuid::from_u128(7));

    fn origin(log: u128) -> String {
        format!("example.org/tlog/{}", Uuid::from_u128(log).simple())
    }

    fn note(key: &str, log: u128, size: u64) -> String {
        let checkpoint = Checkpoint { origin: origin(log), size, root: [5; 32] };
        let signer = NoteSigner::from_pem(key).expect("a key");
        signer.sign(&origin(log), &checkpoint.to_string()).expect("signs")
    }

    fn kept(size: u64) -> StoredNote {
        let signer = NoteSigner::from_pem(KEY).expect("a key");
        let verifier_key = signer.verifier_key(&origin(7)).expect("a key").to_string();
        StoredNote { note: note(KEY, 7, size), verifier_key }
    }

    fn size(kept: Option<StoredNote>, supplied: &[String]) -> Option<u64> {
        newest(LOG, kept, supplied).map(|cited_note| cited_note.size)
    }

    #[test]
    fn the_newest_checkpoint_that_holds_is_cited() {
        let (newer, older) = (note(KEY, 7, 9), note(KEY, 7, 3));
        assert_eq!(size(Some(kept(5)), &[]), Some(5));
        assert_eq!(size(Some(kept(5)), &[newer.clone(), older.clone()]), Some(9));
        assert_eq!(size(Some(kept(5)), &[older]), Some(5));
        assert_eq!(
            newest(LOG, Some(kept(5)), std::slice::from_ref(&newer)).map(|cited_note| cited_note.note),
            Some(newer)
        );
        assert_eq!(size(None, &[]), None);
    }

    #[test]
    fn what_is_of_another_log_or_of_another_key_is_passed_over() {
        for wrong in [note(KEY, 8, 9), note(OTHER_KEY, 7, 9), "no note".to_owned(), String::new()] {
            assert_eq!(size(Some(kept(5)), &[wrong]), Some(5));
        }
        assert_eq!(size(None, &[note(KEY, 8, 9)]), None);
        assert_eq!(size(None, &[note(OTHER_KEY, 7, 9)]), Some(9), "nobody here knows the key");
    }
}
