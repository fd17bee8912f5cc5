//! Customers in GraphQL.

use access::ErrorCode;
use access::policy::CUSTOMERS_READ;
use async_graphql::{Context, Enum, Error, ID, InputObject, Object, SimpleObject};
use commands::{Customer as Aggregate, Decider, new_aggregate_id};
use queries::crm::customer as reads;
use queries::{CustomerRow, Entry};
use schemas::crm::customer::{CustomerCommand, CustomerDetails, CustomerStatus as Status};
use schemas::engine::{Email, Name, Notes, Reason};
use uuid::Uuid;

use crate::auth::Caller;
use crate::graphql::engine::commanding::{Answer, CommandOutcome, Input, UserError, parse_id};
use crate::graphql::engine::errors::{GraphqlError, Nullable, forbidden, nullable};
use crate::graphql::engine::pages::{Connection, connection, counts, page_request, unread};
use crate::graphql::engine::past::{AsOfInput, History, HistoryPage, history, reached};
use crate::graphql::engine::scalars::{DateTime, Int64};

/// The checkpoints of the read models that queries here use.
pub const READ_MODELS: &[&str] = &[queries::CUSTOMERS];

/// Where a customer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "Status")]
pub enum CustomerStatus {
    /// In business.
    Active,
    /// On hold.
    Suspended,
    /// For ever gone.
    Closed,
}

/// Somebody whom the tenant does business with.
#[derive(Debug, Clone, SimpleObject)]
pub struct Customer {
    /// Its id.
    id: ID,
    /// The user who is this customer, where one is.
    user_id: Option<ID>,
    /// What they are called; empty where they were erased.
    name: String,
    /// Where to write to; empty where they were erased.
    email: String,
    /// The company they stand for.
    company: Option<String>,
    /// Free notes.
    notes: Option<String>,
    /// Where they stand.
    status: CustomerStatus,
    /// Whether who they are was erased.
    erased: bool,
    /// Counts the customer's events, from 1.
    version: Int64,
    /// When they became a customer.
    registered_at: DateTime,
    /// When anything last happened to them.
    updated_at: DateTime,
}

impl From<Entry<CustomerRow>> for Customer {
    fn from(entry: Entry<CustomerRow>) -> Self {
        let Entry { id, row, version, updated_at } = entry;
        Self {
            id: id.into(),
            user_id: row.user_id.map(Into::into),
            name: row.name,
            erased: row.erased,
            email: row.email,
            company: row.company,
            notes: row.notes,
            status: row.status.into(),
            version: Int64(version),
            registered_at: DateTime(row.registered_at),
            updated_at: DateTime(updated_at),
        }
    }
}

/// Which customers to list; every condition given must hold.
#[derive(Debug, Default, InputObject)]
pub struct CustomerFilter {
    /// Where they stand.
    status: Option<CustomerStatus>,
    /// Their e-mail address, whatever its case.
    email: Option<String>,
    /// What their name starts with; case counts.
    name: Option<String>,
    /// The user who is this customer.
    user_id: Option<ID>,
}

/// The order of a list of customers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "reads::CustomerOrder")]
pub enum CustomerOrder {
    /// Those who have been customers longest come first.
    RegisteredAtAsc,
    /// The newest customers come first.
    RegisteredAtDesc,
    /// By name.
    NameAsc,
    /// By name, backwards.
    NameDesc,
}

/// What can be asked about customers.
#[derive(Default)]
pub struct CustomerQueries;

#[Object]
impl CustomerQueries {
    /// One customer; null where there is none, or none that the caller may see.
    async fn customer(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The customer's id.")] id: ID,
        #[graphql(desc = "As it was then; as it is now unless given.")] as_of: Option<AsOfInput>,
    ) -> Nullable<Customer> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            let Some(id) = parse_id(&id) else { return Ok(None) };
            let may_see = |row: &Entry<CustomerRow>| {
                caller.has_permission_for(&CUSTOMERS_READ, row.user_id.unwrap_or_default())
            };
            let row = match as_of {
                Some(as_of) => {
                    let as_of = as_of.read(&caller.store).await?;
                    let row = reads::as_of(&caller.store, id, as_of).await;
                    reached(row, reads::at_version(&caller.store, id, None), may_see).await?.flatten()
                }
                None => reads::get(&caller.store, id).await.map_err(unread)?,
            };
            Ok(row.filter(may_see).map(Into::into))
        })
        .await
    }

    /// A customer's history, oldest fact first, by pages of at most 100; null where the caller may not see the customer.
    async fn customer_history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The customer's id.")] id: ID,
        #[graphql(desc = "Facts to return.")] first: Option<i32>,
        #[graphql(desc = "The cursor to start behind.")] after: Option<String>,
    ) -> Nullable<History<Customer>> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            let page = HistoryPage::read(first, after.as_deref())?;
            let Some(id) = parse_id(&id) else { return Ok(None) };
            let may_see = |row: &Entry<CustomerRow>| {
                caller.has_permission_for(&CUSTOMERS_READ, row.user_id.unwrap_or_default())
            };
            let past = reads::history(&caller.store, id, page.after, page.first).await;
            let past = reached(past, reads::at_version(&caller.store, id, None), may_see).await?;
            let seen = past.filter(|past| past.row.as_ref().is_some_and(may_see));
            Ok(seen.map(|past| history(&page, past)))
        })
        .await
    }

    /// Customers by pages of at most 100, 20 unless the client says otherwise. Needs `tenant_admin` or the scope
    /// `crm:read`.
    #[expect(clippy::too_many_arguments, reason = "a Relay connection with a filter and an order has these")]
    async fn customers(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Rows to return, from the start or behind `after`.")] first: Option<i32>,
        #[graphql(desc = "The cursor to start behind.")] after: Option<String>,
        #[graphql(desc = "Rows to return, from the end or before `before`.")] last: Option<i32>,
        #[graphql(desc = "The cursor to end before.")] before: Option<String>,
        #[graphql(desc = "Which customers.")] filter: Option<CustomerFilter>,
        #[graphql(desc = "In which order; by the time of registration unless given.")] order_by: Option<
            CustomerOrder,
        >,
    ) -> Nullable<Connection<Customer>> {
        nullable(async {
            let caller = ctx.data::<Caller>()?;
            caller.require_permission(&CUSTOMERS_READ).map_err(|problem| forbidden(&problem))?;
            let page = page_request(first, after, last, before)?;
            let filter = filter.unwrap_or_default().read()?;
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

impl CustomerFilter {
    fn read(self) -> Result<reads::CustomerFilter, Error> {
        let user_id = match self.user_id {
            Some(id) => {
                let parsed = parse_id(&id);
                Some(parsed.ok_or_else(|| ErrorCode::BadRequest.error("filter.userId is not an id"))?)
            }
            None => None,
        };
        Ok(reads::CustomerFilter {
            status: self.status.map(Into::into),
            email: self.email,
            name_prefix: self.name,
            user_id,
        })
    }
}

/// Takes somebody on as a customer.
#[derive(Debug, InputObject)]
pub struct RegisterCustomerInput {
    /// A repeat with the same id does nothing and gets the first answer.
    command_id: Option<Uuid>,
    /// The version that the customer is believed to be at: 0 for a new one.
    expected_version: Option<Int64>,
    /// What they are called: 1 to 200 characters.
    name: String,
    /// Where to write to.
    email: String,
    /// The company they stand for: 1 to 200 characters.
    company: Option<String>,
    /// Free notes: up to 10,000 characters.
    notes: Option<String>,
}

/// Gives a customer another name.
#[derive(Debug, InputObject)]
pub struct RenameCustomerInput {
    /// A repeat with the same id does nothing and gets the first answer.
    command_id: Option<Uuid>,
    /// The version that the customer is believed to be at; the command is refused where it is not.
    expected_version: Option<Int64>,
    /// The customer.
    id: ID,
    /// The new name: 1 to 200 characters.
    name: String,
}

/// Puts business with a customer on hold.
#[derive(Debug, InputObject)]
pub struct SuspendCustomerInput {
    /// A repeat with the same id does nothing and gets the first answer.
    command_id: Option<Uuid>,
    /// The version that the customer is believed to be at; the command is refused where it is not.
    expected_version: Option<Int64>,
    /// The customer.
    id: ID,
    /// Why: up to 500 characters.
    reason: Option<String>,
}

/// Ends business with a customer for good.
#[derive(Debug, InputObject)]
pub struct CloseCustomerInput {
    /// A repeat with the same id does nothing and gets the first answer.
    command_id: Option<Uuid>,
    /// The version that the customer is believed to be at; the command is refused where it is not.
    expected_version: Option<Int64>,
    /// The customer.
    id: ID,
    /// Why: up to 500 characters.
    reason: Option<String>,
}

/// What became of a customer command.
#[derive(Debug, SimpleObject)]
pub struct CustomerPayload {
    /// Applied, rejected or duplicate.
    outcome: CommandOutcome,
    /// The client's command id, or the one that was made.
    command_id: Uuid,
    /// Why the command was refused; empty where it was not.
    user_errors: Vec<UserError>,
    /// The customer behind the command, from its own events; null where the command was refused.
    customer: Option<Customer>,
    /// The customer's version behind the command.
    version: Option<Int64>,
    /// The command's position in the tenant's log.
    position: Option<Int64>,
    /// Give it to a later read as `X-Consistency-Token` to see this command's effect.
    consistency_token: Option<String>,
}

async fn payload(ctx: &Context<'_>, answer: Answer) -> Result<CustomerPayload, Error> {
    let customer = match answer.target {
        Some((id, version)) => {
            let store = &ctx.data::<Caller>()?.store;
            reads::at_version(store, id, Some(version)).await.map_err(unread)?.map(Into::into)
        }
        None => None,
    };
    let version = answer.version();
    Ok(CustomerPayload {
        outcome: answer.outcome,
        command_id: answer.command_id,
        user_errors: answer.user_errors,
        customer,
        version,
        position: answer.position,
        consistency_token: answer.consistency_token,
    })
}

/// What can be done with customers. Needs `tenant_admin` or the scope `crm:write`.
#[derive(Default)]
pub struct CustomerMutations;

#[Object]
impl CustomerMutations {
    /// Takes somebody on as a customer.
    async fn register_customer(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The command.")] input: RegisterCustomerInput,
    ) -> Nullable<CustomerPayload> {
        nullable(async {
            let RegisterCustomerInput { command_id, expected_version, name, email, company, notes } = input;
            let mut input = Input::new(ctx, "RegisterCustomer", None, command_id, expected_version)?;
            let name = input.field("name", Name::parse(&name));
            let email = input.field("email", Email::parse(&email));
            let company = input.optional("company", company, Name::parse);
            let notes = input.optional("notes", notes, Notes::parse);
            let command = name.zip(email).map(|(name, email)| CustomerCommand::RegisterCustomer {
                user_id: None,
                details: CustomerDetails { name, email, company, notes },
            });
            let id = new_aggregate_id(input.context(), Aggregate::CATEGORY);
            payload(ctx, input.send::<Aggregate>(id, command).await?).await.map(Some)
        })
        .await
    }

    /// Gives a customer another name.
    async fn rename_customer(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The command.")] input: RenameCustomerInput,
    ) -> Nullable<CustomerPayload> {
        nullable(async {
            let RenameCustomerInput { command_id, expected_version, id, name } = input;
            let mut input = Input::new(ctx, "RenameCustomer", Some(&id), command_id, expected_version)?;
            let command =
                input.field("name", Name::parse(&name)).map(|name| CustomerCommand::RenameCustomer { name });
            payload(ctx, input.send_to::<Aggregate>(&id, command).await?).await.map(Some)
        })
        .await
    }

    /// Puts business with a customer on hold.
    async fn suspend_customer(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The command.")] input: SuspendCustomerInput,
    ) -> Nullable<CustomerPayload> {
        nullable(async {
            let SuspendCustomerInput { command_id, expected_version, id, reason } = input;
            let mut input = Input::new(ctx, "SuspendCustomer", Some(&id), command_id, expected_version)?;
            let reason = input.optional("reason", reason, Reason::parse);
            payload(
                ctx,
                input.send_to::<Aggregate>(&id, Some(CustomerCommand::SuspendCustomer { reason })).await?,
            )
            .await
            .map(Some)
        })
        .await
    }

    /// Ends business with a customer for good.
    async fn close_customer(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The command.")] input: CloseCustomerInput,
    ) -> Nullable<CustomerPayload> {
        nullable(async {
            let CloseCustomerInput { command_id, expected_version, id, reason } = input;
            let mut input = Input::new(ctx, "CloseCustomer", Some(&id), command_id, expected_version)?;
            let reason = input.optional("reason", reason, Reason::parse);
            payload(
                ctx,
                input.send_to::<Aggregate>(&id, Some(CustomerCommand::CloseCustomer { reason })).await?,
            )
            .await
            .map(Some)
        })
        .await
    }
}
