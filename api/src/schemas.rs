//! The schemas of the OpenAPI document: what bodies and answers look like. Tests of the router check answers of a
//! real shop against them, so they cannot drift from what is sent.

use agora_domain::{
    OrderStatus,
    command::{BATCH_ORDERS_MAX, CODE_CHARS_MAX, COUPONS_MAX, NAME_CHARS_MAX, TEXT_CHARS_MAX},
    money::AMOUNT_MINOR_MAX,
    sku::{ON_HAND_UNITS_MAX, QUANTITY_UNITS_MAX},
};
use serde_json::{Map, Value, json};

use crate::{dto::ITEMS_MAX, openapi::codes};

/// All schemas by name.
pub fn schemas() -> Value {
    let mut all = Map::new();
    for group in [basics(), requests(), catalogue(), orders(), feed(), cluster()] {
        if let Value::Object(group) = group {
            all.extend(group);
        }
    }
    Value::Object(all)
}

fn of(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(name: &str) -> Value {
    json!({"type": "array", "items": of(name)})
}

/// An object: all fields are there unless their name ends in `?`, and there are no others.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in fields {
        match name.strip_suffix('?') {
            Some(name) => {
                properties.insert(name.to_owned(), schema);
            }
            None => {
                required.push(name.to_owned());
                properties.insert(name.to_owned(), schema);
            }
        }
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn page(name: &str) -> Value {
    object([
        ("data", list(name)),
        ("has_more", boolean()),
        ("next_cursor", json!({"type": ["string", "null"]})),
        ("as_of_index", count()),
    ])
}

fn string() -> Value {
    json!({"type": "string"})
}

fn text(chars_max: usize) -> Value {
    json!({"type": "string", "maxLength": chars_max})
}

fn boolean() -> Value {
    json!({"type": "boolean"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn maybe_count() -> Value {
    json!({"type": ["integer", "null"], "minimum": 0})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn one_of(names: &[&str]) -> Value {
    json!({"type": "string", "enum": names})
}

fn id(prefix: &str) -> Value {
    json!({"type": "string", "pattern": format!("^{prefix}[0-7][0-9a-hjkmnp-tv-z]{{25}}$")})
}

fn hex(digits: usize) -> Value {
    json!({"type": "string", "pattern": format!("^[0-9a-f]{{{digits}}}$")})
}

fn basics() -> Value {
    let amount = json!({"type": "integer", "minimum": -AMOUNT_MINOR_MAX, "maximum": AMOUNT_MINOR_MAX});
    json!({
        "Money": object([("amount", amount), ("currency", json!({"type": "string", "pattern": "^[A-Z]{3}$"}))]),
        "OrderStatus": one_of(&OrderStatus::ALL.map(OrderStatus::as_str)),
        "Problem": object([
            ("type", string()),
            ("title", string()),
            ("status", count()),
            ("detail", string()),
            ("instance", string()),
            ("code", one_of(&codes())),
            ("message", string()),
            ("details?", json!({"type": "object"})),
            ("errors?", list("FieldError")),
            ("trace_id", hex(32)),
            ("log_index?", count()),
            ("applied", json!({"enum": [false, "unknown"]})),
            ("retryable", boolean()),
        ]),
        "FieldError": object([
            ("pointer", string()),
            ("parameter?", string()),
            ("header?", string()),
            ("code", string()),
            ("message", string()),
        ]),
        "Alive": object([("status", string())]),
        "Healthz": object([
            ("status", one_of(&["ok", "degraded"])),
            ("node", count()),
            ("role", string()),
            ("leader", maybe_count()),
            ("health", string()),
            ("reasons", json!({"type": "array", "items": string()})),
            ("term?", count()),
            ("last_log_index?", count()),
            ("commit_index?", count()),
            ("applied_index?", count()),
            ("clock_trusted?", boolean()),
            ("quorum_age_ms?", maybe_count()),
        ]),
    })
}

fn requests() -> Value {
    let quantity = json!({"type": "integer", "minimum": 1, "maximum": QUANTITY_UNITS_MAX});
    let lines = json!({"type": "array", "items": of("Item"), "minItems": 1, "maxItems": ITEMS_MAX});
    let coupons = json!({"type": ["array", "null"], "items": text(CODE_CHARS_MAX), "maxItems": COUPONS_MAX});
    let orders = json!({"type": "array", "items": of("NewOrder"), "minItems": 1, "maxItems": BATCH_ORDERS_MAX});
    json!({
        "NewSku": object([
            ("sku_code", text(CODE_CHARS_MAX)),
            ("name", text(NAME_CHARS_MAX)),
            ("price", of("Money")),
            ("sellable?", boolean()),
        ]),
        "SkuPatch": object([("name?", text(NAME_CHARS_MAX)), ("price?", of("Money")), ("sellable?", boolean())]),
        "Item": object([("sku_id", id("sku_")), ("quantity", quantity)]),
        "StockAdjustment": object([
            ("sku_id", id("sku_")),
            ("delta", json!({
                "type": "integer",
                "minimum": -ON_HAND_UNITS_MAX.cast_signed(),
                "maximum": ON_HAND_UNITS_MAX,
                "description": "Not zero.",
            })),
            ("reason?", text(TEXT_CHARS_MAX)),
        ]),
        "StockReceipt": object([("lines", lines.clone()), ("reason?", text(TEXT_CHARS_MAX))]),
        "NewAccount": object([("name", text(NAME_CHARS_MAX)), ("kind", one_of(&["customer", "house"]))]),
        "WalletAdjustment": object([("amount", of("Money")), ("reason?", text(TEXT_CHARS_MAX))]),
        "NewOrder": object([
            ("user_id", id("acc_")),
            ("items", lines),
            ("coupon_codes?", coupons),
            ("note?", text(TEXT_CHARS_MAX)),
            ("payment_provider?", one_of(&["balance"])),
        ]),
        "NewOrders": object([("orders", orders)]),
        "Cancellation": object([("reason?", text(TEXT_CHARS_MAX))]),
        "Payment": object([("provider", one_of(&["balance"]))]),
        "Shipment": object([("carrier?", string()), ("tracking_no?", string()), ("note?", text(TEXT_CHARS_MAX))]),
        "Nothing": object([]),
        "NewMember": object([("id", json!({"type": "integer", "minimum": 1})), ("peer", string()), ("http", string())]),
        "Transfer": object([("to?", maybe_count())]),
    })
}

fn catalogue() -> Value {
    let maybe_money = json!({"oneOf": [of("Money"), {"type": "null"}]});
    json!({
        "Sku": object([
            ("id", id("sku_")),
            ("sku_code", string()),
            ("name", string()),
            ("price", of("Money")),
            ("sellable", boolean()),
            ("version", count()),
            ("log_index", count()),
            ("created_at", time()),
            ("updated_at", time()),
        ]),
        "SkuPage": page("Sku"),
        "Stock": object([
            ("sku_id", id("sku_")),
            ("on_hand", count()),
            ("reserved", count()),
            ("available", count()),
            ("version", count()),
            ("log_index", count()),
        ]),
        "Receipt": object([
            ("sku_id?", id("sku_")),
            ("on_hand?", count()),
            ("reserved?", count()),
            ("available?", count()),
            ("version?", count()),
            ("log_index", count()),
            ("lines", list("Stock")),
        ]),
        "Figures": object([("on_hand", count()), ("reserved", count()), ("available", count())]),
        "Movement": object([
            ("sku_id", id("sku_")),
            ("type", one_of(&["RECEIVED", "ADJUSTED", "RESERVED", "RELEASED", "SHIPPED"])),
            ("delta", integer()),
            ("pre", of("Figures")),
            ("post", of("Figures")),
            ("order_no?", id("")),
            ("reason?", string()),
            ("version", count()),
            ("trace_id", hex(32)),
            ("time", time()),
            ("log_index", count()),
            ("sub", count()),
        ]),
        "MovementPage": page("Movement"),
        "CurrencyWallet": object([
            ("currency", string()),
            ("balance", of("Money")),
            ("held", of("Money")),
            ("available", of("Money")),
        ]),
        "Account": object([
            ("id", id("acc_")),
            ("name", string()),
            ("kind", one_of(&["customer", "house"])),
            ("wallets", list("CurrencyWallet")),
            ("version", count()),
            ("log_index", count()),
            ("created_at", time()),
        ]),
        "AccountPage": page("Account"),
        "Wallet": object([
            ("account_id", id("acc_")),
            ("balance", maybe_money.clone()),
            ("held", maybe_money.clone()),
            ("available", maybe_money),
            ("wallets", list("CurrencyWallet")),
            ("version", count()),
            ("log_index", count()),
        ]),
        "LedgerSum": object([
            ("account", string()),
            ("currency", string()),
            ("debit", count()),
            ("credit", count()),
            ("balance", integer()),
        ]),
        "CurrencySum": object([
            ("currency", string()),
            ("debit", count()),
            ("credit", count()),
            ("difference", integer()),
        ]),
        "TrialBalance": object([
            ("balanced", boolean()),
            ("accounts", list("LedgerSum")),
            ("totals", list("CurrencySum")),
            ("as_of_index", count()),
        ]),
    })
}

fn orders() -> Value {
    json!({
        "Order": object([
            ("id", id("ord_")),
            ("order_no", id("")),
            ("user_id", id("acc_")),
            ("status", of("OrderStatus")),
            ("status_text", string()),
            ("payment_status", one_of(&["UNPAID", "PAID", "REFUNDED"])),
            ("fulfilment_status", one_of(&["UNFULFILLED", "SHIPPED", "DELIVERED"])),
            ("refund_status", one_of(&["NONE", "FULL"])),
            ("allowed_transitions", list("OrderStatus")),
            ("payment_provider?", one_of(&["balance"])),
            ("expire_time", time()),
            ("totals", object([("items", of("Money")), ("grand_total", of("Money"))])),
            ("lines", list("OrderLine")),
            ("note", string()),
            ("history", list("OrderStep")),
            ("no_change?", boolean()),
            ("version", count()),
            ("log_index", count()),
            ("created_at", time()),
            ("updated_at", time()),
        ]),
        "OrderLine": object([
            ("sku_id", id("sku_")),
            ("sku_code", string()),
            ("name", string()),
            ("quantity", count()),
            ("unit_price", of("Money")),
            ("total", of("Money")),
        ]),
        "OrderStep": object([
            ("status", of("OrderStatus")),
            ("time", time()),
            ("log_index", count()),
            ("cause", one_of(&["REQUEST", "EXPIRED"])),
            ("note?", string()),
        ]),
        "OrderPage": page("Order"),
        "OrderResult": object([("status", count()), ("order?", of("Order")), ("problem?", of("Problem"))]),
        "OrderResults": object([("results", list("OrderResult")), ("log_index", count())]),
    })
}

fn feed() -> Value {
    json!({
        "Event": object([
            ("index", count()),
            ("sub", count()),
            ("type", string()),
            ("version", count()),
            ("aggregate", one_of(&["sku", "order", "account", "claim"])),
            ("aggregate_id", string()),
            ("aggregate_version", count()),
            ("time", time()),
            ("data", json!({"type": "object"})),
            ("stock?", object([
                ("on_hand_pre", count()),
                ("on_hand_post", count()),
                ("reserved_pre", count()),
                ("reserved_post", count()),
            ])),
            ("trace_id", hex(32)),
            ("prev_hash", hex(64)),
        ]),
        "Changes": object([("data", list("Event")), ("head_index", count()), ("next_after", count())]),
    })
}

fn cluster() -> Value {
    let roles = one_of(&["leader", "follower", "candidate", "learner"]);
    let maybe_text = json!({"type": ["string", "null"]});
    let checkpoint = object([("index", count()), ("digest", hex(32)), ("chain_head", hex(64))]);
    json!({
        "Member": object([
            ("id", count()),
            ("role", roles.clone()),
            ("peer", string()),
            ("http", string()),
            ("term", count()),
            ("last_log_index", count()),
            ("commit_index", count()),
            ("applied_index", count()),
            ("lag", count()),
            ("version", string()),
            ("feature_level", count()),
            ("health", string()),
            ("digest", maybe_text),
            ("checkpoint", json!({"oneOf": [checkpoint, {"type": "null"}]})),
            ("heard_ms", maybe_count()),
        ]),
        "Members": object([("leader", maybe_count()), ("members", list("Member"))]),
        "ClusterStatus": object([
            ("cluster", string()),
            ("lineage", hex(32)),
            ("node", count()),
            ("role", roles),
            ("leader", maybe_count()),
            ("term", count()),
            ("reign", maybe_count()),
            ("last_log_index", count()),
            ("commit_index", count()),
            ("applied_index", count()),
            ("purged_index", count()),
            ("quorum_age_ms", maybe_count()),
            ("health", string()),
            ("health_detail?", string()),
            ("clock_trusted", boolean()),
            ("changing_members", boolean()),
            ("voters", count()),
            ("quorum", count()),
            ("members", list("Member")),
        ]),
        "Snapshot": object([("name", string()), ("index", count()), ("term", count()), ("bytes", count())]),
        "Snapshots": object([("data", list("Snapshot"))]),
    })
}
