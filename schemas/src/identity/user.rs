//! A user: a person who signs in to one tenant. Passwords are not part of events or commands: the store holds their
//! hashes as secrets.

use super::role::Role;
use crate::engine::{Email, Name, Reason, Sealed, commands, enumeration, events, value_object};

/// Status of a user.
#[enumeration]
pub enum UserStatus {
    /// Registered; the e-mail address is not confirmed. The user may sign in. Nothing confirms addresses yet.
    Unconfirmed,
    /// The e-mail address is confirmed.
    Active,
    /// The user may not sign in.
    Deactivated,
}

/// Who a user is.
#[value_object]
pub struct UserDetails {
    /// E-mail address, unique in the tenant.
    pub email: Email,
    /// Name of the user: 1 to 200 characters.
    pub name: Name,
}

/// What a user is called.
#[value_object]
pub struct UserName {
    /// Name of the user: 1 to 200 characters.
    pub name: Name,
}

/// What has happened to a user.
#[events("identity.user")]
pub enum UserEvent {
    /// A user registered, or an administrator added them.
    #[event("registered.v1")]
    Registered { details: Sealed<UserDetails>, roles: Vec<Role> },
    /// The e-mail address proved to be theirs.
    #[event("email_confirmed.v1")]
    EmailConfirmed {},
    /// They go by another name.
    #[event("name_changed.v1")]
    NameChanged { details: Sealed<UserName> },
    /// They may not sign in any more.
    #[event("deactivated.v1")]
    Deactivated { reason: Option<Reason> },
    /// Nothing is left of whom it was: their key is destroyed. They may not sign in any more.
    #[event("erased.v1")]
    Erased {},
    /// They may do other things than before.
    #[event("roles_changed.v1")]
    RolesChanged {
        /// All their roles from here on, in order of rank.
        roles: Vec<Role>,
    },
}

/// The commands of a user.
#[commands]
pub enum UserCommand {
    /// Registers a user. The password travels beside the command, as a secret.
    #[creates]
    #[internal]
    RegisterUser {
        #[flatten]
        details: UserDetails,
        roles: Vec<Role>,
    },
    /// Confirms that the e-mail address is the user's.
    #[internal]
    ConfirmUserEmail {},
    /// Changes the name of a user. Users may change their own.
    ChangeUserName { name: Name },
    /// Deactivates a user, who then cannot sign in. Access tokens of the user work until they expire.
    /// A user cannot deactivate itself.
    DeactivateUser { reason: Option<Reason> },
    /// Forgets who the user was. The erasure of its subject sends it.
    #[internal]
    EraseUser {},
    /// Gives the user these roles and no others.
    #[internal]
    ChangeUserRoles { roles: Vec<Role> },
}
