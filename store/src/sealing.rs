//! Encryption and decryption of personal data in payloads (`docs/personal-data.md`).

use keyring::{KeyringError, Recipient};
use schemas::engine::RecordedEvent;
use schemas::engine::sealed::{self, OPEN};

use crate::{AppendError, StoreError, StreamAppend, TenantStore};

impl TenantStore {
    /// Decrypts personal data, or marks it as erased. Without a keyring, events stay as stored.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`] when a key is neither stored nor destroyed.
    /// [`StoreError::Keys`] when the key store fails.
    pub async fn open(&self, events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, StoreError> {
        match self.store().keyring() {
            Some(keyring) => Ok(keyring.open_events(self.id(), events).await?),
            None => Ok(events),
        }
    }

    /// Decrypts events for external readers that may read personal data.
    /// Decrypted fields become ordinary fields of the payload.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`] when a key is neither stored nor destroyed.
    /// [`StoreError::Keys`] when the key store fails.
    /// [`StoreError::Corrupt`] when a payload with decrypted fields is not JSON.
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

    /// Exports the keys of the sealed segments in these payloads, encrypted to `to`, as age files.
    /// Keys of erased subjects no longer exist and are left out.
    ///
    /// # Errors
    /// [`StoreError::Config`] when this process has no keyring.
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
            // The sealed segment contains the event id, so the id is needed before the flush.
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
    // Most payloads lack `$`, and every append is checked, so test that first.
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
