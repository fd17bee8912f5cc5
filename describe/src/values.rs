//! Value objects and enumerations.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DataEnum, DeriveInput, Fields, parse_quote};

use crate::attributes::description;
use crate::fields;
use crate::names::snake_case;

pub(crate) fn variants(item: &mut DeriveInput) -> syn::Result<&mut DataEnum> {
    let place = item.ident.span();
    match &mut item.data {
        Data::Enum(data) => Ok(data),
        _ => Err(syn::Error::new(place, "this attribute is for enums")),
    }
}

/// A field without a doc comment is described by its type.
pub(crate) fn allow_missing_docs() -> Attribute {
    parse_quote!(
        #[allow(missing_docs, clippy::enum_variant_names, reason = "the type of a field describes it")]
    )
}

pub(crate) fn value_object(item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let (name, described) = (item.ident.clone(), description(&item.attrs));
    if described.is_empty() {
        return Err(syn::Error::new(name.span(), "a value object needs a doc comment: clients read it"));
    }
    let Data::Struct(data) = &mut item.data else {
        return Err(syn::Error::new(name.span(), "a value object is a struct"));
    };
    let (types, reader) = (fields::types(&data.fields)?, fields::reader(&data.fields, &quote!(Self))?);
    fields::add_serde_attributes(&mut data.fields);
    item.attrs.push(parse_quote!(
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema)]
    ));
    item.attrs.push(allow_missing_docs());
    let text = name.to_string();
    Ok(quote! {
        impl ::schemas::engine::ValueObject for #name {
            const TYPE: &'static ::schemas::engine::ValueObjectType = &::schemas::engine::ValueObjectType {
                name: #text, description: #described, fields: &[#(#types),*],
            };

            fn read_fields(
                reader: &mut ::schemas::engine::InputReader,
                input: &::schemas::engine::Input,
            ) -> Option<Self> {
                #reader
            }
        }

        impl ::schemas::engine::Field for #name {
            const KIND: ::schemas::engine::Kind =
                ::schemas::engine::Kind::ValueObject(<Self as ::schemas::engine::ValueObject>::TYPE);
            const DESCRIPTION: &'static str = #described;

            fn read(
                reader: &mut ::schemas::engine::InputReader,
                value: &::serde_json::Value,
            ) -> Option<Self> {
                reader.value_object(value)
            }
        }
    })
}

pub(crate) fn enumeration(item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let (name, described) = (item.ident.clone(), description(&item.attrs));
    let (mut variants_of, mut stored, mut graphql, mut descriptions) = (vec![], vec![], vec![], vec![]);
    for (index, variant) in variants(item)?.variants.iter_mut().enumerate() {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new(variant.span(), "a value of an enumeration has no fields"));
        }
        let described = description(&variant.attrs);
        if described.is_empty() {
            return Err(syn::Error::new(
                variant.ident.span(),
                "a value needs a doc comment: clients read it",
            ));
        }
        if index == 0 {
            variant.attrs.push(parse_quote!(#[default]));
        }
        let ident = &variant.ident;
        let text = snake_case(&ident.to_string());
        variants_of.push(quote!(Self::#ident));
        graphql.push(text.to_uppercase());
        stored.push(text);
        descriptions.push(described);
    }
    item.attrs.push(parse_quote!(#[derive(
        Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, ::serde::Serialize, ::serde::Deserialize,
        ::schemars::JsonSchema,
    )]));
    item.attrs.push(parse_quote!(#[serde(rename_all = "snake_case")]));
    let text = name.to_string();
    Ok(quote! {
        impl ::schemas::engine::Enumeration for #name {
            const TYPE: &'static ::schemas::engine::EnumerationType = &::schemas::engine::EnumerationType {
                name: #text,
                description: #described,
                values: &[#(::schemas::engine::EnumerationValue {
                    stored: #stored, graphql_name: #graphql, description: #descriptions,
                }),*],
            };
            fn as_str(self) -> &'static str {
                self.as_str()
            }
        }

        impl #name {
            /// All values, in order.
            pub const ALL: &'static [Self] = &[#(#variants_of),*];

            /// The name in events and tables.
            pub const fn as_str(self) -> &'static str {
                match self { #(#variants_of => #stored),* }
            }
        }

        impl ::schemas::engine::Field for #name {
            const KIND: ::schemas::engine::Kind =
                ::schemas::engine::Kind::Enumeration(<Self as ::schemas::engine::Enumeration>::TYPE);
            const DESCRIPTION: &'static str = #described;

            fn read(
                reader: &mut ::schemas::engine::InputReader,
                value: &::serde_json::Value,
            ) -> Option<Self> {
                match reader.text(value)? {
                    #(#graphql => Some(#variants_of),)*
                    _ => reader.refuse("must be one of the listed values"),
                }
            }
        }
    })
}
