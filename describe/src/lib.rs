//! Attributes that describe the vocabulary of an aggregate. They write derives, constants, and a reader of inputs.
//! They decide, store and send nothing: the engines do that, and read the constants.
//!
//! | attribute | on | writes |
//! | --- | --- | --- |
//! | `events("crm.customer")` | an enum | serde and JSON Schema; the name of each event type |
//! | `commands` | an enum | serde; the name, the fields and the reader of each command |
//! | `value_object` | a struct | serde and JSON Schema; its fields and their reader |
//! | `enumeration` | an enum without fields | serde and JSON Schema; its values |
//! | `rejections` | an enum | the error; code and path of each rejection |
//! | `read_model("customers.v1", ...)` | a struct | serde; table, columns, filters, orders and relations |

mod attributes;
mod fields;
mod names;
mod read_model;
mod rejections;
mod values;
mod vocabulary;

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

/// Keeps the item and adds its description. An error is reported at the word at fault; the item stays as it was written,
/// so that the compiler does not report it as missing.
fn described(
    item: TokenStream,
    describe: impl FnOnce(&mut DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
) -> TokenStream {
    let written = parse_macro_input!(item as DeriveInput);
    let mut item = written.clone();
    let added = describe(&mut item).unwrap_or_else(|error| {
        item = written;
        error.into_compile_error()
    });
    attributes::remove_helpers(&mut item);
    quote!(#item #added).into()
}

/// The events of one aggregate: `#[events("<context>.<aggregate>")]`. Each variant has `#[event("<name>.v<n>")]`, a doc
/// comment, and fields in braces.
///
/// `#[event("<name>.v2", from = OlderPayload)]` also decodes version 1, by `impl From<OlderPayload>` for the enum.
/// `#[event("<name>.v3", from = OldestPayload, from = OlderPayload)]` decodes versions 1 and 2. Only the newest version
/// is recorded; all have a JSON Schema.
#[proc_macro_attribute]
pub fn events(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let category = parse_macro_input!(arguments as syn::LitStr);
    described(item, |item| vocabulary::events(&category, item))
}

/// The commands of one aggregate. Helpers on a variant:
///
/// - `#[creates]`: the aggregate must not exist.
/// - `#[creates_or_changes]`: the aggregate may exist.
/// - `#[internal]`: only the product itself sends the command.
///
/// Helpers on a field: `#[internal]` (only the product gives it), `#[flatten]` (the fields of a value object stand among
/// the command's own).
#[proc_macro_attribute]
pub fn commands(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    described(item, vocabulary::commands)
}

/// A group of fields that is used in commands, events and read models.
#[proc_macro_attribute]
pub fn value_object(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    described(item, values::value_object)
}

/// One of a few values. The first value is the default.
#[proc_macro_attribute]
pub fn enumeration(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    described(item, values::enumeration)
}

/// Why commands of one aggregate are rejected. Each variant has `#[rejection(ErrorCodeVariant, "message")]`, and
/// `at = "field"` if one field of the input is at fault. Message and path may name the variant's fields in braces.
#[proc_macro_attribute]
pub fn rejections(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    described(item, rejections::rejections)
}

/// One row of a read model: `#[read_model("<name>.v<n>", visible_to = <Scope>, order = <column>)]`, and
/// `owner = <column>` if users see their own rows without the scope.
///
/// Helpers on a column, `#[column(...)]`:
///
/// - `find`: a filter for columns where few rows have the same value.
/// - `group`: a filter for columns where many rows have the same value.
/// - `prefix`: a filter by the start of a text.
/// - `order`: lists may be sorted by the column.
/// - `range`: a filter by a range; the column is also an order.
/// - `hidden = "<name>"`: the column is not shown; its filter has this name.
/// - `to = <Row>`: the column, whose name ends with `_id`, holds the id of another row. It needs `find` or `group`.
/// - `back = "<field>"`: the field of the other direction, a list. `back_one`: of at most one row.
#[proc_macro_attribute]
pub fn read_model(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as read_model::ReadModelArguments);
    described(item, |item| read_model::read_model(&arguments, item))
}
