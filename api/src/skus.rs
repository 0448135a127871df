//! `/skus`: what is sold, at which price.

use agora_domain::{Answer, Sku, SkuId, id::PrefixedId, id::Uid};
use http::Method;

use crate::{
    auth::Access,
    body::parse,
    cursor::Cursor,
    dto::{NewSku, SkuPatch},
    endpoint::{Call, Endpoint, odd_answer},
    headers::{self, Reading},
    now_s,
    problem::{Outcome, Problem, Success},
    reply::Reply,
    views::{PageView, SkuView},
};

const LIST: &str = "skus";

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::write(Method::POST, "/api/v2/skus", "createSku", create)
            .about("Creates a SKU, without stock. Its code must be free.")
            .takes("NewSku")
            .makes("Sku"),
        Endpoint::get("/api/v2/skus", Access::Shop, "listSkus", list)
            .about("SKUs, oldest first.")
            .reads(&["limit", "cursor"])
            .gives("SkuPage"),
        Endpoint::get("/api/v2/skus/{sku_id}", Access::Shop, "getSku", read).about("One SKU.").gives("Sku"),
        Endpoint::write(Method::PATCH, "/api/v2/skus/{sku_id}", "changeSku", change)
            .about("Changes name, price or sellability of the version named by If-Match.")
            .versioned()
            .takes("SkuPatch")
            .gives("Sku"),
        Endpoint::get("/api/v2/skus/by-code/{code}", Access::Shop, "getSkuByCode", by_code)
            .about("The SKU that has a code.")
            .gives("Sku"),
    ]
}

async fn create(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let written = call.write(parse::<NewSku>(&body)?.into_command()?).await?;
    let Answer::Sku(sku) = &written.answer else { return Err(odd_answer(&written)) };
    let reply = Reply::json(Success::Created, &SkuView::new(sku, written.index));
    Ok(reply.version(sku.version).at(format!("/api/v2/skus/{}", sku.id)).written(written.index, written.replayed))
}

async fn change(mut call: Call) -> Outcome<Reply> {
    let sku = call.id::<SkuId>("sku_id")?;
    let version = headers::if_match(&call.headers)?;
    let body = call.body().await?;
    let written = call.write(parse::<SkuPatch>(&body)?.into_command(sku, version)?).await?;
    let Answer::Sku(sku) = &written.answer else { return Err(odd_answer(&written)) };
    let reply = Reply::json(Success::Ok, &SkuView::new(sku, written.index));
    Ok(reply.version(sku.version).written(written.index, written.replayed))
}

async fn read(call: Call) -> Outcome<Reply> {
    let id = call.id::<SkuId>("sku_id")?;
    let view = call.view(Reading::One).await?;
    let sku = view.sku(id).map_err(Problem::storage)?.ok_or_else(|| Problem::not_found(SkuId::KIND, id.to_string()))?;
    Ok(show(&call, &sku).read(view.index(), view.staleness()))
}

async fn by_code(call: Call) -> Outcome<Reply> {
    let code = call.param("code");
    let view = call.view(Reading::One).await?;
    let sku = view.sku_by_code(code).map_err(Problem::storage)?;
    let sku = sku.ok_or_else(|| Problem::not_found("SKU with the code", code.chars().take(80).collect::<String>()))?;
    Ok(show(&call, &sku).read(view.index(), view.staleness()))
}

fn show(call: &Call, sku: &Sku) -> Reply {
    if headers::has_already(&call.headers, sku.version) {
        return Reply::not_modified(sku.version);
    }
    Reply::json(Success::Ok, &SkuView::new(sku, sku.index)).version(sku.version)
}

async fn list(call: Call) -> Outcome<Reply> {
    let query = call.query()?;
    let limit = query.limit()?;
    let cursor = query.get("cursor").map(|text| call.api.cursors.open(LIST, text, now_s())).transpose()?;
    let view = call.view_from(Reading::Many, cursor.map_or(0, |cursor| cursor.index)).await?;
    let after = cursor.map(|cursor| SkuId(Uid(cursor.after)));
    let page = view.skus(after, limit).map_err(Problem::storage)?;
    let last = page.items.last().filter(|_| page.more).map(|sku| sku.id.0.0);
    let body = PageView {
        data: page.items.iter().map(|sku| SkuView::new(sku, sku.index)).collect(),
        has_more: page.more,
        next_cursor: last.map(|after| call.api.cursors.seal(LIST, Cursor { after, index: view.index() }, now_s())),
        as_of_index: view.index(),
    };
    Ok(Reply::json(Success::Ok, &body).read(view.index(), view.staleness()))
}
