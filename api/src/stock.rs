//! `/stock`: how many there are, and how that came about.

use agora_actors::Movement;
use agora_domain::{Answer, Change, SkuEvent, SkuId, StockLevel, id::PrefixedId};
use http::Method;
use serde::Serialize;

use crate::{
    auth::Access,
    body::parse,
    cursor::Cursor,
    dto::{StockAdjustment, StockReceipt},
    endpoint::{Call, Endpoint, odd_answer},
    headers::{self, Reading},
    now_s,
    problem::{Outcome, Problem, Success},
    reply::Reply,
    views::{PageView, ReceiptView, SingleReceiptView, StockView, Text, Time, Trace},
};

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v2/skus/{sku_id}/stock", Access::Shop, "getStock", read)
            .about("Stock of one SKU.")
            .gives("Stock"),
        Endpoint::write(Method::POST, "/api/v2/stock/adjust", "adjustStock", adjust)
            .about("Corrects a count by a difference; reserved units cannot be taken away.")
            .takes("StockAdjustment")
            .gives("Stock"),
        Endpoint::write(Method::POST, "/api/v2/stock/receive", "receiveStock", receive)
            .about("Takes goods in, for several SKUs at once or not at all.")
            .takes("StockReceipt")
            .gives("Receipt"),
        Endpoint::get("/api/v2/stock/movements", Access::Shop, "listMovements", movements)
            .about("Everything that moved stock, oldest first: of one SKU, or of all.")
            .reads(&["sku_id", "limit", "cursor"])
            .gives("MovementPage"),
    ]
}

async fn read(call: Call) -> Outcome<Reply> {
    let id = call.id::<SkuId>("sku_id")?;
    let view = call.view(Reading::One).await?;
    let sku = view.sku(id).map_err(Problem::storage)?.ok_or_else(|| Problem::not_found(SkuId::KIND, id.to_string()))?;
    let reply = if headers::has_already(&call.headers, sku.stock_version) {
        Reply::not_modified(sku.stock_version)
    } else {
        let body = StockView::new(&StockLevel::from(&sku), sku.index);
        Reply::json(Success::Ok, &body).version(sku.stock_version)
    };
    Ok(reply.read(view.index(), view.staleness()))
}

async fn adjust(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let written = call.write(parse::<StockAdjustment>(&body)?.into_command()?).await?;
    let Answer::Stocks(levels) = &written.answer else { return Err(odd_answer(&written)) };
    let [level] = levels.as_slice() else { return Err(odd_answer(&written)) };
    let reply = Reply::json(Success::Ok, &StockView::new(level, written.index));
    Ok(reply.version(level.version).written(written.index, written.replayed))
}

async fn receive(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let written = call.write(parse::<StockReceipt>(&body)?.into_command()?).await?;
    let Answer::Stocks(levels) = &written.answer else { return Err(odd_answer(&written)) };
    let view = |level: &StockLevel| StockView::new(level, written.index);
    let reply = match levels.as_slice() {
        [only] => Reply::json(Success::Ok, &SingleReceiptView { stock: view(only), lines: [view(only)] }),
        many => {
            let lines = many.iter().map(view).collect();
            Reply::json(Success::Ok, &ReceiptView { lines, log_index: written.index })
        }
    };
    Ok(reply.written(written.index, written.replayed))
}

/// One movement. `delta` is of the figure that the type is about: `reserved` for a promise made or taken back,
/// `on_hand` for everything else.
#[derive(Serialize)]
struct MovementView {
    sku_id: Text<SkuId>,
    #[serde(rename = "type")]
    kind: &'static str,
    delta: i64,
    pre: FiguresView,
    post: FiguresView,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_no: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    version: u64,
    trace_id: Text<Trace>,
    time: Time,
    log_index: u64,
    sub: u32,
}

#[derive(Serialize)]
struct FiguresView {
    on_hand: u64,
    reserved: u64,
    available: u64,
}

impl FiguresView {
    fn new(on_hand: u64, reserved: u64) -> Self {
        Self { on_hand, reserved, available: on_hand.saturating_sub(reserved) }
    }
}

/// `None` for an event that moved no stock.
fn view(movement: Movement) -> Option<MovementView> {
    let stock = movement.fact.stock?;
    let Change::Sku(sku, event) = movement.fact.change else { return None };
    let (kind, is_promise, order, reason) = match event {
        SkuEvent::Received { reason, .. } => ("RECEIVED", false, None, Some(reason)),
        SkuEvent::Adjusted { reason, .. } => ("ADJUSTED", false, None, Some(reason)),
        SkuEvent::Reserved { order, .. } => ("RESERVED", true, Some(order), None),
        SkuEvent::Released { order, .. } => ("RELEASED", true, Some(order), None),
        SkuEvent::Shipped { order, .. } => ("SHIPPED", false, Some(order), None),
        SkuEvent::Created { .. } | SkuEvent::Changed { .. } => return None,
    };
    let (before, after) =
        if is_promise { (stock.reserved_pre, stock.reserved_post) } else { (stock.on_hand_pre, stock.on_hand_post) };
    Some(MovementView {
        sku_id: Text(sku),
        kind,
        // Both are far below 2^63, see the limit of what a SKU may hold.
        delta: after.cast_signed() - before.cast_signed(),
        pre: FiguresView::new(stock.on_hand_pre, stock.reserved_pre),
        post: FiguresView::new(stock.on_hand_post, stock.reserved_post),
        order_no: order.map(|order| order.number()),
        reason,
        version: movement.fact.version,
        trace_id: Text(Trace(movement.fact.trace)),
        time: Time(movement.time_ms),
        log_index: movement.index,
        sub: movement.sub,
    })
}

async fn movements(call: Call) -> Outcome<Reply> {
    let query = call.query()?;
    let limit = query.limit()?;
    let sku = query.read("sku_id", "a SKU id such as sku_01…", |text| SkuId::parse_prefixed(text).ok())?;
    let list = sku.map_or_else(|| "movements".to_owned(), |sku| format!("movements of {sku}"));
    let cursor = query.get("cursor").map(|text| call.api.cursors.open(&list, text, now_s())).transpose()?;
    let rows = call.view_from(Reading::Many, cursor.map_or(0, |cursor| cursor.index)).await?;
    // A place in the feed is a log index and a position below 2^32 in its entry.
    let after = cursor.map(|cursor| ((cursor.after >> 32) as u64, cursor.after as u32));
    let (page, last) = rows.movements(sku, after, limit).map_err(Problem::storage)?;
    let last = last.filter(|_| page.more).map(|(index, sub)| u128::from(index) << 32 | u128::from(sub));
    let body = PageView {
        has_more: page.more,
        next_cursor: last.map(|after| call.api.cursors.seal(&list, Cursor { after, index: rows.index() }, now_s())),
        data: page.items.into_iter().filter_map(view).collect(),
        as_of_index: rows.index(),
    };
    Ok(Reply::json(Success::Ok, &body).read(rows.index(), rows.staleness()))
}
