//! An order: what was bought, at which price, and how far it has come.
//!
//! ```text
//! CREATED ──pay──▶ PAID ──ship──▶ SHIPPED ──confirm──▶ COMPLETED
//!    │ cancel, expire │ cancel (money back)
//!    └──────▶ CANCELLED ◀┘
//! ```
//!
//! The promise: only these transitions, each once. An order that was paid in time is never expired by a slow timer,
//! because both are decided by the same entity and the first in the log wins.

use agora_planted::{self as planted, Bug};
use serde::{Deserialize, Serialize};

use crate::{
    entity::{At, Entity, Impossible, Kind},
    id::{AccountId, OrderId, SkuId},
    money::Money,
};

/// Lines one order may have.
pub const LINES_MAX: usize = 100;

/// How far an order has come. The numbers are part of the row format: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum OrderStatus {
    /// Stock is promised, nothing is paid.
    Created = 1,
    /// Paid, to be shipped.
    Paid = 2,
    /// On its way.
    Shipped = 3,
    /// Received.
    Completed = 4,
    /// Called off: promises and money given back.
    Cancelled = 5,
}

impl OrderStatus {
    /// Every status, in the order of life.
    pub const ALL: [Self; 5] = [Self::Created, Self::Paid, Self::Shipped, Self::Completed, Self::Cancelled];

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Paid => "PAID",
            Self::Shipped => "SHIPPED",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The statuses that may come next.
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Created => &[Self::Paid, Self::Cancelled],
            Self::Paid => &[Self::Shipped, Self::Cancelled],
            Self::Shipped => &[Self::Completed],
            Self::Completed | Self::Cancelled => &[],
        }
    }
}

/// Who or what moved an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A request.
    Request,
    /// Its time ran out.
    Expired,
}

/// One line, with the price as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Of what.
    pub sku: SkuId,
    /// The merchant's code at the time.
    pub code: String,
    /// The name at the time.
    pub name: String,
    /// How many.
    pub quantity: u32,
    /// Price per unit at the time.
    pub unit_price: Money,
    /// `unit_price × quantity`.
    pub total: Money,
}

/// One entry of an order's history. The number of steps is the order's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it became.
    pub status: OrderStatus,
    /// Log time.
    pub at_ms: i64,
    /// Log index.
    pub index: u64,
    /// Why.
    pub cause: Cause,
    /// Free text: a reason, a carrier and tracking number.
    pub note: String,
}

/// How an order is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// From the buyer's wallet.
    Balance,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id; the order number is the same without the prefix.
    pub id: OrderId,
    /// Who bought.
    pub account: AccountId,
    /// What, duplicate SKUs summed.
    pub lines: Vec<Line>,
    /// Sum of the lines.
    pub total: Money,
    /// True: the total was held in the wallet when the order was placed.
    pub held: bool,
    /// Log time at which it expires if unpaid.
    pub expire_ms: i64,
    /// The buyer's free text.
    pub note: String,
    /// All that happened, oldest first; never empty.
    pub steps: Vec<Step>,
}

impl Order {
    /// Where it is now.
    pub fn status(&self) -> OrderStatus {
        self.steps.last().map_or(OrderStatus::Created, |step| step.status)
    }

    /// Number of steps.
    pub fn version(&self) -> u64 {
        self.steps.len() as u64
    }

    /// Log time of its creation.
    pub fn created_ms(&self) -> i64 {
        self.steps.first().map_or(0, |step| step.at_ms)
    }

    /// The order as it was after its first `version` steps. Everything else about an order never changes, so this is
    /// exactly what was answered then.
    pub fn at_version(mut self, version: u64) -> Self {
        self.steps.truncate(usize::try_from(version).unwrap_or(usize::MAX).max(1));
        self
    }
}

/// What may be asked of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OrderCommand {
    /// Pay it.
    Pay {
        /// How.
        provider: Provider,
    },
    /// Call it off.
    Cancel {
        /// Free text.
        reason: String,
    },
    /// Its time ran out, by the leader's log time.
    Expire {
        /// Log time now.
        now_ms: i64,
    },
    /// It left.
    Ship {
        /// Carrier and tracking number, free text.
        note: String,
    },
    /// It arrived.
    ConfirmReceipt,
}

impl OrderCommand {
    /// The status it leads to.
    pub fn target(&self) -> OrderStatus {
        match self {
            Self::Pay { .. } => OrderStatus::Paid,
            Self::Cancel { .. } | Self::Expire { .. } => OrderStatus::Cancelled,
            Self::Ship { .. } => OrderStatus::Shipped,
            Self::ConfirmReceipt => OrderStatus::Completed,
        }
    }
}

/// What happened to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OrderEvent {
    /// It exists.
    Placed {
        /// Under this id.
        id: OrderId,
        /// Who bought.
        account: AccountId,
        /// What.
        lines: Vec<Line>,
        /// Sum of the lines.
        total: Money,
        /// Money held.
        held: bool,
        /// Unpaid, it lives so long.
        ttl_ms: u64,
        /// Free text.
        note: String,
    },
    /// It moved on.
    Moved {
        /// To this status.
        to: OrderStatus,
        /// Why.
        cause: Cause,
        /// Free text.
        note: String,
    },
}

/// Why an order says no, in order of precedence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OrderRefusal {
    /// There is no such order.
    NotFound,
    /// Not from here.
    InvalidTransition {
        /// Where it is.
        from: OrderStatus,
        /// Where it was to go.
        to: OrderStatus,
    },
    /// Its time has not run out.
    NotDue {
        /// When it will.
        expire_ms: i64,
    },
}

impl Entity for Order {
    const KIND: Kind = Kind::Order;
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Terms = Box<Self>;
    type Refusal = OrderRefusal;

    fn commutes(_command: &OrderCommand) -> bool {
        false
    }

    fn decide(state: Option<&Self>, command: &OrderCommand) -> Result<Vec<OrderEvent>, OrderRefusal> {
        let order = state.ok_or(OrderRefusal::NotFound)?;
        let (from, to) = (order.status(), command.target());
        if let OrderCommand::Expire { now_ms } = command {
            if from != OrderStatus::Created && !planted::is(Bug::PaidOrderExpires) {
                return Err(OrderRefusal::InvalidTransition { from, to });
            }
            if *now_ms < order.expire_ms {
                return Err(OrderRefusal::NotDue { expire_ms: order.expire_ms });
            }
        }
        if from == to {
            return Ok(Vec::new());
        }
        if !from.next().contains(&to) {
            return Err(OrderRefusal::InvalidTransition { from, to });
        }
        let (cause, note) = match command {
            OrderCommand::Pay { .. } | OrderCommand::ConfirmReceipt => (Cause::Request, String::new()),
            OrderCommand::Cancel { reason } => (Cause::Request, reason.clone()),
            OrderCommand::Expire { .. } => (Cause::Expired, String::new()),
            OrderCommand::Ship { note } => (Cause::Request, note.clone()),
        };
        Ok(vec![OrderEvent::Moved { to, cause, note }])
    }

    fn evolve(state: &mut Option<Self>, event: &OrderEvent, at: At) -> Result<(), Impossible> {
        match event {
            OrderEvent::Placed { id, account, lines, total, held, ttl_ms, note } => {
                if state.is_some() {
                    return Err(Impossible::because(format!("{id} placed twice")));
                }
                let sum: i128 = lines.iter().map(|line| i128::from(line.total.minor)).sum();
                let mixed = lines.iter().any(|line| line.total.currency != total.currency);
                if lines.is_empty() || mixed || sum != i128::from(total.minor) {
                    return Err(Impossible::because(format!("{id} has a total of {total} over lines worth {sum}")));
                }
                let placed = Step {
                    status: OrderStatus::Created,
                    at_ms: at.time_ms,
                    index: at.index,
                    cause: Cause::Request,
                    note: String::new(),
                };
                *state = Some(Self {
                    id: *id,
                    account: *account,
                    lines: lines.clone(),
                    total: *total,
                    held: *held,
                    expire_ms: at.time_ms.saturating_add_unsigned(*ttl_ms),
                    note: note.clone(),
                    steps: vec![placed],
                });
            }
            OrderEvent::Moved { to, cause, note } => {
                let order =
                    state.as_mut().ok_or_else(|| Impossible::because("an event for an order that was never placed"))?;
                let from = order.status();
                if !from.next().contains(to) {
                    return Err(Impossible::because(format!(
                        "{} moved from {} to {}",
                        order.id,
                        from.as_str(),
                        to.as_str()
                    )));
                }
                order.steps.push(Step {
                    status: *to,
                    at_ms: at.time_ms,
                    index: at.index,
                    cause: *cause,
                    note: note.clone(),
                });
            }
        }
        Ok(())
    }

    fn take(&mut self, _event: &OrderEvent) {}

    fn give(&mut self, _event: &OrderEvent) {}

    fn terms(state: Option<&Self>) -> Option<Box<Self>> {
        state.cloned().map(Box::new)
    }

    fn index(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.index)
    }
}
