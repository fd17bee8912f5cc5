//! A customer: a person or a company that the tenant does business with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Command, Email, Name, Notes, Reason, Sealed};

/// Status of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerStatus {
    /// The tenant does business with the customer.
    #[default]
    Active,
    /// Business is suspended.
    Suspended,
    /// Business has ended; this is final.
    Closed,
}

impl CustomerStatus {
    /// The name of the status in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closed => "closed",
        }
    }
}

crate::events! {
    /// What has happened to a customer.
    pub enum CustomerEvent in "crm.customer" {
        /// The tenant took somebody on as a customer.
        "registered.v1" => Registered(CustomerRegistered),
        /// The customer goes by another name.
        "renamed.v1" => Renamed(CustomerRenamed),
        /// Business is on hold.
        "suspended.v1" => Suspended(CustomerSuspended),
        /// Business has ended for good.
        "closed.v1" => Closed(CustomerClosed),
        /// Nothing is left of whom it was.
        "erased.v1" => Erased(CustomerErased),
    }
}

/// The tenant took somebody on as a customer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomerRegistered {
    /// The user who is this customer, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Uuid>,
    /// Who they are. The subject is the user where one is, else the customer.
    #[serde(flatten)]
    pub details: Sealed<CustomerDetails>,
}

/// Who a customer is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomerDetails {
    /// What they are called.
    pub name: Name,
    /// Where to write to; not unique among customers.
    pub email: Email,
    /// The company they stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub company: Option<Name>,
    /// Free notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Notes>,
}

/// The customer goes by another name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct CustomerRenamed {
    #[serde(flatten)]
    pub details: Sealed<CustomerName>,
}

/// What a customer is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct CustomerName {
    pub name: Name,
}

/// Business is on hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct CustomerSuspended {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Business has ended for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct CustomerClosed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Nothing is left of whom it was: their key is destroyed. Business has ended with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomerErased {}

/// Takes somebody on as a customer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of CustomerRegistered")]
pub struct RegisterCustomer {
    #[serde(default)]
    pub user_id: Option<Uuid>,
    pub name: Name,
    pub email: Email,
    #[serde(default)]
    pub company: Option<Name>,
    #[serde(default)]
    pub notes: Option<Notes>,
}

/// Gives the customer another name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RenameCustomer {
    pub name: Name,
}

/// Puts business on hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct SuspendCustomer {
    #[serde(default)]
    pub reason: Option<Reason>,
}

/// Ends business for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct CloseCustomer {
    #[serde(default)]
    pub reason: Option<Reason>,
}

/// Forgets who the customer was. Sent by the erasure of its subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseCustomer {}

impl Command for RegisterCustomer {
    const NAME: &'static str = "RegisterCustomer";
}

impl Command for RenameCustomer {
    const NAME: &'static str = "RenameCustomer";
}

impl Command for SuspendCustomer {
    const NAME: &'static str = "SuspendCustomer";
}

impl Command for CloseCustomer {
    const NAME: &'static str = "CloseCustomer";
}

impl Command for EraseCustomer {
    const NAME: &'static str = "EraseCustomer";
}
