//! Pictures of one run: the latency distribution, and throughput and latency over time.
//!
//! One SVG, made by hand, that needs nothing from anywhere and takes its colours from the reader's light or dark theme;
//! or an HTML page with the same picture and the figures.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, ensure};

use super::{recorder::Point, report::Report};
use crate::table;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 860.0;
/// The part of the picture in which lines are drawn.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 850.0;
const CHART_HEIGHT: f64 = 190.0;
/// Upper ends of the three charts.
const TOPS: [f64; 3] = [110.0, 370.0, 630.0];
/// Lines across a chart, about.
const GRID_LINES: f64 = 4.0;

const STYLE: &str = "\
svg{--ink:#1c2024;--soft:#60646c;--grid:#e3e5e8;--ground:#fff;--one:#0b68cb;--two:#c2410c;background:var(--ground);\
font:13px system-ui,sans-serif}\
@media(prefers-color-scheme:dark){svg{--ink:#edeef0;--soft:#a0a4ab;--grid:#33373d;--ground:#16181b;--one:#6cb2ff;--two:#ff9a5c}}\
text{fill:var(--ink)}.soft{fill:var(--soft)}.grid{stroke:var(--grid);stroke-width:1}.head{font-size:17px;font-weight:600}\
.name{font-weight:600}.one{stroke:var(--one)}.two{stroke:var(--two)}.line{fill:none;stroke-width:2;stroke-linejoin:round}\
.t1{fill:var(--one);font-weight:600}.t2{fill:var(--two);font-weight:600}";

/// Whether a file's name says a kind that can be written.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let kind = path.extension().and_then(|kind| kind.to_str());
    ensure!(matches!(kind, Some("svg" | "html")), "--plot {}: give a name that ends in .svg or .html", path.display());
    Ok(())
}

/// Writes the picture.
pub fn write(path: &Path, report: &Report) -> anyhow::Result<()> {
    let is_page = path.extension().is_some_and(|kind| kind == "html");
    let text = if is_page { html(report) } else { svg(report) };
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text between tags, in quotes too.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// A round step such that `max` is a few of them.
fn step(max: f64) -> f64 {
    let rough = (max / GRID_LINES).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|times| times * power >= rough).unwrap_or(10.0);
    times * power
}

/// A number on an axis, without digits that say nothing.
fn tick(value: f64, step: f64) -> String {
    if step >= 1.0 && (step * 10.0) % 10.0 == 0.0 {
        return table::grouped(value.round() as u64);
    }
    let digits = (-step.log10()).ceil().clamp(1.0, 4.0) as usize;
    format!("{value:.digits$}")
}

/// One chart: where values go.
struct Chart {
    top: f64,
    x_max: f64,
    y_max: f64,
}

impl Chart {
    /// Draws the frame: name, grid, values on the left.
    fn new(out: &mut String, top: f64, name: &str, x_max: f64, y_max: f64) -> Chart {
        let step = step(y_max.max(1e-6));
        let y_max = (y_max / step).ceil().max(1.0) * step;
        let chart = Chart { top, x_max: x_max.max(1e-9), y_max };
        let _ = write!(out, "<text class=\"name\" x=\"{LEFT}\" y=\"{:.1}\">{}</text>", top - 14.0, escape(name));
        let mut value = 0.0;
        while value <= y_max + step / 2.0 {
            let y = chart.y(value);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/>\
                 <text class=\"soft\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                tick(value, step)
            );
            value += step;
        }
        chart
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (value / self.x_max).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + CHART_HEIGHT * (1.0 - (value / self.y_max).clamp(0.0, 1.0))
    }

    /// A word under the chart.
    fn below(&self, out: &mut String, x: f64, text: &str) {
        let (x, y) = (self.x(x), self.top + CHART_HEIGHT + 18.0);
        let _ = write!(out, "<text class=\"soft\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    /// A line through the points; one that is missing interrupts it.
    fn line(&self, out: &mut String, class: &str, points: impl Iterator<Item = (f64, Option<f64>)>) {
        let mut path = String::new();
        let mut down = false;
        for (x, y) in points {
            if let Some(y) = y {
                let _ = write!(path, "{}{:.1} {:.1}", if down { 'L' } else { 'M' }, self.x(x), self.y(y));
            }
            down = y.is_some();
        }
        if !path.is_empty() {
            let _ = write!(out, "<path class=\"line {class}\" d=\"{path}\"/>");
        }
    }

    /// Seconds under the chart.
    fn seconds(&self, out: &mut String) {
        let step = step(self.x_max * GRID_LINES / 8.0);
        let mut at = 0.0;
        while at <= self.x_max + step / 1e3 {
            self.below(out, at, &format!("{} s", tick(at, step)));
            at += step;
        }
    }
}

/// The picture.
pub fn svg(report: &Report) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\"><title>{}</title><style>{STYLE}</style>",
        escape(&report.title)
    );
    let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} ms"));
    let latency = &report.latency;
    let line = format!(
        "{} {}s/s · p50 {} · p99 {} · p99.9 {} · longest {} · {} errors",
        table::grouped(report.per_second.round() as u64),
        report.unit,
        ms(latency.p50_ms),
        ms(latency.p99_ms),
        ms(latency.p999_ms),
        ms(latency.max_ms),
        report.errors
    );
    let _ = write!(
        out,
        "<text class=\"head\" x=\"{LEFT}\" y=\"34\">{}</text><text class=\"soft\" x=\"{LEFT}\" y=\"58\">{}</text>",
        escape(&report.title),
        escape(&line)
    );
    distribution(&mut out, report);
    over_time(&mut out, report);
    out.push_str("</svg>\n");
    out
}

/// Latency by the share that is not slower; every step to the right leaves out nine tenths of the rest.
fn distribution(out: &mut String, report: &Report) {
    let nines = |share: f64| -(1.0 - share).max(1e-12).log10();
    let x_max = report.curve.last().map_or(2.0, |(share, _)| nines(*share)).max(2.0);
    let y_max = report.curve.iter().map(|(_, ms)| *ms).fold(0.0, f64::max);
    let chart = Chart::new(out, TOPS[0], "latency, ms: so many are not slower", x_max, y_max);
    for (share, name) in [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
    ] {
        if nines(share) <= x_max + 1e-9 {
            chart.below(out, nines(share), name);
        }
    }
    chart.line(out, "one", report.curve.iter().map(|(share, ms)| (nines(*share), Some(*ms))));
}

fn over_time(out: &mut String, report: &Report) {
    let points: &[Point] = &report.points;
    let x_max = points.last().map_or(1.0, |point| point.at_s);
    let highest = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let name = format!("{}s per second", report.unit);
    let chart = Chart::new(out, TOPS[1], &name, x_max, highest(&|point| point.per_second));
    chart.seconds(out);
    chart.line(out, "one", points.iter().map(|point| (point.at_s, Some(point.per_second))));
    let y_max = highest(&|point| point.p99_ms.unwrap_or(0.0));
    let chart = Chart::new(out, TOPS[2], "latency over time, ms", x_max, y_max);
    chart.seconds(out);
    chart.line(out, "two", points.iter().map(|point| (point.at_s, point.p99_ms)));
    chart.line(out, "one", points.iter().map(|point| (point.at_s, point.p50_ms)));
    let y = TOPS[2] - 14.0;
    let _ = write!(
        out,
        "<text class=\"t2\" text-anchor=\"end\" x=\"{:.1}\" y=\"{y:.1}\">p99</text>\
         <text class=\"t1\" text-anchor=\"end\" x=\"{RIGHT}\" y=\"{y:.1}\">p50</text>",
        RIGHT - 36.0
    );
}

/// The page: the picture, and the figures as they are printed.
pub fn html(report: &Report) -> String {
    let title = escape(&report.title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>{title}</title><style>\
         :root{{color-scheme:light dark}}body{{max-width:900px;margin:2em auto;padding:0 1em;\
         background:#fff;color:#1c2024}}\
         @media(prefers-color-scheme:dark){{body{{background:#16181b;color:#edeef0}}}}\
         svg{{max-width:100%;height:auto}}pre{{font:13px ui-monospace,monospace;overflow-x:auto}}\
         </style></head><body>\n{}<pre>{}</pre>\n</body></html>\n",
        svg(report),
        escape(&report.text())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    /// Every tag is closed in its turn, every attribute quoted, every entity known.
    #[track_caller]
    fn check_markup(text: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            check_text(&rest[..start], open.last().copied());
            let end = rest[start..].find('>').expect("a tag that ends") + start;
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if tag.starts_with('!') {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed out of turn");
                continue;
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
            assert!(!tag.contains("NaN") && !tag.contains("inf"), "<{tag}>");
            if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a name"));
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[track_caller]
    fn check_text(text: &str, tag: Option<&str>) {
        if tag == Some("style") {
            assert_eq!(text.matches('{').count(), text.matches('}').count());
            return;
        }
        for after in text.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| after.starts_with(known)), "{after}");
        }
    }

    #[test]
    fn the_picture_is_well_formed_and_needs_nothing_from_elsewhere() {
        let mut report = report();
        report.title = "agora <bench> & \"more\"".to_owned();
        for text in [svg(&report), html(&report)] {
            check_markup(&text);
            assert!(text.contains("agora &lt;bench&gt; &amp; &quot;more&quot;"));
            assert!(text.contains("prefers-color-scheme:dark"));
            assert_eq!(text.matches("class=\"line ").count(), 4, "a distribution, a throughput, two latencies");
            for outside in ["href", "src=", "url(", "@import", "<script"] {
                assert!(!text.contains(outside), "{outside}");
            }
        }
        assert!(html(&report).contains("orders per second"));
    }

    #[test]
    fn nothing_counted_is_an_empty_picture() {
        let mut report = report();
        report.points.clear();
        report.curve.clear();
        report.latency = crate::bench::report::Quantiles::default();
        check_markup(&svg(&report));
    }

    #[test]
    fn steps_are_round_and_their_names_are_short() {
        for (max, expected) in [(1.0, 0.25), (9.0, 2.5), (37.0, 10.0), (12_000.0, 5_000.0), (0.004, 0.001)] {
            let step = step(max);
            assert!((step - expected).abs() < expected / 1e6, "{max}: {step}");
        }
        assert_eq!(tick(5_000.0, 5_000.0), "5 000");
        assert_eq!(tick(2.5, 2.5), "2.5");
        assert_eq!(tick(0.25, 0.25), "0.2");
    }

    #[test]
    fn only_two_kinds_of_file_are_written() {
        assert!(check(Path::new("a.svg")).is_ok() && check(Path::new("b/a.html")).is_ok());
        assert!(check(Path::new("a.png")).is_err() && check(Path::new("svg")).is_err());
    }
}
