//! One stock-keeping unit: what we hold, and to which orders it is promised.
//!
//! The promise: what is promised never exceeds what is held, so an accepted order can be shipped.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    entity::{At, Entity, Impossible, Kind},
    id::{OrderId, SkuId},
    money::Money,
};

/// The most units a SKU may hold.
pub const ON_HAND_UNITS_MAX: u64 = 1_000_000_000_000;
/// The most units one line of a request may name.
pub const QUANTITY_UNITS_MAX: u32 = 1_000_000;

/// What a SKU is sold as. Shared by every copy, since a decision needs it and rarely changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkuTerms {
    /// The merchant's own code, unique.
    pub code: String,
    /// What buyers read.
    pub name: String,
    /// Per unit.
    pub price: Money,
    /// False: orders are refused, stock stays.
    pub sellable: bool,
}

/// One stock-keeping unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sku {
    /// Its id.
    pub id: SkuId,
    /// Price, name, sellable or not.
    pub terms: Arc<SkuTerms>,
    /// Units in the warehouse, promised ones included.
    pub on_hand_units: u64,
    /// Units promised to open orders.
    pub reserved_units: u64,
    /// Units ever received.
    pub received_units: u64,
    /// Sum of all adjustments, either sign.
    pub adjusted_units: i64,
    /// Units ever shipped.
    pub shipped_units: u64,
    /// Version of the terms, from 1: what `If-Match` compares.
    pub version: u64,
    /// Number of changes of stock; a receipt, a correction, a promise and its end are one each.
    pub stock_version: u64,
    /// Index of the entry that changed it last.
    pub index: u64,
    /// Log time of its creation.
    pub created_ms: i64,
    /// Log time of the last change of its terms.
    pub updated_ms: i64,
    /// What flights take from the available units. Zero in every stored row.
    #[serde(skip)]
    taken_units: i64,
    /// What flights take from the room below [`ON_HAND_UNITS_MAX`]. Zero in every stored row.
    #[serde(skip)]
    coming_units: i64,
}

impl Sku {
    /// Units that may be promised.
    pub fn available_units(&self) -> u64 {
        let held = i128::from(self.on_hand_units) - i128::from(self.reserved_units);
        whole(held - i128::from(self.taken_units))
    }

    /// Units it would hold with `more` of them, counting those on their way.
    fn would_hold_units(&self, more: i64) -> u64 {
        whole(i128::from(self.on_hand_units) + i128::from(self.coming_units) + i128::from(more))
    }

    /// `received + adjusted = on_hand + shipped` and `reserved ≤ on_hand`.
    pub fn conserved(&self) -> bool {
        let came = i128::from(self.received_units) + i128::from(self.adjusted_units);
        let went = i128::from(self.on_hand_units) + i128::from(self.shipped_units);
        came == went && self.reserved_units <= self.on_hand_units
    }
}

/// A number of units from a sum that may have gone out of range on either side.
fn whole(units: i128) -> u64 {
    u64::try_from(units.max(0)).unwrap_or(u64::MAX)
}

/// What may be asked of a SKU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SkuCommand {
    /// Promise units to an order; the SKU must be sellable.
    Reserve {
        /// For whom.
        order: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Take back a promise.
    Release {
        /// Whose.
        order: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Promised units leave the warehouse.
    Ship {
        /// Whose.
        order: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Units arrive.
    Receive {
        /// How many.
        quantity: u32,
        /// Free text.
        reason: String,
    },
    /// The count was wrong by so much.
    Adjust {
        /// Either sign, not zero.
        delta: i64,
        /// Free text.
        reason: String,
    },
    /// Change terms; `None` leaves as is.
    Change {
        /// The version the caller saw.
        expected_version: u64,
        /// New price, same currency.
        price: Option<Money>,
        /// New name.
        name: Option<String>,
        /// On sale or not.
        sellable: Option<bool>,
    },
}

/// What happened to a SKU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SkuEvent {
    /// It exists.
    Created {
        /// With these terms.
        terms: Arc<SkuTerms>,
        /// Under this id.
        id: SkuId,
    },
    /// Its terms are these now.
    Changed {
        /// All of them.
        terms: Arc<SkuTerms>,
    },
    /// Units arrived.
    Received {
        /// How many.
        quantity: u32,
        /// Free text.
        reason: String,
    },
    /// The count was corrected.
    Adjusted {
        /// By so much.
        delta: i64,
        /// Free text.
        reason: String,
    },
    /// Units were promised.
    Reserved {
        /// To this order.
        order: OrderId,
        /// How many.
        quantity: u32,
    },
    /// A promise was taken back.
    Released {
        /// From this order.
        order: OrderId,
        /// How many.
        quantity: u32,
    },
    /// Promised units left.
    Shipped {
        /// For this order.
        order: OrderId,
        /// How many.
        quantity: u32,
    },
}

/// Why a SKU says no, in order of precedence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SkuRefusal {
    /// There is no such SKU.
    NotFound,
    /// It is not on sale.
    NotSellable,
    /// The caller saw another version.
    VersionMismatch {
        /// What the caller saw.
        expected: u64,
        /// What is there.
        current: Box<Sku>,
    },
    /// A price must stay in its currency.
    CurrencyMismatch {
        /// The new price.
        given: Money,
        /// The present one.
        current: Money,
    },
    /// Not enough available units.
    Short {
        /// Asked for.
        requested: u64,
        /// There.
        available: u64,
    },
    /// More than a SKU may hold.
    TooMany {
        /// What it would hold.
        would_hold: u64,
    },
}

impl Entity for Sku {
    const KIND: Kind = Kind::Sku;
    type Command = SkuCommand;
    type Event = SkuEvent;
    type Terms = Arc<SkuTerms>;
    type Refusal = SkuRefusal;

    fn commutes(command: &SkuCommand) -> bool {
        !matches!(command, SkuCommand::Change { .. })
    }

    fn decide(state: Option<&Self>, command: &SkuCommand) -> Result<Vec<SkuEvent>, SkuRefusal> {
        let sku = state.ok_or(SkuRefusal::NotFound)?;
        match command {
            SkuCommand::Reserve { order, quantity } => {
                if !sku.terms.sellable {
                    return Err(SkuRefusal::NotSellable);
                }
                let (requested, available) = (u64::from(*quantity), sku.available_units());
                if requested > available {
                    return Err(SkuRefusal::Short { requested, available });
                }
                Ok(vec![SkuEvent::Reserved { order: *order, quantity: *quantity }])
            }
            SkuCommand::Release { order, quantity } => {
                Ok(vec![SkuEvent::Released { order: *order, quantity: *quantity }])
            }
            SkuCommand::Ship { order, quantity } => Ok(vec![SkuEvent::Shipped { order: *order, quantity: *quantity }]),
            SkuCommand::Receive { quantity, reason } => {
                let would_hold = sku.would_hold_units(i64::from(*quantity));
                if would_hold > ON_HAND_UNITS_MAX {
                    return Err(SkuRefusal::TooMany { would_hold });
                }
                Ok(vec![SkuEvent::Received { quantity: *quantity, reason: reason.clone() }])
            }
            SkuCommand::Adjust { delta, reason } => {
                let available = sku.available_units();
                if *delta < 0 && delta.unsigned_abs() > available {
                    return Err(SkuRefusal::Short { requested: delta.unsigned_abs(), available });
                }
                let would_hold = sku.would_hold_units(*delta);
                if *delta > 0 && would_hold > ON_HAND_UNITS_MAX {
                    return Err(SkuRefusal::TooMany { would_hold });
                }
                Ok(vec![SkuEvent::Adjusted { delta: *delta, reason: reason.clone() }])
            }
            SkuCommand::Change { expected_version, price, name, sellable } => {
                if *expected_version != sku.version {
                    // As the log has it: what is on its way is no part of an answer.
                    let current = Box::new(Self { taken_units: 0, coming_units: 0, ..sku.clone() });
                    return Err(SkuRefusal::VersionMismatch { expected: *expected_version, current });
                }
                if let Some(given) = price.filter(|price| price.currency != sku.terms.price.currency) {
                    return Err(SkuRefusal::CurrencyMismatch { given, current: sku.terms.price });
                }
                let terms = SkuTerms {
                    code: sku.terms.code.clone(),
                    name: name.clone().unwrap_or_else(|| sku.terms.name.clone()),
                    price: price.unwrap_or(sku.terms.price),
                    sellable: sellable.unwrap_or(sku.terms.sellable),
                };
                if terms == *sku.terms {
                    return Ok(Vec::new());
                }
                Ok(vec![SkuEvent::Changed { terms: Arc::new(terms) }])
            }
        }
    }

    fn evolve(state: &mut Option<Self>, event: &SkuEvent, at: At) -> Result<(), Impossible> {
        if let SkuEvent::Created { terms, id } = event {
            if state.is_some() {
                return Err(Impossible::because(format!("{id} created twice")));
            }
            *state = Some(Self {
                id: *id,
                terms: Arc::clone(terms),
                on_hand_units: 0,
                reserved_units: 0,
                received_units: 0,
                adjusted_units: 0,
                shipped_units: 0,
                version: 1,
                stock_version: 0,
                index: at.index,
                created_ms: at.time_ms,
                updated_ms: at.time_ms,
                taken_units: 0,
                coming_units: 0,
            });
            return Ok(());
        }
        let sku = state.as_mut().ok_or_else(|| Impossible::because("an event for a SKU that was never created"))?;
        let mut next = sku.clone();
        let impossible = || {
            Impossible::because(format!(
                "{event:?} with on_hand {}, reserved {}",
                sku.on_hand_units, sku.reserved_units
            ))
        };
        // Checked throughout: an event that overflows must be refused by every node, not abort every node.
        match event {
            SkuEvent::Created { .. } => return Err(impossible()),
            SkuEvent::Changed { terms } => {
                next.terms = Arc::clone(terms);
                next.version += 1;
                next.updated_ms = at.time_ms;
            }
            SkuEvent::Received { quantity, .. } => {
                let quantity = u64::from(*quantity);
                next.on_hand_units = sku.on_hand_units.checked_add(quantity).ok_or_else(impossible)?;
                next.received_units = sku.received_units.checked_add(quantity).ok_or_else(impossible)?;
            }
            SkuEvent::Adjusted { delta, .. } => {
                next.on_hand_units = sku.on_hand_units.checked_add_signed(*delta).ok_or_else(impossible)?;
                next.adjusted_units = sku.adjusted_units.checked_add(*delta).ok_or_else(impossible)?;
            }
            SkuEvent::Reserved { quantity, .. } => {
                next.reserved_units = sku.reserved_units.checked_add(u64::from(*quantity)).ok_or_else(impossible)?;
            }
            SkuEvent::Released { quantity, .. } => {
                next.reserved_units = sku.reserved_units.checked_sub(u64::from(*quantity)).ok_or_else(impossible)?;
            }
            SkuEvent::Shipped { quantity, .. } => {
                let quantity = u64::from(*quantity);
                next.reserved_units = sku.reserved_units.checked_sub(quantity).ok_or_else(impossible)?;
                next.on_hand_units = sku.on_hand_units.checked_sub(quantity).ok_or_else(impossible)?;
                next.shipped_units = sku.shipped_units.checked_add(quantity).ok_or_else(impossible)?;
            }
        }
        if next.reserved_units > next.on_hand_units {
            return Err(impossible());
        }
        if !matches!(event, SkuEvent::Changed { .. }) {
            next.stock_version += 1;
        }
        next.index = at.index;
        *sku = next;
        Ok(())
    }

    fn take(&mut self, event: &SkuEvent) {
        match event {
            SkuEvent::Reserved { quantity, .. } => self.taken_units += i64::from(*quantity),
            SkuEvent::Adjusted { delta, .. } if *delta < 0 => self.taken_units -= delta,
            SkuEvent::Received { quantity, .. } => self.coming_units += i64::from(*quantity),
            SkuEvent::Adjusted { delta, .. } => self.coming_units += delta,
            _ => {}
        }
    }

    fn give(&mut self, event: &SkuEvent) {
        match event {
            SkuEvent::Received { quantity, .. } | SkuEvent::Released { quantity, .. } => {
                self.taken_units -= i64::from(*quantity);
            }
            SkuEvent::Adjusted { delta, .. } if *delta > 0 => self.taken_units -= delta,
            SkuEvent::Adjusted { delta, .. } => self.coming_units += delta,
            SkuEvent::Shipped { quantity, .. } => self.coming_units -= i64::from(*quantity),
            _ => {}
        }
    }

    fn terms(state: Option<&Self>) -> Option<Arc<SkuTerms>> {
        state.map(|sku| Arc::clone(&sku.terms))
    }

    fn index(&self) -> u64 {
        self.index
    }
}
