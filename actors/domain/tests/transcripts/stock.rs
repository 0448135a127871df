//! Units: promised once, sent once, and never refused for a promise that may come back.

use agora_domain::Sku;

use crate::check;

#[test]
fn last_unit_goes_to_one_order_only() {
    check::<Sku>(
        "
        receive 1    => Received 1 | on hand 1, reserved 0
        reserve o1 1 => Reserved o1 1 | on hand 1, reserved 1
        reserve o2 1 => refused: requested 1, available 0 | on hand 1, reserved 1
        ",
    );
}

#[test]
fn last_unit_is_promised_before_its_order_is_in_the_log() {
    check::<Sku>(
        "
        receive 1        => Received 1 | on hand 1, reserved 0
        g1: reserve o1 1 => Reserved o1 1
        journal g1       => in the journal
        g2: reserve o2 1 => refused: requested 1, available 0
        apply g1         => on hand 1, reserved 1
        ",
    );
}

#[test]
fn nobody_is_refused_for_a_grant_that_may_come_back() {
    check::<Sku>(
        "
        receive 1        => Received 1 | on hand 1, reserved 0
        g1: reserve o1 1 => Reserved o1 1
        g2: reserve o2 1 => not now
        drop g1          => given back
        reserve o2 1     => Reserved o2 1 | on hand 1, reserved 1
        ",
    );
}

#[test]
fn nobody_is_granted_a_release_that_may_not_commit() {
    check::<Sku>(
        "
        receive 1        => Received 1 | on hand 1, reserved 0
        reserve o1 1     => Reserved o1 1 | on hand 1, reserved 1
        g1: release o1 1 => Released o1 1
        g2: reserve o2 1 => refused: requested 1, available 0
        journal g1       => in the journal
        g2: reserve o2 1 => refused: requested 1, available 0
        apply g1         => on hand 1, reserved 0
        reserve o2 1     => Reserved o2 1 | on hand 1, reserved 1
        ",
    );
}

#[test]
fn many_orders_share_a_sku_without_waiting_for_each_other() {
    check::<Sku>(
        "
        receive 3        => Received 3 | on hand 3, reserved 0
        g1: reserve o1 1 => Reserved o1 1
        g2: reserve o2 1 => Reserved o2 1
        g3: reserve o3 1 => Reserved o3 1
        journal g2       => in the journal
        journal g1       => in the journal
        apply g2         => on hand 3, reserved 1
        apply g1         => on hand 3, reserved 2
        drop g3          => given back
        reserve o4 1     => Reserved o4 1 | on hand 3, reserved 3
        ",
    );
}

#[test]
fn promised_units_cannot_be_counted_away() {
    check::<Sku>(
        "
        receive 5    => Received 5 | on hand 5, reserved 0
        reserve o1 3 => Reserved o1 3 | on hand 5, reserved 3
        adjust -3    => refused: requested 3, available 2 | on hand 5, reserved 3
        adjust -2    => Adjusted -2 | on hand 3, reserved 3
        ship o1 3    => Shipped o1 3 | on hand 0, reserved 0
        ",
    );
}

#[test]
fn price_change_waits_for_open_grants() {
    check::<Sku>(
        "
        receive 2               => Received 2 | on hand 2, reserved 0
        g1: reserve o1 1        => Reserved o1 1
        g2: price 120 CNY if v1 => not now
        journal g1              => in the journal
        g2: price 120 CNY if v1 => Changed to 1.20 CNY, sellable
        apply g1                => on hand 2, reserved 1
        ",
    );
}

#[test]
fn nothing_is_sold_while_the_price_changes() {
    check::<Sku>(
        "
        receive 2               => Received 2 | on hand 2, reserved 0
        g1: price 120 CNY if v1 => Changed to 1.20 CNY, sellable
        g2: reserve o1 1        => not now
        journal g1              => in the journal
        g2: reserve o1 1        => not now
        apply g1                => on hand 2, reserved 0
        reserve o1 1            => Reserved o1 1 | on hand 2, reserved 1
        ",
    );
}

#[test]
fn of_two_changes_to_one_version_the_second_is_told_so() {
    check::<Sku>(
        "
        g1: price 120 CNY if v1 => Changed to 1.20 CNY, sellable
        g2: price 130 CNY if v1 => not now
        journal g1              => in the journal
        g2: price 130 CNY if v1 => not now
        apply g1                => on hand 0, reserved 0
        price 130 CNY if v1     => refused: expected v1, current v2 with on hand 0, reserved 0 | on hand 0, reserved 0
        price 120 CNY if v2     => already so | on hand 0, reserved 0
        price 5 USD if v2       => refused: given 0.05 USD, current 1.20 CNY | on hand 0, reserved 0
        ",
    );
}

#[test]
fn a_sku_off_sale_keeps_its_promises() {
    check::<Sku>(
        "
        receive 2         => Received 2 | on hand 2, reserved 0
        reserve o1 1      => Reserved o1 1 | on hand 2, reserved 1
        sellable no if v1 => Changed to 1.00 CNY, not sellable | on hand 2, reserved 1
        reserve o2 1      => refused: not sellable | on hand 2, reserved 1
        ship o1 1         => Shipped o1 1 | on hand 1, reserved 0
        ",
    );
}

#[test]
fn two_deliveries_on_their_way_share_the_room_that_is_left() {
    check::<Sku>(
        "
        adjust 999999999998 => Adjusted 999999999998 | on hand 999999999998, reserved 0
        g1: receive 2       => Received 2
        g2: receive 1       => not now
        journal g1          => in the journal
        g2: receive 1       => refused: would hold 1000000000001
        apply g1            => on hand 1000000000000, reserved 0
        ",
    );
}

#[test]
fn of_two_equal_corrections_the_one_in_the_journal_lands() {
    check::<Sku>(
        "
        receive 3     => Received 3 | on hand 3, reserved 0
        g1: adjust -1 => Adjusted -1
        g2: adjust -1 => Adjusted -1
        journal g2    => in the journal
        apply g2      => on hand 2, reserved 0
        drop g1       => given back
        reserve o1 2  => Reserved o1 2 | on hand 2, reserved 2
        ",
    );
}

#[test]
fn an_event_may_come_back_before_its_place_in_the_journal_is_known() {
    check::<Sku>(
        "
        receive 2        => Received 2 | on hand 2, reserved 0
        g1: reserve o1 1 => Reserved o1 1
        apply g1         => on hand 2, reserved 1
        g2: reserve o2 1 => not now
        journal g1       => in the journal
        reserve o2 1     => Reserved o2 1 | on hand 2, reserved 2
        ",
    );
}
