//! The read model of plants.

use projections::{OutOfSequence, Projection};
use schemas::engine::{Moment, read_model};
use uuid::Uuid;

use super::vocabulary::PlantEvent;

/// A plant.
#[read_model("plants.v1", visible_to = CrmRead, order = species, owner = user_id)]
pub struct PlantRow {
    /// The user who looks after the plant.
    #[column(find)]
    pub user_id: Option<Uuid>,
    /// What it is.
    #[column(prefix)]
    pub species: String,
    /// Where it grows.
    #[column(group)]
    pub bed: String,
    /// Who looks after it; empty after an erasure.
    pub keeper: String,
}

impl Projection for PlantRow {
    type Event = PlantEvent;

    fn apply(row: Option<Self>, event: PlantEvent, _moment: &Moment) -> Result<Option<Self>, OutOfSequence> {
        let row = match (row, event) {
            (None, PlantEvent::Planted { user_id, species, bed, keeper }) => {
                let keeper = keeper.open().map_or_else(String::new, |known| known.keeper.into());
                Self { user_id, species: species.into(), bed: bed.into(), keeper }
            }
            (Some(row), PlantEvent::Moved { bed }) => Self { bed: bed.into(), ..row },
            (Some(row), PlantEvent::Erased {}) => Self { keeper: String::new(), ..row },
            (Some(_), PlantEvent::Planted { .. }) | (None, _) => return Err(OutOfSequence),
        };
        Ok(Some(row))
    }
}
