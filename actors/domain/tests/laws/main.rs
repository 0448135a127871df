//! The laws of decide and evolve, hunted with random commands, once for every kind of entity.
//!
//! - *replay*: folding the events of the log gives the state that decisions were taken on;
//! - *retry*: a change that does not commute, asked for twice, is appended once; what a second try is told is fixed per
//!   kind by [`subject::Subject::again`]. Quantities have no "already so": that a repeated request moves them once is
//!   the doing of its idempotency key, not of the entity;
//! - *invariant*: no sequence of commands, decided then evolved, makes `evolve` refuse or breaks an entity's promise;
//! - *escrow*: with any mixture of grants asked for, dropped, journalled and applied, and any end of a reign, all of
//!   the above still holds, and every refusal is true at some place in the log;
//! - *shadow*: `take` and `give` together look, to every decision, like the event itself;
//! - *total*: `evolve` answers every event, however dishonest, without a panic, and changes nothing when it refuses.
//!
//! [`subject`] says what a kind must bring along to be put to the test, [`plain`] holds the laws of one state,
//! [`drive`] the escrow law, and [`shop`] has orders, stock and money keep their promises together. A law that cannot
//! fail proves nothing, so the last two are also run over planted bugs, which they must find.

mod account;
mod claim;
mod drive;
mod order;
mod plain;
mod shop;
mod sku;
mod subject;

use agora_domain::{Account, Claim, Order, Sku};
use drive::{Fault, LogOrder};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

/// Inputs one law is tried on, unless `PROPTEST_CASES` says otherwise: all laws together take some seconds.
const CASES: u32 = 4_000;

/// Runs a law over many inputs and says which is the smallest that breaks it.
fn search<S: Strategy>(strategy: &S, law: impl Fn(S::Value) -> Result<(), String>) -> Result<(), TestError<S::Value>> {
    // What fails is printed whole and small; a file of seeds beside the sources would say less.
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    TestRunner::new(config).run(strategy, |input| law(input).map_err(TestCaseError::fail))
}

#[track_caller]
fn holds<S: Strategy>(strategy: &S, law: impl Fn(S::Value) -> Result<(), String>) {
    if let Err(broken) = search(strategy, law) {
        panic!("{broken}");
    }
}

#[track_caller]
fn is_caught<S: Strategy>(strategy: &S, law: impl Fn(S::Value) -> Result<(), String>) {
    assert!(search(strategy, law).is_err(), "a planted bug went unseen");
}

mod replay {
    use super::*;

    #[test]
    fn of_a_sku() {
        holds(&drive::scripts::<Sku>(), |script| drive::replay::<Sku>(&script));
    }

    #[test]
    fn of_an_order() {
        holds(&drive::scripts::<Order>(), |script| drive::replay::<Order>(&script));
    }

    #[test]
    fn of_an_account() {
        holds(&drive::scripts::<Account>(), |script| drive::replay::<Account>(&script));
    }

    #[test]
    fn of_a_claim() {
        holds(&drive::scripts::<Claim>(), |script| drive::replay::<Claim>(&script));
    }

    #[test]
    fn an_order_remembers_every_version_of_itself() {
        holds(&subject::wishes::<Order>(), |wishes| order::every_version_is_remembered(&wishes));
    }
}

mod retry {
    use super::*;

    #[test]
    fn of_a_sku() {
        holds(&subject::wishes::<Sku>(), |wishes| plain::retry::<Sku>(&wishes));
    }

    #[test]
    fn of_an_order() {
        holds(&subject::wishes::<Order>(), |wishes| plain::retry::<Order>(&wishes));
    }

    #[test]
    fn of_an_account() {
        holds(&subject::wishes::<Account>(), |wishes| plain::retry::<Account>(&wishes));
    }

    #[test]
    fn of_a_claim() {
        holds(&subject::wishes::<Claim>(), |wishes| plain::retry::<Claim>(&wishes));
    }
}

mod invariant {
    use super::*;

    #[test]
    fn of_a_sku() {
        holds(&subject::wishes::<Sku>(), |wishes| plain::invariant::<Sku>(&wishes));
    }

    #[test]
    fn of_an_order() {
        holds(&subject::wishes::<Order>(), |wishes| plain::invariant::<Order>(&wishes));
    }

    #[test]
    fn of_an_account() {
        holds(&subject::wishes::<Account>(), |wishes| plain::invariant::<Account>(&wishes));
    }

    #[test]
    fn of_a_claim() {
        holds(&subject::wishes::<Claim>(), |wishes| plain::invariant::<Claim>(&wishes));
    }
}

mod shadow {
    use super::*;

    #[test]
    fn of_a_sku() {
        holds(&subject::wishes::<Sku>(), |wishes| plain::shadow::<Sku>(&wishes));
    }

    #[test]
    fn of_an_account() {
        holds(&subject::wishes::<Account>(), |wishes| plain::shadow::<Account>(&wishes));
    }
}

mod total {
    use super::*;

    #[test]
    fn of_a_sku() {
        holds(&subject::events::<Sku>(), |events| plain::total::<Sku>(&events));
    }

    #[test]
    fn of_an_order() {
        holds(&subject::events::<Order>(), |events| plain::total::<Order>(&events));
    }

    #[test]
    fn of_an_account() {
        holds(&subject::events::<Account>(), |events| plain::total::<Account>(&events));
    }

    #[test]
    fn of_a_claim() {
        holds(&subject::events::<Claim>(), |events| plain::total::<Claim>(&events));
    }
}

mod escrow {
    use super::*;

    /// The log is as the journal has it: refusals are looked up in it.
    #[track_caller]
    fn in_order<E: subject::Subject>() {
        holds(&drive::scripts::<E>(), |script| drive::run::<E>(&script, LogOrder::AsJournalled, Fault::None));
    }

    /// Stronger than any log: what is in the journal commits in any order, and any of it may be lost.
    #[track_caller]
    fn in_any_order<E: subject::Subject>() {
        holds(&drive::scripts::<E>(), |script| drive::run::<E>(&script, LogOrder::Any, Fault::None));
    }

    #[test]
    fn of_a_sku() {
        in_order::<Sku>();
    }

    #[test]
    fn of_a_sku_in_any_order() {
        in_any_order::<Sku>();
    }

    #[test]
    fn of_an_order() {
        in_order::<Order>();
    }

    #[test]
    fn of_an_order_in_any_order() {
        in_any_order::<Order>();
    }

    #[test]
    fn of_an_account() {
        in_order::<Account>();
    }

    #[test]
    fn of_an_account_in_any_order() {
        in_any_order::<Account>();
    }

    #[test]
    fn of_a_claim() {
        in_order::<Claim>();
    }

    #[test]
    fn of_a_claim_in_any_order() {
        in_any_order::<Claim>();
    }

    #[track_caller]
    fn catches<E: subject::Subject>(fault: Fault) {
        is_caught(&drive::scripts::<E>(), |script| drive::run::<E>(&script, LogOrder::AsJournalled, fault));
    }

    #[test]
    fn a_dropped_grant_that_is_not_given_back_is_caught() {
        catches::<Sku>(Fault::ForgetsDrops);
    }

    #[test]
    fn an_actor_loaded_over_its_own_flights_is_caught() {
        catches::<Sku>(Fault::ReloadsInReign);
        catches::<Account>(Fault::ReloadsInReign);
    }

    #[test]
    fn a_second_transition_decided_while_the_first_is_on_its_way_is_caught() {
        catches::<Order>(Fault::AsksTheRows);
        catches::<Claim>(Fault::AsksTheRows);
    }

    #[test]
    fn a_refusal_proposed_before_what_it_saw_is_caught() {
        catches::<Sku>(Fault::RefusesFromTheFloor);
    }
}

mod whole_shop {
    use super::*;

    #[track_caller]
    fn catches(fault: shop::Fault) {
        is_caught(&shop::scripts(), |script| shop::run(&script, fault));
    }

    #[test]
    fn keeps_its_promises() {
        holds(&shop::scripts(), |script| shop::run(&script, shop::Fault::None));
    }

    #[test]
    fn a_cancelled_order_that_keeps_its_stock_is_caught() {
        catches(shop::Fault::CancelKeepsStock);
    }

    #[test]
    fn an_order_that_is_not_asked_before_it_is_paid_is_caught() {
        catches(shop::Fault::PaysByTheRow);
    }

    #[test]
    fn an_order_at_a_price_of_yesterday_is_caught() {
        catches(shop::Fault::RemembersPrices);
    }
}
