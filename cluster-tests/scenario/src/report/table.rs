//! The summary as a table for a terminal or a Markdown page.

use std::fmt::Write;

use super::summary::{Quantiles, Summary};

/// A Markdown table, with columns as wide as their widest cell, so that it reads well in a terminal too.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &[&str]| {
        for (cell, width) in cells.iter().zip(&widths) {
            // Writing into a string cannot fail.
            let _ = write!(out, "| {cell:<width$} ");
        }
        out.push_str("|\n");
    };
    line(head);
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&rule.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    out
}

fn outages(values: &[u64]) -> String {
    let Quantiles { p50, p99, max, .. } = Quantiles::of(values);
    format!("{p50} / {p99} / {max}")
}

/// A name such as `N10` or `C2` in an order that people expect.
fn number(name: &str) -> u64 {
    name.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or(u64::MAX)
}

/// Everything, as tables.
pub fn render(summary: &Summary) -> String {
    let mut nemeses: Vec<_> = summary.nemeses.iter().collect();
    nemeses.sort_by_key(|(name, _)| number(name));
    let rows: Vec<Vec<String>> = nemeses
        .iter()
        .map(|(name, row)| {
            let kinds: Vec<String> = row.kinds.iter().map(|(kind, rounds)| format!("{kind} {rounds}")).collect();
            vec![
                (*name).clone(),
                row.rounds.to_string(),
                row.leading.to_string(),
                row.following.to_string(),
                outages(&row.outages_ms),
                kinds.join(", "),
            ]
        })
        .collect();
    let mut out = table(
        &["nemesis", "rounds", "hit leading", "hit following", "no write for, ms (p50 / p99 / max)", "what was done"],
        &rows,
    );
    let mut checkers: Vec<_> = summary.checkers.iter().collect();
    checkers.sort_by_key(|(name, _)| number(name));
    let rows: Vec<Vec<String>> = checkers
        .iter()
        .map(|(name, row)| {
            vec![
                (*name).clone(),
                row.promise.clone(),
                row.checked.to_string(),
                row.undecided.to_string(),
                row.findings.to_string(),
            ]
        })
        .collect();
    out.push('\n');
    out.push_str(&table(&["checker", "promise", "checked", "undecided", "broken"], &rows));
    let rows: Vec<Vec<String>> = [
        ("runs", summary.scenarios.values().sum::<u64>().to_string()),
        ("time the clusters lived, s", format!("{:.0}", summary.cluster_seconds)),
        ("fault rounds / kinds", format!("{} / {}", summary.rounds(), summary.kinds())),
        ("operations / attempts", format!("{} / {}", summary.operations, summary.attempts)),
        ("writes acknowledged / refused by a rule", format!("{} / {}", summary.acknowledged, summary.refused)),
        ("orders promised", summary.orders.to_string()),
        ("reads answered", summary.read.to_string()),
        ("not done / unknown", format!("{} / {}", summary.not_done, summary.unknown)),
        (
            "latency of acknowledged writes, ms (p50 / p99)",
            format!("{} / {}", summary.latency_ms(50), summary.latency_ms(99)),
        ),
        ("no write for, per fault, ms (p50 / p99 / max)", outages(&summary.outages_ms)),
        ("leader killed: no write for, ms (p50 / p99 / max), of", {
            let kills = &summary.pace.kills_ms;
            format!("{}, {}", outages(kills), kills.len())
        }),
        (
            "p99 of writes, ms: nothing broken / beside one slow or hung follower",
            summary.pace.cost_ms().map_or("too few".to_owned(), |(calm, beside)| format!("{calm} / {beside}")),
        ),
        ("broken promises", summary.findings_total.to_string()),
    ]
    .into_iter()
    .map(|(what, figure)| vec![what.to_owned(), figure])
    .collect();
    out.push('\n');
    out.push_str(&table(&["all together", "figure"], &rows));
    for finding in &summary.findings {
        let _ = write!(out, "\nBROKEN  {finding}");
    }
    if !summary.findings.is_empty() {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(&["a", "long"], &[vec!["wide cell".into(), "b".into()]]);
        assert_eq!(text, "| a         | long |\n| --------- | ---- |\n| wide cell | b    |\n");
    }

    #[test]
    fn a_broken_promise_is_told_in_full() {
        let mut summary = Summary::default();
        summary.find("C1 (seed 7): an order was lost".into());
        assert!(render(&summary).contains("BROKEN  C1 (seed 7): an order was lost"));
    }
}
