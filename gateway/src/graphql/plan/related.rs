//! Reads what the relations of an object lead to: one statement for each relation, for all rows of a level together.

use futures::future::{BoxFuture, try_join_all};
use queries::{RelatedRows, Rows, Select};
use store::TenantStore;
use uuid::Uuid;

use super::arguments::Values;
use super::run::columns_of;
use super::{GivenUp, List, Object, PlanFailure, Related, Relation};
use crate::auth::Caller;
use crate::graphql::engine::rows::visible;

/// Rows that were read together.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    pub(super) rows: &'a Rows,
    /// The indexes of the rows that are shown.
    pub(super) shown: &'a [usize],
    pub(super) caller: &'a Caller,
    pub(super) values: &'a Values<'a>,
}

/// What a relation of all rows of a level leads to.
pub(super) struct Loaded<'a> {
    pub(super) relation: &'a Relation,
    pub(super) rows: RelatedRows,
    /// Of a list.
    pub(super) list: Option<Listed>,
    /// What the relations of each object that is shown lead to.
    pub(super) relations: Vec<Vec<Loaded<'a>>>,
}

/// The list of each parent, but for the parent's key.
pub(super) struct Listed {
    pub(super) requested: Select,
    pub(super) visible: Select,
    pub(super) tenant: TenantStore,
    /// The indexes of the id and of the order's column among the selected columns.
    pub(super) place: (usize, usize),
}

impl Loaded<'_> {
    /// The key in a row of the level.
    pub(super) fn key_of(&self, rows: &Rows, row: usize) -> Option<Uuid> {
        key(rows, row, self.relation.from)
    }
}

impl Level<'_> {
    /// The keys of the rows that are shown.
    fn keys(self, relation: &Relation) -> impl Iterator<Item = Uuid> {
        self.shown.iter().filter_map(move |row| key(self.rows, *row, relation.from))
    }
}

fn key(rows: &Rows, row: usize, column: usize) -> Option<Uuid> {
    Uuid::from_slice(rows.field_of(row, column)?).ok()
}

/// What the relations of an object lead to.
pub(super) fn load<'p: 'l, 'l>(
    object: &'p Object,
    level: Level<'l>,
) -> BoxFuture<'l, Result<Vec<Loaded<'p>>, PlanFailure>> {
    Box::pin(async move {
        let each = object.relations.iter().map(|relation| async move {
            match &relation.shown {
                Related::One(object) => one(relation, object, level).await,
                Related::Many(list) => many(relation, list, level).await,
            }
        });
        try_join_all(each).await
    })
}

async fn one<'p>(
    relation: &'p Relation,
    object: &'p Object,
    level: Level<'_>,
) -> Result<Loaded<'p>, PlanFailure> {
    let relationship = &relation.relationship;
    let rows = match visible(Select::of(relationship.model), level.caller) {
        Ok(visible) => {
            let (store, columns) = (&level.caller.store, &object.columns.0);
            relationship.read(store, &visible, columns, level.keys(relation), (1, false)).await?
        }
        // The caller may see none of them.
        Err(_) => RelatedRows::default(),
    };
    let relations = vec![load(object, Level { rows: &rows.rows, shown: &rows.shown(), ..level }).await?];
    Ok(Loaded { relation, rows, list: None, relations })
}

async fn many<'p>(
    relation: &'p Relation,
    list: &'p List,
    level: Level<'_>,
) -> Result<Loaded<'p>, PlanFailure> {
    let Level { caller, values, .. } = level;
    let visible = visible(Select::of(list.model), caller).map_err(|_| GivenUp)?;
    let first = values.first(&list.arguments).ok_or(GivenUp)?;
    let requested = values.select(&list.arguments, list.model).ok_or(GivenUp)?;
    let conditions = [&requested.conditions[..], &visible.conditions].concat();
    let select = Select { conditions, ..requested.clone() };
    let (columns, place) = columns_of(list, &select);
    let (keys, page) = (level.keys(relation), (first, list.counts));
    let rows = relation.relationship.read(&caller.store, &select, &columns.0, keys, page).await?;
    let shown = rows.shown();
    let inner = Level { rows: &rows.rows, shown: &shown, ..level };
    let relations = try_join_all(list.nodes.iter().map(|node| load(node, inner))).await?;
    let list = Listed { requested, visible, tenant: caller.store.clone(), place };
    Ok(Loaded { relation, rows, list: Some(list), relations })
}
