//! The difference between two states of a row.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// A row that differs between two states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowChange {
    /// The row's key.
    pub id: Uuid,
    /// `added`, `removed` or `changed`.
    pub kind: &'static str,
    /// The fields that differ; all fields if the row exists in one state only.
    pub fields: BTreeMap<String, FieldChange>,
}

/// A field in both states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// Absent if the row was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Absent if the row was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl RowChange {
    /// The difference between two states of a row; `None` if they are equal.
    pub fn between(id: Uuid, before: Option<&Value>, after: Option<&Value>) -> Option<Self> {
        let kind = match (before, after) {
            (None, None) => return None,
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            (Some(_), Some(_)) => "changed",
        };
        let field = |row: Option<&Value>, name: &str| row.and_then(|row| row.get(name)).cloned();
        let names = [before, after].into_iter().flatten().filter_map(Value::as_object);
        let fields: BTreeMap<_, _> = names
            .flat_map(|row| row.keys())
            .map(|name| {
                (name.clone(), FieldChange { before: field(before, name), after: field(after, name) })
            })
            .filter(|(_, change)| change.before != change.after)
            .collect();
        (!fields.is_empty()).then_some(Self { id, kind, fields })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_tells_the_fields_that_differ_and_an_equal_row_is_none() {
        let id = Uuid::from_u128(1);
        let (ada, bo) = (json!({"name": "Ada", "notes": null}), json!({"name": "Bo", "notes": null}));
        assert_eq!(RowChange::between(id, Some(&ada), Some(&ada)), None);
        assert_eq!(RowChange::between(id, None, None), None);
        let shown = |before, after| {
            let change = RowChange::between(id, before, after).expect("they differ");
            serde_json::to_value(change).expect("serialises")
        };
        let changed =
            json!({"id": id, "kind": "changed", "fields": {"name": {"before": "Ada", "after": "Bo"}}});
        assert_eq!(shown(Some(&ada), Some(&bo)), changed);
        let added = json!({"name": {"after": "Ada"}, "notes": {"after": null}});
        assert_eq!(shown(None, Some(&ada)), json!({"id": id, "kind": "added", "fields": added}));
        let removed = json!({"name": {"before": "Bo"}, "notes": {"before": null}});
        assert_eq!(shown(Some(&bo), None), json!({"id": id, "kind": "removed", "fields": removed}));
    }
}
