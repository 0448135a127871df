//! Every definite *no* that a decision can give, with both sides of the comparison.
//!
//! A rejection is an outcome like any other: it is written to the log under the request's key, so it is the same on
//! every retry and after a failover.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AccountId, OrderId, SkuId},
    money::Money,
    order::OrderStatus,
    sku::Sku,
};

/// One line that cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// Of what.
    pub sku: SkuId,
    /// How many units were asked for, over all lines of the request.
    pub requested: u64,
    /// How many may be promised.
    pub available: u64,
}

/// One coupon that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidCoupon {
    /// Which.
    pub code: String,
    /// Why, UPPER_SNAKE.
    pub reason: String,
}

/// Why a valid request was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// No such account.
    #[error("no account {0}")]
    AccountNotFound(AccountId),
    /// No such order.
    #[error("no order {0}")]
    OrderNotFound(OrderId),
    /// No such SKUs: all of them are listed.
    #[error("{} unknown SKU(s)", .0.len())]
    SkusNotFound(Vec<SkuId>),
    /// These are not on sale.
    #[error("{} SKU(s) are not sellable", .0.len())]
    NotSellable(Vec<SkuId>),
    /// Not enough units, or no such coupons: every short SKU and every bad coupon is listed.
    #[error("{} line(s) cannot be filled, {} coupon(s) are invalid", .shortages.len(), .invalid_coupons.len())]
    Shortage {
        /// Every short SKU.
        shortages: Vec<Shortage>,
        /// Every bad coupon.
        invalid_coupons: Vec<InvalidCoupon>,
    },
    /// No such coupons, all else in order.
    #[error("{} coupon(s) are invalid", .0.len())]
    CouponsInvalid(Vec<InvalidCoupon>),
    /// All prices of an order, and a price and its change, must be in one currency.
    #[error("currencies differ: {left} and {right}")]
    CurrencyMismatch {
        /// One amount.
        left: Money,
        /// The other.
        right: Money,
    },
    /// A figure beyond what one row may hold.
    #[error("{what} would be beyond the limit of {limit}")]
    LimitExceeded {
        /// Which figure.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Not enough money.
    #[error("insufficient balance: requested {requested}, available {available}")]
    InsufficientBalance {
        /// Asked for.
        requested: Money,
        /// There.
        available: Money,
    },
    /// Not from this status.
    #[error("order is {}, it cannot become {}", .from.as_str(), .to.as_str())]
    InvalidTransition {
        /// Which order.
        order: OrderId,
        /// Where it is.
        from: OrderStatus,
        /// Where it was to go.
        to: OrderStatus,
    },
    /// Someone changed it since.
    #[error("version {expected} was expected, {} is current", .current.version)]
    VersionMismatch {
        /// What the caller saw.
        expected: u64,
        /// What is there.
        current: Box<Sku>,
    },
    /// The SKU code is taken.
    #[error("SKU code {code} belongs to {owner}")]
    CodeTaken {
        /// Which code.
        code: String,
        /// Whose.
        owner: SkuId,
    },
}
