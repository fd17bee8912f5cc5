//! Looking back: the moment of an `asOf`, and the pages of a history.

use access::ErrorCode;
use async_graphql::connection::PageInfo;
use async_graphql::{Error, OneofObject, OutputType, SimpleObject};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use queries::{AsOf, Past};
use store::TenantStore;

use super::errors::{GraphqlError, failure};
use super::pages::{Edge, EdgesAndNodes, PageSize};
use super::scalars::{DateTime, Int64};
use crate::graphql::crm::customer::Customer;
use crate::graphql::identity::user::User;

/// A moment of the past, given in one of three ways.
#[derive(Debug, Clone, Copy, OneofObject)]
#[graphql(name = "AsOf")]
pub enum AsOfInput {
    /// When the tenant's log ended at this position.
    Position(Int64),
    /// When everything was there that had been recorded by this time.
    Time(DateTime),
    /// When the object was at this version.
    Version(Int64),
}

impl AsOfInput {
    /// The moment; a position that the log has not reached is refused, because nobody knows what will stand there.
    pub async fn read(self, tenant: &TenantStore) -> Result<AsOf, Error> {
        Ok(match self {
            Self::Position(Int64(position)) => {
                let head = tenant.head().await.map_err(|error| failure(&error))?;
                if position > head.position {
                    let detail = format!("the log ends at position {}", head.position);
                    return Err(ErrorCode::BadRequest.error(detail));
                }
                AsOf::Position(head.log_id, position)
            }
            Self::Time(DateTime(time)) => AsOf::Time(time),
            Self::Version(Int64(version)) => AsOf::Version(version),
        })
    }
}

/// One fact of an object's history.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(concrete(name = "CustomerFact", params(Customer)))]
#[graphql(concrete(name = "UserFact", params(User)))]
pub struct Fact<T: OutputType> {
    /// The object's version behind it.
    version: Int64,
    /// Its place in the tenant's log.
    position: Int64,
    /// The event's type.
    #[graphql(name = "type")]
    event_type: String,
    /// The event's id.
    event_id: uuid::Uuid,
    /// When it was recorded.
    recorded_at: DateTime,
    /// Who caused it.
    actor: String,
    /// The object as it was behind it.
    state: Option<T>,
}

/// A page of a history.
pub type History<T> = EdgesAndNodes<Edge<Fact<T>>, Fact<T>>;

/// How much of a history to read, and the version behind which.
pub struct HistoryPage {
    /// Facts on the page, at most.
    pub first: usize,
    /// The version behind which it starts.
    pub after: u64,
}

impl HistoryPage {
    /// Reads `first` and `after`.
    pub fn read(first: Option<i32>, after: Option<&str>) -> Result<Self, Error> {
        let first = PageSize::read(first)?.0 as usize;
        let after = after
            .map_or(Some(0), version)
            .ok_or_else(|| ErrorCode::CursorInvalid.error("the cursor does not belong to this history"))?;
        Ok(Self { first, after })
    }
}

/// A history's page as a connection. Facts are not counted: the version of the last one says how many there are.
pub fn history<R, T>(page: &HistoryPage, (past, more): (Vec<Past<R>>, bool)) -> History<T>
where
    T: OutputType + Clone + From<R>,
    Fact<T>: OutputType + Clone,
    Edge<Fact<T>>: OutputType,
{
    let total = past.last().map(|last| last.event.version);
    let facts = past.into_iter().map(|Past { event, row }| Fact {
        version: Int64(event.version),
        position: Int64(event.position),
        event_type: event.event_type.to_string(),
        event_id: event.event_id,
        recorded_at: DateTime(event.recorded_at),
        actor: event.metadata.actor.to_string(),
        state: row.map(T::from),
    });
    let edges: Vec<(String, Fact<T>)> = facts.map(|fact| (cursor(fact.version.0), fact)).collect();
    let ends = |edge: Option<&(String, Fact<T>)>| edge.map(|(cursor, _)| cursor.clone());
    let page_info = PageInfo {
        has_previous_page: page.after > 0,
        has_next_page: more,
        start_cursor: ends(edges.first()),
        end_cursor: ends(edges.last()),
    };
    EdgesAndNodes::new(edges, page_info, total)
}

/// A version as a cursor. It gives nothing away and opens nothing, so it needs no seal.
fn cursor(version: u64) -> String {
    URL_SAFE_NO_PAD.encode(format!("version:{version}"))
}

fn version(cursor: &str) -> Option<u64> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    text.strip_prefix("version:")?.parse().ok().filter(|version| i64::try_from(*version).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_another_text_is_none() {
        assert_eq!(version(&cursor(7)), Some(7));
        for wrong in ["", "7", "dmVyc2lvbjo", "dmVyc2lvbjotMQ", "???"] {
            assert_eq!(version(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_history_has_bounded_pages() {
        assert_eq!(HistoryPage::read(None, None).map(|page| page.first).ok(), Some(20));
        assert!(HistoryPage::read(Some(101), None).is_err());
        assert!(HistoryPage::read(Some(1), Some("x")).is_err());
    }
}
