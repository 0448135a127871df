//! The summary as one HTML page that needs nothing else: a timeline of faults, availability and latency, and the tables.

use std::{collections::BTreeMap, fmt::Write};

use super::summary::{Bar, Summary};
use super::table::render;

/// Width of the plots, in units of the drawing.
const WIDTH: f64 = 1_600.0;
/// Room for names on the left.
const LEFT: f64 = 90.0;
/// Columns of a plot at most; more seconds share one.
const COLUMNS_MAX: usize = 800;

/// The page.
pub fn page(title: &str, summary: &Summary) -> String {
    let verdict = match summary.findings_total {
        0 => "<p class=ok>Every promise was kept.</p>".to_owned(),
        broken => format!("<p class=bad>{broken} broken promise(s), listed below.</p>"),
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1>{verdict}{plots}<h2>Figures</h2><pre>{tables}</pre></html>\n",
        title = escape(title),
        plots = plots(summary),
        tables = escape(&render(summary)),
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1c2330;background:#fff}\
    h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}pre{font-size:12px;overflow:auto}\
    svg{width:100%;height:auto;font:11px system-ui,sans-serif}.ok{color:#17693a;font-weight:600}\
    .bad{color:#a8201a;font-weight:600}.legend{color:#5a6474;font-size:13px;margin:0}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A run's seconds gathered into columns that fit the page.
struct Columns {
    /// Seconds a column stands for.
    each: usize,
    acknowledged: Vec<f64>,
    not_done: Vec<f64>,
    unknown: Vec<f64>,
    available: Vec<f64>,
    p50: Vec<f64>,
    worst: Vec<f64>,
}

impl Columns {
    fn of(summary: &Summary) -> Columns {
        let each = summary.seconds.len().div_ceil(COLUMNS_MAX).max(1);
        let per_second = |value: fn(&super::summary::Second) -> f64| -> Vec<f64> {
            summary.seconds.chunks(each).map(|part| part.iter().map(value).sum::<f64>() / part.len() as f64).collect()
        };
        let largest = |value: fn(&super::summary::Second) -> f64| -> Vec<f64> {
            summary.seconds.chunks(each).map(|part| part.iter().map(value).fold(0.0, f64::max)).collect()
        };
        Columns {
            each,
            acknowledged: per_second(|second| f64::from(second.acknowledged)),
            not_done: per_second(|second| f64::from(second.not_done)),
            unknown: per_second(|second| f64::from(second.unknown)),
            available: per_second(|second| f64::from(second.available)),
            p50: per_second(|second| f64::from(second.p50_ms)),
            worst: largest(|second| f64::from(second.max_ms)),
        }
    }
}

fn plots(summary: &Summary) -> String {
    if summary.seconds.is_empty() {
        return String::new();
    }
    let columns = Columns::of(summary);
    let mut out = String::new();
    let _ = write!(out, "<h2>Faults</h2><p class=legend>each bar one round; hover for what was done to whom</p>");
    out.push_str(&faults(summary));
    let _ = write!(
        out,
        "<h2>Writes per second</h2><p class=legend>green decided, amber not done (told so), red outcome unknown; one column is {} s</p>",
        columns.each
    );
    out.push_str(&areas(&[
        (&columns.acknowledged, "#2f9e62"),
        (&columns.not_done, "#d9980d"),
        (&columns.unknown, "#c92a2a"),
    ]));
    out.push_str(
        "<h2>Availability</h2><p class=legend>tenths of a second with a decided write, of those in which one was wanted</p>",
    );
    out.push_str(&areas(&[(&columns.available, "#3b6fb6")]));
    out.push_str(
        "<h2>Latency of decided writes, ms</h2><p class=legend>light the worst, dark the middle, logarithmic</p>",
    );
    let log = |values: &[f64]| values.iter().map(|ms| (1.0 + ms).log10()).collect::<Vec<_>>();
    out.push_str(&areas(&[(&log(&columns.worst), "#b9c6de"), (&log(&columns.p50), "#34507f")]));
    out
}

/// One row per nemesis.
fn faults(summary: &Summary) -> String {
    let mut rows: BTreeMap<(u64, &str), Vec<&Bar>> = BTreeMap::new();
    for bar in &summary.bars {
        let number = bar.nemesis.trim_start_matches('N').parse().unwrap_or(u64::MAX);
        rows.entry((number, &bar.nemesis)).or_default().push(bar);
    }
    let (height, length) = (18.0, summary.seconds.len() as f64);
    let at = |second: f64| LEFT + (second / length).clamp(0.0, 1.0) * (WIDTH - LEFT);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {}\">", height * rows.len() as f64 + 4.0);
    for (row, ((_, name), bars)) in rows.iter().enumerate() {
        let top = row as f64 * height;
        let _ = write!(out, "<text x=0 y={:.0}>{}</text>", top + 13.0, escape(name));
        for bar in bars {
            let (from, until) = (at(bar.from), at(bar.until));
            let colour = if bar.targets.contains("leader") { "#a8326b" } else { "#6b5fa8" };
            let _ = write!(
                out,
                "<rect x={from:.1} y={:.0} width={:.1} height=12 fill=\"{colour}\"><title>{} {}: {} ({:.1} s)</title></rect>",
                top + 3.0,
                (until - from).max(1.5),
                escape(&bar.nemesis),
                escape(&bar.kind),
                escape(&bar.targets),
                bar.until - bar.from,
            );
        }
    }
    out.push_str("</svg>");
    out
}

/// Filled curves over one another, on one scale.
fn areas(curves: &[(&[f64], &str)]) -> String {
    let height = 150.0;
    let top = curves.iter().flat_map(|(values, _)| values.iter().copied()).fold(0.0, f64::max).max(1e-9);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {}\">", height + 8.0);
    let label = if top >= 10.0 { format!("{top:.0}") } else { format!("{top:.2}") };
    let _ = write!(out, "<text x=0 y=12>{label}</text><text x=0 y={height:.0}>0</text>");
    for (values, colour) in curves {
        let step = (WIDTH - LEFT) / values.len() as f64;
        let _ = write!(out, "<path fill=\"{colour}\" d=\"M{LEFT:.1} {height:.1}");
        for (column, value) in values.iter().enumerate() {
            let y = height - value / top * (height - 6.0);
            let x = LEFT + column as f64 * step;
            let _ = write!(out, "L{x:.1} {y:.1}L{:.1} {y:.1}", x + step);
        }
        let _ = write!(out, "L{WIDTH:.1} {height:.1}Z\"/>");
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Second;

    #[test]
    fn the_page_shows_faults_and_hides_no_finding() {
        let mut summary = Summary {
            seconds: vec![Second { acknowledged: 10, available: 1.0, ..Second::default() }; 2_000],
            bars: vec![Bar {
                nemesis: "N6".into(),
                kind: "power loss of all".into(),
                from: 3.0,
                until: 5.5,
                targets: "1 (leader), 2, 3".into(),
            }],
            ..Summary::default()
        };
        assert!(page("A run", &summary).contains("Every promise was kept"));
        summary.find("C5: <lost>".into());
        let page = page("A run", &summary);
        assert!(page.contains("power loss of all") && page.contains("C5: &lt;lost&gt;"));
        assert!(!page.contains("Every promise was kept") && !page.contains("NaN"));
        assert!(page.len() < 400_000, "{} bytes", page.len());
    }
}
