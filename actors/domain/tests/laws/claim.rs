//! A claimed name under test.

use agora_domain::{Claim, ClaimCommand, ClaimEvent, Uid, claim::ClaimRefusal};
use proptest::prelude::*;

use crate::subject::Subject;

const NAME: &str = "sku_code:T-1";

impl Subject for Claim {
    /// Who wants it.
    type Wish = u128;
    type Book = ();

    fn wish() -> BoxedStrategy<u128> {
        (0..4u128).boxed()
    }

    fn event() -> BoxedStrategy<ClaimEvent> {
        Self::wish().prop_map(|owner| ClaimEvent::Taken { name: NAME.into(), owner: Uid(owner) }).boxed()
    }

    fn opening() -> Vec<ClaimEvent> {
        Vec::new()
    }

    fn command(owner: &u128, _book: &mut (), _state: Option<&Self>) -> Option<ClaimCommand> {
        Some(ClaimCommand::Take { name: NAME.into(), owner: Uid(*owner) })
    }

    fn sound(&self) -> bool {
        self.name == NAME
    }

    fn again(_command: &ClaimCommand, after: &Self) -> Result<Vec<ClaimEvent>, ClaimRefusal> {
        Err(ClaimRefusal::Taken { owner: after.owner })
    }
}
