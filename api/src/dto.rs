//! Request bodies and what is checked about them before the shop is asked.
//!
//! Parse, then validate into a type that cannot be wrong: each body becomes a command of the domain, or a list of all
//! that is wrong with it. Signs, lengths and counts are checked here; whether the wish can be granted is for the
//! entities to decide. Unknown fields are refused.

use std::{borrow::Cow, fmt, marker::PhantomData};

use agora_domain::{
    AccountId, AccountKind, Command, Currency, Money, OrderId, PlaceOrder, SkuId,
    command::{BATCH_ORDERS_MAX, CODE_CHARS_MAX, COUPONS_MAX, NAME_CHARS_MAX, TEXT_CHARS_MAX},
    id::PrefixedId,
    money::AMOUNT_MINOR_MAX,
    order::{LINES_MAX, Provider},
    sku::{ON_HAND_UNITS_MAX, QUANTITY_UNITS_MAX},
};
use serde::{Deserialize, Deserializer, de};

use crate::problem::{FIELD_ERRORS_MAX, FieldError, Outcome, Problem};

/// Items of one order or receipt before SKUs named twice are summed.
pub const ITEMS_MAX: usize = 1_000;
/// Characters of a member's address.
const ADDRESS_CHARS_MAX: usize = 255;

/// A number that should be whole. `None` inside: it has a fraction, or is beyond 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct Whole(Option<i128>);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Whole;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Whole, E> {
                Ok(Whole(Some(value.into())))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Whole, E> {
                Ok(Whole(Some(value.into())))
            }
            fn visit_f64<E: de::Error>(self, _value: f64) -> Result<Whole, E> {
                Ok(Whole(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A JSON object. Derived readers take a list of values for a struct too; here that is a mistake to be told.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// A field that may be left out but not be `null`: in a patch, `null` would mean something that cannot be done.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// `{"amount": 12345, "currency": "CNY"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount<'a> {
    amount: Whole,
    #[serde(borrow)]
    currency: Cow<'a, str>,
}

/// `POST /skus`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSku<'a> {
    #[serde(borrow)]
    sku_code: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    price: Object<Amount<'a>>,
    sellable: Option<bool>,
}

/// `PATCH /skus/{id}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkuPatch<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    name: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "present")]
    price: Option<Object<Amount<'a>>>,
    #[serde(default, deserialize_with = "present")]
    sellable: Option<bool>,
}

/// `POST /stock/adjust`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockAdjustment<'a> {
    #[serde(borrow)]
    sku_id: Cow<'a, str>,
    delta: Whole,
    reason: Option<String>,
}

/// One line of an order or a receipt.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item<'a> {
    #[serde(borrow)]
    sku_id: Cow<'a, str>,
    quantity: Whole,
}

/// `POST /stock/receive`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockReceipt<'a> {
    #[serde(borrow)]
    lines: Vec<Object<Item<'a>>>,
    reason: Option<String>,
}

/// `POST /accounts`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// `POST /wallets/{id}/adjust`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalletAdjustment<'a> {
    #[serde(borrow)]
    amount: Object<Amount<'a>>,
    reason: Option<String>,
}

/// `POST /orders`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    items: Vec<Object<Item<'a>>>,
    coupon_codes: Option<Vec<String>>,
    note: Option<String>,
    #[serde(borrow)]
    payment_provider: Option<Cow<'a, str>>,
}

/// `POST /orders/batch`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrders<'a> {
    #[serde(borrow)]
    orders: Vec<Object<NewOrder<'a>>>,
}

/// `POST /orders/{no}/cancel`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancellation {
    reason: Option<String>,
}

/// `POST /orders/{no}/pay`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    provider: String,
}

/// `POST /orders/{no}/ship`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shipment {
    carrier: Option<String>,
    tracking_no: Option<String>,
    note: Option<String>,
}

/// A body without fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `POST /cluster/members`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Node id, from 1.
    pub id: u64,
    /// `host:port` of its peer port. Written as the answers and the configuration write it; both names are taken.
    #[serde(rename = "peer", alias = "peer_addr")]
    pub peer_addr: String,
    /// `host:port` of its HTTP port.
    #[serde(rename = "http", alias = "http_addr")]
    pub http_addr: String,
}

/// `POST /cluster/leader/transfer`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Whom to; anyone fit if left out.
    pub to: Option<u64>,
}

/// Collects what is wrong with a body.
#[derive(Default)]
struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    fn wrong(&mut self, at: fmt::Arguments<'_>, code: &'static str, message: fmt::Arguments<'_>) {
        if self.errors.len() < FIELD_ERRORS_MAX {
            self.errors.push(FieldError::body(at.to_string(), code, message.to_string()));
        }
    }

    fn done<T>(self, value: Option<T>) -> Outcome<T> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(Problem::invalid_all(self.errors)),
        }
    }

    fn id<I: PrefixedId>(&mut self, at: fmt::Arguments<'_>, text: &str) -> Option<I> {
        match I::parse_prefixed(text) {
            Ok(id) => Some(id),
            Err(bad) => {
                self.wrong(at, "INVALID_ID", format_args!("{bad}"));
                None
            }
        }
    }

    fn whole(&mut self, at: fmt::Arguments<'_>, number: Whole, min: i64, max: i64) -> Option<i64> {
        let value = number.0.and_then(|value| i64::try_from(value).ok()).filter(|value| (min..=max).contains(value));
        if value.is_none() {
            self.wrong(at, "OUT_OF_RANGE", format_args!("must be a whole number from {min} to {max}"));
        }
        value
    }

    fn not_zero(&mut self, at: fmt::Arguments<'_>, number: Whole, max: i64) -> Option<i64> {
        let value = self.whole(at, number, -max, max)?;
        if value == 0 {
            self.wrong(at, "OUT_OF_RANGE", format_args!("must not be zero"));
            return None;
        }
        Some(value)
    }

    /// A name or code: one line, something in it, no blanks around it.
    fn label(&mut self, at: fmt::Arguments<'_>, text: &str, chars_max: usize) -> Option<String> {
        let chars = text.chars().count();
        if chars == 0 || chars > chars_max {
            self.wrong(at, "WRONG_LENGTH", format_args!("must have 1 to {chars_max} characters, has {chars}"));
        } else if text.chars().any(char::is_control) || text.trim() != text {
            self.wrong(at, "INVALID", format_args!("must have no control characters and no blanks around it"));
        } else {
            return Some(text.to_owned());
        }
        None
    }

    /// Free text: may be empty, may have lines.
    fn text(&mut self, at: fmt::Arguments<'_>, text: Option<String>) -> Option<String> {
        let text = text.unwrap_or_default();
        let chars = text.chars().count();
        if chars > TEXT_CHARS_MAX {
            self.wrong(at, "TOO_LONG", format_args!("must have at most {TEXT_CHARS_MAX} characters, has {chars}"));
        } else if text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
            self.wrong(at, "INVALID", format_args!("must have no control characters but line breaks and tabs"));
        } else {
            return Some(text);
        }
        None
    }

    fn money(&mut self, at: fmt::Arguments<'_>, given: &Amount<'_>, may_be_negative: bool) -> Option<Money> {
        let minor = if may_be_negative {
            self.not_zero(format_args!("{at}/amount"), given.amount, AMOUNT_MINOR_MAX)
        } else {
            self.whole(format_args!("{at}/amount"), given.amount, 0, AMOUNT_MINOR_MAX)
        };
        let currency = match given.currency.parse::<Currency>() {
            Ok(currency) => Some(currency),
            Err(bad) => {
                self.wrong(format_args!("{at}/currency"), "INVALID", format_args!("{bad}"));
                None
            }
        };
        Some(Money::new(minor?, currency?))
    }

    fn provider(&mut self, at: fmt::Arguments<'_>, text: &str) -> Option<Provider> {
        if text.eq_ignore_ascii_case("balance") {
            return Some(Provider::Balance);
        }
        self.wrong(at, "INVALID", format_args!("the only payment provider is balance"));
        None
    }

    /// Lines, a SKU named twice summed, in the order of their first mention.
    fn items(&mut self, at: fmt::Arguments<'_>, items: &[Object<Item<'_>>]) -> Option<Vec<(SkuId, u32)>> {
        if items.is_empty() {
            self.wrong(at, "WRONG_LENGTH", format_args!("must have at least one line"));
            return None;
        }
        if items.len() > ITEMS_MAX {
            self.wrong(at, "TOO_MANY", format_args!("must have at most {ITEMS_MAX} lines, has {}", items.len()));
            return None;
        }
        let mut lines: Vec<(SkuId, u32)> = Vec::with_capacity(items.len().min(LINES_MAX));
        let mut distinct = 0usize;
        for (row, Object(item)) in items.iter().enumerate() {
            let sku = self.id::<SkuId>(format_args!("{at}/{row}/sku_id"), &item.sku_id);
            let most = i64::from(QUANTITY_UNITS_MAX);
            let quantity = self.whole(format_args!("{at}/{row}/quantity"), item.quantity, 1, most);
            let (Some(sku), Some(quantity)) = (sku, quantity.and_then(|units| u32::try_from(units).ok())) else {
                continue;
            };
            match lines.iter_mut().find(|(known, _)| *known == sku) {
                // Neither figure is above the limit, so their sum fits.
                Some((_, sum)) => {
                    *sum += quantity;
                    if *sum > QUANTITY_UNITS_MAX {
                        self.wrong(
                            format_args!("{at}/{row}/quantity"),
                            "TOO_MANY",
                            format_args!("all lines of {sku} together must be at most {QUANTITY_UNITS_MAX}"),
                        );
                        *sum = QUANTITY_UNITS_MAX;
                    }
                }
                None => {
                    distinct += 1;
                    if distinct <= LINES_MAX {
                        lines.push((sku, quantity));
                    }
                }
            }
        }
        if distinct > LINES_MAX {
            self.wrong(at, "TOO_MANY", format_args!("must name at most {LINES_MAX} SKUs, names {distinct}"));
        }
        Some(lines)
    }

    fn order(&mut self, at: &str, order: NewOrder<'_>) -> Option<PlaceOrder> {
        let account = self.id::<AccountId>(format_args!("{at}/user_id"), &order.user_id);
        let items = self.items(format_args!("{at}/items"), &order.items);
        let coupon_codes = order.coupon_codes.unwrap_or_default();
        if coupon_codes.len() > COUPONS_MAX {
            self.wrong(
                format_args!("{at}/coupon_codes"),
                "TOO_MANY",
                format_args!("must have at most {COUPONS_MAX} codes, has {}", coupon_codes.len()),
            );
        } else {
            for (row, code) in coupon_codes.iter().enumerate() {
                self.label(format_args!("{at}/coupon_codes/{row}"), code, CODE_CHARS_MAX);
            }
        }
        let provider = order.payment_provider.map(|text| self.provider(format_args!("{at}/payment_provider"), &text));
        let note = self.text(format_args!("{at}/note"), order.note);
        let hold_balance = matches!(provider, Some(Some(Provider::Balance)));
        Some(PlaceOrder { account: account?, items: items?, coupon_codes, hold_balance, note: note? })
    }
}

impl NewSku<'_> {
    /// # Errors
    /// 400 with all that is wrong, as for every `into_command` here.
    pub fn into_command(self) -> Outcome<Command> {
        let mut check = Check::default();
        let code = check.label(format_args!("/sku_code"), &self.sku_code, CODE_CHARS_MAX);
        let name = check.label(format_args!("/name"), &self.name, NAME_CHARS_MAX);
        let price = check.money(format_args!("/price"), &self.price.0, false);
        let sellable = self.sellable.unwrap_or(true);
        let parts = code.zip(name).zip(price);
        check.done(parts.map(|((code, name), price)| Command::CreateSku { code, name, price, sellable }))
    }
}

impl SkuPatch<'_> {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self, sku: SkuId, expected_version: u64) -> Outcome<Command> {
        let mut check = Check::default();
        if self.name.is_none() && self.price.is_none() && self.sellable.is_none() {
            check.wrong(format_args!(""), "REQUIRED", format_args!("name one of name, price, sellable to change"));
        }
        let name = self.name.and_then(|name| check.label(format_args!("/name"), &name, NAME_CHARS_MAX));
        let price = self.price.and_then(|price| check.money(format_args!("/price"), &price.0, false));
        check.done(Some(Command::ChangeSku { sku, expected_version, price, name, sellable: self.sellable }))
    }
}

impl StockAdjustment<'_> {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self) -> Outcome<Command> {
        let mut check = Check::default();
        let sku = check.id::<SkuId>(format_args!("/sku_id"), &self.sku_id);
        let most = i64::try_from(ON_HAND_UNITS_MAX).unwrap_or(i64::MAX);
        let delta = check.not_zero(format_args!("/delta"), self.delta, most);
        let reason = check.text(format_args!("/reason"), self.reason);
        let parts = sku.zip(delta).zip(reason);
        check.done(parts.map(|((sku, delta), reason)| Command::AdjustStock { sku, delta, reason }))
    }
}

impl StockReceipt<'_> {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self) -> Outcome<Command> {
        let mut check = Check::default();
        let lines = check.items(format_args!("/lines"), &self.lines);
        let reason = check.text(format_args!("/reason"), self.reason);
        check.done(lines.zip(reason).map(|(lines, reason)| Command::ReceiveStock { lines, reason }))
    }
}

impl NewAccount<'_> {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self) -> Outcome<Command> {
        let mut check = Check::default();
        let name = check.label(format_args!("/name"), &self.name, NAME_CHARS_MAX);
        let kind = match &*self.kind {
            "customer" => Some(AccountKind::Customer),
            "house" => Some(AccountKind::House),
            _ => {
                check.wrong(format_args!("/kind"), "INVALID", format_args!("must be customer or house"));
                None
            }
        };
        check.done(name.zip(kind).map(|(name, kind)| Command::CreateAccount { name, kind }))
    }
}

impl WalletAdjustment<'_> {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self, account: AccountId) -> Outcome<Command> {
        let mut check = Check::default();
        let amount = check.money(format_args!("/amount"), &self.amount.0, true);
        let reason = check.text(format_args!("/reason"), self.reason);
        check.done(amount.zip(reason).map(|(amount, reason)| Command::AdjustWallet { account, amount, reason }))
    }
}

impl NewOrder<'_> {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self) -> Outcome<Command> {
        let mut check = Check::default();
        let order = check.order("", self);
        check.done(order.map(Command::PlaceOrder))
    }
}

impl NewOrders<'_> {
    /// # Errors
    /// 400 with all that is wrong with any of them: a batch is well-formed as a whole or not at all.
    pub fn into_command(self) -> Outcome<Command> {
        let mut check = Check::default();
        let count = self.orders.len();
        if count == 0 || count > BATCH_ORDERS_MAX {
            check.wrong(
                format_args!("/orders"),
                "WRONG_LENGTH",
                format_args!("must have 1 to {BATCH_ORDERS_MAX} orders, has {count}"),
            );
            return check.done(None);
        }
        let mut orders = Vec::with_capacity(count);
        for (row, Object(order)) in self.orders.into_iter().enumerate() {
            orders.extend(check.order(&format!("/orders/{row}"), order));
        }
        check.done(Some(Command::PlaceOrders(orders)))
    }
}

impl Cancellation {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self, order: OrderId) -> Outcome<Command> {
        let mut check = Check::default();
        let reason = check.text(format_args!("/reason"), self.reason);
        check.done(reason.map(|reason| Command::CancelOrder { order, reason }))
    }
}

impl Payment {
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self, order: OrderId) -> Outcome<Command> {
        let mut check = Check::default();
        let provider = check.provider(format_args!("/provider"), &self.provider);
        check.done(provider.map(|provider| Command::PayOrder { order, provider }))
    }
}

impl Shipment {
    /// Carrier, tracking number and note become one line of the order's history.
    ///
    /// # Errors
    /// 400 with all that is wrong.
    pub fn into_command(self, order: OrderId) -> Outcome<Command> {
        let mut check = Check::default();
        let mut note = String::new();
        for (at, part) in [("/carrier", self.carrier), ("/tracking_no", self.tracking_no), ("/note", self.note)] {
            let part = check.text(format_args!("{at}"), part).unwrap_or_default();
            if !note.is_empty() && !part.is_empty() {
                note.push(' ');
            }
            note.push_str(&part);
        }
        let note = check.text(format_args!("/note"), Some(note));
        check.done(note.map(|note| Command::ShipOrder { order, note }))
    }
}

impl NewMember {
    /// Checks form only: whether the node answers is found out when it is added.
    ///
    /// # Errors
    /// 400 with all that is wrong.
    pub fn checked(self) -> Outcome<Self> {
        let mut check = Check::default();
        if self.id == 0 {
            check.wrong(format_args!("/id"), "OUT_OF_RANGE", format_args!("node ids start at 1"));
        }
        for (at, text) in [("/peer", &self.peer_addr), ("/http", &self.http_addr)] {
            let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            let is_plain = text.len() <= ADDRESS_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_plain || !matches!(port, Some(Ok(1..))) {
                check.wrong(format_args!("{at}"), "INVALID", format_args!("must be host:port"));
            }
        }
        check.done(Some(self))
    }
}
