//! Orders whose time ran out: found by a row per unpaid order, cancelled by the leader, exactly once.
//!
//! Only log time counts, so every leader agrees on what is due. The expiry is an ordinary transaction decided by the
//! order itself; if a payment is first in the log, there is nothing left to expire. Rows before the mark are gone, and
//! their tombstones need not be scanned again in this reign.

use std::{ops::Bound, time::Duration};

use agora_apply::schema;
use agora_domain::{Command, OrderId, Uid};
use agora_storage::{Keyspace, key};

use crate::{metrics::Counters, shop::Shop};

/// Orders expired per look.
const BATCH_MAX: usize = 1_024;
/// The mark stays this far behind log time, so that an entry stamped just before a look is not passed over.
const MARK_BEHIND_MS: i64 = 5_000;

/// Works until the shop stops.
pub(crate) async fn run(shop: Shop) {
    let mut stopping = shop.stopping();
    let tick = Duration::from_millis(shop.config().timer_tick_ms.max(1));
    let mut mark = (0, 0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(tick) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let Some(reign) = shop.journal().reign().map(|reign| reign.number) else { continue };
        // With clocks apart nobody can say what time it is: nothing is called late until they agree.
        if !shop.journal().clock_trusted() {
            continue;
        }
        if mark.0 != reign {
            mark = (reign, 0);
        }
        let now_ms = shop.journal().log_time_ms();
        match due(&shop, mark.1, now_ms) {
            Ok(orders) => {
                let all = orders.len() < BATCH_MAX;
                if expire(&shop, reign, orders).await && all {
                    mark.1 = mark.1.max(now_ms - MARK_BEHIND_MS);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for orders whose time ran out"),
        }
    }
}

fn due(shop: &Shop, from_ms: i64, now_ms: i64) -> agora_storage::Result<Vec<OrderId>> {
    let view = shop.cluster().rows().view()?;
    let from = key::index_entry(schema::TIMERS, &from_ms.max(0).to_be_bytes(), &[]);
    let to = key::index_entry(schema::TIMERS, &now_ms.max(0).to_be_bytes(), &[]);
    let mut orders = Vec::new();
    for row in view.scan(Keyspace::Index, Bound::Included(&from), Bound::Excluded(&to), false).take(BATCH_MAX) {
        if let Some((_, id)) = schema::parse_timer(&row?.0) {
            orders.push(OrderId(Uid(id)));
        }
    }
    Ok(orders)
}

/// Expires orders side by side. True when none is left to be looked at again.
async fn expire(shop: &Shop, reign: u64, orders: Vec<OrderId>) -> bool {
    let attempts = orders.into_iter().map(|order| async move {
        let proposed = shop.propose(reign, None, 0, &Command::ExpireOrder { order }).await;
        match proposed {
            Ok(Some(pending)) => {
                let applied = pending.await.is_ok();
                if applied {
                    Counters::add(&shop.counters().expired);
                }
                applied
            }
            // Paid or cancelled meanwhile: its timer row is gone.
            Ok(None) => true,
            Err(_) => false,
        }
    });
    futures_util::future::join_all(attempts).await.into_iter().all(|done| done)
}
