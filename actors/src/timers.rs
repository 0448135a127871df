//! Orders whose time ran out: found by a row per unpaid order, cancelled by the leader, exactly once.
//!
//! Only log time counts, so every leader agrees on what is due. The expiry is an ordinary transaction decided by the
//! order itself; if a payment is first in the log, there is nothing left to expire.
//!
//! Rows before the *mark* are gone, and their tombstones need not be scanned again in this reign. The mark never passes
//! the log time of the rows that were looked at: an entry applied later is stamped later, and an order is due no earlier
//! than it was placed. So no order is passed over, however long an entry is on its way.

use std::{collections::HashSet, ops::Bound, time::Duration};

use agora_apply::{TransactionResult, schema};
use agora_domain::{Command, OrderId, Uid};
use agora_planted::{self as planted, Bug};
use agora_storage::{Keyspace, StateHeader, codec, key, meta};

use crate::{metrics::Counters, shop::Shop};

/// Orders expired per look.
const BATCH_MAX: usize = 1_024;
/// Orders that are left alone because apply refused their expiry. Each refusal ends a reign, so trying them again at
/// every look would stop the shop for one bad order.
const LEFT_ALONE_MAX: usize = 1_024;

/// What a look found.
struct Due {
    orders: Vec<OrderId>,
    /// True when there were no more.
    all: bool,
    /// Log time of the rows that were looked at.
    rows_time_ms: i64,
}

/// How an expiry ended.
enum Ended {
    /// The order needs no further look.
    Done,
    /// To be tried again.
    Again,
    /// Apply refused it.
    Impossible,
}

/// Works until the shop stops.
pub(crate) async fn run(shop: Shop) {
    let mut stopping = shop.stopping();
    let mut reigns = shop.journal().reign_watch();
    let tick = Duration::from_millis(shop.config().timer_tick_ms.max(1));
    let mut mark = (0, 0);
    let mut left_alone = HashSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(tick) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let Some(reign) = shop.journal().reign().map(|reign| reign.number) else { continue };
        // With clocks apart nobody can say what time it is: nothing is called late until they agree.
        if !shop.journal().clock_trusted() && !planted::is(Bug::ExpiryByLocalClock) {
            continue;
        }
        if mark.0 != reign {
            mark = (reign, 0);
        }
        let now_ms = shop.order_time_ms();
        let due = match due(&shop, mark.1, now_ms, &left_alone) {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "cannot look for orders whose time ran out");
                continue;
            }
        };
        let done = tokio::select! {
            done = expire(&shop, reign, due.orders, &mut left_alone) => done,
            // Nobody may be left to answer for a reign that is over; what was proposed has its fate in the log.
            _ = reigns.wait_for(|now| now.is_none_or(|now| now.number != reign)) => false,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        if done && due.all {
            mark.1 = mark.1.max(now_ms.min(due.rows_time_ms));
        }
    }
}

fn due(shop: &Shop, from_ms: i64, now_ms: i64, left_alone: &HashSet<OrderId>) -> agora_storage::Result<Due> {
    let view = shop.cluster().rows().view()?;
    let state = view.get(Keyspace::Meta, meta::STATE)?;
    let state: StateHeader = state.map_or_else(|| Ok(StateHeader::default()), |bytes| codec::decode(&bytes))?;
    let from = key::index_entry(schema::TIMERS, &from_ms.max(0).to_be_bytes(), &[]);
    let to = key::index_entry(schema::TIMERS, &now_ms.max(0).to_be_bytes(), &[]);
    let mut due = Due { orders: Vec::new(), all: true, rows_time_ms: state.log_time_ms };
    for row in view.scan(Keyspace::Index, Bound::Included(&from), Bound::Excluded(&to), false) {
        let order = schema::parse_timer(&row?.0).map(|(_, id)| OrderId(Uid(id)));
        let Some(order) = order.filter(|order| !left_alone.contains(order)) else { continue };
        if due.orders.len() == BATCH_MAX {
            due.all = false;
            break;
        }
        due.orders.push(order);
    }
    Ok(due)
}

/// Expires orders side by side. True when none is left to be looked at again.
async fn expire(shop: &Shop, reign: u64, orders: Vec<OrderId>, left_alone: &mut HashSet<OrderId>) -> bool {
    let attempts = orders.into_iter().map(|order| async move { (order, expire_one(shop, reign, order).await) });
    let mut done = true;
    for (order, ended) in futures_util::future::join_all(attempts).await {
        match ended {
            Ended::Done => {}
            Ended::Again => done = false,
            Ended::Impossible => {
                done = false;
                if left_alone.len() < LEFT_ALONE_MAX {
                    left_alone.insert(order);
                }
                tracing::error!(%order, "an order cannot expire; it is left alone until this node starts again");
            }
        }
    }
    done
}

async fn expire_one(shop: &Shop, reign: u64, order: OrderId) -> Ended {
    match shop.propose(reign, None, 0, &Command::ExpireOrder { order }).await {
        Ok(Some(pending)) => match pending.await.map(|placed| placed.outcome) {
            Ok(TransactionResult::Applied(_)) => {
                Counters::add(&shop.counters().expired);
                Ended::Done
            }
            Ok(TransactionResult::Impossible(_)) => Ended::Impossible,
            Ok(_) | Err(_) => Ended::Again,
        },
        // Paid or cancelled meanwhile: its timer row is gone.
        Ok(None) => Ended::Done,
        Err(_) => Ended::Again,
    }
}
