//! Users in GraphQL.

use access::policy::USERS_READ;
use async_graphql::{ComplexObject, Context, Enum, Error, ID, InputObject, Object, SimpleObject};
use commands::User as Aggregate;
use commands::identity::administration::deactivate;
use queries::crm::customer as customer_reads;
use queries::identity::user as reads;
use queries::{Entry, UserRow};
use schemas::engine::{Name, Reason};
use schemas::identity::user::{UserCommand, UserStatus as Status};
use uuid::Uuid;

use crate::auth::Caller;
use crate::graphql::crm::customer::Customer;
use crate::graphql::engine::commanding::{Answer, CommandOutcome, Input, UserError, parse_id};
use crate::graphql::engine::errors::{Nullable, forbidden, nullable};
use crate::graphql::engine::pages::{Connection, connection, counts, page_request, unread};
use crate::graphql::engine::past::{AsOfInput, History, HistoryPage, history};
use crate::graphql::engine::scalars::{DateTime, Int64};

/// The checkpoints of the read models that queries here use. `me` reads the user's own events instead, and the read
/// model of customers.
pub const READ_MODELS: &[&str] = &[queries::USERS];

/// Where a user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "Status")]
pub enum UserStatus {
    /// The e-mail address is not confirmed. Nothing confirms addresses yet, so every user has this status until deactivated.
    Unconfirmed,
    /// The e-mail address is confirmed.
    Active,
    /// May not sign in.
    Deactivated,
}

/// Somebody who signs in to the tenant.
#[derive(Debug, Clone, SimpleObject)]
pub struct User {
    /// Their id.
    id: ID,
    /// Their e-mail address, unique in the tenant; empty where they were erased.
    email: String,
    /// What they are called; empty where they were erased.
    name: String,
    /// What they may do: `member`, `tenant_admin`, `auditor`, `integrator`, `platform_admin`.
    roles: Vec<String>,
    /// Where they stand.
    status: UserStatus,
    /// Whether who they are was erased.
    erased: bool,
    /// Counts the user's events, from 1.
    version: Int64,
    /// When they registered.
    registered_at: DateTime,
    /// When anything last happened to them.
    updated_at: DateTime,
}

/// The caller.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct Me {
    /// Their id.
    id: ID,
    /// Their e-mail address, unique in the tenant.
    email: String,
    /// What they are called.
    name: String,
    /// What they may do: `member`, `tenant_admin`, `auditor`, `integrator`, `platform_admin`.
    roles: Vec<String>,
    /// Where they stand.
    status: UserStatus,
    /// Counts the user's events, from 1.
    version: Int64,
    /// When they registered.
    registered_at: DateTime,
    /// When anything last happened to them.
    updated_at: DateTime,
}

#[ComplexObject]
impl Me {
    /// The customer that the caller is, where it is one. A registration makes its customer a moment later.
    async fn customer(&self, ctx: &Context<'_>) -> Nullable<Customer> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            let row = customer_reads::by_user(&caller.store, caller.user_id()).await.map_err(unread)?;
            Ok(row.map(Into::into))
        })
        .await
    }
}

impl From<Entry<UserRow>> for User {
    fn from(entry: Entry<UserRow>) -> Self {
        let Entry { id, row, version, updated_at } = entry;
        Self {
            id: id.into(),
            erased: row.erased,
            email: row.email,
            name: row.name,
            roles: row.roles.iter().map(ToString::to_string).collect(),
            status: row.status.into(),
            version: Int64(version),
            registered_at: DateTime(row.registered_at),
            updated_at: DateTime(updated_at),
        }
    }
}

impl From<User> for Me {
    fn from(user: User) -> Self {
        let User { id, email, name, roles, status, version, registered_at, updated_at, .. } = user;
        Self { id, email, name, roles, status, version, registered_at, updated_at }
    }
}

/// Which users to list; every condition given must hold.
#[derive(Debug, Default, InputObject)]
pub struct UserFilter {
    /// Where they stand.
    status: Option<UserStatus>,
    /// Their e-mail address, whatever its case.
    email: Option<String>,
    /// What their name starts with; case counts.
    name: Option<String>,
}

/// The order of a list of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "reads::UserOrder")]
pub enum UserOrder {
    /// Those who registered first come first.
    RegisteredAtAsc,
    /// Those who registered last come first.
    RegisteredAtDesc,
    /// By name.
    NameAsc,
    /// By name, backwards.
    NameDesc,
}

/// What can be asked about users.
#[derive(Default)]
pub struct UserQueries;

#[Object]
impl UserQueries {
    /// The caller, from its own events: right at once.
    async fn me(&self, ctx: &Context<'_>) -> Nullable<Me> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            let row = reads::at_version(&caller.store, caller.user_id(), None).await.map_err(unread)?;
            Ok(row.map(|row| User::from(row).into()))
        })
        .await
    }

    /// One user; null where there is none, or none that the caller may see. Everybody sees itself.
    async fn user(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The user's id.")] id: ID,
        #[graphql(desc = "As it was then; as it is now unless given.")] as_of: Option<AsOfInput>,
    ) -> Nullable<User> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            let Some(id) = parse_id(&id) else { return Ok(None) };
            if !caller.has_permission_for(&USERS_READ, id) {
                return Ok(None);
            }
            let row = match as_of {
                Some(as_of) => {
                    let as_of = as_of.read(&caller.store).await?;
                    reads::as_of(&caller.store, id, as_of).await.map_err(unread)?
                }
                None => reads::get(&caller.store, id).await.map_err(unread)?,
            };
            Ok(row.map(Into::into))
        })
        .await
    }

    /// A user's history, oldest fact first, by pages of at most 100; null where the caller may not see the user.
    async fn user_history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The user's id.")] id: ID,
        #[graphql(desc = "Facts to return.")] first: Option<i32>,
        #[graphql(desc = "The cursor to start behind.")] after: Option<String>,
    ) -> Nullable<History<User>> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            let page = HistoryPage::read(first, after.as_deref())?;
            let Some(id) = parse_id(&id) else { return Ok(None) };
            if !caller.has_permission_for(&USERS_READ, id) {
                return Ok(None);
            }
            let past = reads::history(&caller.store, id, page.after, page.first).await.map_err(unread)?;
            Ok((past.total > 0).then(|| history(&page, past)))
        })
        .await
    }

    /// Users by pages of at most 100, 20 unless the client says otherwise. Needs `tenant_admin` or the scope
    /// `users:read`.
    #[expect(clippy::too_many_arguments, reason = "a Relay connection with a filter and an order has these")]
    async fn users(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Rows to return, from the start or behind `after`.")] first: Option<i32>,
        #[graphql(desc = "The cursor to start behind.")] after: Option<String>,
        #[graphql(desc = "Rows to return, from the end or before `before`.")] last: Option<i32>,
        #[graphql(desc = "The cursor to end before.")] before: Option<String>,
        #[graphql(desc = "Which users.")] filter: Option<UserFilter>,
        #[graphql(desc = "In which order; by the time of registration unless given.")] order_by: Option<
            UserOrder,
        >,
    ) -> Nullable<Connection<User>> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            caller.require_permission(&USERS_READ).map_err(|problem| forbidden(&problem))?;
            let page = page_request(first, after, last, before)?;
            let UserFilter { status, email, name } = filter.unwrap_or_default();
            let filter = reads::UserFilter { status: status.map(Into::into), email, name_prefix: name };
            let order = order_by.map(Into::into).unwrap_or_default();
            let page = reads::list(&caller.store, &filter, order, page).await.map_err(unread)?;
            let total = if counts(ctx) {
                Some(reads::count(&caller.store, &filter).await.map_err(unread)?)
            } else {
                None
            };
            Ok(Some(connection(page, total)))
        })
        .await
    }
}

/// Changes a user's name.
#[derive(Debug, InputObject)]
pub struct ChangeUserNameInput {
    /// A repeat with the same id does nothing and gets the first answer.
    command_id: Option<Uuid>,
    /// The version that the user is believed to be at; the command is refused where it is not.
    expected_version: Option<Int64>,
    /// The user.
    id: ID,
    /// The new name: 1 to 200 characters.
    name: String,
}

/// Stops a user from signing in.
#[derive(Debug, InputObject)]
pub struct DeactivateUserInput {
    /// A repeat with the same id does nothing and gets the first answer.
    command_id: Option<Uuid>,
    /// The version that the user is believed to be at; the command is refused where it is not.
    expected_version: Option<Int64>,
    /// The user.
    id: ID,
    /// Why: up to 500 characters.
    reason: Option<String>,
}

/// What became of a user command.
#[derive(Debug, SimpleObject)]
pub struct UserPayload {
    /// Applied, rejected or duplicate.
    outcome: CommandOutcome,
    /// The client's command id, or the one that was made.
    command_id: Uuid,
    /// Why the command was refused; empty where it was not.
    user_errors: Vec<UserError>,
    /// The user behind the command, from its own events; null where the command was refused.
    user: Option<User>,
    /// The user's version behind the command.
    version: Option<Int64>,
    /// The command's position in the tenant's log.
    position: Option<Int64>,
    /// Give it to a later read as `X-Consistency-Token` to see this command's effect.
    consistency_token: Option<String>,
}

async fn payload(ctx: &Context<'_>, answer: Answer) -> Result<UserPayload, Error> {
    let user = match answer.target {
        Some((id, version)) => {
            let store = &ctx.data::<Caller>()?.store;
            reads::at_version(store, id, Some(version)).await.map_err(unread)?.map(Into::into)
        }
        None => None,
    };
    let version = answer.version();
    Ok(UserPayload {
        outcome: answer.outcome,
        command_id: answer.command_id,
        user_errors: answer.user_errors,
        user,
        version,
        position: answer.position,
        consistency_token: answer.consistency_token,
    })
}

/// What can be done with users.
#[derive(Default)]
pub struct UserMutations;

#[Object]
impl UserMutations {
    /// Changes a user's name. Everybody may change its own; others need `tenant_admin` or the scope `users:write`.
    async fn change_user_name(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The command.")] input: ChangeUserNameInput,
    ) -> Nullable<UserPayload> {
        nullable(async {
            let ChangeUserNameInput { command_id, expected_version, id, name } = input;
            let mut input = Input::new(ctx, "ChangeUserName", Some(&id), command_id, expected_version)?;
            let command =
                input.field("name", Name::parse(&name)).map(|name| UserCommand::ChangeUserName { name });
            payload(ctx, input.send_to::<Aggregate>(&id, command).await?).await.map(Some)
        })
        .await
    }

    /// Stops a user from signing in. Needs `tenant_admin`; nobody deactivates itself. Access tokens that the user holds
    /// work until they expire.
    async fn deactivate_user(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The command.")] input: DeactivateUserInput,
    ) -> Nullable<UserPayload> {
        nullable(async {
            let DeactivateUserInput { command_id, expected_version, id, reason } = input;
            let mut input = Input::new(ctx, "DeactivateUser", Some(&id), command_id, expected_version)?;
            let reason = input.optional("reason", reason, Reason::parse);
            let answer = input.send_by::<Aggregate, _>(&id, Some(reason), deactivate).await?;
            payload(ctx, answer).await.map(Some)
        })
        .await
    }
}
