//! Events and commands.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Fields, LitStr, Path, Token, parse_quote};

use crate::attributes::{description, find, has};
use crate::fields;
use crate::names::camel_case;
use crate::values::{allow_missing_docs, variants};

/// The arguments of `event`.
struct EventArguments {
    name: LitStr,
    /// The payloads of the versions before, the oldest first.
    older: Vec<Path>,
}

impl syn::parse::Parse for EventArguments {
    fn parse(input: syn::parse::ParseStream<'_>) -> syn::Result<Self> {
        let name = input.parse()?;
        let mut older = Vec::new();
        while input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let key: syn::Ident = input.parse()?;
            if key != "from" {
                return Err(syn::Error::new(key.span(), "expected `from = <payload of an older version>`"));
            }
            input.parse::<Token![=]>()?;
            older.push(input.parse()?);
        }
        Ok(Self { name, older })
    }
}

/// The version of `registered.v2`.
fn version(name: &LitStr) -> syn::Result<(String, u32)> {
    let text = name.value();
    text.rsplit_once(".v")
        .and_then(|(fact, version)| Some((fact.to_owned(), version.parse::<u32>().ok().filter(|v| *v > 0)?)))
        .ok_or_else(|| {
            syn::Error::new(name.span(), "an event's name ends with its version: \"registered.v1\"")
        })
}

/// What is generated for the older versions of all events.
#[derive(Default)]
struct OlderVersions {
    types: Vec<String>,
    arms: Vec<TokenStream>,
    schemas: Vec<TokenStream>,
}

impl OlderVersions {
    /// Adds the payloads before `version`, the oldest first.
    fn add(&mut self, fact: &str, version: u32, name: &LitStr, payloads: &[Path]) -> syn::Result<()> {
        let first = u32::try_from(payloads.len()).ok().and_then(|count| version.checked_sub(count));
        let Some(first) = first.filter(|first| *first > 0) else {
            return Err(syn::Error::new(
                name.span(),
                format!("version {version} has fewer versions before it"),
            ));
        };
        for (version, payload) in (first..).zip(payloads) {
            let full = format!("{fact}.v{version}");
            self.arms.push(quote_spanned! {payload.span()=>
                #full => Some(::schemas::engine::event::upcast::<#payload, Self>(payload))
            });
            self.schemas.push(quote_spanned! {payload.span()=>
                (#full, ::schemas::engine::json_schema::schema_of::<#payload>())
            });
            self.types.push(full);
        }
        Ok(())
    }
}

pub(crate) fn events(category: &LitStr, item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let name = item.ident.clone();
    let enum_text = name.to_string();
    let Some(noun) = enum_text.strip_suffix("Event").map(ToOwned::to_owned) else {
        return Err(syn::Error::new(name.span(), "the events of a customer are called `CustomerEvent`"));
    };
    let (mut types, mut titles, mut arms) = (vec![], vec![], vec![]);
    let mut all_older = OlderVersions::default();
    let mut subjects = vec![];
    for variant in &mut variants(item)?.variants {
        let EventArguments { name: event, older } = find(&variant.attrs, "event")
            .ok_or_else(|| {
                syn::Error::new(variant.ident.span(), "an event needs a name: #[event(\"<name>.v<n>\")]")
            })?
            .parse_args()?;
        let (fact, version) = version(&event)?;
        if !matches!(variant.fields, Fields::Named(_)) {
            return Err(syn::Error::new(
                variant.ident.span(),
                "an event has fields in braces, even none: `Erased {}`",
            ));
        }
        if description(&variant.attrs).is_empty() {
            return Err(syn::Error::new(
                variant.ident.span(),
                "an event needs a doc comment: others read it",
            ));
        }
        let full = format!("{}.{}", category.value(), event.value());
        let ident = &variant.ident;
        let sealed = variant.fields.iter().filter(|field| fields::is_type(&field.ty, "Sealed"));
        let sealed: Vec<_> = sealed.filter_map(|field| field.ident.as_ref()).collect();
        if !sealed.is_empty() {
            subjects.push(quote!(Self::#ident { #(#sealed,)* .. } => [#(#sealed.open_subject(own)),*].into_iter().flatten().collect()));
        }
        all_older.add(&format!("{}.{fact}", category.value()), version, &event, &older)?;
        if types.contains(&full) || all_older.types.contains(&full) {
            return Err(syn::Error::new(event.span(), "another event has this name"));
        }
        arms.push(quote!(Self::#ident { .. } => #full));
        variant.attrs.push(parse_quote!(#[serde(rename = #full)]));
        fields::add_serde_attributes(&mut variant.fields);
        titles.push(format!("{noun}{ident}"));
        types.push(full);
    }
    item.attrs.push(parse_quote!(
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema)]
    ));
    item.attrs.push(parse_quote!(#[serde(tag = "type", content = "data")]));
    item.attrs.push(allow_missing_docs());
    let has_personal_data = !subjects.is_empty();
    let OlderVersions { types: older_types, arms: older_arms, schemas: older_schemas } = all_older;
    Ok(quote! {
        impl ::schemas::engine::Event for #name {
            const CATEGORY: &'static str = #category;
            const TYPES: &'static [&'static str] = &[#(#types),*];
            const OLDER_TYPES: &'static [&'static str] = &[#(#older_types),*];
            const HAS_PERSONAL_DATA: bool = #has_personal_data;

            fn type_name(&self) -> &'static str {
                match self { #(#arms),* }
            }

            #[allow(unreachable_patterns, unused_variables, reason = "all events may have personal data, or none")]
            fn open_subjects(&self, own: ::uuid::Uuid) -> Vec<::uuid::Uuid> {
                match self {
                    #(#subjects,)*
                    _ => Vec::new(),
                }
            }

            fn encode(&self) -> Result<Vec<u8>, ::serde_json::Error> {
                ::schemas::engine::event::encode(self)
            }

            fn decode(
                event_type: &str,
                payload: &[u8],
            ) -> Result<Option<Self>, ::schemas::engine::DecodeError> {
                let older: Option<Result<Self, ::serde_json::Error>> = match event_type {
                    #(#older_arms,)*
                    _ => None,
                };
                ::schemas::engine::event::decode(event_type, payload, older)
            }

            fn schemas() -> Vec<(&'static str, ::schemars::Schema)> {
                let older: Vec<(&'static str, ::schemars::Schema)> = vec![#(#older_schemas),*];
                ::schemas::engine::event::schemas::<Self>(&[#(#titles),*], older)
            }
        }

        impl ::cqrs_es::DomainEvent for #name {
            fn event_type(&self) -> String {
                ::schemas::engine::Event::type_name(self).to_owned()
            }

            fn event_version(&self) -> String {
                ::schemas::engine::event::version_of(::schemas::engine::Event::type_name(self)).to_owned()
            }
        }
    })
}

pub(crate) fn commands(item: &mut DeriveInput) -> syn::Result<TokenStream> {
    let name = item.ident.clone();
    let (mut types, mut indexes, mut readers) = (vec![], vec![], vec![]);
    for (index, variant) in variants(item)?.variants.iter_mut().enumerate() {
        let (ident, described) = (&variant.ident, description(&variant.attrs));
        if described.is_empty() {
            return Err(syn::Error::new(ident.span(), "a command needs a doc comment: clients read it"));
        }
        if !matches!(variant.fields, Fields::Named(_)) {
            return Err(syn::Error::new(
                variant.ident.span(),
                "a command has fields in braces, even none: `ResumeCustomer {}`",
            ));
        }
        let target = match (has(&variant.attrs, "creates"), has(&variant.attrs, "creates_or_changes")) {
            (true, true) => {
                return Err(syn::Error::new(ident.span(), "either `creates` or `creates_or_changes`"));
            }
            (true, false) => quote!(::schemas::engine::CommandTarget::New),
            (false, true) => quote!(::schemas::engine::CommandTarget::NewOrExisting),
            (false, false) => quote!(::schemas::engine::CommandTarget::Existing),
        };
        let internal = has(&variant.attrs, "internal");
        let (text, graphql_name) = (ident.to_string(), camel_case(&ident.to_string()));
        indexes.push(quote!(Self::#ident { .. } => #index));
        if internal {
            types.push(quote! { ::schemas::engine::CommandType {
                name: #text, graphql_name: #graphql_name, description: #described, target: #target, internal: true,
                fields: &[],
            }});
        } else {
            let fields = fields::types(&variant.fields)?;
            types.push(quote! { ::schemas::engine::CommandType {
                name: #text, graphql_name: #graphql_name, description: #described, target: #target, internal: false,
                fields: &[#(#fields),*],
            }});
            let reader = fields::reader(&variant.fields, &quote!(Self::#ident))?;
            readers.push(quote!(#text => { #reader }));
        }
        fields::add_serde_attributes(&mut variant.fields);
    }
    item.attrs
        .push(parse_quote!(#[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]));
    item.attrs.push(parse_quote!(#[serde(tag = "name", content = "command")]));
    item.attrs.push(allow_missing_docs());
    Ok(quote! {
        impl ::schemas::engine::Commands for #name {
            const TYPES: &'static [::schemas::engine::CommandType] = &[#(#types),*];

            fn command_type(&self) -> &'static ::schemas::engine::CommandType {
                &Self::TYPES[match self { #(#indexes),* }]
            }

            #[allow(unused_variables, reason = "a set of commands may have no fields")]
            fn read(
                name: &str,
                reader: &mut ::schemas::engine::InputReader,
                input: &::schemas::engine::Input,
            ) -> Option<Self> {
                match name { #(#readers)* _ => None }
            }
        }
    })
}
