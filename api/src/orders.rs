//! `/orders`: placed, read, moved on. The path that everything else is there for.

use agora_actors::{OrderFilter, Written};
use agora_domain::{
    AccountId, Answer, Command, Order, OrderId, OrderStatus,
    id::{PrefixedId, Uid},
    transaction::ItemAnswer,
};
use http::Method;

use crate::{
    auth::{Access, key_hash},
    body::{parse, parse_or_empty},
    cursor::Cursor,
    dto::{Cancellation, NewOrder, NewOrders, Nothing, Payment, Shipment},
    endpoint::{Call, Endpoint, odd_answer},
    headers::{self, Reading},
    now_s,
    problem::{Outcome, Problem, Success},
    reply::Reply,
    views::{BatchItemView, BatchView, OrderView, PageView},
};

const ORDERS: &str = "/api/v2/orders";

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::write(Method::POST, ORDERS, "placeOrder", place)
            .about("Places an order: all lines are reserved, or none. A refusal lists every short SKU.")
            .takes("NewOrder")
            .makes("Order"),
        Endpoint::write(Method::POST, "/api/v2/orders/batch", "placeOrders", place_many)
            .about("Places up to 100 orders, each for itself: a refused one takes nothing. One key for all.")
            .takes("NewOrders")
            .gives("OrderResults"),
        Endpoint::get(ORDERS, Access::Shop, "listOrders", list)
            .about("Orders, newest first unless sorted by created_at.")
            .reads(&["user_id", "status", "sort", "limit", "cursor"])
            .gives("OrderPage"),
        Endpoint::get("/api/v2/orders/{order_no}", Access::Shop, "getOrder", read)
            .about("One order, by number or id.")
            .gives("Order"),
        Endpoint::get("/api/v2/orders/by-idempotency-key/{key}", Access::Shop, "getOrderByKey", by_key)
            .about("What became of the order placed under a key: the order as it is now, or why it was refused.")
            .gives("Order"),
        Endpoint::write(Method::POST, "/api/v2/orders/{order_no}/cancel", "cancelOrder", cancel)
            .about("Calls an order off; stock and money go back. Safe to repeat.")
            .takes("Cancellation")
            .gives("Order"),
        Endpoint::write(Method::POST, "/api/v2/orders/{order_no}/pay", "payOrder", pay)
            .about("Pays an order from the buyer's wallet.")
            .takes("Payment")
            .gives("Order"),
        Endpoint::write(Method::POST, "/api/v2/orders/{order_no}/ship", "shipOrder", ship)
            .about("Sends a paid order off.")
            .takes("Shipment")
            .gives("Order"),
        Endpoint::write(Method::POST, "/api/v2/orders/{order_no}/confirm-receipt", "confirmReceipt", confirm)
            .about("Says that an order arrived.")
            .takes("Nothing")
            .gives("Order"),
    ]
}

async fn place(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let written = call.write(parse::<NewOrder>(&body)?.into_command()?).await?;
    let Answer::Order { order, .. } = &written.answer else { return Err(odd_answer(&written)) };
    let reply = show_written(&call, Success::Created, &written)?;
    Ok(reply.at(format!("{ORDERS}/{}", order.id.0)))
}

async fn place_many(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let written = call.write(parse::<NewOrders>(&body)?.into_command()?).await?;
    let Answer::Orders(items) = &written.answer else { return Err(odd_answer(&written)) };
    let reply = batch(&call, items, &written);
    Ok(reply.written(written.index, written.replayed))
}

fn batch(call: &Call, items: &[ItemAnswer], written: &Written) -> Reply {
    let problems: Vec<Option<Problem>> = items.iter().map(|item| item.as_ref().err().map(Problem::from)).collect();
    let results = items.iter().zip(&problems).map(|(item, problem)| BatchItemView {
        status: problem.as_ref().map_or(Success::Created.status(), |problem| problem.code.status()).as_u16(),
        order: item.as_ref().ok().map(|order| OrderView::new(order, false, written.index, call.language)),
        problem: problem.as_ref().map(|problem| problem.view(ORDERS, written.trace, call.language)),
    });
    Reply::json(Success::Ok, &BatchView { results: results.collect(), log_index: written.index })
}

fn show_written(call: &Call, success: Success, written: &Written) -> Outcome<Reply> {
    let Answer::Order { order, no_change } = &written.answer else { return Err(odd_answer(written)) };
    let body = OrderView::new(order, *no_change, written.index, call.language);
    Ok(Reply::json(success, &body).version(order.version()).written(written.index, written.replayed))
}

fn order_of(call: &Call) -> Outcome<OrderId> {
    call.parsed("order_no", OrderId::KIND, OrderId::parse_number_or_id)
}

async fn move_on(call: &Call, command: Command) -> Outcome<Reply> {
    let written = call.write(command).await?;
    show_written(call, Success::Ok, &written)
}

async fn cancel(mut call: Call) -> Outcome<Reply> {
    let order = order_of(&call)?;
    let body = call.body().await?;
    move_on(&call, parse_or_empty::<Cancellation>(&body)?.into_command(order)?).await
}

async fn pay(mut call: Call) -> Outcome<Reply> {
    let order = order_of(&call)?;
    let body = call.body().await?;
    move_on(&call, parse::<Payment>(&body)?.into_command(order)?).await
}

async fn ship(mut call: Call) -> Outcome<Reply> {
    let order = order_of(&call)?;
    let body = call.body().await?;
    move_on(&call, parse_or_empty::<Shipment>(&body)?.into_command(order)?).await
}

async fn confirm(mut call: Call) -> Outcome<Reply> {
    let order = order_of(&call)?;
    let body = call.body().await?;
    let Nothing {} = parse_or_empty(&body)?;
    move_on(&call, Command::ConfirmReceipt { order }).await
}

fn show(call: &Call, order: &Order) -> Reply {
    if headers::has_already(&call.headers, order.version()) {
        return Reply::not_modified(order.version());
    }
    Reply::json(Success::Ok, &OrderView::new(order, false, last_index(order), call.language)).version(order.version())
}

fn last_index(order: &Order) -> u64 {
    order.steps.last().map_or(0, |step| step.index)
}

async fn read(call: Call) -> Outcome<Reply> {
    let id = order_of(&call)?;
    let view = call.view(Reading::One).await?;
    let order = view.order(id).map_err(Problem::storage)?;
    let order = order.ok_or_else(|| Problem::not_found(OrderId::KIND, id.number()))?;
    Ok(show(&call, &order).read(view.index(), view.staleness()))
}

async fn by_key(call: Call) -> Outcome<Reply> {
    let hash = key_hash(call.principal, Method::POST.as_str(), ORDERS, call.param("key"));
    let view = call.view(Reading::One).await?;
    let shown = || call.param("key").chars().take(80).collect::<String>();
    let unknown = || {
        let mut problem = Problem::not_found("order under the key", shown());
        // Not kept is not the same as never to be: the request may be on its way at this moment.
        problem.detail =
            "no outcome is kept under this key: the request was not decided yet, was not one for a single \
            order, or was decided more than 24 hours ago; to be sure, repeat it under the same key"
                .into();
        problem
    };
    let (row, answer) = view.outcome(hash).map_err(Problem::storage)?.ok_or_else(unknown)?;
    match answer {
        Answer::Order { order, .. } => {
            let now = view.order(order.id).map_err(Problem::storage)?.unwrap_or(*order);
            Ok(show(&call, &now).read(view.index(), view.staleness()))
        }
        Answer::Refused(rejection) => Err(Problem::rejected(&rejection, row.index, row.trace, true)),
        _ => Err(unknown()),
    }
}

async fn list(call: Call) -> Outcome<Reply> {
    let query = call.query()?;
    let limit = query.limit()?;
    let account =
        query.read("user_id", "an account id such as acc_01…", |text| AccountId::parse_prefixed(text).ok())?;
    let names = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
    let status = query.read("status", &format!("one of {names}"), |text| {
        OrderStatus::ALL.into_iter().find(|status| status.as_str() == text)
    })?;
    let newest_first = query.read("sort", "created_at or -created_at", |text| match text {
        "created_at" => Some(false),
        "-created_at" => Some(true),
        _ => None,
    })?;
    let newest_first = newest_first.unwrap_or(true);
    let list = format!("orders {account:?} {status:?} {newest_first}");
    let cursor = query.get("cursor").map(|text| call.api.cursors.open(&list, text, now_s())).transpose()?;
    let view = call.view_from(Reading::Many, cursor.map_or(0, |cursor| cursor.index)).await?;
    let after = cursor.map(|cursor| OrderId(Uid(cursor.after)));
    let filter = OrderFilter { account, status };
    let (page, last) = view.orders(filter, after, newest_first, limit).map_err(Problem::storage)?;
    let last = last.filter(|_| page.more).map(|order| order.0.0);
    let body = PageView {
        data: page.items.iter().map(|order| OrderView::new(order, false, last_index(order), call.language)).collect(),
        has_more: page.more,
        next_cursor: last.map(|after| call.api.cursors.seal(&list, Cursor { after, index: view.index() }, now_s())),
        as_of_index: view.index(),
    };
    Ok(Reply::json(Success::Ok, &body).read(view.index(), view.staleness()))
}
