//! Relations between read models, in both directions: the rows of many parents come with one statement.

use std::collections::HashMap;
use std::ops::Range;

use projections::ReadModel;
use schemas::engine::model::ID;
use schemas::engine::{Column, Model};
use store::{StoreError, TenantStore};
use uuid::Uuid;

use super::cursor::CursorScope;
use super::read::{Rows, read_selected};
use super::select::{Comparison, Condition, Select, Statement};
use super::value::Parameter;

/// One direction of a relation, as a row of a read model shows it.
#[derive(Debug)]
pub struct Relationship {
    /// The GraphQL field.
    pub field: &'static str,
    /// The read model of the rows that it leads to.
    pub model: &'static Model,
    /// The column of the parent that holds the key.
    pub from: &'static Column,
    /// The column of the other rows that holds the same key.
    pub to: &'static Column,
    /// Whether several rows may have the key.
    pub many: bool,
}

/// The relations of a read model's rows: those of its columns, then those of columns that lead to it.
pub fn relationships(read_models: &'static [ReadModel], model: &Model) -> Vec<Relationship> {
    let models = || read_models.iter().map(|read_model| read_model.model);
    let described = models().find(|known| known.name == model.name).map_or(&[][..], |model| model.columns);
    let forward = described.iter().filter_map(|from| {
        let relation = from.relation.as_ref()?;
        let model = (relation.model)();
        Some(Relationship { field: relation.field, model, from, to: &ID, many: false })
    });
    let backward = models().flat_map(|other| {
        let leads_here = move |to: &'static Column| {
            let relation = to.relation.as_ref()?;
            let back = relation.back.filter(|_| (relation.model)().name == model.name)?;
            Some(Relationship { field: back.field, model: other, from: &ID, to, many: !back.one })
        };
        other.columns.iter().filter_map(leads_here)
    });
    forward.chain(backward).collect()
}

/// The rows of several parents.
#[derive(Default)]
pub struct RelatedRows {
    /// All rows: parent by parent, each parent's in their order.
    pub rows: Rows,
    parents: HashMap<Uuid, OfParent>,
}

/// The rows of one parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfParent {
    /// The indexes of its page among all rows.
    pub page: Range<usize>,
    /// Whether it has rows after the page.
    pub has_next: bool,
    /// The number of all its rows, if it was requested.
    pub total: u64,
}

impl RelatedRows {
    /// The rows of the parent with this key.
    pub fn of(&self, key: Uuid) -> OfParent {
        self.parents.get(&key).cloned().unwrap_or_default()
    }

    /// The indexes of the rows of all pages.
    pub fn shown(&self) -> Vec<usize> {
        let mut shown: Vec<usize> = self.parents.values().flat_map(|of| of.page.clone()).collect();
        shown.sort_unstable();
        shown
    }
}

impl Relationship {
    /// The rows of all parents with these keys, in one round trip and one snapshot: at most `first` for each parent, in
    /// the order of `select`. One row for each if the relation leads to one. `counts`: each parent's rows are counted.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    pub async fn read(
        &self,
        tenant: &TenantStore,
        select: &Select,
        columns: &[&'static Column],
        keys: impl Iterator<Item = Uuid>,
        (first, counts): (usize, bool),
    ) -> Result<RelatedRows, StoreError> {
        let mut parents: HashMap<Uuid, OfParent> = HashMap::new();
        let mut distinct = Vec::new();
        for key in keys {
            if parents.insert(key, OfParent::default()).is_none() {
                distinct.push(key);
            }
        }
        if distinct.is_empty() {
            return Ok(RelatedRows::default());
        }
        let limit = if self.many { first + 1 } else { 1 };
        let mut statements = vec![self.rows_of_each(tenant.id().0, select, columns, &distinct, limit)];
        if counts {
            statements.push(self.count_of_each(tenant.id().0, select, &distinct));
        }
        let mut answers = read_selected(tenant, self.model, &statements).await?.into_iter();
        let rows = answers.next().unwrap_or_default();
        let parent_of = |row: usize| {
            let place = usize::try_from(rows.number_of(row, columns.len())?).ok()?;
            distinct.get(place.checked_sub(1)?)
        };
        let mut row = 0;
        while row < rows.len() {
            let parent = parent_of(row);
            let count = (row..rows.len()).take_while(|row| parent_of(*row) == parent).count();
            if let Some(of) = parent.and_then(|parent| parents.get_mut(parent)) {
                let shown = if self.many { count.min(first) } else { 1 };
                (of.page, of.has_next) = (row..row + shown, count > shown);
            }
            row += count;
        }
        let counted = answers.next().unwrap_or_default();
        for row in 0..counted.len() {
            let key = counted.field_of(row, 0).and_then(|bytes| Uuid::from_slice(bytes).ok());
            if let Some(of) = key.and_then(|key| parents.get_mut(&key)) {
                of.total = counted.number_of(row, 1).unwrap_or(0);
            }
        }
        Ok(RelatedRows { rows, parents })
    }

    /// The list of one parent as clients page through it at the root: with the parent's key as a filter. So its cursors
    /// are valid there.
    pub fn list_of(&self, requested: &Select, visible: &Select, key: Uuid) -> Select {
        let place = |column: &Column| self.model.filters().position(|filter| filter.name == column.name);
        let mut conditions = requested.conditions.clone();
        // Rows that meet another value of it are rows of another parent.
        conditions.retain(|condition| condition.column.name != self.to.name);
        let at = conditions.partition_point(|condition| place(condition.column) < place(self.to));
        let comparison = Comparison::Is(Parameter::Uuid(key));
        conditions.insert(at, Condition { column: self.to, comparison });
        conditions.extend(visible.conditions.iter().cloned());
        Select { conditions, ..requested.clone() }
    }

    /// At most `limit` rows for each key. The last column is the place of the key, from 1.
    fn rows_of_each(
        &self,
        tenant: Uuid,
        select: &Select,
        columns: &[&'static Column],
        keys: &[Uuid],
        limit: usize,
    ) -> Statement {
        let (conditions, values) = select.conditions(tenant);
        let parameter = values.len() + 1;
        let mut inner: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let outer: Vec<String> = inner.iter().map(|name| format!("found.{name}, ")).collect();
        let order = if self.many { select.order.name } else { ID.name };
        inner.extend([ID.name, order].iter().filter(|name| !columns.iter().any(|c| c.name == **name)));
        inner.dedup();
        let (to, inner, outer) = (self.to.name, inner.join(", "), outer.concat());
        let by = |table: &str| {
            let direction = if select.descending { "desc" } else { "asc" };
            match order {
                "id" => format!("{table}id {direction}"),
                order => format!("{table}{order} {direction}, {table}id {direction}"),
            }
        };
        Statement {
            before_table: format!(
                "select {outer}parent.place from unnest(${parameter}::uuid[]) with ordinality as parent (key, place) \
                 cross join lateral (select {inner} from"
            ),
            behind_table: format!(
                "where {conditions} and {to} = parent.key order by {} limit {limit}) as found order by parent.place, {}",
                by(""),
                by("found.")
            ),
            values,
            keys: Some(keys.to_vec()),
        }
    }

    /// The number of rows for each key that has rows.
    fn count_of_each(&self, tenant: Uuid, select: &Select, keys: &[Uuid]) -> Statement {
        let (conditions, values) = select.conditions(tenant);
        let (to, parameter) = (self.to.name, values.len() + 1);
        Statement {
            before_table: format!("select {to}, count(*) from"),
            behind_table: format!("where {conditions} and {to} = any(${parameter}) group by {to}"),
            values,
            keys: Some(keys.to_vec()),
        }
    }
}

impl Select {
    /// The cursors of the list.
    pub fn cursors(&self, tenant: &TenantStore) -> CursorScope {
        CursorScope::new(tenant.store().key(), tenant.id(), self.model.table, self.scope())
    }
}

#[cfg(test)]
mod tests {
    use projections::{CustomerRow, READ_MODELS, UserRow};
    use schemas::engine::{Input, Row};
    use serde_json::json;

    use super::*;

    fn relationship(model: &Model, field: &str) -> Relationship {
        let mut all = relationships(&READ_MODELS, model).into_iter();
        all.find(|relationship| relationship.field == field).expect("the relation is described")
    }

    #[test]
    fn a_relation_is_seen_from_both_sides() {
        let user = relationship(CustomerRow::MODEL, "user");
        assert_eq!(
            (user.model.object, user.from.name, user.to.name, user.many),
            ("User", "user_id", "id", false)
        );
        let customer = relationship(UserRow::MODEL, "customer");
        let seen = (customer.model.object, customer.from.name, customer.to.name, customer.many);
        assert_eq!(seen, ("Customer", "id", "user_id", false));
    }

    #[test]
    fn one_statement_reads_the_rows_of_all_parents() {
        let keys = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let many = Relationship { many: true, ..relationship(UserRow::MODEL, "customer") };
        let filter: Input = json!({"status": "ACTIVE"}).as_object().expect("an object").clone();
        let select = Select::of(CustomerRow::MODEL).filtered(&filter).expect("a filter").ordered("NAME_DESC");
        let columns = [CustomerRow::MODEL.column("email").expect("a column")];
        let statement = many.rows_of_each(Uuid::nil(), &select, &columns, &keys, 3);
        assert_eq!(
            statement.before_table,
            "select found.email, parent.place from unnest($3::uuid[]) with ordinality as parent (key, place) \
             cross join lateral (select email, id, name from"
        );
        assert_eq!(
            statement.behind_table,
            "where tenant_id = $1 and status = $2 and user_id = parent.key order by name desc, id desc limit 3) \
             as found order by parent.place, found.name desc, found.id desc"
        );
        assert_eq!((statement.values.len(), statement.keys.as_deref()), (2, Some(&keys[..])));
        let counted = many.count_of_each(Uuid::nil(), &select, &keys);
        assert_eq!(
            counted.behind_table,
            "where tenant_id = $1 and status = $2 and user_id = any($3) group by user_id"
        );
    }

    #[test]
    fn the_list_of_a_parent_is_the_list_with_its_key_as_a_filter() {
        let many = Relationship { many: true, ..relationship(UserRow::MODEL, "customer") };
        let (key, owner) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let filtered = |filter: serde_json::Value| {
            let filter: Input = filter.as_object().expect("an object").clone();
            Select::of(CustomerRow::MODEL).filtered(&filter).expect("a filter")
        };
        let visible = Select::of(CustomerRow::MODEL).and(many.to, Parameter::Uuid(owner));
        let at_root = filtered(json!({"userId": key, "name": "A", "status": "ACTIVE"}));
        let at_root = at_root.and(many.to, Parameter::Uuid(owner)).scope();
        for nested in [
            json!({"name": "A", "status": "ACTIVE"}),
            json!({"userId": key, "name": "A", "status": "ACTIVE"}),
        ] {
            assert_eq!(many.list_of(&filtered(nested), &visible, key).scope(), at_root);
        }
    }
}
