//! Answers from the past.

use super::*;

/// An operation of one attempt is asked and answered later than it was.
fn later(data: &mut RunData, wanted: impl Fn(&Call) -> bool) -> Option<()> {
    let late = |call: &&mut Call| call.attempt == 0 && matches!(call.reply, Reply::Yes { .. }) && wanted(call);
    let call = data.calls.iter_mut().filter(late).nth(40)?;
    call.invoked += 60_000;
    call.returned += 60_000;
    Some(())
}

#[test]
fn a_write_before_what_was_told_before_it() {
    caught_by(&["C1"], |data| later(data, |call| call.key.is_some()));
}

#[test]
fn a_linearizable_read_of_the_past() {
    caught_by(&["C1"], |data| later(data, |call| call.level == Some(Level::Linearizable)));
}

#[test]
fn a_linearizable_read_that_finds_nothing() {
    caught_by(&["C1"], |data| {
        let late = data.calls.iter_mut().filter(|call| {
            call.level == Some(Level::Linearizable)
                && matches!(call.request, Op::ReadOrder { .. })
                && call.index.is_some()
        });
        let call = late.last()?;
        call.reply = Reply::NotDone { status: 404, code: "NOT_FOUND".to_owned() };
        call.index = None;
        Some(())
    });
}
