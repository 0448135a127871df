//! `/wallets` and `/ledger`: money of accounts, and whether all of it adds up.

use std::collections::BTreeMap;

use agora_domain::{
    AccountId, Answer, Command, Currency,
    id::PrefixedId,
    ledger::{LedgerAccount, LedgerRow},
};
use http::Method;
use serde::Serialize;

use crate::{
    auth::Access,
    body::parse,
    dto::WalletAdjustment,
    endpoint::{Call, Endpoint, odd_answer},
    headers::{self, Reading},
    problem::{FieldError, Outcome, Problem, Success},
    reply::Reply,
    views::{AccountWalletView, Text},
};

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v2/wallets/{account_id}", Access::Shop, "getWallet", read)
            .about("Money of one account: the wallet of `currency`, or the only one, at the top.")
            .reads(&["currency"])
            .gives("Wallet"),
        Endpoint::write(Method::POST, "/api/v2/wallets/{account_id}/adjust", "adjustWallet", adjust)
            .about("Puts money into a wallet (positive) or takes it out (negative).")
            .takes("WalletAdjustment")
            .gives("Wallet"),
        Endpoint::get("/api/v2/ledger/trial-balance", Access::Shop, "getTrialBalance", trial_balance)
            .about("Sums of the ledger at one index: debits equal credits in every currency.")
            .gives("TrialBalance"),
    ]
}

async fn read(call: Call) -> Outcome<Reply> {
    let id = call.id::<AccountId>("account_id")?;
    let query = call.query()?;
    let currency = query.read("currency", "three capital letters such as CNY", |text| text.parse::<Currency>().ok())?;
    let view = call.view(Reading::One).await?;
    let account = view.account(id).map_err(Problem::storage)?;
    let account = account.ok_or_else(|| Problem::not_found(AccountId::KIND, id.to_string()))?;
    let reply = if headers::has_already(&call.headers, account.version) {
        Reply::not_modified(account.version)
    } else {
        let body = AccountWalletView::new(&account, currency, account.index);
        Reply::json(Success::Ok, &body).version(account.version)
    };
    Ok(reply.read(view.index(), view.staleness()))
}

async fn adjust(mut call: Call) -> Outcome<Reply> {
    let id = call.id::<AccountId>("account_id")?;
    let body = call.body().await?;
    let command = parse::<WalletAdjustment>(&body)?.into_command(id)?;
    let Command::AdjustWallet { amount, .. } = &command else {
        return Err(Problem::invalid(FieldError::body("", "INVALID", "not an adjustment of a wallet")));
    };
    let currency = amount.currency;
    let written = call.write(command).await?;
    let Answer::Account(account) = &written.answer else { return Err(odd_answer(&written)) };
    let reply = Reply::json(Success::Ok, &AccountWalletView::new(account, Some(currency), written.index));
    Ok(reply.version(account.version).written(written.index, written.replayed))
}

#[derive(Serialize)]
struct TrialBalanceView {
    /// True when debits equal credits in every currency.
    balanced: bool,
    accounts: Vec<SumView>,
    totals: Vec<TotalView>,
    as_of_index: u64,
}

#[derive(Serialize)]
struct SumView {
    account: &'static str,
    currency: Text<Currency>,
    debit: i128,
    credit: i128,
    balance: i128,
}

#[derive(Serialize)]
struct TotalView {
    currency: Text<Currency>,
    debit: i128,
    credit: i128,
    difference: i128,
}

async fn trial_balance(call: Call) -> Outcome<Reply> {
    let view = call.view(Reading::Many).await?;
    let rows = view.ledger().map_err(Problem::storage)?;
    let body = balance(&rows, view.index());
    Ok(Reply::json(Success::Ok, &body).read(view.index(), view.staleness()))
}

/// Wallets are summed into one line: there may be millions of them, and each is read at its account.
fn balance(rows: &[LedgerRow], as_of_index: u64) -> TrialBalanceView {
    let mut sums: BTreeMap<(&'static str, Currency), (i128, i128)> = BTreeMap::new();
    let mut totals: BTreeMap<Currency, (i128, i128)> = BTreeMap::new();
    for row in rows {
        let account = match row.account {
            LedgerAccount::Wallet(_) => "customer_wallets",
            LedgerAccount::SalesRevenue => "sales_revenue",
            LedgerAccount::WalletFunding => "wallet_funding",
        };
        let sum = sums.entry((account, row.currency)).or_default();
        let total = totals.entry(row.currency).or_default();
        for (debit, credit) in [sum, total] {
            *debit += row.debit_minor;
            *credit += row.credit_minor;
        }
    }
    TrialBalanceView {
        balanced: totals.values().all(|(debit, credit)| debit == credit),
        accounts: sums
            .into_iter()
            .map(|((account, currency), (debit, credit))| SumView {
                account,
                currency: Text(currency),
                debit,
                credit,
                balance: debit - credit,
            })
            .collect(),
        totals: totals
            .into_iter()
            .map(|(currency, (debit, credit))| TotalView {
                currency: Text(currency),
                debit,
                credit,
                difference: debit - credit,
            })
            .collect(),
        as_of_index,
    }
}

#[cfg(test)]
mod tests {
    use agora_domain::{Money, Uid, ledger::transfer};

    use super::*;

    #[test]
    fn wallets_are_one_line_and_sums_beyond_64_bits_are_exact() {
        let usd: Currency = "USD".parse().unwrap();
        let mut rows = Vec::new();
        for (account, currency) in [(1, Currency::CNY), (2, Currency::CNY), (1, usd)] {
            let wallet = LedgerAccount::Wallet(AccountId(Uid(account)));
            for leg in transfer(LedgerAccount::WalletFunding, wallet, Money::new(70, currency)) {
                let mut row = LedgerRow::empty(leg.account, currency);
                row.post(&leg, 1);
                rows.push(row);
            }
        }
        rows[0].debit_minor += i128::from(i64::MAX);
        rows[1].credit_minor += i128::from(i64::MAX);
        let body = balance(&rows, 9);
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            concat!(
                r#"{"balanced":true,"accounts":["#,
                r#"{"account":"customer_wallets","currency":"CNY","debit":0,"credit":9223372036854775947,"balance":-9223372036854775947},"#,
                r#"{"account":"customer_wallets","currency":"USD","debit":0,"credit":70,"balance":-70},"#,
                r#"{"account":"wallet_funding","currency":"CNY","debit":9223372036854775947,"credit":0,"balance":9223372036854775947},"#,
                r#"{"account":"wallet_funding","currency":"USD","debit":70,"credit":0,"balance":70}],"#,
                r#""totals":[{"currency":"CNY","debit":9223372036854775947,"credit":9223372036854775947,"difference":0},"#,
                r#"{"currency":"USD","debit":70,"credit":70,"difference":0}],"as_of_index":9}"#
            )
        );
    }
}
