//! Entities of one kind while an entry is applied: evolved in copies, kept or put back transaction by transaction,
//! written once per entry.
//!
//! Rows stay here between entries, so a hot SKU is read and decoded once, not once per entry. The cache is emptied
//! when it is full, by number or by bytes (an order of a hundred lines is a thousand times a small SKU); what is in it
//! is always equal to the rows.

use std::collections::{HashMap, hash_map::Entry};

use agora_domain::{At, Entity, Impossible};
use agora_storage::{Batch, Keyspace, Result, rows::Rows};

use crate::schema;

/// Rows of one kind kept decoded between entries.
pub const CACHED_ROWS_MAX: usize = 32_768;
/// Bytes of the rows of one kind kept between entries, as stored. Decoded they take about as much again.
pub const CACHED_BYTES_MAX: usize = 16 * 1024 * 1024;

struct Slot<E> {
    /// The row as it is in the store.
    row: Option<Vec<u8>>,
    state: Option<E>,
    touched: bool,
    /// Its state before the transaction is in the undo list.
    in_undo: bool,
}

/// Entities of one kind.
pub struct Table<E: Entity> {
    slots: HashMap<u128, Slot<E>>,
    /// Bytes of the rows in the slots.
    bytes: usize,
    /// Touched by the entry, in order of first touch, so that writing them is deterministic.
    touched: Vec<u128>,
    /// States before the transaction, in order of first touch.
    undo: Vec<(u128, Option<E>)>,
}

impl<E: Entity> Default for Table<E> {
    fn default() -> Self {
        Self { slots: HashMap::new(), bytes: 0, touched: Vec::new(), undo: Vec::new() }
    }
}

impl<E: Entity> Table<E> {
    fn slot(&mut self, rows: &dyn Rows, id: u128) -> Result<&mut Slot<E>> {
        match self.slots.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(empty) => {
                let row = rows.get(Keyspace::Entity, &schema::entity(E::KIND, id))?;
                let state = row.as_deref().map(schema::decode).transpose()?;
                self.bytes += row.as_ref().map_or(0, Vec::len);
                Ok(empty.insert(Slot { row, state, touched: false, in_undo: false }))
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

    /// Evolves one entity. The inner error leaves the entity as it was; the caller then calls [`Table::roll_back`].
    ///
    /// # Errors
    /// Storage errors.
    pub fn evolve(
        &mut self,
        rows: &dyn Rows,
        id: u128,
        event: &E::Event,
        at: At,
    ) -> Result<std::result::Result<&E, Impossible>> {
        let slot = self.slot(rows, id)?;
        let before = (!std::mem::replace(&mut slot.in_undo, true)).then(|| slot.state.clone());
        let was_touched = std::mem::replace(&mut slot.touched, true);
        let evolved = E::evolve(&mut slot.state, event, at);
        if !was_touched {
            self.touched.push(id);
        }
        if let Some(before) = before {
            self.undo.push((id, before));
        }
        Ok(evolved.and_then(|()| {
            let state = self.slots.get(&id).and_then(|slot| slot.state.as_ref());
            state.ok_or_else(|| Impossible::because("an event that leaves nothing"))
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

    /// Writes what the entry changed, each row once, and makes room.
    pub fn write(&mut self, batch: &mut Batch) {
        assert!(self.undo.is_empty(), "a transaction was neither kept nor rolled back");
        for id in self.touched.drain(..) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.touched = false;
            let Some(state) = &slot.state else { continue };
            let row = schema::encode(state);
            let key = schema::entity(E::KIND, id);
            match slot.row.as_deref() {
                None => batch.insert(Keyspace::Entity, key, row.clone()),
                Some(old) if old == row => continue,
                Some(old) => batch.replace(Keyspace::Entity, key, old, row.clone()),
            }
            self.bytes = self.bytes + row.len() - slot.row.as_ref().map_or(0, Vec::len);
            slot.row = Some(row);
        }
        if self.slots.len() > CACHED_ROWS_MAX || self.bytes > CACHED_BYTES_MAX {
            self.slots.clear();
            self.bytes = 0;
        }
    }
}
