//! Rejections of commands.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{DeriveInput, Ident, LitStr, Token, parse_quote};

use crate::attributes::find;
use crate::values::{allow_missing_docs, variants};

struct RejectionArguments {
    code: Ident,
    message: LitStr,
    at: Option<LitStr>,
}

impl syn::parse::Parse for RejectionArguments {
    fn parse(input: syn::parse::ParseStream<'_>) -> syn::Result<Self> {
        let code = input.parse()?;
        input.parse::<Token![,]>()?;
        let message = input.parse()?;
        let mut at = None;
        if input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let key: Ident = input.parse()?;
            if key != "at" {
                return Err(syn::Error::new(key.span(), "expected `at = \"field\"`"));
            }
            input.parse::<Token![=]>()?;
            at = Some(input.parse()?);
        }
        Ok(Self { code, message, at })
    }
}

/// The names in braces. Each must be a field of the rejection.
fn names_in(text: &LitStr, fields: &[&Ident]) -> syn::Result<Vec<String>> {
    let value = text.value().replace("{{", "").replace("}}", "");
    let inner = value.split('{').skip(1).filter_map(|rest| rest.split(['}', ':']).next());
    let names: Vec<String> = inner.map(ToOwned::to_owned).collect();
    match names.iter().find(|name| !fields.iter().any(|field| field == name)) {
        Some(name) => Err(syn::Error::new(text.span(), format!("the rejection has no field `{name}`"))),
        None => Ok(names),
    }
}

pub(crate) fn rejections(item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let name = item.ident.clone();
    let (mut codes, mut paths) = (Vec::new(), Vec::new());
    for variant in &mut variants(item)?.variants {
        let attribute = find(&variant.attrs, "rejection").ok_or_else(|| {
            syn::Error::new(
                variant.ident.span(),
                "a rejection needs a code and a message: #[rejection(ErrorCodeVariant, \"message\")]",
            )
        })?;
        let RejectionArguments { code, message, at } = attribute.parse_args()?;
        let ident = &variant.ident;
        let pattern = if matches!(variant.fields, syn::Fields::Unnamed(_)) {
            quote!(Self::#ident(..))
        } else {
            quote!(Self::#ident { .. })
        };
        codes.push(quote_spanned!(code.span()=> #pattern => ::access::ErrorCode::#code));
        let fields: Vec<&Ident> = variant.fields.iter().filter_map(|field| field.ident.as_ref()).collect();
        if let Some(at) = at {
            let names = names_in(&at, &fields)?;
            let used: Vec<_> =
                fields.into_iter().filter(|field| names.iter().any(|name| *field == name)).collect();
            paths.push(if used.is_empty() {
                quote_spanned!(at.span()=> #pattern => Some(#at.to_owned()))
            } else {
                quote_spanned!(at.span()=> Self::#ident { #(#used,)* .. } => Some(format!(#at)))
            });
        }
        variant.attrs.push(parse_quote!(#[error(#message)]));
    }
    item.attrs.push(parse_quote!(#[derive(Debug, Clone, PartialEq, ::thiserror::Error)]));
    item.attrs.push(allow_missing_docs());
    Ok(quote! {
        impl ::access::Rejection for #name {
            fn code(&self) -> ::access::ErrorCode {
                match self { #(#codes),* }
            }

            #[allow(unreachable_patterns, reason = "every rejection may have a path")]
            fn path(&self) -> Option<String> {
                match self { #(#paths,)* _ => None }
            }
        }
    })
}
