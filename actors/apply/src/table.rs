//! Entities of one kind while an entry is applied: evolved in copies, kept or put back transaction by transaction,
//! written once per entry.
//!
//! They stay here between entries, so a hot SKU is read and decoded once, not once per entry; of its row only the mark is
//! kept, which is all that overwriting it needs. The cache is emptied when it is full, by number or by bytes (an order of
//! a hundred lines is a thousand times a small SKU); what is in it is always equal to the rows.
//!
//! Ids grow with time, and a new entity is the common case: a table knows an id above which every row is in the cache,
//! so that a new order need not be looked for among the rows.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    ops::Bound,
};

use agora_domain::{At, Entity, Impossible};
use agora_storage::{Batch, Keyspace, Result, RowMark, rows::Rows};

use crate::schema::{self, MOVES_MAX, Moves};

/// Rows of one kind kept decoded between entries.
pub const CACHED_ROWS_MAX: usize = 32_768;
/// Bytes of the rows of one kind kept between entries, as stored. Decoded they take about twice as much.
pub const CACHED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Ids are made by leaders or are hashes; nothing iterates over the map.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = u128::from(self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (mixed >> 64) as u64 ^ mixed as u64;
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }
}

struct Slot<E> {
    /// Of the row as it is in the store.
    row: Option<RowMark>,
    state: Option<E>,
    /// Of a SKU: the latest movements.
    moves: Moves,
    touched: bool,
    /// Its state before the transaction is in the undo list.
    in_undo: bool,
}

/// Entities of one kind.
pub struct Table<E: Entity> {
    slots: HashMap<u128, Slot<E>, BuildHasherDefault<IdHasher>>,
    /// Bytes of the rows in the slots.
    bytes: usize,
    /// Every row with a greater id is in a slot.
    complete_above: u128,
    /// No row has a greater id.
    highest: u128,
    /// Touched by the entry, in order of first touch, so that writing them is deterministic.
    touched: Vec<u128>,
    /// States before the transaction, in order of first touch.
    undo: Vec<(u128, Option<E>)>,
}

impl<E: Entity> Default for Table<E> {
    fn default() -> Self {
        Self {
            slots: HashMap::default(),
            bytes: 0,
            complete_above: u128::MAX,
            highest: u128::MAX,
            touched: Vec::new(),
            undo: Vec::new(),
        }
    }
}

impl<E: Entity> Table<E> {
    /// A table over rows as they are. Where the newest row cannot be read it looks for every id in the rows, which costs
    /// time and nothing else: damaged rows are served as far as they can be read.
    ///
    /// # Errors
    /// Storage errors other than damage.
    pub fn open(rows: &dyn Rows) -> Result<Self> {
        let (from, to) = (schema::entity(E::KIND, 0), schema::entity(E::KIND, u128::MAX));
        let view = rows.view()?;
        let last = view.scan(Keyspace::Entity, Bound::Included(&from), Bound::Included(&to), true).next().transpose();
        let highest = match last {
            Ok(last) => last.and_then(|(key, _)| schema::tail_id(&key)).unwrap_or(0),
            Err(error) if error.damage().is_some() => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        Ok(Self { complete_above: highest, highest, ..Self::default() })
    }

    fn slot(&mut self, rows: &dyn Rows, id: u128) -> Result<&mut Slot<E>> {
        match self.slots.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(empty) => {
                let mut slot = Slot { row: None, state: None, moves: Moves::default(), touched: false, in_undo: false };
                if id <= self.complete_above {
                    let key = schema::entity(E::KIND, id);
                    if let Some(row) = rows.get(Keyspace::Entity, &key)? {
                        slot.row = Some(RowMark::of(Keyspace::Entity, &key, &row));
                        let (state, moves) = schema::decode_entity(&row)?;
                        (slot.state, slot.moves) = (Some(state), moves);
                        self.bytes += row.len();
                    }
                }
                Ok(empty.insert(slot))
            }
        }
    }

    /// The state as the entry has left it so far.
    ///
    /// # Errors
    /// Storage errors.
    pub fn get(&mut self, rows: &dyn Rows, id: u128) -> Result<Option<&E>> {
        Ok(self.slot(rows, id)?.state.as_ref())
    }

    /// Evolves one entity, after `look` has seen it as it was. The inner error leaves the entity as it was; the caller
    /// then calls [`Table::roll_back`].
    ///
    /// # Errors
    /// Storage errors.
    pub fn evolve<L>(
        &mut self,
        rows: &dyn Rows,
        id: u128,
        event: &E::Event,
        at: At,
        look: impl FnOnce(Option<&E>) -> L,
    ) -> Result<std::result::Result<(L, &E), Impossible>> {
        self.slot(rows, id)?;
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(Err(Impossible::because("no slot"))) };
        let looked = look(slot.state.as_ref());
        if !std::mem::replace(&mut slot.in_undo, true) {
            self.undo.push((id, slot.state.clone()));
        }
        if !std::mem::replace(&mut slot.touched, true) {
            self.touched.push(id);
        }
        Ok(E::evolve(&mut slot.state, event, at).and_then(|()| {
            let state = slot.state.as_ref();
            state.map(|state| (looked, state)).ok_or_else(|| Impossible::because("an event that leaves nothing"))
        }))
    }

    /// The transaction took effect.
    pub fn keep(&mut self) {
        for (id, _) in self.undo.drain(..) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.in_undo = false;
            }
        }
    }

    /// The transaction is refused: everything it touched is as it was.
    pub fn roll_back(&mut self) {
        for (id, before) in self.undo.drain(..) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.state = before;
                slot.in_undo = false;
            }
        }
    }

    /// Notes a movement of an entity that the entry touched and keeps; when there are enough of them, they are given out
    /// to be written as a row.
    pub fn moved(&mut self, id: u128, index: u64, sub: u32) -> Option<Moves> {
        let slot = self.slots.get_mut(&id)?;
        slot.moves.push(index, sub);
        (slot.moves.len() >= MOVES_MAX).then(|| std::mem::take(&mut slot.moves))
    }

    /// Writes what the entry changed, each row once, and makes room.
    pub fn write(&mut self, batch: &mut Batch) {
        assert!(self.undo.is_empty(), "a transaction was neither kept nor rolled back");
        for id in self.touched.drain(..) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.touched = false;
            let Some(state) = &slot.state else { continue };
            let key = schema::entity(E::KIND, id);
            let old = slot.row.map_or(0, |row| row.bytes());
            let row = batch.put(Keyspace::Entity, &key, slot.row, |out| {
                schema::encode_entity(state, &slot.moves, out);
            });
            self.bytes = self.bytes + row.bytes() - old;
            self.highest = self.highest.max(id);
            slot.row = Some(row);
        }
        if self.slots.len() > CACHED_ROWS_MAX || self.bytes > CACHED_BYTES_MAX {
            self.slots.clear();
            self.bytes = 0;
            self.complete_above = self.highest;
        }
    }
}

#[cfg(test)]
mod tests {
    use agora_domain::{Claim, Sku, SkuEvent, SkuId, SkuTerms, Uid};
    use agora_storage::MemRows;
    use std::sync::Arc;

    use super::*;

    const AT: At = At { index: 1, time_ms: 1 };

    fn created(id: u128) -> SkuEvent {
        let price = agora_domain::Money::new(1, agora_domain::Currency::CNY);
        let terms = SkuTerms { code: format!("C{id}"), name: String::new(), price, sellable: true };
        SkuEvent::Created { terms: Arc::new(terms), id: SkuId(Uid(id)) }
    }

    /// Creates SKUs in one entry; whether each could be.
    fn create(table: &mut Table<Sku>, rows: &MemRows, ids: &[u128]) -> Vec<bool> {
        let could = ids
            .iter()
            .map(|id| {
                let could = table.evolve(rows, *id, &created(*id), AT, |_| ()).unwrap().is_ok();
                if could {
                    table.keep()
                } else {
                    table.roll_back()
                }
                could
            })
            .collect();
        let mut batch = Batch::new(rows.applied() + 1);
        table.write(&mut batch);
        rows.commit(batch).unwrap();
        could
    }

    #[test]
    fn what_exists_is_found_whatever_the_order_of_ids() {
        let rows = MemRows::new();
        let mut table = Table::open(&rows).unwrap();
        assert_eq!(create(&mut table, &rows, &[50, 40, 60]), [true; 3]);
        assert_eq!(create(&mut table, &rows, &[40, 60, 45, 70]), [false, false, true, true]);
        // As after a restart, and as after the cache was emptied.
        let mut again = Table::open(&rows).unwrap();
        assert_eq!(create(&mut again, &rows, &[70, 45, 71, 41]), [false, false, true, true]);
        again.slots.clear();
        again.complete_above = again.highest;
        assert_eq!(create(&mut again, &rows, &[71, 41, 50, 72]), [false, false, false, true]);
    }

    #[test]
    fn a_table_that_was_not_opened_looks_for_everything() {
        let rows = MemRows::new();
        create(&mut Table::open(&rows).unwrap(), &rows, &[9]);
        assert!(Table::<Sku>::default().get(&rows, 9).unwrap().is_some());
        assert!(Table::<Claim>::open(&rows).unwrap().get(&rows, 9).unwrap().is_none());
    }

    #[test]
    fn a_full_cache_is_emptied_and_forgets_nothing() {
        let rows = MemRows::new();
        let mut table = Table::open(&rows).unwrap();
        let ids: Vec<u128> = (1..=CACHED_ROWS_MAX as u128 + 1).map(|id| id * 2).collect();
        create(&mut table, &rows, &ids);
        assert!(table.slots.is_empty());
        assert_eq!(create(&mut table, &rows, &[2, 3, ids[CACHED_ROWS_MAX], u128::MAX - 1]), [false, true, false, true]);
    }
}
