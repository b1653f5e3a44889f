//! The report as a page: one file, no script, nothing from the network, light or dark as its reader has it.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::objective::{percent, rate, words};
use super::plot::{Axis, Curve, Plot};
use super::tally::{Bin, Counts};
use super::{QUANTILES, Report, asked, lag};

/// The curve of percentiles ends where so many requests are left.
const CURVE_POINTS: u32 = 200;

/// The whole page.
pub(super) fn page(report: &Report<'_>) -> String {
    let all = report.tally().select(None);
    let mut body = head(report);
    body.push_str(&tiles(report, &all));
    body.push_str(&notes(report));
    body.push_str(&objectives(report));
    body.push_str(&section(
        "Requests over time",
        &legend(&[("c1", "right answers"), ("c3", "errors"), ("c5 dashed", "asked for")]),
        &requests(report),
    ));
    body.push_str(&section(
        "How long they took",
        &legend(&[("c1", "p50"), ("c2", "p99"), ("c4", "slowest"), ("c5 mark", "tokens refreshed")]),
        &format!("{}{TIMES_NOTE}", times(report)),
    ));
    body.push_str(&section(
        "How many took how long",
        &legend(&[("c1", "from when they were due"), ("c2", "from when they were sent")]),
        &format!("{}{CURVE_NOTE}", curve(&all)),
    ));
    body.push_str(&section(
        "Agents",
        &legend(&[("c1", "sessions"), ("c2", "event streams"), ("c3", "waiting for an answer")]),
        &agents(report),
    ));
    body.push_str(&methods(report, &all));
    body.push_str(&errors(report));
    body.push_str(&settings(report));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><title>Fleet report: {}</title><style>{STYLE}</style></head>\n<body><main>\n{body}</main></body></html>\n",
        escaped(report.url)
    )
}

/// Text that is not markup, whatever a server has put into it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

fn head(report: &Report<'_>) -> String {
    let held = report.verdicts.iter().all(|verdict| verdict.held);
    let missed = report.verdicts.iter().filter(|verdict| !verdict.held).count();
    let (class, said) = match (held, missed) {
        (true, _) => ("held", "Every objective held".to_owned()),
        (_, 1) => ("missed", "1 objective missed".to_owned()),
        (_, missed) => ("missed", format!("{missed} objectives missed")),
    };
    let date = text(&report.environment["date"]);
    format!(
        "<header><div><h1>Fleet report</h1><p class=\"where\">{}</p></div><p class=\"verdict {class}\">{said}</p></header><p class=\"note\">{} agents for {}, measured {}</p>\n",
        escaped(report.url),
        report.plan.agents,
        words(report.tally().window),
        escaped(&date),
    )
}

fn tiles(report: &Report<'_>, all: &Counts) -> String {
    let time = |at: f64| if all.latency.is_empty() { "–".to_owned() } else { words(all.quantile(at)) };
    let right = format!("{:.1}/s", rate(all, report.tally().window));
    let most = |value: fn(&Bin) -> u32| report.tally().bins.iter().map(value).max().unwrap_or(0);
    let tiles = [
        (right, format!("right answers, {:.1}/s asked for", asked(report.plan))),
        (
            all.error_share().map_or_else(|| "–".to_owned(), percent),
            format!("errors: {} of {}", all.wrong, all.wrong + all.right),
        ),
        (time(0.5), "p50: half took no longer".to_owned()),
        (time(0.99), "p99: 99 of 100 took no longer".to_owned()),
        (time(1.0), "the slowest".to_owned()),
        (most(|bin| bin.gauges.sessions).to_string(), "sessions at once, most".to_owned()),
        (most(|bin| bin.gauges.streams).to_string(), "event streams at once, most".to_owned()),
        (report.refreshed.count.to_string(), "tokens refreshed".to_owned()),
    ];
    let tiles: String = tiles
        .iter()
        .map(|(value, what)| {
            format!("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escaped(value), escaped(what))
        })
        .collect();
    format!("<div class=\"tiles\">{tiles}</div>\n")
}

fn notes(report: &Report<'_>) -> String {
    report.notes.iter().map(|note| format!("<p class=\"warning\">{}</p>\n", escaped(note))).collect()
}

fn objectives(report: &Report<'_>) -> String {
    let rows: String = report
        .verdicts
        .iter()
        .map(|verdict| {
            let (class, said) = if verdict.held { ("held", "held") } else { ("missed", "missed") };
            format!(
                "<tr><td>{}</td><td>{}</td><td><span class=\"pill {class}\">{said}</span></td></tr>",
                escaped(&verdict.objective),
                escaped(&verdict.was)
            )
        })
        .collect();
    table("Objectives", "<th>objective</th><th>was</th><th></th>", &rows)
}

fn requests(report: &Report<'_>) -> String {
    let seconds = report.tally().bin.as_secs_f64();
    let right = points(report, |bin| Some(bin.right as f64 / seconds));
    let wrong = points(report, |bin| Some(bin.wrong as f64 / seconds));
    let any_wrong = report.tally().bins.iter().any(|bin| bin.wrong > 0);
    let asked = asked(report.plan);
    let most = right.iter().chain(&wrong).filter_map(|(_, y)| *y).fold(asked, f64::max);
    let span = span(report);
    let mut curves = vec![Curve { class: "c1", points: right, filled: true }];
    if any_wrong {
        curves.push(Curve { class: "c3", points: wrong, filled: true });
    }
    let flat = vec![(report.plan.ramp.as_secs_f64().min(span), Some(asked)), (end(report), Some(asked))];
    curves.push(Curve { class: "c5", points: flat, filled: false });
    over_time(report, "Requests over time", Axis::even(most, |at| format!("{at}/s")), curves, Vec::new())
}

fn times(report: &Report<'_>) -> String {
    let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let curves = vec![
        Curve { class: "c4", points: points(report, |bin| millis(bin.max)), filled: false },
        Curve { class: "c2", points: points(report, |bin| millis(bin.p99)), filled: false },
        Curve { class: "c1", points: points(report, |bin| millis(bin.p50)), filled: false },
    ];
    let values: Vec<f64> = curves.iter().flat_map(|curve| curve.points.iter().filter_map(|(_, y)| *y)).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let moments = &report.refreshed.moments;
    let marks = moments.iter().map(|at| at.saturating_duration_since(report.outcome.start).as_secs_f64()).collect();
    let least = if least.is_finite() { least } else { 1.0 };
    over_time(report, "How long requests took", Axis::decades(least, most, in_words), curves, marks)
}

fn agents(report: &Report<'_>) -> String {
    let count = |value: fn(&Bin) -> u32| points(report, move |bin| Some(f64::from(value(bin))));
    let curves = vec![
        Curve { class: "c1", points: count(|bin| bin.gauges.sessions), filled: false },
        Curve { class: "c2", points: count(|bin| bin.gauges.streams), filled: false },
        Curve { class: "c3", points: count(|bin| bin.gauges.in_flight), filled: false },
    ];
    let most = curves.iter().flat_map(|curve| curve.points.iter().filter_map(|(_, y)| *y)).fold(0.0, f64::max);
    over_time(report, "Agents", Axis::even(most.max(4.0), |at| at.to_string()), curves, Vec::new())
}

/// Times by percentile: each nine takes as much room as the one before it.
fn curve(all: &Counts) -> String {
    let count = all.latency.len().max(2) as f64;
    // As many nines as there are requests to tell them apart.
    let nines = count.log10().clamp(1.0, 6.0);
    let along = |histogram: &hdrhistogram::Histogram<u64>| {
        let point = |step: u32| {
            let x = nines * f64::from(step) / f64::from(CURVE_POINTS);
            let took = histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64 / 1e6;
            (x, (!histogram.is_empty()).then_some(took))
        };
        (0..=CURVE_POINTS).map(point).collect::<Vec<_>>()
    };
    let (due, sent) = (along(&all.latency), along(&all.service));
    let values: Vec<f64> = due.iter().chain(&sent).filter_map(|(_, y)| *y).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let names = ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%"];
    let mut ticks: Vec<(f64, String)> =
        (0u32..).zip(names).map(|(at, name)| (f64::from(at), name.to_owned())).filter(|(at, _)| *at <= nines).collect();
    ticks.push((2f64.log10(), "50%".to_owned()));
    let plot = Plot {
        name: "How many requests took how long",
        x: Axis { from: 0.0, to: nines, logarithmic: false, ticks },
        y: Axis::decades(if least.is_finite() { least } else { 1.0 }, most, in_words),
        curves: vec![
            Curve { class: "c2", points: sent, filled: false },
            Curve { class: "c1", points: due, filled: false },
        ],
        shaded: Vec::new(),
        marks: Vec::new(),
        hints: Vec::new(),
    };
    plot.svg()
}

fn over_time(report: &Report<'_>, name: &'static str, y: Axis, curves: Vec<Curve>, marks: Vec<f64>) -> String {
    let bin = report.tally().bin.as_secs_f64();
    let time = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), words);
    let hint = |(number, found): (u32, &Bin)| {
        let from = f64::from(number) * bin;
        let text = format!(
            "from {from:.0} s: {:.1}/s right, {} errors\np50 {}, p99 {}, slowest {}\n{} sessions, {} streams, {} waiting",
            found.right as f64 / bin,
            found.wrong,
            time(found.p50),
            time(found.p99),
            time(found.max),
            found.gauges.sessions,
            found.gauges.streams,
            found.gauges.in_flight,
        );
        (from, from + bin, text)
    };
    let warmup = report.plan.warmup.as_secs_f64();
    let shaded = [(0.0, warmup), (end(report), span(report))];
    let plot = Plot {
        name,
        x: Axis::time(span(report)),
        y,
        curves,
        shaded: shaded.into_iter().filter(|(from, to)| to > from).collect(),
        marks,
        hints: (0u32..).zip(&report.tally().bins).map(hint).collect(),
    };
    plot.svg()
}

/// A value of each bin, in its middle.
fn points(report: &Report<'_>, value: impl Fn(&Bin) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    let bin = report.tally().bin.as_secs_f64();
    (0u32..).zip(&report.tally().bins).map(|(number, found)| ((f64::from(number) + 0.5) * bin, value(found))).collect()
}

/// When the window ended, seconds.
fn end(report: &Report<'_>) -> f64 {
    (report.plan.warmup + report.tally().window).as_secs_f64()
}

/// What the curves over time have room for, seconds.
fn span(report: &Report<'_>) -> f64 {
    let bins = u32::try_from(report.tally().bins.len()).unwrap_or(u32::MAX);
    end(report).max(report.tally().bin.as_secs_f64() * f64::from(bins))
}

fn in_words(millis: f64) -> String {
    words(Duration::from_secs_f64(millis / 1e3))
}

fn methods(report: &Report<'_>, all: &Counts) -> String {
    let row = |label: &str, counts: &Counts| {
        let mut row = format!("<tr><td>{}</td><td>{}</td><td>{}</td>", escaped(label), counts.right, counts.wrong);
        for (_, at) in QUANTILES {
            let took = if counts.latency.is_empty() { "–".to_owned() } else { words(counts.quantile(at)) };
            let _ = write!(row, "<td>{took}</td>");
        }
        row.push_str("</tr>");
        row
    };
    let mut rows: String = report.tally().labels().map(|(label, counts)| row(label, counts)).collect();
    rows.push_str(&row("all", all));
    let names: String = QUANTILES.iter().map(|(name, _)| format!("<th>{name}</th>")).collect();
    table("By method", &format!("<th>request</th><th>right</th><th>errors</th>{names}"), &rows)
}

fn errors(report: &Report<'_>) -> String {
    let mut kinds: Vec<(&String, &u64)> = report.tally().kinds.iter().collect();
    if kinds.is_empty() {
        return String::new();
    }
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let rows: String =
        kinds.iter().map(|(kind, count)| format!("<tr><td>{}</td><td>{count}</td></tr>", escaped(kind))).collect();
    table("Errors", "<th>what</th><th>how often</th>", &rows)
}

fn settings(report: &Report<'_>) -> String {
    let (plan, tally) = (report.plan, report.tally());
    let all: u32 = plan.mix.iter().map(|operation| operation.weight).sum();
    let mix: Vec<String> = plan
        .mix
        .iter()
        .map(|operation| {
            format!("{} {:.1}%", operation.label, 100.0 * f64::from(operation.weight) / f64::from(all.max(1)))
        })
        .collect();
    let pauses = if plan.steady { "each as long as the others" } else { "exponentially distributed" };
    let rows = [
        (
            "Agents",
            format!(
                "{}; {} speak 2025-11-25 in sessions, the others 2026-07-28; {} hold an event stream",
                plan.agents,
                percent(plan.legacy),
                percent(plan.streams)
            ),
        ),
        (
            "Pace",
            format!(
                "{:.1} requests a second together: pauses of {} on average, {pauses}",
                asked(plan),
                words(plan.think)
            ),
        ),
        ("Mix", mix.join(", ")),
        ("Session", format!("{} requests, then a new connection", plan.calls)),
        (
            "Tokens",
            format!(
                "{} identities, {} refreshes, {} of them failed",
                plan.identities,
                report.refreshed.count + report.refreshed.failures,
                report.refreshed.failures
            ),
        ),
        (
            "Streams",
            format!(
                "{} events came, {} streams were ended by the other side",
                tally.stream_events, tally.streams_ended
            ),
        ),
        ("Warm-up", format!("{}; {} errors before and after the time measured", words(plan.warmup), tally.outside)),
        ("Given up after", words(plan.timeout)),
        (
            "The load's own lateness",
            format!("99 of 100 requests left within {} of when they were due", words(lag(tally))),
        ),
        (
            "Machine",
            format!(
                "{}, {} cores, Linux {}",
                text(&report.environment["cpu"]),
                text(&report.environment["cores"]),
                text(&report.environment["kernel"])
            ),
        ),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><td>{name}</td><td>{}</td></tr>", escaped(value))).collect();
    let mut out = table("How it was measured", "", &rows).replace("<table>", "<table class=\"settings\">");
    out.push_str("<p class=\"note\">Open loop: requests are due on a schedule that waits for no answer, and time counts from the moment they were due, so that a stall is seen by every request it held up. Requests without an answer count with the time they waited; wrong answers count as errors and not as times.</p>\n");
    out
}

fn section(name: &str, legend: &str, svg: &str) -> String {
    format!("<section><h2>{name}</h2>{legend}<div class=\"plot\">{svg}</div></section>\n")
}

fn legend(entries: &[(&str, &str)]) -> String {
    let entries: String =
        entries.iter().map(|(class, name)| format!("<span><i class=\"{class}\"></i>{name}</span>")).collect();
    format!("<p class=\"legend\">{entries}</p>")
}

fn table(name: &str, head: &str, rows: &str) -> String {
    let head = if head.is_empty() { String::new() } else { format!("<thead><tr>{head}</tr></thead>") };
    format!("<section><h2>{name}</h2><div class=\"wide\"><table>{head}<tbody>{rows}</tbody></table></div></section>\n")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

const TIMES_NOTE: &str =
    "<p class=\"note\">From the moment a request was due, by when its answer came. The scale is logarithmic.</p>";
const CURVE_NOTE: &str = "<p class=\"note\">Where the two part, agents waited for an answer while their next request was already due, or the load itself was late.</p>";
const STYLE: &str = "
:root{--ground:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5c6675;--line:#dfe3e9;--shade:#eceff4;--c1:#2563c9;--c2:#c96a12;--c3:#c62f3d;--c4:#8a94a3;--c5:#1b2330;--good:#13713f;--good-ground:#dcf3e5;--bad:#a51d2d;--bad-ground:#fbe1e3;--warn:#7a4a06;--warn-ground:#fdf0d8}
@media(prefers-color-scheme:dark){:root{--ground:#12161d;--card:#1a202a;--ink:#e6eaf0;--soft:#9aa5b4;--line:#2c3542;--shade:#212935;--c1:#6ea4f8;--c2:#f0a04b;--c3:#f2707b;--c4:#7d8898;--c5:#e6eaf0;--good:#7fdca6;--good-ground:#173626;--bad:#ff9aa3;--bad-ground:#43191e;--warn:#f3c27a;--warn-ground:#3a2b12}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1000px;margin:0 auto;padding:28px 20px 48px}
header{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:flex-start;gap:12px}
h1{font-size:26px;line-height:1.2;margin:0}h2{font-size:16px;margin:0 0 6px}
.where{margin:2px 0 0;color:var(--soft);overflow-wrap:anywhere}
.verdict{margin:0;padding:6px 14px;border-radius:8px;font-weight:600}
.held{color:var(--good);background:var(--good-ground)}.missed{color:var(--bad);background:var(--bad-ground)}
.pill{padding:1px 9px;border-radius:9px;font-size:13px;font-weight:600}
.note{color:var(--soft);font-size:13.5px;margin:8px 2px}
.warning{background:var(--warn-ground);color:var(--warn);border-radius:8px;padding:8px 14px;margin:12px 0 0}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:16px 0 0}
.tile,section{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:12px 14px}.tile b{display:block;font-size:21px;line-height:1.3}.tile span{color:var(--soft);font-size:13px}
section{padding:14px 16px;margin:16px 0 0}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 4px;color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:16px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle;background:var(--c)}
.legend i.dashed{height:0;border-top:2px dashed var(--c);background:none}
.legend i.mark{width:2px;height:12px;opacity:.35}
.plot{overflow-x:auto}svg{display:block;width:100%;min-width:560px;height:auto}
.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}.c5.line{stroke-dasharray:5 4;stroke-width:1.2;opacity:.7}
.area{fill:var(--c);opacity:.14}.dot{fill:var(--c)}
.grid{stroke:var(--line);stroke-width:1}.mark{stroke:var(--c5);stroke-width:1;opacity:.22}.shade{fill:var(--shade)}
.tick{fill:var(--soft);font-size:12px}.hint{fill:transparent}.hint:hover{fill:var(--ink);opacity:.07}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:right;padding:5px 10px;white-space:nowrap;border-top:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:13px;border-top:0}tbody:first-child tr:first-child td{border-top:0}
th:first-child,td:first-child{text-align:left;padding-left:2px;white-space:normal;overflow-wrap:anywhere}
.settings td:last-child{text-align:left;white-space:normal}.settings td:first-child{white-space:nowrap;color:var(--soft);vertical-align:top;width:1%}
@media(max-width:640px){.tiles{grid-template-columns:repeat(2,1fr)}}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
";

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::drive::Outcome;
    use super::super::options::Fleet;
    use super::super::tally::{Gauges, Tally};
    use super::*;

    /// A report on a run of four seconds, whose server says something odd.
    fn made(right: u64, words: &str) -> String {
        let fleet = Fleet { url: Some("http://127.0.0.1:1/<mcp>".to_owned()), ..Fleet::default() };
        let plan = fleet.settle().expect("a plan");
        let mut tally = Tally::new(Duration::from_secs(1));
        let (echo, close) = (tally.label("tools/call echo"), tally.follower("DELETE session"));
        for second in 1..=4 {
            for number in 1..=right {
                tally.right(echo, Duration::from_millis(number), Duration::from_millis(1), true);
                tally.arrived(echo);
            }
            tally.right(close, Duration::from_millis(3), Duration::from_millis(3), true);
            tally.roll(Duration::from_secs(second), Gauges { in_flight: 1, sessions: 7, streams: 3 });
        }
        if !words.is_empty() {
            tally.wrong(echo, words, None, true);
        }
        tally.window = Duration::from_secs(4);
        let outcome = Outcome { tally, start: Instant::now(), cut: false };
        page(&Report::new(&plan, "http://127.0.0.1:1/<mcp>", &outcome, super::super::Refreshed::default()))
    }

    #[test]
    fn a_page_stands_alone_and_says_what_was() {
        let page = made(100, "");
        for word in ["Every objective held", "100.0/s", "tools/call echo", "DELETE session", "Every", "2026-07-28"] {
            assert!(page.contains(word), "{word}");
        }
        // Four plots, and nothing that is fetched or run.
        assert_eq!(page.matches("<svg").count(), 4);
        for word in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(word), "{word}");
        }
        for tag in ["section", "svg", "table", "div", "p", "header", "main"] {
            let (opened, closed) = (format!("<{tag}>"), format!("</{tag}>"));
            let opened = page.matches(&opened).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&closed).count(), "{tag}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "a figure that is none");
    }

    #[test]
    fn what_a_server_says_is_no_markup() {
        let page = made(1, "error 1: <script>alert('x')</script>\u{7}");
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&#39;x&#39;)"));
        assert!(!page.contains("/<mcp>") && !page.contains('\u{7}'));
        assert!(page.contains("1 objective missed"));
    }

    #[test]
    fn a_run_without_answers_has_a_page() {
        let page = made(0, "no answer");
        assert!(page.contains("–") && !page.contains("NaN") && page.matches("<svg").count() == 4);
    }
}
