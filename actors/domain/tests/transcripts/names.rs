//! Names: taken once.

use agora_domain::Claim;

use crate::check;

#[test]
fn a_name_is_taken_once_however_close_together() {
    check::<Claim>(
        "
        g1: take n1 => Taken by n1
        g2: take n2 => not now
        journal g1  => in the journal
        g2: take n2 => not now
        apply g1    => n1
        take n2     => refused: n1 has it | n1
        ",
    );
}

#[test]
fn a_name_that_was_given_up_is_free() {
    check::<Claim>(
        "
        g1: take n1 => Taken by n1
        drop g1     => given back
        take n2     => Taken by n2 | n2
        ",
    );
}
