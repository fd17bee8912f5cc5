//! Items of JSON artefacts: the AsyncAPI document, the schemas of events, and samples of events.

use serde_json::Value;

use super::items::{Items, Promise};

/// Channels, operations and messages of the AsyncAPI document.
pub fn asyncapi(_file: &str, text: &str) -> anyhow::Result<Items> {
    let document: Value = serde_json::from_str(text)?;
    let mut items = Items::new();
    let lists = [
        ("channel", &document["channels"]),
        ("operation", &document["operations"]),
        ("message", &document["components"]["messages"]),
        ("server", &document["servers"]),
    ];
    for (kind, list) in lists {
        for name in list.as_object().into_iter().flat_map(|list| list.keys()) {
            items.insert(format!("{kind}: {name}"), Promise::Exists);
        }
    }
    Ok(items)
}

/// The schema of one type of event. Recorded events never change, so the schema of a version may only get other texts.
pub fn schema(file: &str, text: &str) -> anyhow::Result<Items> {
    let mut schema: Value = serde_json::from_str(text)?;
    remove_texts(&mut schema);
    let name = format!("event schema: {}", file.trim_end_matches(".json"));
    Ok(Items::from([(name, Promise::Exactly(schema.to_string()))]))
}

/// A sample of one type of event, which must be read for ever.
pub fn sample(file: &str, text: &str) -> anyhow::Result<Items> {
    let sample: Value = serde_json::from_str(text)?;
    let name = format!("event sample: {}", file.trim_end_matches(".json"));
    Ok(Items::from([(name, Promise::Exactly(sample.to_string()))]))
}

/// Removes titles and descriptions, which are for people. A property may have these names: its value is an object.
fn remove_texts(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| {
                !(["title", "description"].contains(&name.as_str()) && value.is_string())
            });
            members.values_mut().for_each(remove_texts);
        }
        Value::Array(elements) => elements.iter_mut().for_each(remove_texts),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_schema_may_change_and_nothing_else() {
        let of = |text: &str| schema("crm.x.v1.json", text).expect("JSON");
        let old =
            of(r#"{"type":"object","title":"A","properties":{"title":{"type":"string","description":"b"}}}"#);
        assert_eq!(old, of(r#"{"type":"object","properties":{"title":{"type":"string"}}}"#));
        assert_ne!(old, of(r#"{"type":"object","properties":{"title":{"type":"number"}}}"#));
        assert_ne!(old, of(r#"{"type":"object","properties":{}}"#));
    }
}
