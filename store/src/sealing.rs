//! Personal data on its way into the log and out of it (`docs/personal-data.md`).

use keyring::{KeyringError, Recipient};
use schemas::engine::RecordedEvent;
use schemas::engine::sealed::{self, OPEN};

use crate::{AppendError, StoreError, StreamAppend, TenantStore};

impl TenantStore {
    /// Events as the product's own readers need them: personal data open, or marked as erased. A process without keys gets
    /// them as they are stored.
    pub async fn open(&self, events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, StoreError> {
        match self.store().keyring() {
            Some(keyring) => Ok(keyring.open_events(self.id(), events).await?),
            None => Ok(events),
        }
    }

    /// Events for readers outside who may read personal data: what is open stands among the payload's other fields.
    pub async fn open_for_readers(
        &self,
        events: Vec<RecordedEvent>,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut events = self.open(events).await?;
        for event in events.iter_mut().filter(|event| contains_open(&event.payload)) {
            let mut payload = serde_json::from_slice(&event.payload)
                .map_err(|error| StoreError::corrupt("an opened payload", error))?;
            sealed::spread(&mut payload);
            event.payload = serde_json::to_vec(&payload).expect("JSON serialises").into();
        }
        Ok(events)
    }

    /// The keys of whatever is sealed in these payloads, encrypted to somebody outside, as files of the age format. Who was
    /// erased has none.
    pub async fn export_keys(
        &self,
        payloads: impl Iterator<Item = &[u8]>,
        to: &Recipient,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some(keyring) = self.store().keyring() else {
            return Err(StoreError::Config("this process has no keys for personal data".to_owned()));
        };
        Ok(keyring.export_keys(self.id(), payloads, to).await?)
    }

    pub(crate) async fn seal(&self, mut append: StreamAppend) -> Result<StreamAppend, AppendError> {
        for event in append.events.iter_mut().filter(|event| contains_open(&event.payload)) {
            let Some(keyring) = self.store().keyring() else {
                return Err(
                    StoreError::Config("this process has no keys for personal data".to_owned()).into()
                );
            };
            // The segment names its event, so the id cannot wait for the flush.
            let event_id = *event.event_id.get_or_insert_with(|| self.store().0.event_ids.make(self.id()));
            let payload = std::mem::take(&mut event.payload);
            let sealed = keyring.seal(self.id(), &append.stream, event_id, payload).await?;
            event.payload = sealed.payload;
            event.subject_keys = sealed.keys;
        }
        Ok(append)
    }
}

fn contains_open(payload: &[u8]) -> bool {
    let quoted = format!("\"{OPEN}\"");
    // Few payloads have the sign at all, and this is asked of every append.
    payload.contains(&b'$') && payload.windows(quoted.len()).any(|window| window == quoted.as_bytes())
}

impl From<KeyringError> for StoreError {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::Overloaded => Self::Overloaded,
            KeyringError::KeyMissing { subject, key } => Self::KeyMissing { subject, key },
            KeyringError::Unavailable(_) | KeyringError::Database(_) => Self::Keys(error),
            KeyringError::Config(_) => Self::Config(error.to_string()),
            KeyringError::SubjectErased | KeyringError::Invalid(_) => Self::Corrupt(error.to_string()),
        }
    }
}

impl From<KeyringError> for AppendError {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::SubjectErased => Self::SubjectErased,
            KeyringError::Invalid(problem) => Self::Invalid(problem),
            KeyringError::Overloaded => Self::Overloaded,
            error => Self::Unavailable(error.into()),
        }
    }
}
