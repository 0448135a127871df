//! A name that may be taken once, such as a SKU code.
//!
//! The promise: two creations with one name never both succeed, on any node, however close together.

use serde::{Deserialize, Serialize};

use crate::{
    entity::{At, Entity, Impossible, Kind},
    id::Uid,
};

/// A taken name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which name, realm included (`sku_code:T-1`).
    pub name: String,
    /// Who has it.
    pub owner: Uid,
    /// Index of the entry that gave it.
    pub index: u64,
}

/// What may be asked of a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClaimCommand {
    /// Give it to an owner.
    Take {
        /// Realm and name.
        name: String,
        /// To whom.
        owner: Uid,
    },
}

/// What happened to a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClaimEvent {
    /// It was given.
    Taken {
        /// Realm and name.
        name: String,
        /// To whom.
        owner: Uid,
    },
}

/// Why a name says no.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClaimRefusal {
    /// Someone has it.
    Taken {
        /// Who.
        owner: Uid,
    },
}

impl Entity for Claim {
    const KIND: Kind = Kind::Claim;
    type Command = ClaimCommand;
    type Event = ClaimEvent;
    type Terms = ();
    type Refusal = ClaimRefusal;

    fn commutes(_command: &ClaimCommand) -> bool {
        false
    }

    fn decide(state: Option<&Self>, command: &ClaimCommand) -> Result<Vec<ClaimEvent>, ClaimRefusal> {
        let ClaimCommand::Take { name, owner } = command;
        match state {
            Some(claim) => Err(ClaimRefusal::Taken { owner: claim.owner }),
            None => Ok(vec![ClaimEvent::Taken { name: name.clone(), owner: *owner }]),
        }
    }

    fn evolve(state: &mut Option<Self>, event: &ClaimEvent, at: At) -> Result<(), Impossible> {
        let ClaimEvent::Taken { name, owner } = event;
        if let Some(claim) = state {
            return Err(Impossible::because(format!("{name} taken twice, by {} and {owner}", claim.owner)));
        }
        *state = Some(Self { name: name.clone(), owner: *owner, index: at.index });
        Ok(())
    }

    fn take(&mut self, _event: &ClaimEvent) {}

    fn give(&mut self, _event: &ClaimEvent) {}

    fn terms(_state: Option<&Self>) -> Option<()> {
        Some(())
    }

    fn index(&self) -> u64 {
        self.index
    }
}
