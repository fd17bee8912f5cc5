//! The rules of a plant.

use access::ErrorCode;
use commands::{Decider, Facts};
use describe::rejections;
use schemas::engine::Sealed;
use serde::{Deserialize, Serialize};

use super::vocabulary::{PlantCommand, PlantEvent};

/// Why a plant command was rejected.
#[rejections]
pub enum PlantRejection {
    #[rejection(Invalid, "the plant is in the bed {bed}", at = "bed")]
    There { bed: String },
}

/// What the rules know of a plant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plant {
    bed: String,
}

impl Decider for Plant {
    type Command = PlantCommand;
    type Event = PlantEvent;
    type Rejection = PlantRejection;

    const EXISTS: ErrorCode = ErrorCode::ValueTaken;
    const ERASE: Option<fn() -> PlantCommand> = Some(|| PlantCommand::ErasePlant {});

    fn decide(&self, command: PlantCommand, _facts: &Facts) -> Result<Vec<PlantEvent>, PlantRejection> {
        match command {
            PlantCommand::SowPlant { user_id, species, bed, keeper } => {
                let keeper = Sealed::of(user_id, keeper);
                Ok(vec![PlantEvent::Planted { user_id, species, bed, keeper }])
            }
            PlantCommand::MovePlant { bed } if bed.as_str() == self.bed => {
                Err(PlantRejection::There { bed: bed.into() })
            }
            PlantCommand::MovePlant { bed } => Ok(vec![PlantEvent::Moved { bed }]),
            PlantCommand::ErasePlant {} => Ok(vec![PlantEvent::Erased {}]),
        }
    }

    fn apply(&mut self, event: PlantEvent) {
        match event {
            PlantEvent::Planted { bed, .. } | PlantEvent::Moved { bed } => self.bed = bed.into(),
            PlantEvent::Erased {} => {}
        }
    }
}
