//! Money: held or spent once, and only what is there.

use agora_domain::Account;

use crate::check;

#[test]
fn held_money_cannot_be_spent_elsewhere() {
    check::<Account>(
        "
        adjust 500 CNY     => Adjusted 5.00 CNY | 5.00 CNY
        hold o1 300 CNY    => Held o1 3.00 CNY | 5.00 CNY, 3.00 CNY held
        pay o2 300 CNY     => refused: requested 3.00 CNY, available 2.00 CNY | 5.00 CNY, 3.00 CNY held
        adjust -300 CNY    => refused: requested 3.00 CNY, available 2.00 CNY | 5.00 CNY, 3.00 CNY held
        capture o1 300 CNY => Captured o1 3.00 CNY | 2.00 CNY
        refund o1 300 CNY  => Refunded o1 3.00 CNY | 5.00 CNY
        ",
    );
}

#[test]
fn one_balance_pays_one_of_two_orders_in_flight() {
    check::<Account>(
        "
        adjust 500 CNY     => Adjusted 5.00 CNY | 5.00 CNY
        g1: pay o1 300 CNY => Paid o1 3.00 CNY
        g2: pay o2 300 CNY => not now
        journal g1         => in the journal
        g2: pay o2 300 CNY => refused: requested 3.00 CNY, available 2.00 CNY
        apply g1           => 2.00 CNY
        ",
    );
}

#[test]
fn a_refund_is_not_spent_before_it_is_in_the_log() {
    check::<Account>(
        "
        adjust 300 CNY        => Adjusted 3.00 CNY | 3.00 CNY
        pay o1 300 CNY        => Paid o1 3.00 CNY | 0.00 CNY
        g1: refund o1 300 CNY => Refunded o1 3.00 CNY
        g2: pay o2 300 CNY    => refused: requested 3.00 CNY, available 0.00 CNY
        journal g1            => in the journal
        apply g1              => 3.00 CNY
        pay o2 300 CNY        => Paid o2 3.00 CNY | 0.00 CNY
        ",
    );
}

#[test]
fn currencies_do_not_mix() {
    check::<Account>(
        "
        adjust 500 CNY => Adjusted 5.00 CNY | 5.00 CNY
        pay o1 100 USD => refused: requested 1.00 USD, available 0.00 USD | 5.00 CNY
        adjust 500 JPY => Adjusted 500 JPY | 5.00 CNY; 500 JPY
        ",
    );
}

#[test]
fn a_free_order_opens_no_wallet() {
    check::<Account>(
        "
        hold o1 0 USD    => Held o1 0.00 USD | no money
        capture o1 0 USD => Captured o1 0.00 USD | no money
        ",
    );
}

#[test]
fn two_deposits_on_their_way_share_the_room_that_is_left() {
    check::<Account>(
        "
        adjust 999999999999998 JPY => Adjusted 999999999999998 JPY | 999999999999998 JPY
        g1: adjust 2 JPY           => Adjusted 2 JPY
        g2: adjust 1 JPY           => not now
        journal g1                 => in the journal
        g2: adjust 1 JPY           => refused: no room for 1 JPY
        apply g1                   => 1000000000000000 JPY
        ",
    );
}

#[test]
fn using_an_account_changes_nothing() {
    check::<Account>(
        "
        use => already so | no money
        ",
    );
}
