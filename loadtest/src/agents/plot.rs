//! Curves as SVG, whose colours come from the page around them.

use std::fmt::Write as _;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Values closer to nothing than this are not told apart on a logarithmic scale.
const LOG_LEAST: f64 = 1e-6;

/// One curve.
pub(super) struct Curve {
    /// Of the page's colours.
    pub(super) class: &'static str,
    /// `None` leaves a gap.
    pub(super) points: Vec<(f64, Option<f64>)>,
    /// Whether what is below it is filled.
    pub(super) filled: bool,
}

/// An axis: its ends, and where it has which words.
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) logarithmic: bool,
    pub(super) ticks: Vec<(f64, String)>,
}

/// Curves in one picture.
pub(super) struct Plot {
    pub(super) name: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) curves: Vec<Curve>,
    /// Stretches of the x axis with another ground.
    pub(super) shaded: Vec<(f64, f64)>,
    /// Moments marked by a line.
    pub(super) marks: Vec<f64>,
    /// Words for stretches of the x axis, shown to whoever points there.
    pub(super) hints: Vec<(f64, f64, String)>,
}

impl Axis {
    /// From nothing to at least `most`, in even steps.
    pub(super) fn even(most: f64, words: impl Fn(f64) -> String) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 4.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * decade).find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(decade);
        let mut ticks = vec![(0.0, words(0.0))];
        while ticks.last().is_some_and(|(at, _)| *at < most * 0.999) {
            let at = step * ticks.len() as f64;
            ticks.push((at, words(at)));
        }
        Self { from: 0.0, to: ticks.last().map_or(most, |(at, _)| *at), logarithmic: false, ticks }
    }

    /// Along time, from the start: the last tick may be before the end.
    pub(super) fn time(seconds: f64) -> Self {
        let mut axis = Self::even(seconds, |at| format!("{at} s"));
        let rough = seconds / 8.0;
        let steps = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0];
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(14_400.0);
        let words = |at: f64| if step < 60.0 { format!("{at} s") } else { format!("{} min", at / 60.0) };
        axis.to = seconds.max(1.0);
        axis.ticks = (0u32..20)
            .map(|number| f64::from(number) * step)
            .take_while(|at| *at <= axis.to)
            .map(|at| (at, words(at)))
            .collect();
        axis
    }

    /// Decades around these values, with words for 1, 2 and 5 of each where there are few.
    pub(super) fn decades(least: f64, most: f64, words: impl Fn(f64) -> String) -> Self {
        let least = least.max(LOG_LEAST);
        let most = most.max(least * 1.01);
        let steps: &[f64] = if (most / least).log10() > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = (-6i32..=9).flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let all: Vec<f64> = all.collect();
        let from = all.iter().rev().find(|at| **at <= least * 1.001).copied().unwrap_or(least);
        let to = all.iter().find(|at| **at >= most * 0.999).copied().unwrap_or(most);
        let ticks =
            all.into_iter().filter(|at| (from * 0.999..=to * 1.001).contains(at)).map(|at| (at, words(at))).collect();
        Self { from, to, logarithmic: true, ticks }
    }

    /// 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.max(LOG_LEAST).log10() } else { value };
        let (from, to) = (scale(self.from), scale(self.to));
        if to > from { ((scale(value) - from) / (to - from)).clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Plot {
    /// The picture.
    pub(super) fn svg(&self) -> String {
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            super::page::escaped(self.name)
        );
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        for (from, to) in &self.shaded {
            let (x, width) = (self.x(*from), self.x(*to) - self.x(*from));
            let _ = write!(
                out,
                "<rect class=\"shade\" x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                bottom - top
            );
        }
        for (at, words) in &self.y.ticks {
            let y = self.y(*at);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                WIDTH - RIGHT
            );
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{words}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for (at, words) in &self.x.ticks {
            let x = self.x(*at);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
                bottom + 5.0
            );
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{words}</text>",
                HEIGHT - 8.0
            );
        }
        for at in &self.marks {
            let x = self.x(*at);
            let _ = write!(out, "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>");
        }
        for curve in &self.curves {
            self.draw(curve, &mut out);
        }
        for (from, to, words) in &self.hints {
            let (x, width) = (self.x(*from), (self.x(*to) - self.x(*from)).max(0.5));
            let words = super::page::escaped(words);
            let _ = write!(
                out,
                "<rect class=\"hint\" x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{words}</title></rect>",
                bottom - top
            );
        }
        out.push_str("</svg>");
        out
    }

    fn draw(&self, curve: &Curve, out: &mut String) {
        let class = curve.class;
        // Gaps part a curve.
        for part in curve.points.split(|(_, y)| y.is_none()).filter(|part| !part.is_empty()) {
            let places: Vec<String> =
                part.iter().filter_map(|(x, y)| y.map(|y| format!("{:.1},{:.1}", self.x(*x), self.y(y)))).collect();
            let (Some((first, _)), Some((last, _))) = (part.first(), part.last()) else { continue };
            if curve.filled {
                let floor = HEIGHT - BOTTOM;
                let (left, right) = (self.x(*first), self.x(*last));
                let _ = write!(
                    out,
                    "<polygon class=\"{class} area\" points=\"{left:.1},{floor} {} {right:.1},{floor}\"/>",
                    places.join(" ")
                );
            }
            if places.len() == 1 {
                let (x, y) = places[0].split_once(',').unwrap_or_default();
                let _ = write!(out, "<circle class=\"{class} dot\" cx=\"{x}\" cy=\"{y}\" r=\"2\"/>");
            } else {
                let _ = write!(out, "<polyline class=\"{class} line\" points=\"{}\"/>", places.join(" "));
            }
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        let ticks = |axis: &Axis| axis.ticks.iter().map(|(_, words)| words.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(ticks(&Axis::even(430.0, |at| at.to_string())), "0 200 400 600");
        assert_eq!(ticks(&Axis::even(0.0, |at| at.to_string())), "0 0.5 1");
        assert_eq!(ticks(&Axis::time(63.0)), "0 s 10 s 20 s 30 s 40 s 50 s 60 s");
        assert_eq!(ticks(&Axis::time(900.0)), "0 min 2 min 4 min 6 min 8 min 10 min 12 min 14 min");
        let axis = Axis::decades(0.3, 120.0, |at| at.to_string());
        assert_eq!(ticks(&axis), "0.1 1 10 100 1000");
        assert!((axis.place(10.0) - 0.5).abs() < 1e-9 && axis.place(1e9) == 1.0 && axis.place(0.0) == 0.0);
        assert_eq!(ticks(&Axis::decades(1.0, 8.0, |at| at.to_string())), "1 2 5 10");
    }

    #[test]
    fn gaps_part_curves_and_words_are_no_markup() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(1.0))];
        let plot = Plot {
            name: "<a>",
            x: Axis::time(3.0),
            y: Axis::even(2.0, |at| at.to_string()),
            curves: vec![Curve { class: "c1", points, filled: true }],
            shaded: vec![(0.0, 1.0)],
            marks: vec![2.0],
            hints: vec![(0.0, 1.0, "a < b".to_owned())],
        };
        let svg = plot.svg();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 1));
        assert_eq!(svg.matches("<polygon").count(), 2);
        assert!(svg.contains("&lt;a&gt;") && svg.contains("a &lt; b"));
    }
}
