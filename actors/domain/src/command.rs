//! What may be asked of a shop: one typed command per write request.
//!
//! A command is what travels from the node that was asked to the leader. The API has checked its form (lengths, signs,
//! counts); whether it can be granted is for the entities to decide.

use serde::{Deserialize, Serialize};

use crate::{
    account::AccountKind,
    id::{AccountId, OrderId, SkuId},
    money::Money,
    order::Provider,
};

/// Orders one batch may hold.
pub const BATCH_ORDERS_MAX: usize = 100;
/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 200;
/// Characters of a SKU code.
pub const CODE_CHARS_MAX: usize = 64;
/// Characters of a reason, a note, a carrier.
pub const TEXT_CHARS_MAX: usize = 500;
/// Coupon codes one order may name.
pub const COUPONS_MAX: usize = 20;

/// One order to be placed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaceOrder {
    /// Who buys.
    pub account: AccountId,
    /// What and how many; a SKU named twice is summed before it is checked. 1 to [`crate::order::LINES_MAX`] lines.
    pub items: Vec<(SkuId, u32)>,
    /// Coupons to use.
    pub coupon_codes: Vec<String>,
    /// Hold the total in the wallet at once, so that paying cannot fail for want of money.
    pub hold_balance: bool,
    /// Free text.
    pub note: String,
}

/// A write request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A new SKU, without stock.
    CreateSku {
        /// Unique.
        code: String,
        /// For buyers.
        name: String,
        /// Per unit, not negative.
        price: Money,
        /// On sale from the start?
        sellable: bool,
    },
    /// Change a SKU's terms.
    ChangeSku {
        /// Which.
        sku: SkuId,
        /// From `If-Match`.
        expected_version: u64,
        /// New price.
        price: Option<Money>,
        /// New name.
        name: Option<String>,
        /// On sale or not.
        sellable: Option<bool>,
    },
    /// Correct a count.
    AdjustStock {
        /// Of what.
        sku: SkuId,
        /// By how much, not zero.
        delta: i64,
        /// Free text.
        reason: String,
    },
    /// Goods arrived.
    ReceiveStock {
        /// What and how many.
        lines: Vec<(SkuId, u32)>,
        /// Free text.
        reason: String,
    },
    /// A new account.
    CreateAccount {
        /// What it is called.
        name: String,
        /// Whose.
        kind: AccountKind,
    },
    /// Put money into a wallet or take it out.
    AdjustWallet {
        /// Whose.
        account: AccountId,
        /// Not zero.
        amount: Money,
        /// Free text.
        reason: String,
    },
    /// Place one order.
    PlaceOrder(PlaceOrder),
    /// Place many orders, each for itself: a refused one takes nothing.
    PlaceOrders(Vec<PlaceOrder>),
    /// Call an order off.
    CancelOrder {
        /// Which.
        order: OrderId,
        /// Free text.
        reason: String,
    },
    /// Pay an order.
    PayOrder {
        /// Which.
        order: OrderId,
        /// How.
        provider: Provider,
    },
    /// An order left.
    ShipOrder {
        /// Which.
        order: OrderId,
        /// Carrier and tracking number.
        note: String,
    },
    /// An order arrived.
    ConfirmReceipt {
        /// Which.
        order: OrderId,
    },
    /// An unpaid order's time ran out. Only the leader's timer says so.
    ExpireOrder {
        /// Which.
        order: OrderId,
    },
}
