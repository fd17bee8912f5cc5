//! Rows of any read model by their ids.

use std::collections::HashMap;

use projections::{Record, table_at};
use serde_json::Value as Json;
use store::sql::{Read, Value};
use store::{StoreError, TenantStore};
use uuid::Uuid;

use super::error::corrupt;
use super::select::Select;
use super::value::Parameter;

/// The rows with these ids that the selects show: the index of the select, and the row. One statement looks every id up
/// by the primary key of each read model. An id is that of one aggregate; if two have the same, the first select wins.
///
/// # Errors
/// [`StoreError`] if the store failed.
pub async fn by_ids(
    tenant: &TenantStore,
    selects: &[Select],
    ids: &[Uuid],
) -> Result<HashMap<Uuid, (usize, Record)>, StoreError> {
    if selects.is_empty() || ids.is_empty() {
        return Ok(HashMap::new());
    }
    let names: Vec<&str> = selects.iter().map(|select| select.model.name).collect();
    let mut parameters = vec![Parameter::Uuid(tenant.id().0)];
    let conditions: Vec<String> =
        selects.iter().map(|select| select.conditions_into(&mut parameters)).collect();
    let mut values: Vec<Value<'_>> = parameters.iter().map(Parameter::value).collect();
    values.push(Value::UuidArray(ids));
    let keys = values.len();
    let mut generations: Vec<u64> =
        selects.iter().map(|select| tenant.cached_generation(select.model.table)).collect();
    let rows = loop {
        let probe = |(index, select): (usize, &Select)| {
            let (table, conditions) = (table_at(select.model, generations[index]), &conditions[index]);
            format!(
                "select {index}, id, row_to_json(found)::text from {table} as found \
                 where {conditions} and id = any(${keys})"
            )
        };
        let sql = selects.iter().enumerate().map(probe).collect::<Vec<_>>().join(" union all ");
        let read = Read { sql: &sql, values: &values };
        let (found, mut rows) = tenant.read_with_generations(&names, &[read]).await?;
        if found == generations {
            break rows.remove(0);
        }
        for (select, generation) in selects.iter().zip(&found) {
            tenant.cache_generation(select.model.table, *generation);
        }
        generations = found;
    };
    let mut found: HashMap<Uuid, (usize, Record)> = HashMap::new();
    for row in rows.iter() {
        let unreadable = |error| StoreError::corrupt("a row of a read model", error);
        let index = row.get::<i32>(0).map_err(unreadable)? as usize;
        let (id, text) = (row.get::<Uuid>(1).map_err(unreadable)?, row.get::<&str>(2).map_err(unreadable)?);
        let table = selects[index].model.table;
        let Json::Object(record) = serde_json::from_str(text).map_err(|error| corrupt(table, error))? else {
            return Err(corrupt(table, "no object"));
        };
        // The parts of a union come in any order.
        if found.get(&id).is_none_or(|(known, _)| index < *known) {
            found.insert(id, (index, record));
        }
    }
    Ok(found)
}
