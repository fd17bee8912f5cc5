//! Control: descriptions without a mistake compile.

use schemas::engine::{Email, Name, Sealed, commands, enumeration, events, read_model, value_object};
use uuid::Uuid;

/// Status of a deal.
#[enumeration]
pub enum DealStatus {
    /// It is open.
    Open,
}

/// Who the deal is about.
#[value_object]
pub struct DealPerson {
    /// The name.
    pub name: Name,
    pub email: Email,
}

/// What has happened to a deal.
#[events("crm.deal")]
pub enum DealEvent {
    /// A deal was opened.
    #[event("opened.v1")]
    Opened { person: Sealed<DealPerson> },
    /// Nothing is left of the person.
    #[event("erased.v1")]
    Erased {},
}

/// The commands of a deal.
#[commands]
pub enum DealCommand {
    /// Opens a deal.
    #[creates]
    OpenDeal {
        #[flatten]
        person: DealPerson,
    },
}

/// Why a deal command was rejected.
#[describe::rejections]
pub enum DealRejection {
    #[rejection(Invalid, "line {line} is empty", at = "lines.{line}")]
    LineEmpty { line: usize },
}

/// A deal.
#[read_model("deals.v1", visible_to = CrmRead, order = title, owner = customer_id)]
pub struct DealRow {
    /// The customer.
    #[column(find, to = schemas_row::OtherRow, back = "deals")]
    pub customer_id: Uuid,
    /// The title.
    #[column(prefix, order)]
    pub title: String,
}

mod schemas_row {
    use schemas::engine::read_model;

    /// Another row.
    #[read_model("others.v1", visible_to = CrmRead, order = title)]
    pub struct OtherRow {
        /// The title.
        pub title: String,
    }
}

pub const BY_CUSTOMER: schemas::engine::Lookup<DealRow, Uuid> = DealRow::CUSTOMER_ID;
