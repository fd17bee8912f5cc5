//! Doc comments and helper attributes of an item.

use syn::{Attribute, Data, DeriveInput, Expr, ExprLit, Lit, Meta};

/// The helper attributes. The compiler never sees them.
const HELPERS: [&str; 8] =
    ["event", "creates", "creates_or_changes", "internal", "flatten", "rejection", "column", "max"];

/// The doc comment as one line; empty if there is none. Paragraphs are separated by one space.
pub(crate) fn description(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn has(attributes: &[Attribute], name: &str) -> bool {
    find(attributes, name).is_some()
}

pub(crate) fn find<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a Attribute> {
    attributes.iter().find(|attribute| attribute.path().is_ident(name))
}

/// Removes the helper attributes, so that plain Rust is left.
pub(crate) fn remove_helpers(item: &mut DeriveInput) {
    let remove = |attributes: &mut Vec<Attribute>| {
        attributes.retain(|attribute| !HELPERS.iter().any(|name| attribute.path().is_ident(name)));
    };
    match &mut item.data {
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| remove(&mut field.attrs)),
        Data::Enum(data) => data.variants.iter_mut().for_each(|variant| {
            remove(&mut variant.attrs);
            variant.fields.iter_mut().for_each(|field| remove(&mut field.attrs));
        }),
        Data::Union(_) => {}
    }
}
