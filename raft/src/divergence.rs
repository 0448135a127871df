//! Knowing that nothing is wrong: equal index, equal state.
//!
//! Every node remembers its state right after each checkpoint entry and reports the last few. Where two differ at one
//! index, the majority of those who speak is right and the odd one out stops; two alone cannot tell, and both stop
//! taking writes.

use std::collections::BTreeMap;

use crate::status::CheckpointReport;

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No difference at any index that two of us know.
    Equal,
    /// Someone else differs from a majority that agrees with us.
    OthersDiffer(String),
    /// A majority agrees on another state than ours.
    WeDiffer(String),
    /// A difference without a majority.
    Undecided(String),
}

/// Compares our checkpoints with those of the others.
pub(crate) fn compare(own: &[CheckpointReport], others: &[(u64, Vec<CheckpointReport>)]) -> Verdict {
    let mut worst = Verdict::Equal;
    for ours in own {
        let mut votes: BTreeMap<(u128, [u8; 32]), usize> = BTreeMap::new();
        let key = |report: &CheckpointReport| (report.digest, report.chain_head);
        *votes.entry(key(ours)).or_default() += 1;
        let mut different = Vec::new();
        let mut speakers = 1;
        for (node, reports) in others {
            let Some(theirs) = reports.iter().find(|theirs| theirs.index == ours.index) else { continue };
            speakers += 1;
            *votes.entry(key(theirs)).or_default() += 1;
            if key(theirs) != key(ours) {
                different.push(*node);
            }
        }
        if different.is_empty() {
            continue;
        }
        let why = format!("state at index {} differs from that of node(s) {different:?}", ours.index);
        let with_us = votes[&key(ours)];
        let against =
            votes.iter().filter(|(state, _)| **state != key(ours)).map(|(_, count)| *count).max().unwrap_or(0);
        let verdict = if against * 2 > speakers {
            return Verdict::WeDiffer(why);
        } else if with_us * 2 > speakers {
            Verdict::OthersDiffer(why)
        } else {
            Verdict::Undecided(why)
        };
        if worst == Verdict::Equal || matches!(verdict, Verdict::Undecided(_)) {
            worst = verdict;
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, digest: u128) -> CheckpointReport {
        CheckpointReport { index, chain_head: [0; 32], digest }
    }

    #[test]
    fn equal_states_and_unknown_indexes_are_no_difference() {
        let own = [at(1, 10), at(2, 20)];
        assert_eq!(compare(&own, &[(2, vec![at(2, 20)]), (3, vec![at(9, 1)])]), Verdict::Equal);
    }

    #[test]
    fn the_odd_one_out_of_three_is_found_by_all() {
        let (right, wrong) = (vec![at(5, 1)], vec![at(5, 2)]);
        assert!(matches!(compare(&wrong, &[(2, right.clone()), (3, right.clone())]), Verdict::WeDiffer(_)));
        assert!(matches!(compare(&right, &[(2, right.clone()), (3, wrong)]), Verdict::OthersDiffer(_)));
    }

    #[test]
    fn two_alone_cannot_tell() {
        assert!(matches!(compare(&[at(5, 1)], &[(2, vec![at(5, 2)])]), Verdict::Undecided(_)));
        assert!(matches!(compare(&[at(5, 1)], &[(2, vec![at(5, 2)]), (3, vec![at(5, 3)])]), Verdict::Undecided(_)));
    }
}
