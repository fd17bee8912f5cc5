//! A plant in the release before: it has no bed, and cannot be moved.

use access::ErrorCode;
use commands::{Decider, Facts};
use describe::rejections;
use projections::{OutOfSequence, Projection};
use schemas::engine::{Moment, Name, Sealed, commands, events, read_model};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::vocabulary::PlantKeeper;

/// What has happened to a plant.
#[events("garden.plant")]
pub enum PlantEvent {
    /// A plant was planted.
    #[event("planted.v1")]
    Planted {
        /// The user who looks after the plant.
        user_id: Option<Uuid>,
        /// What it is.
        species: Name,
        /// Who looks after it.
        keeper: Sealed<PlantKeeper>,
    },
    /// The keeper of the plant was erased.
    #[event("erased.v1")]
    Erased {},
}

/// The commands of a plant.
#[commands]
pub enum PlantCommand {
    /// Plants a plant.
    #[creates]
    SowPlant {
        /// The user who looks after the plant.
        user_id: Option<Uuid>,
        /// What it is.
        species: Name,
        #[flatten]
        keeper: PlantKeeper,
    },
    /// Forgets who looks after the plant.
    #[internal]
    ErasePlant {},
}

/// Why a plant command was rejected.
#[rejections]
pub enum PlantRejection {
    #[rejection(Invalid, "weeds plant themselves", at = "species")]
    Weed,
}

/// What the rules know of a plant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plant {}

impl Decider for Plant {
    type Command = PlantCommand;
    type Event = PlantEvent;
    type Rejection = PlantRejection;

    const EXISTS: ErrorCode = ErrorCode::ValueTaken;
    const ERASE: Option<fn() -> PlantCommand> = Some(|| PlantCommand::ErasePlant {});

    fn decide(&self, command: PlantCommand, _facts: &Facts) -> Result<Vec<PlantEvent>, PlantRejection> {
        match command {
            PlantCommand::SowPlant { species, .. } if species.as_str() == "Weed" => Err(PlantRejection::Weed),
            PlantCommand::SowPlant { user_id, species, keeper } => {
                Ok(vec![PlantEvent::Planted { user_id, species, keeper: Sealed::of(user_id, keeper) }])
            }
            PlantCommand::ErasePlant {} => Ok(vec![PlantEvent::Erased {}]),
        }
    }

    fn apply(&mut self, _event: PlantEvent) {}
}

/// A plant.
#[read_model("plants.v1", visible_to = CrmRead, order = species, owner = user_id)]
pub struct PlantRow {
    /// The user who looks after the plant.
    #[column(find)]
    pub user_id: Option<Uuid>,
    /// What it is.
    #[column(prefix)]
    pub species: String,
    /// Where it grows: the next release shows it, so this one makes the column.
    #[column(group)]
    pub bed: String,
    /// Who looks after it; empty after an erasure.
    pub keeper: String,
}

impl Projection for PlantRow {
    type Event = PlantEvent;

    fn apply(row: Option<Self>, event: PlantEvent, _moment: &Moment) -> Result<Option<Self>, OutOfSequence> {
        match (row, event) {
            (None, PlantEvent::Planted { user_id, species, keeper }) => {
                let keeper = keeper.open().map_or_else(String::new, |known| known.keeper.into());
                Ok(Some(Self { user_id, species: species.into(), bed: "nursery".to_owned(), keeper }))
            }
            (Some(row), PlantEvent::Erased {}) => Ok(Some(Self { keeper: String::new(), ..row })),
            _ => Err(OutOfSequence),
        }
    }
}
