//! A plant: the aggregate that only these tests have.

use schemars::JsonSchema;
use schemas::engine::{Name, Sealed, commands, events, value_object};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Who looks after a plant.
#[value_object]
pub struct PlantKeeper {
    /// Name of the keeper.
    pub keeper: Name,
}

/// The payload of version 1: it has no bed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlantedV1 {
    /// The user who looks after the plant.
    pub user_id: Option<Uuid>,
    /// What it is.
    pub species: Name,
    /// Who looks after it.
    #[serde(flatten)]
    pub keeper: Sealed<PlantKeeper>,
}

impl From<PlantedV1> for PlantEvent {
    fn from(PlantedV1 { user_id, species, keeper }: PlantedV1) -> Self {
        let bed = Name::parse("nursery").expect("a valid name");
        Self::Planted { user_id, species, bed, keeper }
    }
}

/// What has happened to a plant.
#[events("garden.plant")]
pub enum PlantEvent {
    /// A plant was planted.
    #[event("planted.v2", from = PlantedV1)]
    Planted {
        /// The user who looks after the plant.
        user_id: Option<Uuid>,
        /// What it is.
        species: Name,
        /// Where it grows.
        bed: Name,
        /// Who looks after it.
        keeper: Sealed<PlantKeeper>,
    },
    /// The plant grows elsewhere.
    #[event("moved.v1")]
    Moved {
        /// Where it grows.
        bed: Name,
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
        /// Where it grows.
        bed: Name,
        #[flatten]
        keeper: PlantKeeper,
    },
    /// Moves a plant.
    MovePlant {
        /// Where it grows.
        bed: Name,
    },
    /// Forgets who looks after the plant.
    #[internal]
    ErasePlant {},
}
