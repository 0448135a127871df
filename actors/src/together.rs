//! One look at everything a request names: what is told of several entities must have been so at one place of the log.
//!
//! Each entity answers for itself, at its own moment, and between two of the answers other entries are applied: a basket
//! could hear that this SKU is short, as it was, and that one is not, as it came to be, though both were never so together. So
//! before such a refusal is told, all of it is decided once more on one state of the rows. What those refuse was true there, and
//! the entities have been asked before, so nothing that was granted meanwhile is hidden: it can only have taken.

use std::collections::BTreeMap;

use agora_apply::schema;
use agora_domain::{Entity, Sku, SkuCommand, SkuEvent, SkuId, sku::SkuRefusal};
use agora_storage::{Keyspace, Result, rows::Rows};

/// So often a request is decided again because the rows do not refuse what the entities do; then it is told what the
/// entities said, each of itself.
pub(crate) const ROUNDS_MAX: usize = 3;

/// What one state of the rows says to commands for several SKUs.
pub(crate) struct Together {
    /// Index of that state.
    pub(crate) index: u64,
    /// Those that refuse, and why.
    pub(crate) refused: Vec<(SkuId, SkuRefusal)>,
}

/// Decides all commands on one state of the rows. `own` is what earlier items of the same transaction do to a SKU: it comes
/// before this one in any case.
pub(crate) fn decide(
    rows: &dyn Rows,
    commands: &BTreeMap<SkuId, SkuCommand>,
    own: &BTreeMap<SkuId, Vec<SkuEvent>>,
) -> Result<Together> {
    let view = rows.view()?;
    let mut refused = Vec::new();
    for (id, command) in commands {
        let stored = view.get(Keyspace::Entity, &schema::entity(Sku::KIND, id.0.0))?;
        let read = |bytes: Vec<u8>| schema::decode_entity::<Sku>(&bytes).map(|(sku, _)| sku);
        let mut sku: Option<Sku> = stored.map(read).transpose()?;
        if let (Some(sku), Some(events)) = (sku.as_mut(), own.get(id)) {
            for event in events {
                sku.take(event);
                sku.give(event);
            }
        }
        if let Err(refusal) = Sku::decide(sku.as_ref(), command) {
            refused.push((*id, refusal));
        }
    }
    Ok(Together { index: view.applied(), refused })
}
