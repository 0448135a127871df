//! What answers look like: each view is a thing of the domain as JSON, written straight to bytes.
//!
//! A view borrows what it shows and holds nothing that differs between nodes or times, so that a replayed answer is
//! byte-identical. Views of writes carry the index of the entry that did it, views of reads the index of the entry
//! that changed the thing last.

use std::{fmt, sync::Arc};

use agora_domain::{
    Account, AccountId, AccountKind, Currency, Money, Order, OrderId, OrderStatus, Sku, SkuId, SkuTerms, StockLevel,
    Uid,
    account::Wallet,
    order::{Cause, Line, Step},
};
use serde::{Serialize, Serializer};

use crate::{language::Language, problem::ProblemView};

/// Anything with a text form, written as a string without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Text<T>(pub T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A trace id: 32 hex digits.
#[derive(Clone, Copy, Debug)]
pub struct Trace(pub u128);

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Milliseconds since the Unix epoch, written as RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        serializer.collect_str(&format_args!("{time:.3}"))
    }
}

/// `{"amount": 12345, "currency": "CNY"}`, minor units.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MoneyView {
    amount: i64,
    currency: Text<Currency>,
}

impl From<Money> for MoneyView {
    fn from(money: Money) -> Self {
        Self { amount: money.minor, currency: Text(money.currency) }
    }
}

/// A SKU's terms. Stock is another resource with its own version, so that an `ETag` here says all.
#[derive(Clone, Debug, Serialize)]
pub struct SkuView {
    id: Text<SkuId>,
    #[serde(flatten)]
    terms: TermsView,
    version: u64,
    log_index: u64,
    created_at: Time,
    updated_at: Time,
}

#[derive(Clone, Debug)]
struct TermsView(Arc<SkuTerms>);

impl Serialize for TermsView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            sku_code: &'a str,
            name: &'a str,
            price: MoneyView,
            sellable: bool,
        }
        let SkuTerms { code, name, price, sellable } = &*self.0;
        View { sku_code: code, name, price: MoneyView::from(*price), sellable: *sellable }.serialize(serializer)
    }
}

impl SkuView {
    /// `log_index` is the entry's for a write, the SKU's own for a read.
    pub fn new(sku: &Sku, log_index: u64) -> Self {
        Self {
            id: Text(sku.id),
            terms: TermsView(Arc::clone(&sku.terms)),
            version: sku.version,
            log_index,
            created_at: Time(sku.created_ms),
            updated_at: Time(sku.updated_ms),
        }
    }
}

/// Stock of one SKU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StockView {
    sku_id: Text<SkuId>,
    on_hand: u64,
    reserved: u64,
    available: u64,
    version: u64,
    log_index: u64,
}

impl StockView {
    /// `log_index` is the entry's for a write, the SKU's own for a read.
    pub fn new(level: &StockLevel, log_index: u64) -> Self {
        Self {
            sku_id: Text(level.sku),
            on_hand: level.on_hand,
            reserved: level.reserved,
            available: level.available,
            version: level.version,
            log_index,
        }
    }
}

/// Stock of several SKUs after one receipt.
#[derive(Debug, Serialize)]
pub struct ReceiptView {
    /// One per SKU.
    pub lines: Vec<StockView>,
    /// Of the entry.
    pub log_index: u64,
}

/// Stock of the only SKU of a receipt: its figures at the top, and the same list as for several.
#[derive(Debug, Serialize)]
pub struct SingleReceiptView {
    /// The figures.
    #[serde(flatten)]
    pub stock: StockView,
    /// The list of one.
    pub lines: [StockView; 1],
}

/// Money of one currency.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WalletView {
    currency: Text<Currency>,
    balance: MoneyView,
    held: MoneyView,
    available: MoneyView,
}

impl WalletView {
    fn new(currency: Currency, wallet: &Wallet) -> Self {
        let money = |minor| MoneyView::from(Money::new(minor, currency));
        Self {
            currency: Text(currency),
            balance: money(wallet.balance_minor),
            held: money(wallet.held_minor),
            available: money(wallet.available_minor()),
        }
    }
}

fn wallets(account: &Account) -> Vec<WalletView> {
    account.wallets.iter().map(|(currency, wallet)| WalletView::new(*currency, wallet)).collect()
}

/// An account.
#[derive(Debug, Serialize)]
pub struct AccountView<'a> {
    id: Text<AccountId>,
    name: &'a str,
    kind: &'static str,
    wallets: Vec<WalletView>,
    version: u64,
    log_index: u64,
    created_at: Time,
}

impl<'a> AccountView<'a> {
    /// `log_index` is the entry's for a write, the account's own for a read.
    pub fn new(account: &'a Account, log_index: u64) -> Self {
        Self {
            id: Text(account.id),
            name: &account.name,
            kind: account_kind(account.kind),
            wallets: wallets(account),
            version: account.version,
            log_index,
            created_at: Time(account.created_ms),
        }
    }
}

/// As the API writes and reads it.
pub fn account_kind(kind: AccountKind) -> &'static str {
    match kind {
        AccountKind::Customer => "customer",
        AccountKind::House => "house",
    }
}

/// The money side of an account.
#[derive(Debug, Serialize)]
pub struct AccountWalletView {
    account_id: Text<AccountId>,
    /// Of the currency at hand: the adjusted one, or the only one there is.
    balance: Option<MoneyView>,
    held: Option<MoneyView>,
    available: Option<MoneyView>,
    wallets: Vec<WalletView>,
    version: u64,
    log_index: u64,
}

impl AccountWalletView {
    /// `currency` picks the wallet shown at the top; without it the only one, if there is only one.
    pub fn new(account: &Account, currency: Option<Currency>, log_index: u64) -> Self {
        let wallets = wallets(account);
        let top = match (currency, wallets.as_slice()) {
            (Some(currency), _) => Some(WalletView::new(currency, &account.wallet(currency))),
            (None, [only]) => Some(*only),
            (None, _) => None,
        };
        Self {
            account_id: Text(account.id),
            balance: top.map(|wallet| wallet.balance),
            held: top.map(|wallet| wallet.held),
            available: top.map(|wallet| wallet.available),
            wallets,
            version: account.version,
            log_index,
        }
    }
}

/// Statuses that may come next, as a list of names.
#[derive(Clone, Copy, Debug)]
pub struct Transitions(pub OrderStatus);

impl Serialize for Transitions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.next().iter().map(|status| status.as_str()))
    }
}

/// An order.
#[derive(Debug, Serialize)]
pub struct OrderView<'a> {
    id: Text<OrderId>,
    order_no: Text<Uid>,
    user_id: Text<AccountId>,
    status: &'static str,
    status_text: &'static str,
    payment_status: &'static str,
    fulfilment_status: &'static str,
    refund_status: &'static str,
    allowed_transitions: Transitions,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_provider: Option<&'static str>,
    expire_time: Time,
    totals: TotalsView,
    lines: Lines<'a>,
    note: &'a str,
    history: History<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_change: bool,
    version: u64,
    log_index: u64,
    created_at: Time,
    updated_at: Time,
}

#[derive(Debug, Serialize)]
struct TotalsView {
    items: MoneyView,
    grand_total: MoneyView,
}

#[derive(Debug)]
struct Lines<'a>(&'a [Line]);

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            sku_id: Text<SkuId>,
            sku_code: &'a str,
            name: &'a str,
            quantity: u32,
            unit_price: MoneyView,
            total: MoneyView,
        }
        serializer.collect_seq(self.0.iter().map(|line| View {
            sku_id: Text(line.sku),
            sku_code: &line.code,
            name: &line.name,
            quantity: line.quantity,
            unit_price: MoneyView::from(line.unit_price),
            total: MoneyView::from(line.total),
        }))
    }
}

#[derive(Debug)]
struct History<'a>(&'a [Step]);

impl Serialize for History<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            status: &'static str,
            time: Time,
            log_index: u64,
            cause: &'static str,
            #[serde(skip_serializing_if = "str::is_empty")]
            note: &'a str,
        }
        serializer.collect_seq(self.0.iter().map(|step| View {
            status: step.status.as_str(),
            time: Time(step.at_ms),
            log_index: step.index,
            cause: cause(step.cause),
            note: &step.note,
        }))
    }
}

/// Why an order moved, as the API writes it.
pub fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Request => "REQUEST",
        Cause::Expired => "EXPIRED",
    }
}

impl<'a> OrderView<'a> {
    /// `log_index` is the entry's for a write, the order's own for a read.
    pub fn new(order: &'a Order, no_change: bool, log_index: u64, language: Language) -> Self {
        let status = order.status();
        let was_paid = order.steps.iter().any(|step| step.status == OrderStatus::Paid);
        let (payment_status, refund_status) = match (status, was_paid) {
            (OrderStatus::Cancelled, true) => ("REFUNDED", "FULL"),
            (_, true) => ("PAID", "NONE"),
            (_, false) => ("UNPAID", "NONE"),
        };
        let fulfilment_status = match status {
            OrderStatus::Created | OrderStatus::Paid | OrderStatus::Cancelled => "UNFULFILLED",
            OrderStatus::Shipped => "SHIPPED",
            OrderStatus::Completed => "DELIVERED",
        };
        let total = MoneyView::from(order.total);
        Self {
            id: Text(order.id),
            order_no: Text(order.id.0),
            user_id: Text(order.account),
            status: status.as_str(),
            status_text: status_text(status, language),
            payment_status,
            fulfilment_status,
            refund_status,
            allowed_transitions: Transitions(status),
            payment_provider: order.held.then_some("balance"),
            expire_time: Time(order.expire_ms),
            totals: TotalsView { items: total, grand_total: total },
            lines: Lines(&order.lines),
            note: &order.note,
            history: History(&order.steps),
            no_change,
            version: order.version(),
            log_index,
            created_at: Time(order.created_ms()),
            updated_at: Time(order.steps.last().map_or(0, |step| step.at_ms)),
        }
    }
}

fn status_text(status: OrderStatus, language: Language) -> &'static str {
    match (language, status) {
        (Language::Chinese, OrderStatus::Created) => "待支付",
        (Language::Chinese, OrderStatus::Paid) => "待发货",
        (Language::Chinese, OrderStatus::Shipped) => "已发货",
        (Language::Chinese, OrderStatus::Completed) => "已完成",
        (Language::Chinese, OrderStatus::Cancelled) => "已取消",
        (Language::English, OrderStatus::Created) => "awaiting payment",
        (Language::English, OrderStatus::Paid) => "to be shipped",
        (Language::English, OrderStatus::Shipped) => "shipped",
        (Language::English, OrderStatus::Completed) => "completed",
        (Language::English, OrderStatus::Cancelled) => "cancelled",
    }
}

/// One item of an answered batch.
#[derive(Serialize)]
pub struct BatchItemView<'a> {
    /// As if it had been asked alone: 201, 409 …
    pub status: u16,
    /// What was placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderView<'a>>,
    /// Or why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView<'a>>,
}

/// An answered batch, in the order of the request.
#[derive(Serialize)]
pub struct BatchView<'a> {
    /// Item by item.
    pub results: Vec<BatchItemView<'a>>,
    /// Of the entry.
    pub log_index: u64,
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub struct PageView<T> {
    /// The items.
    pub data: Vec<T>,
    /// More after them?
    pub has_more: bool,
    /// Where to go on.
    pub next_cursor: Option<String>,
    /// Index of the rows that were read.
    pub as_of_index: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_end_in_z() {
        let text = |ms| serde_json::to_string(&Time(ms)).unwrap();
        assert_eq!(text(0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(text(1_763_600_000_007), "\"2025-11-20T00:53:20.007Z\"");
        assert_eq!(text(i64::MAX), "\"9999-12-30T22:00:00.999Z\"");
    }

    #[test]
    fn an_order_tells_all_of_itself() {
        let line = Line {
            sku: SkuId(Uid(1)),
            code: "T-1".into(),
            name: "shirt".into(),
            quantity: 2,
            unit_price: Money::new(500, Currency::CNY),
            total: Money::new(1_000, Currency::CNY),
        };
        let step = |status, index| Step { status, at_ms: 1, index, cause: Cause::Request, note: String::new() };
        let order = Order {
            id: OrderId(Uid(2)),
            account: AccountId(Uid(3)),
            lines: vec![line],
            total: Money::new(1_000, Currency::CNY),
            held: true,
            expire_ms: 900_001,
            note: "leave at the door".into(),
            steps: vec![step(OrderStatus::Created, 7), step(OrderStatus::Paid, 9)],
        };
        let json = serde_json::to_string(&OrderView::new(&order, false, 9, Language::Chinese)).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"id":"ord_00000000000000000000000002","order_no":"00000000000000000000000002","#,
                r#""user_id":"acc_00000000000000000000000003","status":"PAID","status_text":"待发货","#,
                r#""payment_status":"PAID","fulfilment_status":"UNFULFILLED","refund_status":"NONE","#,
                r#""allowed_transitions":["SHIPPED","CANCELLED"],"payment_provider":"balance","#,
                r#""expire_time":"1970-01-01T00:15:00.001Z","#,
                r#""totals":{"items":{"amount":1000,"currency":"CNY"},"grand_total":{"amount":1000,"currency":"CNY"}},"#,
                r#""lines":[{"sku_id":"sku_00000000000000000000000001","sku_code":"T-1","name":"shirt","quantity":2,"#,
                r#""unit_price":{"amount":500,"currency":"CNY"},"total":{"amount":1000,"currency":"CNY"}}],"#,
                r#""note":"leave at the door","#,
                r#""history":[{"status":"CREATED","time":"1970-01-01T00:00:00.001Z","log_index":7,"cause":"REQUEST"},"#,
                r#"{"status":"PAID","time":"1970-01-01T00:00:00.001Z","log_index":9,"cause":"REQUEST"}],"#,
                r#""version":2,"log_index":9,"created_at":"1970-01-01T00:00:00.001Z","#,
                r#""updated_at":"1970-01-01T00:00:00.001Z"}"#
            )
        );
    }
}
