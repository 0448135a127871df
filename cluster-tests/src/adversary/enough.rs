//! Whether an attack was one: a run that did less than it was asked for has shown less than its green colour says.

/// What was asked for, and what was done.
#[derive(Clone, Copy, Debug)]
pub struct Enough<'a> {
    /// What is counted.
    pub what: &'a str,
    /// So many were done.
    pub done: u64,
    /// So many were asked for, or are usual.
    pub asked: u64,
    /// So many there must be, whatever the time.
    pub at_least: Option<u64>,
    /// Time was over before all were done.
    pub ran_out: bool,
}

impl Enough<'_> {
    /// Says what is missing, and whether the run may still count.
    pub fn is_met(&self) -> bool {
        let Some((why, counts)) = self.judge() else { return true };
        eprintln!("{why}");
        counts
    }

    /// What is missing, if anything is, and whether the run counts.
    fn judge(&self) -> Option<(String, bool)> {
        let Enough { what, done, asked, at_least, ran_out } = *self;
        let wanted = at_least.unwrap_or(asked);
        if done >= wanted && done > 0 {
            return None;
        }
        // Who only set a time gets what fits into it.
        let counts = ran_out && at_least.is_none() && done > 0;
        let why = if ran_out { "time was over" } else { "no more could be done" };
        let verdict = if counts { "fewer than usual" } else { "TOO FEW: this shows nothing" };
        Some((format!("{done} of {wanted} {what}: {why}; {verdict}"), counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn counts(done: u64, at_least: Option<u64>, ran_out: bool, expected: Option<bool>) {
        let enough = Enough { what: "crash points", done, asked: 300, at_least, ran_out };
        assert_eq!(enough.judge().map(|(_, counts)| counts), expected, "{enough:?}");
    }

    #[test]
    fn what_attacked_too_little_does_not_count() {
        counts(300, None, false, None);
        counts(299, None, false, Some(false));
        counts(299, None, true, Some(true));
        counts(299, Some(250), true, None);
        counts(249, Some(250), true, Some(false));
        counts(249, Some(250), false, Some(false));
        counts(0, None, true, Some(false));
        counts(0, Some(0), false, Some(false));
    }

    #[test]
    fn it_is_said_what_is_missing() {
        let enough = Enough { what: "cases", done: 7, asked: 40, at_least: None, ran_out: false };
        assert_eq!(enough.judge().unwrap().0, "7 of 40 cases: no more could be done; TOO FEW: this shows nothing");
    }
}
