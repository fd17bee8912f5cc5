//! A user: a person who signs in to one tenant. Passwords are not part of events or commands: the store holds their
//! hashes as secrets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::role::Role;
use crate::engine::{Command, Email, Name, Reason, Sealed};

/// Status of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserStatus {
    /// Registered; the e-mail address is not confirmed. The user may sign in. Nothing confirms addresses yet.
    #[default]
    Unconfirmed,
    /// The e-mail address is confirmed.
    Active,
    /// The user may not sign in.
    Deactivated,
}

impl UserStatus {
    /// The name of the status in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
        }
    }
}

crate::events! {
    /// What has happened to a user.
    pub enum UserEvent in "identity.user" {
        /// Somebody registered, or was added by an administrator.
        "registered.v1" => Registered(UserRegistered),
        /// The e-mail address proved to be theirs.
        "email_confirmed.v1" => EmailConfirmed(UserEmailConfirmed),
        /// They go by another name.
        "name_changed.v1" => NameChanged(UserNameChanged),
        /// They may not sign in any more.
        "deactivated.v1" => Deactivated(UserDeactivated),
        /// Nothing is left of whom it was.
        "erased.v1" => Erased(UserErased),
        /// They may do other things than before.
        "roles_changed.v1" => RolesChanged(UserRolesChanged),
    }
}

/// Somebody registered, or was added by an administrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct UserRegistered {
    #[serde(flatten)]
    pub details: Sealed<UserDetails>,
    pub roles: Vec<Role>,
}

/// Who a user is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct UserDetails {
    pub email: Email,
    pub name: Name,
}

/// The e-mail address proved to be theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserEmailConfirmed {}

/// They go by another name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct UserNameChanged {
    #[serde(flatten)]
    pub details: Sealed<UserName>,
}

/// What a user is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct UserName {
    pub name: Name,
}

/// They may not sign in any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct UserDeactivated {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Nothing is left of whom it was: their key is destroyed. They may not sign in any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserErased {}

/// They may do other things than before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserRolesChanged {
    /// All their roles from here on, in order of rank.
    pub roles: Vec<Role>,
}

/// Registers a user. The password travels beside the command, as a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RegisterUser {
    pub email: Email,
    pub name: Name,
    pub roles: Vec<Role>,
}

/// Notes that the e-mail address is the user's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmUserEmail {}

/// Changes the user's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ChangeUserName {
    pub name: Name,
}

/// Stops the user from signing in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct DeactivateUser {
    #[serde(default)]
    pub reason: Option<Reason>,
}

/// Forgets who the user was. Sent by the erasure of its subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseUser {}

/// Gives the user these roles and no others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct ChangeUserRoles {
    pub roles: Vec<Role>,
}

impl Command for RegisterUser {
    const NAME: &'static str = "RegisterUser";
}

impl Command for ConfirmUserEmail {
    const NAME: &'static str = "ConfirmUserEmail";
}

impl Command for ChangeUserName {
    const NAME: &'static str = "ChangeUserName";
}

impl Command for DeactivateUser {
    const NAME: &'static str = "DeactivateUser";
}

impl Command for EraseUser {
    const NAME: &'static str = "EraseUser";
}

impl Command for ChangeUserRoles {
    const NAME: &'static str = "ChangeUserRoles";
}
