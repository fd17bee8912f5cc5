//! The registry of read models. Code that depends on a read model uses it: an unknown name is an error, and a new read
//! model does not compile until every function here handles it.

use store::ReadTable;

use crate::{Customers, Projection, Users};

/// The checkpoint of the read model of customers.
pub const CUSTOMERS: &str = "customers.v1";
/// The checkpoint of the read model of users.
pub const USERS: &str = "users.v1";
/// The checkpoints of all read models.
pub const CHECKPOINTS: &[&str] = &[CUSTOMERS, USERS];

/// A read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadModel {
    /// The customers of a tenant.
    Customers,
    /// The users of a tenant.
    Users,
}

/// A function over read models, for code that knows the read model only at run time.
pub trait ReadModelVisitor {
    /// The result.
    type Output;

    /// Calls the function for the read model `P`.
    fn of<P: Projection>(self) -> Self::Output;
}

impl ReadModel {
    /// All read models.
    pub const ALL: &[Self] = &[Self::Customers, Self::Users];

    /// The read model with this checkpoint, with or without version: `customers.v1` or `customers`.
    pub fn find(name: &str) -> Option<Self> {
        let is_meant = |model: &&Self| {
            let checkpoint = model.checkpoint();
            checkpoint == name || checkpoint.rsplit_once(".v").is_some_and(|(plain, _)| plain == name)
        };
        Self::ALL.iter().find(is_meant).copied()
    }

    /// Calls the visitor for this read model.
    pub fn with<W: ReadModelVisitor>(self, work: W) -> W::Output {
        match self {
            Self::Customers => work.of::<Customers>(),
            Self::Users => work.of::<Users>(),
        }
    }

    /// The name of its checkpoint.
    pub const fn checkpoint(self) -> &'static str {
        match self {
            Self::Customers => CUSTOMERS,
            Self::Users => USERS,
        }
    }

    /// The scope that a reader of its rows needs.
    pub fn scope(self) -> &'static str {
        struct Scope;
        impl ReadModelVisitor for Scope {
            type Output = &'static str;

            fn of<P: Projection>(self) -> Self::Output {
                P::SCOPE
            }
        }
        self.with(Scope)
    }

    /// Its table.
    pub fn table(self) -> ReadTable {
        struct Table;
        impl ReadModelVisitor for Table {
            type Output = ReadTable;

            fn of<P: Projection>(self) -> Self::Output {
                P::TABLE
            }
        }
        self.with(Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint_name;

    struct CheckpointName;
    impl ReadModelVisitor for CheckpointName {
        type Output = String;

        fn of<P: Projection>(self) -> Self::Output {
            checkpoint_name::<P>()
        }
    }

    #[test]
    fn a_checkpoint_is_named_after_projection_and_version() {
        let named: Vec<String> = ReadModel::ALL.iter().map(|model| model.with(CheckpointName)).collect();
        assert_eq!(named, CHECKPOINTS);
        assert!(ReadModel::ALL.iter().map(|model| model.checkpoint()).eq(CHECKPOINTS.iter().copied()));
    }

    #[test]
    fn a_read_model_is_found_with_and_without_its_version() {
        assert_eq!(ReadModel::find("customers"), Some(ReadModel::Customers));
        assert_eq!(ReadModel::find("users.v1"), Some(ReadModel::Users));
        for unknown in [
            "customers.v2",
            "customers.",
            "Customers",
            "customers.v1.v1",
            "v1",
            "invoices",
            "invoices.v1",
            "",
        ] {
            assert_eq!(ReadModel::find(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_read_model_is_read_with_a_scope_of_its_own() {
        assert_eq!(ReadModel::Customers.scope(), "crm:read");
        assert_eq!(ReadModel::Users.scope(), "users:read");
    }
}
