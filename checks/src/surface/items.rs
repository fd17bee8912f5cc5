//! Items of an artefact: what is there, and what is promised of it.

use std::collections::BTreeMap;

/// What a client may rely on in one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// It exists.
    Exists,
    /// It is exactly this.
    Exactly(String),
    /// Clients read values of this type: it may promise more (`T` to `T!`), never less.
    Read(String),
    /// Clients send values of this type: it may ask for less (`T!` to `T`), never for more. New ones must be optional.
    Sent { kind: String, is_required: bool },
}

/// The items of one artefact: `kind: name` and what is promised.
pub type Items = BTreeMap<String, Promise>;
