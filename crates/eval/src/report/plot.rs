//! A plot as SVG: one line for each method, whatever its budgets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::html::escaped;

/// A point with the method that it stands for.
pub(super) struct Point<'a> {
    pub(super) method: &'a str,
    pub(super) x: f64,
    pub(super) y: f64,
    /// Half of its error bar.
    pub(super) error: f64,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Okabe and Ito's colours, which people with any colour vision can tell apart.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a"];

/// The plot of some points, with the names of its axes.
pub(super) fn plot(points: &[Point<'_>], x_name: &str, y_name: &str) -> String {
    let xs = Axis::over(points.iter().map(|point| (point.x, point.x)), LEFT, WIDTH - RIGHT);
    let bars = points.iter().map(|point| (point.y - point.error, point.y + point.error));
    let ys = Axis::over(bars, HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by {}\">\n",
        escaped(y_name),
        escaped(x_name)
    );
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, at) in xs.ticks() {
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
        let y = bottom + 16.0;
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{y}\" text-anchor=\"middle\">{value}</text>");
    }
    for (value, at) in ys.ticks() {
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
        let (x, y) = (LEFT - 6.0, at + 4.0);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{value}</text>");
    }
    let (middle, y) = ((LEFT + right) / 2.0, HEIGHT - 8.0);
    let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escaped(x_name));
    let middle = (TOP + bottom) / 2.0;
    let _ = writeln!(
        svg,
        "<text transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escaped(y_name)
    );
    // What there is to lose, over the whole width.
    for dense in points.iter().filter(|point| point.method == "none") {
        let _ = writeln!(svg, "<path class=\"dense\" d=\"M{LEFT} {:.1}H{right}\"/>", ys.at(dense.y));
    }
    for (number, (_, points)) in families(points).into_iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let places: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", xs.at(point.x), ys.at(point.y))).collect();
        let _ =
            writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>", places.join(" "));
        for point in points {
            let (x, y) = (xs.at(point.x), ys.at(point.y));
            let (low, high) = (ys.at(point.y - point.error), ys.at(point.y + point.error));
            let _ = writeln!(
                svg,
                "<path stroke=\"{colour}\" d=\"M{x:.1} {low:.1}V{high:.1}\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{}: {:.4} at {:.4}</title></circle>",
                escaped(point.method),
                point.y,
                point.x
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// The names and colours of the lines of a plot.
pub(super) fn legend(points: &[Point<'_>]) -> String {
    let mut text = String::from("<p class=\"legend\">");
    for (number, (family, _)) in families(points).into_iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let _ = write!(text, "<span><i style=\"background:{colour}\"></i>{}</span> ", escaped(family));
    }
    text.push_str("</p>\n");
    text
}

/// The points of each method under its name without parameters, from left to right.
fn families<'a, 'b>(points: &'b [Point<'a>]) -> BTreeMap<&'a str, Vec<&'b Point<'a>>> {
    let mut families: BTreeMap<&str, Vec<&Point<'_>>> = BTreeMap::new();
    for point in points {
        let end = point.method.find(['(', '@']).unwrap_or(point.method.len());
        families.entry(point.method[..end].trim()).or_default().push(point);
    }
    families.values_mut().for_each(|points| points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    families
}

/// From numbers to places.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis that shows all of some ranges, with a little room around, but for numbers below 0 where there are none.
    fn over(ranges: impl Iterator<Item = (f64, f64)>, from: f64, to: f64) -> Self {
        let all =
            ranges.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (a, b)| (low.min(a), high.max(b)));
        let (low, high) = if all.0 <= all.1 { all } else { (0.0, 1.0) };
        let room = if high > low { 0.06 * (high - low) } else { high.abs().max(1.0) * 0.1 };
        let least = if low < 0.0 { low - room } else { (low - room).max(0.0) };
        Self { low: least, high: high + room, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round numbers that divide the axis into about five, and their places.
    fn ticks(&self) -> Vec<(String, f64)> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|&step| step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        let tick = |number: i64| {
            let value = number as f64 * step;
            (format!("{value:.digits$}"), self.at(value))
        };
        (first..=last).map(tick).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(method: &str, x: f64, y: f64) -> Point<'_> {
        Point { method, x, y, error: 0.1 }
    }

    #[test]
    fn a_method_is_one_line_whatever_its_budgets() {
        let points =
            [point("none", 1.0, 20.0), point("window@0.5", 0.5, 22.0), point("window(recent=9)", 0.2, 30.0)];
        let svg = plot(&points, "keep", "perplexity");
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches("class=\"dense\"").count(), 1);
        assert_eq!(legend(&points).matches("<span>").count(), 2);
    }

    #[test]
    fn every_point_lies_inside_and_ticks_are_round() {
        let axis = Axis::over([(0.13, 0.13), (0.97, 0.97)].into_iter(), 0.0, 100.0);
        assert!(axis.at(0.13) > 0.0 && axis.at(0.97) < 100.0);
        let names: Vec<String> = axis.ticks().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["0.2", "0.4", "0.6", "0.8", "1.0"]);
        let one = Axis::over([(3.0, 3.0)].into_iter(), 0.0, 100.0);
        assert!((one.at(3.0) - 50.0).abs() < 1e-9 && !one.ticks().is_empty());
        // A share of nothing stands on the axis, and no share is less.
        let none = Axis::over([(0.0, 0.0)].into_iter(), 0.0, 100.0);
        assert!(none.at(0.0) == 0.0 && none.ticks().iter().all(|(name, _)| !name.starts_with('-')));
    }
}
