//! Rejections of commands.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
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

pub(crate) fn rejections(item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let name = item.ident.clone();
    let (mut codes, mut paths) = (Vec::new(), Vec::new());
    for variant in &mut variants(item)?.variants {
        let attribute = find(&variant.attrs, "rejection").ok_or_else(|| {
            syn::Error::new(
                variant.span(),
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
        if let Some(at) = at {
            let fields = variant.fields.iter().filter_map(|field| field.ident.as_ref());
            let used: Vec<_> = fields.filter(|field| at.value().contains(&format!("{{{field}}}"))).collect();
            if used.is_empty() && at.value().contains('{') {
                return Err(syn::Error::new(at.span(), "a path names fields of the variant in braces"));
            }
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
