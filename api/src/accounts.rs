//! `/accounts`: who buys, and the house itself.

use agora_domain::{AccountId, Answer, id::PrefixedId, id::Uid};
use http::Method;

use crate::{
    auth::Access,
    body::parse,
    cursor::Cursor,
    dto::NewAccount,
    endpoint::{Call, Endpoint, odd_answer},
    headers::{self, Reading},
    now_s,
    problem::{Outcome, Problem, Success},
    reply::Reply,
    views::{AccountView, PageView},
};

const LIST: &str = "accounts";

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::write(Method::POST, "/api/v2/accounts", "createAccount", create)
            .about("Creates an account, a customer's or the house's, with empty wallets.")
            .takes("NewAccount")
            .makes("Account"),
        Endpoint::get("/api/v2/accounts", Access::Shop, "listAccounts", list)
            .about("Accounts, oldest first.")
            .reads(&["limit", "cursor"])
            .gives("AccountPage"),
        Endpoint::get("/api/v2/accounts/{account_id}", Access::Shop, "getAccount", read)
            .about("One account.")
            .gives("Account"),
    ]
}

async fn create(mut call: Call) -> Outcome<Reply> {
    let body = call.body().await?;
    let written = call.write(parse::<NewAccount>(&body)?.into_command()?).await?;
    let Answer::Account(account) = &written.answer else { return Err(odd_answer(&written)) };
    let reply = Reply::json(Success::Created, &AccountView::new(account, written.index));
    let location = format!("/api/v2/accounts/{}", account.id);
    Ok(reply.version(account.version).at(location).written(written.index, written.replayed))
}

async fn read(call: Call) -> Outcome<Reply> {
    let id = call.id::<AccountId>("account_id")?;
    let view = call.view(Reading::One).await?;
    let account = view.account(id).map_err(Problem::storage)?;
    let account = account.ok_or_else(|| Problem::not_found(AccountId::KIND, id.to_string()))?;
    let reply = if headers::has_already(&call.headers, account.version) {
        Reply::not_modified(account.version)
    } else {
        Reply::json(Success::Ok, &AccountView::new(&account, account.index)).version(account.version)
    };
    Ok(reply.read(view.index(), view.staleness()))
}

async fn list(call: Call) -> Outcome<Reply> {
    let query = call.query()?;
    let limit = query.limit()?;
    let cursor = query.get("cursor").map(|text| call.api.cursors.open(LIST, text, now_s())).transpose()?;
    let view = call.view_from(Reading::Many, cursor.map_or(0, |cursor| cursor.index)).await?;
    let after = cursor.map(|cursor| AccountId(Uid(cursor.after)));
    let page = view.accounts(after, limit).map_err(Problem::storage)?;
    let last = page.items.last().filter(|_| page.more).map(|account| account.id.0.0);
    let body = PageView {
        data: page.items.iter().map(|account| AccountView::new(account, account.index)).collect(),
        has_more: page.more,
        next_cursor: last.map(|after| call.api.cursors.seal(LIST, Cursor { after, index: view.index() }, now_s())),
        as_of_index: view.index(),
    };
    Ok(Reply::json(Success::Ok, &body).read(view.index(), view.staleness()))
}
