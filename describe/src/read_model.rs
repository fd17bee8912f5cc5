//! Rows of read models.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Ident, LitStr, Path, Token, parse_quote};

use crate::attributes::{description, find};
use crate::fields::{described_by, name_of, without_option};
use crate::names::camel_case;
use crate::values::allow_missing_docs;

/// The arguments of `read_model`.
pub(crate) struct ReadModelArguments {
    name: LitStr,
    visible_to: Ident,
    order: Ident,
    owner: Option<Ident>,
}

impl Parse for ReadModelArguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name: LitStr = input.parse()?;
        let (mut visible_to, mut order, mut owner) = (None, None, None);
        while input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "visible_to" => visible_to = Some(input.parse()?),
                "order" => order = Some(input.parse()?),
                "owner" => owner = Some(input.parse()?),
                _ => return Err(syn::Error::new(key.span(), "expected `visible_to`, `order` or `owner`")),
            }
        }
        let missing = |message| syn::Error::new(name.span(), message);
        let visible_to =
            visible_to.ok_or_else(|| missing("who may read the rows? `visible_to = <variant of Scope>`"))?;
        let order = order.ok_or_else(|| missing("a list needs an order: `order = <column>`"))?;
        Ok(Self { name, visible_to, order, owner })
    }
}

/// The words of `column`.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the attribute")]
struct ColumnWords {
    find: bool,
    group: bool,
    prefix: bool,
    order: bool,
    range: bool,
    hidden: Option<LitStr>,
    to: Option<(Ident, Path)>,
    back: Option<LitStr>,
    back_one: Option<LitStr>,
}

impl ColumnWords {
    fn of(field: &Field) -> syn::Result<Self> {
        let mut words = Self::default();
        let Some(attribute) = find(&field.attrs, "column") else { return Ok(words) };
        attribute.parse_nested_meta(|meta| {
            let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            match word.as_str() {
                "find" => words.find = true,
                "group" => words.group = true,
                "prefix" => words.prefix = true,
                "order" => words.order = true,
                "range" => words.range = true,
                "hidden" => words.hidden = Some(meta.value()?.parse()?),
                "to" => {
                    let word = meta.path.require_ident()?.clone();
                    words.to = Some((word, meta.value()?.parse()?));
                }
                "back" => words.back = Some(meta.value()?.parse()?),
                "back_one" => words.back_one = Some(meta.value()?.parse()?),
                _ => {
                    return Err(meta
                        .error("expected find, group, prefix, order, range, hidden, to, back or back_one"));
                }
            }
            Ok(())
        })?;
        Ok(words)
    }

    fn is_filter(&self) -> bool {
        self.find || self.group
    }

    fn needs_index(&self) -> bool {
        self.is_filter() || self.prefix || self.order || self.range
    }
}

/// The checks of a column, as constants that do not compile when they fail.
fn checks(field: &Field, words: &ColumnWords) -> syn::Result<TokenStream> {
    let (text, ty) = (name_of(field)?.to_string(), &field.ty);
    let mut checks = TokenStream::new();
    if words.needs_index() {
        let message = format!("`{text}` holds no single value: no index serves it");
        checks.extend(quote_spanned! {ty.span()=>
            const { assert!(<#ty as ::schemas::engine::Field>::KIND.is_single_value(), #message) }
        });
    }
    if words.order || words.range {
        let message = format!("`{text}` may be absent: pages in this order would lose rows");
        checks.extend(quote_spanned! {ty.span()=>
            const { assert!(!<#ty as ::schemas::engine::Field>::OPTIONAL, #message) }
        });
    }
    if words.to.is_some() {
        let message = format!("`{text}` holds no id: no row can be behind it");
        checks.extend(quote_spanned! {ty.span()=>
            const {
                assert!(
                    matches!(<#ty as ::schemas::engine::Field>::KIND, ::schemas::engine::Kind::Id),
                    #message
                )
            }
        });
    }
    Ok(checks)
}

/// The relation that the words describe. Its column needs an index: the other direction is read by it, and clients may
/// filter by it.
fn relation(ident: &Ident, words: &ColumnWords) -> syn::Result<TokenStream> {
    let Some((word, to)) = &words.to else {
        return match words.back.as_ref().or(words.back_one.as_ref()) {
            Some(back) => Err(syn::Error::new(back.span(), "`back` and `back_one` need `to = <Row>`")),
            None => Ok(quote!(None)),
        };
    };
    if !words.is_filter() {
        let message =
            "`to` needs an index: `find` (few rows have the same value) or `group` (many rows have)";
        return Err(syn::Error::new(word.span(), message));
    }
    let text = ident.to_string();
    let one = camel_case(text.strip_suffix("_id").ok_or_else(|| {
        syn::Error::new(ident.span(), "the name of a column that leads to another row ends with `_id`")
    })?);
    let (back, at_most_one) = match (&words.back, &words.back_one) {
        (Some(_), Some(second)) => {
            return Err(syn::Error::new(second.span(), "either `back` or `back_one`"));
        }
        (Some(back), None) => (Some(back), false),
        (None, back) => (back.as_ref(), true),
    };
    let back = back.map_or_else(
        || quote!(None),
        |back| quote!(Some(::schemas::engine::Back { field: #back, one: #at_most_one })),
    );
    Ok(quote_spanned!(to.span()=> Some(::schemas::engine::Relation {
        model: || <#to as ::schemas::engine::Row>::MODEL, field: #one, back: #back,
    })))
}

fn column(field: &Field, words: &ColumnWords) -> syn::Result<TokenStream> {
    let ident = name_of(field)?;
    let (text, ty) = (ident.to_string(), &field.ty);
    let (plain, graphql_name, described) =
        (without_option(ty), camel_case(&text), described_by(field, true)?);
    let ColumnWords { find, group, prefix, order, range, hidden, .. } = words;
    let filter = match (find | prefix, *group) {
        (true, true) => {
            return Err(syn::Error::new(ident.span(), "either few rows have the same value, or many"));
        }
        (true, false) => quote!(Some(::schemas::engine::Selectivity::Few)),
        (false, true) => quote!(Some(::schemas::engine::Selectivity::Many)),
        (false, false) => quote!(None),
    };
    let checks = checks(field, words)?;
    let relation = relation(ident, words)?;
    let filter_name = hidden.as_ref().map_or_else(|| quote!(#graphql_name), |name| quote!(#name));
    let visible = hidden.is_none();
    Ok(quote_spanned! {ty.span()=> {
        #checks
        ::schemas::engine::Column {
            name: #text,
            graphql_name: #graphql_name,
            description: #described,
            kind: <#ty as ::schemas::engine::Field>::KIND,
            optional: <#ty as ::schemas::engine::Field>::OPTIONAL,
            filter: #filter,
            prefix: #prefix,
            order: #order || #range,
            range: #range,
            filter_name: #filter_name,
            sought: ::schemas::engine::model::sought::<#plain>,
            visible: #visible,
            relation: #relation,
        }
    }})
}

fn owner_of(arguments: &ReadModelArguments, fields: &syn::Fields) -> syn::Result<TokenStream> {
    let Some(owner) = &arguments.owner else { return Ok(quote!(None)) };
    let column = fields.iter().find(|field| field.ident.as_ref() == Some(owner));
    let words = column.map(ColumnWords::of).transpose()?;
    if owner != "id" && !words.is_some_and(|words| words.is_filter()) {
        return Err(syn::Error::new(owner.span(), "the owner is `id`, or a column with `find` or `group`"));
    }
    let owner = owner.to_string();
    Ok(quote!(Some(#owner)))
}

pub(crate) fn read_model(arguments: &ReadModelArguments, item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let (name, described) = (item.ident.clone(), description(&item.attrs));
    let text = name.to_string();
    let Some(object) = text.strip_suffix("Row") else {
        return Err(syn::Error::new(name.span(), "a row is named after what it shows: `CustomerRow`"));
    };
    if described.is_empty() {
        return Err(syn::Error::new(name.span(), "a read model needs a doc comment: clients read it"));
    }
    let full = arguments.name.value();
    let Some((plural, version)) = full.split_once(".v").and_then(|(n, v)| Some((n, v.parse::<u32>().ok()?)))
    else {
        return Err(syn::Error::new(
            arguments.name.span(),
            "a read model's name ends with its version: \"customers.v1\"",
        ));
    };
    let (one, many, table) = (camel_case(object), camel_case(plural), format!("{plural}_v{version}"));
    let Data::Struct(data) = &mut item.data else {
        return Err(syn::Error::new(name.span(), "a row is a struct"));
    };
    if !data.fields.iter().any(|field| field.ident.as_ref() == Some(&arguments.order)) {
        return Err(syn::Error::new(arguments.order.span(), "no such column"));
    }
    let (mut columns, mut handles) = (Vec::new(), Vec::new());
    for field in &data.fields {
        let mut words = ColumnWords::of(field)?;
        let ident = name_of(field)?;
        words.order |= *ident == arguments.order;
        columns.push(column(field, &words)?);
        if words.is_filter() {
            let (text, plain) = (ident.to_string(), without_option(&field.ty));
            let handle = format_ident!("{}", text.to_uppercase(), span = ident.span());
            let said = format!("Looks rows up by `{text}`.");
            handles.push(quote! {
                #[doc = #said]
                pub const #handle: ::schemas::engine::Lookup<Self, #plain> = ::schemas::engine::Lookup::new(#text);
            });
        }
    }
    let owner = owner_of(arguments, &data.fields)?;
    let (scope, order) = (&arguments.visible_to, arguments.order.to_string());
    item.attrs.push(parse_quote!(
        #[derive(Debug, Clone, PartialEq, Default, ::serde::Serialize, ::serde::Deserialize)]
    ));
    item.attrs.push(allow_missing_docs());
    Ok(quote! {
        impl ::schemas::engine::Row for #name {
            const MODEL: &'static ::schemas::engine::Model = &::schemas::engine::Model {
                name: #full,
                table: #table,
                object: #object,
                one: #one,
                many: #many,
                description: #described,
                visible_to: ::schemas::identity::scope::Scope::#scope,
                order: #order,
                owner: #owner,
                columns: &[#(#columns),*],
            };
        }

        impl #name {
            #(#handles)*
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with the words of a column, and the text at fault.
    fn refused(words: &str) -> Option<String> {
        let item = format!(
            "/// A row.\nstruct DealRow {{ /// A customer.\n {words} customer_id: Uuid, /// A time.\n at: Time }}"
        );
        let arguments = syn::parse_str("\"deals.v1\", visible_to = CrmRead, order = at").expect("arguments");
        let mut item = syn::parse_str(&item).expect("an item");
        read_model(&arguments, &mut item).err().map(|error| error.to_string())
    }

    #[test]
    fn a_relation_needs_an_index_and_at_most_one_field_on_the_other_side() {
        for good in [
            "#[column(find, to = CustomerRow)]",
            "#[column(group, to = CustomerRow, back = \"deals\")]",
            "#[column(find, to = CustomerRow, back_one = \"deal\")]",
        ] {
            assert_eq!(refused(good), None, "{good}");
        }
        for (bad, reason) in [
            ("#[column(to = CustomerRow)]", "`to` needs an index"),
            ("#[column(to = CustomerRow, back = \"deals\")]", "`to` needs an index"),
            ("#[column(find, back = \"deals\")]", "need `to = <Row>`"),
            ("#[column(find, to = CustomerRow, back = \"deals\", back_one = \"deal\")]", "either `back`"),
            ("#[column(find, group, to = CustomerRow)]", "either few rows"),
            ("#[column(fnd)]", "expected find, group"),
        ] {
            let said = refused(bad).unwrap_or_default();
            assert!(said.contains(reason), "{bad}: {said}");
        }
    }
}
