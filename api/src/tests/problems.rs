//! Every no, as it is written.

use agora_actors::{ReadError, WriteError};
use agora_domain::{
    AccountId, Currency, Money, OrderId, OrderStatus, Rejection, SkuEvent, SkuId, SkuTerms, Uid,
    entity::{At, Entity},
    rejection::{InvalidCoupon, Shortage},
};
use serde_json::{Value, json};

use crate::{
    language::Language,
    problem::{Applied, Code, Problem},
};

const A: &str = "00000000000000000000000001";
const B: &str = "00000000000000000000000002";

#[track_caller]
fn check(rejection: Rejection, status: u16, code: &str, detail: &str, details: Value) {
    let problem = Problem::rejected(&rejection, 7, 0xabc, false);
    let body: Value = serde_json::from_slice(&problem.body("/here", 1, Language::English)).unwrap();
    let title = body["title"].clone();
    assert_eq!(
        body,
        json!({
            "type": format!("https://agora.dev/errors/{code}"),
            "title": title,
            "status": status,
            "detail": detail,
            "instance": "/here",
            "code": code,
            "message": title,
            "details": details,
            "trace_id": "00000000000000000000000000000abc",
            "log_index": 7,
            "applied": false,
            "retryable": false,
        })
    );
    assert!(matches!(status, 404 | 409 | 412), "a kept answer must be 404, 409, 410 or 412");
}

fn cny(minor: i64) -> Money {
    Money::new(minor, Currency::CNY)
}

#[test]
fn every_rejection_has_its_code_and_tells_both_sides() {
    let (sku, other) = (SkuId(Uid(1)), SkuId(Uid(2)));
    check(
        Rejection::AccountNotFound(AccountId(Uid(1))),
        404,
        "NOT_FOUND",
        &format!("no account acc_{A}"),
        json!({"kind": "account", "id": format!("acc_{A}")}),
    );
    check(
        Rejection::OrderNotFound(OrderId(Uid(1))),
        404,
        "NOT_FOUND",
        &format!("no order ord_{A}"),
        json!({"kind": "order", "id": format!("ord_{A}")}),
    );
    check(
        Rejection::SkusNotFound(vec![sku, other]),
        404,
        "NOT_FOUND",
        "2 unknown SKU(s)",
        json!({"sku_ids": [format!("sku_{A}"), format!("sku_{B}")]}),
    );
    check(
        Rejection::NotSellable(vec![sku]),
        409,
        "SKU_NOT_SELLABLE",
        "1 SKU(s) are not sellable",
        json!({"sku_ids": [format!("sku_{A}")]}),
    );
    check(
        Rejection::Shortage {
            shortages: vec![Shortage { sku, requested: 6, available: 5 }],
            invalid_coupons: vec![InvalidCoupon { code: "NEW50".into(), reason: "UNKNOWN".into() }],
        },
        409,
        "INVENTORY_SHORTAGE",
        "1 line(s) cannot be filled, 1 coupon(s) are invalid",
        json!({
            "shortages": [{"sku_id": format!("sku_{A}"), "requested": 6, "available": 5, "location_id": null}],
            "invalid_coupons": [{"code": "NEW50", "reason": "UNKNOWN"}],
        }),
    );
    check(
        Rejection::CouponsInvalid(vec![InvalidCoupon { code: "NEW50".into(), reason: "UNKNOWN".into() }]),
        409,
        "COUPON_INVALID",
        "1 coupon(s) are invalid",
        json!({"invalid_coupons": [{"code": "NEW50", "reason": "UNKNOWN"}]}),
    );
    check(
        Rejection::CurrencyMismatch { left: cny(1), right: Money::new(2, "JPY".parse().unwrap()) },
        409,
        "CURRENCY_MISMATCH",
        "currencies differ: 0.01 CNY and 2 JPY",
        json!({"left": {"amount": 1, "currency": "CNY"}, "right": {"amount": 2, "currency": "JPY"}}),
    );
    check(
        Rejection::LimitExceeded { what: "stock".into(), limit: 9 },
        409,
        "LIMIT_EXCEEDED",
        "stock would be beyond the limit of 9",
        json!({"what": "stock", "limit": 9}),
    );
    check(
        Rejection::InsufficientBalance { requested: cny(500), available: cny(20) },
        409,
        "INSUFFICIENT_BALANCE",
        "insufficient balance: requested 5.00 CNY, available 0.20 CNY",
        json!({
            "requested": {"amount": 500, "currency": "CNY"},
            "available": {"amount": 20, "currency": "CNY"},
        }),
    );
    check(
        Rejection::InvalidTransition { order: OrderId(Uid(1)), from: OrderStatus::Created, to: OrderStatus::Shipped },
        409,
        "INVALID_TRANSITION",
        "order is CREATED, it cannot become SHIPPED",
        json!({
            "order_no": A,
            "status": "CREATED",
            "requested": "SHIPPED",
            "allowed_transitions": ["PAID", "CANCELLED"],
        }),
    );
    check(
        Rejection::CodeTaken { code: "T-1".into(), owner: sku },
        409,
        "DUPLICATE_EXTERNAL_ID",
        &format!("SKU code T-1 belongs to sku_{A}"),
        json!({"sku_code": "T-1", "existing_id": format!("sku_{A}")}),
    );
    let terms = SkuTerms { code: "T-1".into(), name: "shirt".into(), price: cny(100), sellable: true };
    let mut current = None;
    agora_domain::Sku::evolve(
        &mut current,
        &SkuEvent::Created { terms: terms.into(), id: sku },
        At { index: 3, time_ms: 0 },
    )
    .unwrap();
    check(
        Rejection::VersionMismatch { expected: 9, current: Box::new(current.unwrap()) },
        412,
        "VERSION_MISMATCH",
        "version 9 was expected, 1 is current",
        json!({
            "expected_version": 9,
            "current_version": 1,
            "current": {
                "id": format!("sku_{A}"), "sku_code": "T-1", "name": "shirt",
                "price": {"amount": 100, "currency": "CNY"}, "sellable": true, "version": 1, "log_index": 3,
                "created_at": "1970-01-01T00:00:00.000Z", "updated_at": "1970-01-01T00:00:00.000Z",
            },
        }),
    );
}

#[test]
fn errors_of_the_machine_say_whether_anything_happened() {
    let of_write = |error: WriteError| Box::<Problem>::from(error);
    for (error, status, code, applied) in [
        (WriteError::NoLeader, 503, Code::NoLeader, Applied::No),
        (WriteError::NoQuorum, 503, Code::NoQuorum, Applied::No),
        (WriteError::Overloaded { retry_after_ms: 1_500 }, 503, Code::Overloaded, Applied::No),
        (WriteError::ShuttingDown, 503, Code::Overloaded, Applied::No),
        (WriteError::KeyReused, 422, Code::IdempotencyKeyReused, Applied::No),
        (WriteError::KeyInFlight, 409, Code::IdempotencyInFlight, Applied::No),
        (WriteError::Unknown, 504, Code::OutcomeUnknown, Applied::Unknown),
        (WriteError::Internal("bug".into()), 500, Code::Internal, Applied::No),
    ] {
        let problem = of_write(error.clone());
        assert_eq!(
            (problem.code, problem.code.status().as_u16(), problem.applied),
            (code, status, applied),
            "{error:?}"
        );
        assert!(problem.log_index.is_none(), "{error:?} must not look like a decision");
        assert_eq!(problem.retry_after.is_some(), matches!(status, 503 | 504) || code == Code::IdempotencyInFlight);
    }
    for (error, code) in [
        (ReadError::NoLeader, Code::NoLeader),
        (ReadError::NoQuorum, Code::NoQuorum),
        (ReadError::Stale { have_ms: Some(9) }, Code::StaleRead),
        (ReadError::MinIndexNotReached { applied: 3 }, Code::StaleRead),
        (ReadError::Syncing { applied: 3, needed: 9 }, Code::Syncing),
        (ReadError::Timeout, Code::StaleRead),
        (ReadError::Storage("broken".into()), Code::Internal),
    ] {
        let problem = Box::<Problem>::from(error.clone());
        assert_eq!((problem.code, problem.applied), (code, Applied::No), "{error:?}");
    }
}

#[test]
fn codes_are_unique_and_their_statuses_are_what_their_kind_says() {
    let mut seen = std::collections::BTreeSet::new();
    for code in Code::ALL {
        assert!(seen.insert(code.as_str()), "{} is there twice", code.as_str());
        assert!(code.as_str().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'));
        assert!(!code.message(Language::Chinese).is_ascii(), "{} has no message in Chinese", code.as_str());
        let status = code.status().as_u16();
        assert!((400..=504).contains(&status));
        assert!(status < 500 || code.retryable(), "{} is a 5xx that is never worth a retry", code.as_str());
    }
}

#[test]
fn the_body_of_a_5xx_carries_trace_id_and_applied() {
    let problem = Box::<Problem>::from(WriteError::Unknown);
    let body: Value = serde_json::from_slice(&problem.body("/here", 0x4bf9, Language::Chinese)).unwrap();
    assert_eq!((&body["trace_id"], &body["applied"]), (&json!("00000000000000000000000000004bf9"), &json!("unknown")));
    assert_eq!(body["message"], "结果未知，请用同一幂等键重试");
}
