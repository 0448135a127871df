//! The laws of a single state: one command after the other, each applied before the next is decided.

use crate::subject::{Subject, evolve, opened};

/// Decides and evolves, wish by wish. `look` sees each command and the state it is decided on.
fn fold<E: Subject>(
    wishes: &[E::Wish],
    mut look: impl FnMut(Option<&E>, &E::Command, u64) -> Result<(), String>,
) -> Result<(), String> {
    let (mut state, mut index) = opened::<E>();
    let mut book = E::Book::default();
    for wish in wishes {
        let Some(command) = E::command(wish, &mut book, state.as_ref()) else {
            continue;
        };
        look(state.as_ref(), &command, index + 1)?;
        for event in E::decide(state.as_ref(), &command).unwrap_or_default() {
            index += 1;
            E::granted(&mut book, &event);
            evolve(&mut state, &event, index)?;
            E::committed(&mut book, &event);
        }
    }
    Ok(())
}

/// No sequence of commands makes `evolve` refuse, or breaks the entity's promise.
pub fn invariant<E: Subject>(wishes: &[E::Wish]) -> Result<(), String> {
    fold::<E>(wishes, |_, _, _| Ok(()))
}

/// A decision depends on nothing but state and command; and what does not commute is appended once.
pub fn retry<E: Subject>(wishes: &[E::Wish]) -> Result<(), String> {
    fold::<E>(wishes, |state, command, index| {
        let first = E::decide(state, command);
        let same = E::decide(state, command);
        if first != same {
            return Err(format!("{command:?} on one state is answered {first:?}, then {same:?}"));
        }
        let events = first.unwrap_or_default();
        if E::commutes(command) || events.is_empty() {
            return Ok(());
        }
        let mut after = state.cloned();
        for event in &events {
            evolve(&mut after, event, index)?;
        }
        let (second, after) = (E::decide(after.as_ref(), command), after.expect("an event leaves a state"));
        if second != E::again(command, &after) || second.as_ref().is_ok_and(|events| !events.is_empty()) {
            return Err(format!("{command:?} again on {after:?} is answered {second:?}"));
        }
        Ok(())
    })
}

/// `take` and `give` together look to every decision like the event itself; `take` alone allows less than both.
pub fn shadow<E: Subject>(wishes: &[E::Wish]) -> Result<(), String> {
    let mut shadows: Option<(E, E)> = None;
    fold::<E>(wishes, |state, command, _| {
        if !E::commutes(command) {
            // Flies alone: nothing is ever taken over it.
            shadows = None;
            return Ok(());
        }
        let opened = state.expect("kinds with quantities open with a state");
        let (tail, floor) = shadows.get_or_insert_with(|| (opened.clone(), opened.clone()));
        let plain = E::decide(state, command);
        let likewise = E::decide(Some(tail), command);
        if likewise != plain {
            return Err(format!("{command:?} is answered {plain:?}, but {likewise:?} over takes and gives"));
        }
        let pessimist = E::decide(Some(floor), command);
        if pessimist.is_ok() && pessimist != plain {
            return Err(format!("{command:?} is answered {plain:?}, but {pessimist:?} over takes alone"));
        }
        for event in plain.unwrap_or_default() {
            tail.take(&event);
            tail.give(&event);
            floor.take(&event);
        }
        Ok(())
    })
}

/// Any event on any state is accepted soundly or refused without a trace; none panics.
pub fn total<E: Subject>(events: &[E::Event]) -> Result<(), String> {
    let (mut state, mut index) = opened::<E>();
    for event in events {
        index += 1;
        let before = state.clone();
        if E::evolve(&mut state, event, crate::subject::at(index)).is_err() {
            if state != before {
                return Err(format!("{event:?} was refused and made {state:?} of {before:?}"));
            }
        } else if !state.as_ref().is_some_and(E::sound) {
            return Err(format!("{event:?} was accepted and made {state:?} of {before:?}"));
        }
    }
    Ok(())
}
