//! Plots as SVG, readable on a white page and on a dark one, in colours that most colour-blind readers
//! can tell apart. Drawing needs no fonts; the viewer has some.

use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use plotters::coord::combinators::{
    BindKeyPoints as _, IntoLogRange as _, LogCoord, WithKeyPoints,
};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::number;

const SIZE: (u32, u32) = (900, 520);
/// Above the plot, for the title.
const HEAD: u32 = 48;
/// The width of the legend next to the plot: a sample of each line, and its name by letters.
const SAMPLE: u32 = 44;
const LETTER: u32 = 8;
const NAME_HEIGHT: i32 = 22;
/// Okabe and Ito's colours without yellow, which is hard to see on white. Lines beyond them begin
/// again, dashed.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
];
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// Latencies, recorded in microseconds, by percentile: one line for each contender.
pub(crate) fn distribution(
    path: &Path,
    title: &str,
    series: &[(&str, &Histogram<u64>)],
) -> Result<()> {
    /// Requests up to the fifth percentile are left out of the vertical range.
    const QUICKEST: f64 = 1.0 / 0.95;

    let lines: Vec<Line<'_>> =
        series.iter().map(|(name, latencies)| (*name, percentiles(latencies))).collect();
    let points = lines.iter().flat_map(|(_, points)| points).filter(|point| point.0 >= QUICKEST);
    let y = Axis::round("latency in ms", points.map(|point| point.1));
    let percent = |one_in: f64| format!("{} %", 100.0 - 100.0 / one_in);
    let marks = [1.0, 2.0, 10.0, 100.0, 1_000.0, MOST].map(|one_in| (one_in, percent(one_in)));
    let x = Axis { label: "percentile of requests", from: 1.0, to: MOST, marks: marks.to_vec() };
    draw(path, title, [x, y], &lines)
}

/// The axis of percentiles is logarithmic in n, where one request in n lies beyond: 99 % is n = 100. It ends
/// at this n.
const MOST: f64 = 10_000.0;

/// The points of a line: n, and milliseconds. It ends where fewer than ten requests lie beyond.
fn percentiles(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    const STEPS: u32 = 200;

    let known = (latencies.len() as f64 / 10.0).clamp(1.0, MOST);
    let at = |step: u32| {
        let one_in = MOST.powf(f64::from(step) / f64::from(STEPS));
        let latency = latencies.value_at_quantile(1.0 - 1.0 / one_in).max(1);
        (one_in, latency as f64 / 1000.0)
    };
    (0..=STEPS).map(at).take_while(|point| point.0 <= known).collect()
}

/// A logarithmic axis with marks where they are wanted.
struct Axis<'a> {
    label: &'a str,
    from: f64,
    to: f64,
    marks: Vec<(f64, String)>,
}

impl<'a> Axis<'a> {
    /// Around all the values, from one round number to another: 1, 2, 5, 10 and so on. All of them are
    /// marked, or only the powers of ten if there are many.
    fn round(label: &'a str, values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).clamp(1e-6, 1e9);
        let most = values.fold(0.0, f64::max).clamp(least * 1.5, 1e10);
        let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
        let all: Vec<f64> =
            decades.flat_map(|ten| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(ten))).collect();
        let from = all.iter().rfind(|mark| **mark <= least * 1.0001).copied().unwrap_or(least);
        let to = all.iter().find(|mark| **mark >= most * 0.9999).copied().unwrap_or(most);
        let every = if to / from > 1e5 { 3 } else { 1 };
        let marks = all.iter().step_by(every).filter(|mark| (from..=to).contains(*mark));
        let text = |mark: f64| if mark < 1e4 { mark.to_string() } else { number(mark) };
        let marks = marks.map(|mark| (*mark, text(*mark))).collect();
        Self { label, from, to, marks }
    }

    fn range(&self) -> WithKeyPoints<LogCoord<f64>> {
        let marks = self.marks.iter().map(|mark| mark.0).collect::<Vec<f64>>();
        (self.from..self.to).log_scale().with_key_points(marks)
    }

    fn text(&self, value: f64) -> String {
        let mark = self.marks.iter().find(|mark| mark.0 == value);
        mark.map(|mark| mark.1.clone()).unwrap_or_default()
    }
}

fn draw(path: &Path, title: &str, [x, y]: [Axis<'_>; 2], lines: &[Line<'_>]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(HEAD);
    // A long title is in smaller letters, so that it fits.
    let size = (94 * 20 / title.chars().count().max(1) as u32).min(20);
    head.draw(&Text::new(title.to_owned(), (20, 18), text(size)))?;
    let longest = lines.iter().map(|line| line.0.chars().count()).max().unwrap_or(0);
    let (plot, side) = rest.split_horizontally(SIZE.0 - SAMPLE - LETTER * longest as u32);
    let mut chart = ChartBuilder::on(&plot)
        .margin_left(10)
        .margin_right(24)
        .margin_bottom(8)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(x.range(), y.range())?;
    chart
        .configure_mesh()
        .x_desc(x.label)
        .y_desc(y.label)
        .x_label_formatter(&|value| x.text(*value))
        .y_label_formatter(&|value| y.text(*value))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13, &INK))
        .axis_desc_style(("sans-serif", 14, &INK))
        .draw()?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let style = COLOURS[index % COLOURS.len()].stroke_width(2);
        let dash = if index < COLOURS.len() { (SIZE.0 as i32, 0) } else { (7, 4) };
        let points = points.iter().copied();
        chart.draw_series(DashedLineSeries::new(points, dash.0, dash.1, style))?;
        let height = 12 + index as i32 * NAME_HEIGHT;
        for from in (0..24).step_by((dash.0 + dash.1).min(24) as usize) {
            let to = (from + dash.0).min(24);
            side.draw(&PathElement::new(vec![(from, height), (to, height)], style))?;
        }
        side.draw(&Text::new((*name).to_owned(), (32, height), text(14)))?;
    }
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_goes_from_one_mark_to_another() {
        let axis = Axis::round("ms", [0.3, 4.0, 120.0].into_iter());
        assert_eq!((axis.from, axis.to), (0.2, 200.0));
        let marks: Vec<&str> = axis.marks.iter().map(|mark| mark.1.as_str()).collect();
        assert_eq!(marks, ["0.2", "0.5", "1", "2", "5", "10", "20", "50", "100", "200"]);
    }

    #[test]
    fn many_decades_are_marked_at_powers_of_ten() {
        let axis = Axis::round("ms", [0.05, 20_000.0].into_iter());
        let marks: Vec<&str> = axis.marks.iter().map(|mark| mark.1.as_str()).collect();
        assert_eq!(marks, ["0.1", "1", "10", "100", "1000", "10,000"]);
    }

    #[test]
    fn a_line_ends_where_hardly_anything_lies_beyond() {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        (1..=1000).for_each(|ms| latencies.record(ms * 1000).unwrap());
        let points = percentiles(&latencies);
        let (one_in, ms) = points[points.len() - 1];
        let nines = one_in.log10();
        assert!((1.97..=2.0).contains(&nines) && (988.0..993.0).contains(&ms), "{nines} {ms}");
        assert_eq!(percentiles(&Histogram::new(3).unwrap()).len(), 1);
    }

    #[test]
    fn a_plot_has_a_title_names_and_marks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        (1..=100_000).for_each(|us| latencies.record(us).unwrap());
        let names: Vec<String> = (0..9).map(|index| format!("contender {index} <&>")).collect();
        let series: Vec<(&str, &Histogram<u64>)> =
            names.iter().map(|name| (name.as_str(), &latencies)).collect();
        distribution(&path, "A title", &series).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["A title", "contender 8 &lt;&amp;&gt;", "99.99 %", "latency in ms", "100"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }
}
