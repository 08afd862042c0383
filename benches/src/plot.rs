//! Plots as SVG: readable on a white page and on a dark one, in colours that those who do not see all
//! of them can tell apart. No fonts are needed to draw them: whoever shows them has some.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::number;

const SIZE: (u32, u32) = (900, 520);
/// Above the plot, for the title.
const HEAD: u32 = 48;
/// Names of the lines stand beside the plot, where they cover none: how high each is, how wide a letter
/// is on average in a wide font, and what stands before a name.
const NAME_HEIGHT: u32 = 22;
const LETTER: u32 = 8;
const SAMPLE: u32 = 44;

/// Okabe and Ito's colours without yellow, which is hard to see on white. Lines beyond them begin
/// anew, dashed.
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

/// Percentiles with a mark on the axis.
const PERCENTILES: [f64; 6] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];

/// Latencies, recorded in microseconds, by percentile: one line for each contender.
///
/// A line ends where fewer than ten values lie beyond.
pub(crate) fn distribution(
    path: &Path,
    title: &str,
    series: &[(&str, &Histogram<u64>)],
) -> Result<()> {
    let lines: Vec<Line<'_>> =
        series.iter().map(|(name, latencies)| (*name, percentiles(latencies))).collect();
    let marks = PERCENTILES.map(|percent| (nines(percent / 100.0), format!("{percent} %")));
    let x = Axis { from: 0.0, to: nines(0.9999), scale: Scale::Linear, marks: marks.to_vec() };
    // The quickest few say nothing, and would take up much of the plot.
    let (quickest, points) = (nines(0.05), lines.iter().flat_map(|(_, points)| points));
    let y = Axis::logarithmic(points.filter(|point| point.0 >= quickest).map(|point| point.1));
    draw(path, title, ("percentile of requests", "latency in ms"), (x, y), &lines)
}

/// Any lines, both axes logarithmic. The horizontal one is marked where there are points.
pub(crate) fn lines(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[(&str, Vec<(f64, f64)>)],
) -> Result<()> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let mut places: Vec<f64> = points().map(|point| point.0).collect();
    places.sort_unstable_by(f64::total_cmp);
    places.dedup();
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return Err(anyhow!("there is nothing to draw in {}", path.display()));
    };
    let marks = places.iter().map(|place| (*place, format!("{place}"))).collect();
    let x = Axis { from: *first, to: *last, scale: Scale::Logarithmic, marks };
    let y = Axis::logarithmic(points().map(|point| point.1));
    draw(path, title, (x_label, y_label), (x, y), series)
}

type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// How many nines a share has: 0.99 has two.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// The points of a line: nines, and milliseconds.
fn percentiles(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    const STEPS: u32 = 200;
    let most = nines(0.9999);
    let known = (latencies.len() as f64 / 10.0).log10().clamp(0.0, most);
    let at = |step: u32| {
        let nines = most * f64::from(step) / f64::from(STEPS);
        let latency = latencies.value_at_quantile(1.0 - 10f64.powf(-nines)).max(1);
        (nines, latency as f64 / 1000.0)
    };
    (0..=STEPS).map(at).take_while(|point| point.0 <= known).collect()
}

#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Logarithmic,
}

/// What plotters calls a range, with marks just where they are wanted.
#[derive(Clone)]
struct Axis {
    from: f64,
    to: f64,
    scale: Scale,
    marks: Vec<(f64, String)>,
}

impl Axis {
    /// Around all the values, from one round number to another: 1, 2, 5, 10 and so on. All of them are
    /// marked, or only every power of ten if there are many.
    fn logarithmic(values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).clamp(1e-6, 1e9);
        let most = values.fold(0.0, f64::max).clamp(least * 1.5, 1e10);
        let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
        let round = |steps: &'static [f64]| {
            let decades = decades.clone();
            decades.flat_map(|ten| steps.iter().map(move |step| step * 10f64.powi(ten)))
        };
        let all: Vec<f64> = round(&[1.0, 2.0, 5.0]).collect();
        let from = all.iter().rfind(|mark| **mark <= least * 1.0001).copied().unwrap_or(least);
        let to = all.iter().find(|mark| **mark >= most * 0.9999).copied().unwrap_or(most);
        let marked: &[f64] = if to / from > 1e5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let inside = round(marked).filter(|mark| (from..=to).contains(mark));
        let marks = inside.map(|mark| (mark, short(mark))).collect();
        Self { from, to, scale: Scale::Logarithmic, marks }
    }
}

/// A round number without the zeros behind it.
fn short(value: f64) -> String {
    if value < 1.0 {
        format!("{value:.6}").trim_end_matches('0').to_owned()
    } else {
        number_of(value)
    }
}

fn number_of(value: f64) -> String {
    if value < 1e4 { format!("{value:.0}") } else { number(value) }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let scaled = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.ln(),
        };
        let (from, to) = (scaled(self.from), scaled(self.to));
        let share = ((scaled(*value) - from) / (to - from)).clamp(0.0, 1.0);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.iter().map(|mark| mark.0).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let mark = self.marks.iter().find(|mark| mark.0 == *value);
        mark.map(|mark| mark.1.clone()).unwrap_or_default()
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    path: &Path,
    title: &str,
    labels: (&str, &str),
    axes: (Axis, Axis),
    lines: &[Line<'_>],
) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        root.fill(&WHITE)?;
        let (head, rest) = root.split_vertically(HEAD);
        head.draw(&Text::new(title.to_owned(), (20, 18), text(title_size(title), HPos::Left)))?;
        let longest = lines.iter().map(|line| line.0.chars().count()).max().unwrap_or(0);
        let (plot, side) = rest.split_horizontally(SIZE.0 - SAMPLE - LETTER * longest as u32);
        draw_lines(&plot, labels, axes, lines)?;
        draw_names(&side, lines)?;
        Ok(root.present()?)
    };
    drawn().map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

/// A long title is in smaller letters, so that it fits.
fn title_size(title: &str) -> u32 {
    /// How many letters fit at the usual size.
    const FIT: u32 = 94;
    const USUAL: u32 = 20;

    (FIT * USUAL / title.chars().count().max(1) as u32).min(USUAL)
}

fn text(size: u32, side: HPos) -> TextStyle<'static> {
    let font = ("sans-serif", size).into_font();
    font.color(&INK).pos(Pos::new(side, VPos::Center))
}

fn draw_lines(
    plot: &Area<'_>,
    labels: (&str, &str),
    axes: (Axis, Axis),
    lines: &[Line<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(plot)
        .margin_left(10)
        .margin_right(24)
        .margin_bottom(8)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(axes.0, axes.1)
        .map_err(said)?;
    chart
        .configure_mesh()
        .x_desc(labels.0)
        .y_desc(labels.1)
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13, &INK))
        .axis_desc_style(("sans-serif", 14, &INK))
        .draw()
        .map_err(said)?;
    for (index, (_, points)) in lines.iter().enumerate() {
        let (style, dashed) = style(index);
        let points = points.iter().copied();
        if dashed {
            chart.draw_series(DashedLineSeries::new(points, 7, 4, style)).map_err(said)?;
        } else {
            chart.draw_series(LineSeries::new(points, style)).map_err(said)?;
        }
    }
    Ok(())
}

/// Beside the plot, in the order of the lines.
fn draw_names(side: &Area<'_>, lines: &[Line<'_>]) -> Result<(), Box<dyn std::error::Error>> {
    for (index, (name, _)) in lines.iter().enumerate() {
        let ((style, dashed), y) = (style(index), (12 + index as u32 * NAME_HEIGHT) as i32);
        let pieces: &[(i32, i32)] = if dashed { &[(0, 7), (10, 17), (20, 24)] } else { &[(0, 24)] };
        for (from, to) in pieces {
            side.draw(&PathElement::new(vec![(*from, y), (*to, y)], style)).map_err(said)?;
        }
        side.draw(&Text::new((*name).to_owned(), (32, y), text(14, HPos::Left))).map_err(said)?;
    }
    Ok(())
}

/// How the line with this index is drawn, and whether it is dashed.
fn style(index: usize) -> (ShapeStyle, bool) {
    (COLOURS[index % COLOURS.len()].stroke_width(2), index >= COLOURS.len())
}

/// Plotters' errors borrow what is drawn on.
fn said(error: impl std::fmt::Display) -> Box<dyn std::error::Error> {
    error.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_goes_from_one_mark_to_another() {
        let axis = Axis::logarithmic([0.3, 4.0, 120.0].into_iter());
        assert_eq!((axis.from, axis.to), (0.2, 200.0));
        let marks: Vec<&str> = axis.marks.iter().map(|mark| mark.1.as_str()).collect();
        assert_eq!(marks, ["0.2", "0.5", "1", "2", "5", "10", "20", "50", "100", "200"]);
        assert_eq!(axis.map(&0.2, (500, 0)), 500);
        assert_eq!(axis.map(&200.0, (500, 0)), 0);
    }

    #[test]
    fn many_decades_are_marked_at_powers_of_ten() {
        let axis = Axis::logarithmic([0.05, 20_000.0].into_iter());
        let marks: Vec<&str> = axis.marks.iter().map(|mark| mark.1.as_str()).collect();
        assert_eq!(marks, ["0.1", "1", "10", "100", "1000", "10,000"]);
    }

    #[test]
    fn a_line_ends_where_hardly_anything_lies_beyond() {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        (1..=1000).for_each(|ms| latencies.record(ms * 1000).unwrap());
        let points = percentiles(&latencies);
        let (nines, ms) = points[points.len() - 1];
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
        lines(&path, "d", "x", "y", &[("one", vec![(1.0, 2.0), (16.0, 1.0)])]).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("16"));
        assert!(lines(&path, "d", "x", "y", &[]).is_err());
    }
}
