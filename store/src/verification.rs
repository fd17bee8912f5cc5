//! The verification of the database instance, as the processes ask for it.

use crate::database_instance::{DatabaseInstance, Verifier};
use crate::pools::get;
use crate::{Store, StoreError};

impl Store {
    /// Sets the verifier of database instances. Call it once, before the first append.
    /// Without a verifier, every instance is accepted.
    pub fn set_verifier(&self, verifier: Verifier) {
        drop(self.0.restore_guard.verifier.set(verifier));
    }

    /// Waits until the current database instance is verified.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the verification failed; call it again.
    /// [`StoreError`] when the database does not answer.
    pub async fn wait_until_verified(&self) -> Result<(), StoreError> {
        let row = get(&self.0.pools.worker).await?.query_one(DatabaseInstance::QUERY, &[]).await?;
        self.0.restore_guard.check(DatabaseInstance::from_row(&row), None).await.map(drop)
    }

    /// The current database instance.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn database_instance(&self) -> Result<DatabaseInstance, StoreError> {
        let row = get(&self.0.pools.relay).await?.query_one(DatabaseInstance::QUERY, &[]).await?;
        Ok(DatabaseInstance::from_row(&row))
    }
}
