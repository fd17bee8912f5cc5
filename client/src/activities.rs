//! The activity log of a tenant.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::{Client, Error};

/// Which entries of the activity log a page holds, newest first.
#[derive(Debug, Clone)]
pub struct ActivitiesRequest {
    /// Entries of this time or later.
    pub since: DateTime<Utc>,
    /// Entries of this time or earlier.
    pub until: DateTime<Utc>,
    /// Entries before the one with this id.
    pub before: Option<String>,
    /// Maximum number of entries.
    pub limit: usize,
}

/// An entry of the activity log.
#[derive(Debug, Clone, Deserialize)]
pub struct LoggedActivity {
    /// Its id.
    pub id: String,
    /// Its time.
    pub at: String,
    /// What happened, such as a sign-in or a refusal.
    pub kind: String,
    /// The actor.
    pub actor: String,
    /// The request or the command.
    pub action: String,
    /// `accepted`, or the code of the refusal.
    pub outcome: String,
    /// How often it happened.
    pub count: u64,
}

impl Client {
    /// A page of the activity log.
    ///
    /// # Errors
    /// [`Error::Transport`] without a complete answer, [`Error::Refused`] when the server refuses the request.
    /// [`Error::Unreadable`] when the answer is not a page of entries.
    pub async fn activities(&self, request: &ActivitiesRequest) -> Result<Vec<LoggedActivity>, Error> {
        #[derive(Deserialize)]
        struct Page {
            activities: Vec<LoggedActivity>,
        }
        let mut parameters = vec![
            ("since", request.since.to_rfc3339()),
            ("until", request.until.to_rfc3339()),
            ("limit", request.limit.to_string()),
        ];
        parameters.extend(request.before.clone().map(|before| ("before", before)));
        let page: Page = self.json("/v1/activities", &parameters).await?;
        Ok(page.activities)
    }
}
