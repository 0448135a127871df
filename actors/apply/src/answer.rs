//! What a request is answered, and what of it is kept under its key.
//!
//! An order never changes but by further steps, so an order *at a version* can be made again from its row: the kept
//! answer names it instead of copying it. Everything else is small and is kept as answered.

use agora_domain::{
    Answer, Order, OrderId,
    transaction::{OutcomeRow, StoredAnswer},
};
use agora_planted::{self as planted, Bug};
use agora_storage::{Error, Keyspace, Result, key};

use crate::schema;

/// Makes the kept form of an answer. `None` for what nobody asked for.
pub fn store(answer: &Answer) -> Option<StoredAnswer> {
    Some(match answer {
        Answer::Sku(sku) => StoredAnswer::Sku(sku.clone()),
        Answer::Stocks(levels) => StoredAnswer::Stocks(levels.clone()),
        Answer::Account(account) => StoredAnswer::Account(account.clone()),
        Answer::Order { order, no_change } => {
            StoredAnswer::Order { order: order.id, version: order.version(), no_change: *no_change }
        }
        Answer::Orders(items) => {
            let kept = items.iter().map(|item| item.as_ref().map(|order| order.id).map_err(Clone::clone));
            StoredAnswer::Orders(kept.collect())
        }
        Answer::Refused(rejection) => StoredAnswer::Refused(rejection.clone()),
        Answer::None => return None,
    })
}

/// Makes the answer again, exactly as it was. `order` reads an order's present row.
///
/// # Errors
/// Those of `order`, and a missing order row.
pub fn restore(stored: StoredAnswer, mut order: impl FnMut(OrderId) -> Result<Option<Order>>) -> Result<Answer> {
    let mut must =
        |id: OrderId| order(id)?.ok_or_else(|| Error::corrupt(format!("an outcome names {id}, which has no row")));
    Ok(match stored {
        StoredAnswer::Sku(sku) => Answer::Sku(sku),
        StoredAnswer::Stocks(levels) => Answer::Stocks(levels),
        StoredAnswer::Account(account) => Answer::Account(account),
        StoredAnswer::Order { order, version, no_change } => {
            Answer::Order { order: Box::new(must(order)?.at_version(version)), no_change }
        }
        StoredAnswer::Orders(items) => {
            let mut answers = Vec::with_capacity(items.len());
            for item in items {
                answers.push(match item {
                    Ok(id) => Ok(must(id)?.at_version(1)),
                    Err(rejection) => Err(rejection),
                });
            }
            Answer::Orders(answers)
        }
        StoredAnswer::Refused(rejection) => Answer::Refused(rejection),
    })
}

/// Looks a key up in the buckets that exist. `get` reads one row.
///
/// # Errors
/// Those of `get`, and damaged rows.
pub fn find_outcome(
    buckets: impl Iterator<Item = u32>,
    hash: u128,
    get: impl Fn(Keyspace, &[u8]) -> Result<Option<Vec<u8>>>,
) -> Result<Option<OutcomeRow>> {
    for bucket in buckets {
        if let Some(bytes) = get(Keyspace::Outcomes(bucket), &key::outcome(hash))?
            && !planted::is(Bug::KeyForgotten)
        {
            return schema::decode(&bytes).map(Some);
        }
    }
    Ok(None)
}
