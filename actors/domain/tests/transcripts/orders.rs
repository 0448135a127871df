//! An order's life: each step once, and the first in the log wins.

use agora_domain::Order;

use crate::check;

#[test]
fn an_order_goes_from_the_cart_to_the_door() {
    check::<Order>(
        "
        pay     => Moved to PAID | PAID
        ship    => Moved to SHIPPED | SHIPPED
        confirm => Moved to COMPLETED | COMPLETED
        cancel  => refused: COMPLETED cannot become CANCELLED | COMPLETED
        ",
    );
}

#[test]
fn a_paid_order_cannot_expire() {
    check::<Order>(
        "
        pay          => Moved to PAID | PAID
        expire at 61 => refused: PAID cannot become CANCELLED | PAID
        ",
    );
}

#[test]
fn an_expired_order_cannot_be_paid() {
    check::<Order>(
        "
        expire at 60 => refused: not due before second 61 | CREATED
        expire at 61 => Moved to CANCELLED, expired | CANCELLED
        pay          => refused: CANCELLED cannot become PAID | CANCELLED
        ",
    );
}

#[test]
fn a_payment_at_the_deadline_waits_for_the_timer() {
    check::<Order>(
        "
        g1: expire at 61 => Moved to CANCELLED, expired
        g2: pay          => not now
        journal g1       => in the journal
        g2: pay          => not now
        apply g1         => CANCELLED
        pay              => refused: CANCELLED cannot become PAID | CANCELLED
        ",
    );
}

#[test]
fn a_timer_that_was_not_heard_leaves_the_order_payable() {
    check::<Order>(
        "
        g1: expire at 61 => Moved to CANCELLED, expired
        drop g1          => given back
        pay              => Moved to PAID | PAID
        ",
    );
}

#[test]
fn a_second_click_changes_nothing() {
    check::<Order>(
        "
        g1: cancel   => Moved to CANCELLED
        g2: cancel   => not now
        journal g1   => in the journal
        apply g1     => CANCELLED
        cancel       => already so | CANCELLED
        expire at 61 => refused: CANCELLED cannot become CANCELLED | CANCELLED
        ",
    );
}

#[test]
fn nothing_is_shipped_that_was_not_paid() {
    check::<Order>(
        "
        ship    => refused: CREATED cannot become SHIPPED | CREATED
        confirm => refused: CREATED cannot become COMPLETED | CREATED
        pay     => Moved to PAID | PAID
        pay     => already so | PAID
        cancel  => Moved to CANCELLED | CANCELLED
        ship    => refused: CANCELLED cannot become SHIPPED | CANCELLED
        ",
    );
}
