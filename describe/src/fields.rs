//! The fields of commands and value objects: their description, their serde attributes, and the code that reads them.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Field, Fields, GenericArgument, Ident, LitInt, PathArguments, Type, parse_quote};

use crate::attributes::{description, find, has};
use crate::names::camel_case;

/// Whether the last word of the type's path is `name`.
pub(crate) fn is_type(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == name))
}

/// `T` of `Option<T>`; other types as they are.
pub(crate) fn without_option(ty: &Type) -> &Type {
    if let Type::Path(path) = ty
        && let Some(segment) = path.path.segments.last().filter(|segment| segment.ident == "Option")
        && let PathArguments::AngleBracketed(arguments) = &segment.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.first()
    {
        return inner;
    }
    ty
}

/// Adds what a payload needs from serde: absent options are left out; the first sealed part and flattened value objects
/// stand among the other fields.
pub(crate) fn add_serde_attributes(fields: &mut Fields) {
    let mut sealed_is_flattened = false;
    for field in fields {
        let attribute: Option<Attribute> = if has(&field.attrs, "serde") {
            None
        } else if is_type(&field.ty, "Option") {
            Some(parse_quote!(#[serde(default, skip_serializing_if = "Option::is_none")]))
        } else if has(&field.attrs, "flatten") || (is_type(&field.ty, "Sealed") && !sealed_is_flattened) {
            sealed_is_flattened |= is_type(&field.ty, "Sealed");
            Some(parse_quote!(#[serde(flatten)]))
        } else {
            None
        };
        field.attrs.extend(attribute);
    }
}

pub(crate) fn name_of(field: &Field) -> syn::Result<&Ident> {
    field.ident.as_ref().ok_or_else(|| syn::Error::new(field.span(), "fields need names here"))
}

/// The field's own doc comment, or that of its type. A public field without either does not compile.
pub(crate) fn described_by(field: &Field, required: bool) -> syn::Result<TokenStream> {
    let (name, ty, own) = (name_of(field)?, &field.ty, description(&field.attrs));
    if !own.is_empty() || !required {
        return Ok(quote!(#own));
    }
    let message = format!("`{name}` needs a doc comment: clients read it");
    Ok(quote_spanned! {name.span()=> {
        const DESCRIPTION: &str = <#ty as ::schemas::engine::Field>::DESCRIPTION;
        const { assert!(!DESCRIPTION.is_empty(), #message) }
        DESCRIPTION
    }})
}

/// `FieldType { ... }` for each field that clients or the product give.
pub(crate) fn types(fields: &Fields) -> syn::Result<Vec<TokenStream>> {
    fields.iter().map(field_type).collect()
}

fn field_type(field: &Field) -> syn::Result<TokenStream> {
    let (name, ty) = (name_of(field)?.to_string(), &field.ty);
    let (internal, flatten) = (has(&field.attrs, "internal"), has(&field.attrs, "flatten"));
    let (graphql_name, described) = (camel_case(&name), described_by(field, !internal && !flatten)?);
    let items_max = match find(&field.attrs, "max") {
        Some(attribute) => {
            let most: LitInt = attribute.parse_args()?;
            quote!(Some(#most))
        }
        None if !internal && is_type(without_option(ty), "Vec") => {
            return Err(syn::Error::new_spanned(ty, "a list needs a limit: `#[max(<items>)]`"));
        }
        None => quote!(None),
    };
    if internal {
        // The product gives it in Rust: it needs no kind.
        return Ok(quote! { ::schemas::engine::FieldType {
            name: #name, graphql_name: #graphql_name, description: #described, kind: ::schemas::engine::Kind::Text,
            optional: true, internal: true, flatten: false, items_max: #items_max,
        }});
    }
    Ok(quote_spanned! {ty.span()=> ::schemas::engine::FieldType {
        name: #name,
        graphql_name: #graphql_name,
        description: #described,
        kind: <#ty as ::schemas::engine::Field>::KIND,
        optional: <#ty as ::schemas::engine::Field>::OPTIONAL,
        internal: false,
        flatten: #flatten,
        items_max: #items_max,
    }})
}

/// Reads all fields of `input`, so that all errors are found, and then makes `#constructor { ... }`.
pub(crate) fn reader(fields: &Fields, constructor: &TokenStream) -> syn::Result<TokenStream> {
    let (mut reads, mut values) = (Vec::new(), Vec::new());
    for field in fields {
        let (name, ty) = (name_of(field)?, &field.ty);
        let (graphql_name, value) = (camel_case(&name.to_string()), format_ident!("read_{name}"));
        let read = if has(&field.attrs, "internal") {
            quote_spanned!(ty.span()=> Some(<#ty as ::core::default::Default>::default()))
        } else if has(&field.attrs, "flatten") {
            quote_spanned!(ty.span()=> <#ty as ::schemas::engine::ValueObject>::read_fields(reader, input))
        } else if let Some(attribute) = find(&field.attrs, "max") {
            let most: LitInt = attribute.parse_args()?;
            quote_spanned!(ty.span()=> reader.bounded_field::<#ty>(input, #graphql_name, #most))
        } else {
            quote_spanned!(ty.span()=> reader.field::<#ty>(input, #graphql_name))
        };
        reads.push(quote!(let #value = #read;));
        values.push(quote!(#name: #value?));
    }
    Ok(quote! { #(#reads)* Some(#constructor { #(#values),* }) })
}
