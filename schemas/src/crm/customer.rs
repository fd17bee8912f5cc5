//! A customer: a person or a company that the tenant does business with.

use uuid::Uuid;

use crate::engine::{Email, Name, Notes, Reason, Sealed, commands, enumeration, events, value_object};

/// Status of a customer.
#[enumeration]
pub enum CustomerStatus {
    /// The tenant does business with the customer.
    Active,
    /// Business is suspended.
    Suspended,
    /// Business has ended; this is final.
    Closed,
}

/// Who a customer is.
#[value_object]
pub struct CustomerDetails {
    /// Name of the customer: 1 to 200 characters.
    pub name: Name,
    /// E-mail address; several customers may have the same.
    pub email: Email,
    /// Company that the customer stands for: 1 to 200 characters.
    pub company: Option<Name>,
    /// Notes: up to 10,000 characters.
    pub notes: Option<Notes>,
}

/// What a customer is called.
#[value_object]
pub struct CustomerName {
    /// Name of the customer: 1 to 200 characters.
    pub name: Name,
}

/// How to reach a customer, and notes on it.
#[value_object]
pub struct CustomerContact {
    /// E-mail address; several customers may have the same.
    pub email: Email,
    /// Company that the customer stands for: 1 to 200 characters.
    pub company: Option<Name>,
    /// Notes: up to 10,000 characters.
    pub notes: Option<Notes>,
}

/// What has happened to a customer.
#[events("crm.customer")]
pub enum CustomerEvent {
    /// A customer was registered.
    #[event("registered.v1")]
    Registered {
        /// The user who is this customer, where one is.
        user_id: Option<Uuid>,
        /// Who they are. The subject is the user where one is, else the customer.
        details: Sealed<CustomerDetails>,
    },
    /// The customer goes by another name.
    #[event("renamed.v1")]
    Renamed { details: Sealed<CustomerName> },
    /// The customer is reached elsewhere, or other notes apply.
    #[event("contact_changed.v1")]
    ContactChanged { details: Sealed<CustomerContact> },
    /// Business is on hold.
    #[event("suspended.v1")]
    Suspended { reason: Option<Reason> },
    /// Business goes on.
    #[event("resumed.v1")]
    Resumed {},
    /// The customer was closed for good.
    #[event("closed.v1")]
    Closed { reason: Option<Reason> },
    /// The person was erased: their key is destroyed. The customer is closed.
    #[event("erased.v1")]
    Erased {},
}

/// The commands of a customer.
#[commands]
pub enum CustomerCommand {
    /// Registers a customer.
    #[creates]
    RegisterCustomer {
        #[internal]
        user_id: Option<Uuid>,
        #[flatten]
        details: CustomerDetails,
    },
    /// Changes the name of a customer.
    RenameCustomer { name: Name },
    /// Replaces the contact of a customer: what is not given is removed.
    ChangeCustomerContact {
        #[flatten]
        contact: CustomerContact,
    },
    /// Suspends business with a customer.
    SuspendCustomer { reason: Option<Reason> },
    /// Resumes business with a suspended customer.
    ResumeCustomer {},
    /// Ends business with a customer for good.
    CloseCustomer { reason: Option<Reason> },
    /// Forgets who the customer was. The erasure of its subject sends it.
    #[internal]
    EraseCustomer {},
}
