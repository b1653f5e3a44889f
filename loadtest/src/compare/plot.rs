//! The comparison as a picture: an SVG of its own, light or dark as its reader is.

use std::fmt::Write as _;

use super::report::{Judged, Point, serving};
use super::sample::Spread;
use super::scene::{Load, Scene};

const WIDTH: f64 = 860.0;
/// Where bars begin, and how long the longest may be.
const LEFT: f64 = 330.0;
const SPAN: f64 = 350.0;
const ROW: f64 = 22.0;
const BAR: f64 = 12.0;
const HEAD: f64 = 30.0;

const STYLE: &str = "
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; }
  .quiet { fill: #59636e; }
  .page { fill: #ffffff; }
  .own { fill: #2f6fd0; }
  .missed { fill: #c4611b; }
  .rival { fill: #aab4bf; }
  .whisker { stroke: #1f2328; stroke-width: 1.5; }
  .goal { stroke: #1f2328; stroke-width: 2; stroke-dasharray: 3 2; }
  .axis { stroke: #d0d7de; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9198a1; }
    .page { fill: #0d1117; }
    .own { fill: #5b9bf5; }
    .missed { fill: #e08a4a; }
    .rival { fill: #59636e; }
    .whisker { stroke: #e6edf3; }
    .goal { stroke: #e6edf3; }
    .axis { stroke: #30363d; }
  }";

/// What is drawn in one line.
struct Bar {
    label: String,
    figure: Spread,
    goal: Option<f64>,
    class: &'static str,
    words: String,
}

/// All points that have figures; `below` is told under them.
pub(super) fn draw(points: &[Point], below: &[String]) -> String {
    let mut out = String::new();
    let mut y = 10.0;
    for point in points.iter().filter(|point| point.scene == Scene::Calls) {
        // One connection is all waking up; it would dwarf the others.
        if point.load != Load::Closed(1) {
            let title = format!("CPU time of a call at {}, µs", point.load);
            panel(&mut out, &mut y, &title, &costs(point));
        }
    }
    let bars: Vec<Bar> =
        points.iter().flat_map(|point| point.judged().into_iter().filter_map(|j| judged(point, j))).collect();
    panel(&mut out, &mut y, "Ratios, and what they should be at most (dashed)", &bars);
    for line in below {
        text(&mut out, "quiet", 16.0, y + 8.0, "start", line);
        y += 16.0;
    }
    let height = y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\">\n<title>Portcullis beside others, CPU time of a call</title>\n<style>{STYLE}\n</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height:.0}\"/>\n{out}</svg>\n"
    )
}

/// CPU time of everybody at one load.
fn costs(point: &Point) -> Vec<Bar> {
    let bar = |row: &super::report::Row| {
        let figure = row.spread(serving)?;
        let class = if row.who.is_own() { "own" } else { "rival" };
        let label =
            if row.who.is_own() { format!("{}, shard threads", row.who.name()) } else { row.who.name().to_owned() };
        Some(Bar { label, figure, goal: None, class, words: format!("{:.1}", figure.median) })
    };
    point.rows.iter().filter_map(bar).collect()
}

/// A ratio that has a goal.
fn judged(point: &Point, judged: Judged) -> Option<Bar> {
    let (figure, goal) = (judged.figure?, judged.goal?);
    let held = judged.is_held()?;
    let what = judged.what.trim_start_matches("portcullis, ");
    let label = format!("{what}, {}", short(point));
    let verdict = if held { "held" } else { "not held yet" };
    let words = format!("{:.2} of {goal:.2}: {verdict}", figure.median);
    Some(Bar { label, figure, goal: Some(goal), class: if held { "own" } else { "missed" }, words })
}

fn short(point: &Point) -> String {
    let load = match point.load {
        Load::Closed(connections) => connections.to_string(),
        Load::Open { rate, .. } => format!("{rate}/s"),
    };
    match point.scene {
        Scene::Tls => format!("TLS, {load}"),
        Scene::Events => format!("event streams, {load}"),
        Scene::Large => format!("64 KiB, {load}"),
        Scene::Calls | Scene::Merged | Scene::Legacy | Scene::Shards | Scene::Growth => load,
    }
}

fn panel(out: &mut String, y: &mut f64, title: &str, bars: &[Bar]) {
    if bars.is_empty() {
        return;
    }
    let reach = |bar: &Bar| bar.figure.median.max(bar.goal.unwrap_or(0.0));
    let most = bars.iter().map(reach).fold(f64::MIN_POSITIVE, f64::max);
    // A whisker that is longer than this leaves the panel, and says so by its end.
    let most = most.max(bars.iter().map(|bar| bar.figure.most).fold(0.0, f64::max).min(most * 1.5));
    let x = |figure: f64| LEFT + (figure / most).clamp(0.0, 1.0) * SPAN;
    text(out, "title", 16.0, *y + 14.0, "start", title);
    *y += HEAD;
    line(out, "axis", (LEFT, *y - 4.0), (LEFT, *y + ROW * bars.len() as f64 - 4.0));
    for bar in bars {
        let (top, middle) = (*y, *y + BAR / 2.0);
        text(out, "", LEFT - 8.0, *y + 10.0, "end", &bar.label);
        let width = x(bar.figure.median) - LEFT;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<rect class=\"{}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            bar.class
        );
        line(out, "whisker", (x(bar.figure.least), middle), (x(bar.figure.most), middle));
        if let Some(goal) = bar.goal {
            line(out, "goal", (x(goal), top - 3.0), (x(goal), top + BAR + 3.0));
        }
        text(out, "quiet", LEFT + SPAN + 10.0, *y + 10.0, "start", &bar.words);
        *y += ROW;
    }
    *y += 14.0;
}

fn text(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let bar = |median: f64, goal| Bar {
            label: "a < b".to_owned(),
            figure: Spread { median, least: median / 2.0, most: median * 1.1 },
            goal,
            class: "own",
            words: String::new(),
        };
        let (mut out, mut y) = (String::new(), 0.0);
        panel(&mut out, &mut y, "title", &[bar(1.0, Some(2.0)), bar(0.5, None)]);
        assert!(out.contains("width=\"175.0\"") && out.contains("width=\"87.5\""), "{out}");
        assert!(out.contains("a &lt; b") && out.matches("class=\"goal\"").count() == 1, "{out}");
        assert!((y - (HEAD + 2.0 * ROW + 14.0)).abs() < 1e-9);
        let page = draw(&[], &["below".to_owned()]);
        assert!(page.starts_with("<svg ") && page.ends_with("</svg>\n") && page.contains("prefers-color-scheme: dark"));
    }
}
