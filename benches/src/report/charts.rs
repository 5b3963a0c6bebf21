//! The plots, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::ratio::duration;
use crate::results::Scope;

use super::ratios::Chart;
use super::scale::{decades, log, number_label, time_label};
use super::series::{Bars, Group, Line};

const SIZE: (u32, u32) = (1000, 480);
/// To the right of a plot, for its legend.
const LEGEND_WIDTH: u32 = 230;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(27, 31, 36);
const GRID: RGBColor = RGBColor(216, 222, 228);

/// Colours that colour-blind readers can distinguish (Okabe and Ito, 2008).
fn colour(engine: &str) -> RGBColor {
    match engine {
        "netlink" => RGBColor(0, 114, 178),
        "kfunc" => RGBColor(0, 0, 0),
        "event-quiet" | "netlink-cold" => RGBColor(86, 180, 233),
        "floor" => RGBColor(0, 158, 115),
        "iter" => RGBColor(213, 94, 0),
        "diag" => RGBColor(204, 121, 167),
        "diag-filter" => RGBColor(230, 159, 0),
        _ => RGBColor(120, 120, 120),
    }
}

/// walk, netlink and destroy, rest
const PARTS: [(&str, RGBColor); 3] = [
    ("walk or scan", RGBColor(0, 114, 178)),
    ("netlink and destroy", RGBColor(230, 159, 0)),
    ("rest", RGBColor(190, 190, 190)),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Latency against the number of sockets, both logarithmic.
///
/// # Errors
/// When plotters cannot draw.
pub fn growth(group: &Group) -> Result<String> {
    lines(group, "client sockets in all", number_label)
}

/// Latency against the percentile.
///
/// # Errors
/// When plotters cannot draw.
pub fn distribution(group: &Group) -> Result<String> {
    lines(group, "percentile of runs", |position| match position.round() as i32 {
        _ if (position - position.round()).abs() > 1e-6 => String::new(),
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        nines => format!("99.{} %", "9".repeat(nines.max(3) as usize - 2)),
    })
}

fn lines(group: &Group, x_title: &str, x_label: impl Fn(f64) -> String) -> Result<String> {
    let points = || group.lines.iter().flat_map(|line| line.points.iter().copied());
    let x = decades(points().map(|point| point.0));
    let y = decades(points().map(|point| point.1));
    draw(|root| {
        root.draw(&Text::new(group.title.clone(), (16, 12), (FONT, 18).into_font().color(&INK)))?;
        let (plot, legend) = root.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&plot)
            .margin_top(48)
            .margin_right(24)
            .margin_bottom(8)
            .margin_left(8)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(Decades::of(x), Decades::of(y))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style((FONT, 14).into_font().color(&INK))
            .axis_desc_style((FONT, 15).into_font().color(&INK))
            .x_desc(x_title)
            .y_desc("time from call to return")
            .x_label_formatter(&|position| x_label(*position))
            .y_label_formatter(&|position| time_label(*position))
            .draw()?;
        for line in &group.lines {
            let colour = colour(&line.engine);
            let at: Vec<(f64, f64)> = line.points.iter().map(|p| (log(p.0), log(p.1))).collect();
            if line.scope == Scope::Known {
                chart.draw_series(DashedLineSeries::new(at.iter().copied(), 6, 5, colour.stroke_width(2)))?;
                chart.draw_series(at.iter().map(|p| Circle::new(*p, 4, colour.stroke_width(2))))?;
            } else {
                chart.draw_series(LineSeries::new(at.iter().copied(), colour.stroke_width(2)))?;
                chart.draw_series(at.iter().map(|p| Circle::new(*p, 4, colour.filled())))?;
            }
        }
        line_legend(&legend, &group.lines)
    })
}

fn line_legend(area: &Area<'_>, lines: &[Line]) -> Result<(), DrawError> {
    // From the slowest to the fastest at the right end, as the lines are.
    let mut lines: Vec<&Line> = lines.iter().collect();
    lines.sort_by(|a, b| {
        let last = |line: &Line| line.points.last().map_or(0.0, |point| point.1);
        last(b).total_cmp(&last(a))
    });
    for (row, line) in (0..).zip(lines) {
        let y = 60 + row * 24;
        let colour = colour(&line.engine);
        let strokes: &[(i32, i32)] =
            if line.scope == Scope::Known { &[(0, 8), (12, 20), (24, 30)] } else { &[(0, 30)] };
        for &(from, to) in strokes {
            area.draw(&PathElement::new([(from, y), (to, y)], colour.stroke_width(2)))?;
        }
        let label = Text::new(line.label.clone(), (38, y - 8), (FONT, 14).into_font().color(&INK));
        area.draw(&label)?;
    }
    Ok(())
}

/// Stacked bars of the shares of each engine's time; the time itself is on the right.
///
/// # Errors
/// When plotters cannot draw.
pub fn split(group: &Bars) -> Result<String> {
    const ROW: u32 = 26;
    const TOP: u32 = 84;
    const LEFT: i32 = 230;
    const WIDTH: f64 = 620.0;
    let height = TOP + ROW * group.bars.len() as u32 + 56;
    draw_sized((SIZE.0, height), |root| {
        let ink = |size: i32| (FONT, size).into_font().color(&INK);
        root.draw(&Text::new(group.title.clone(), (16, 12), ink(18)))?;
        for (number, (name, colour)) in (0..).zip(PARTS) {
            let x = LEFT + number * 190;
            root.draw(&Rectangle::new([(x, 50), (x + 14, 64)], colour.filled()))?;
            root.draw(&Text::new(name, (x + 20, 50), ink(14)))?;
        }
        let bottom = (TOP + ROW * group.bars.len() as u32) as i32;
        for percent in [0, 25, 50, 75, 100] {
            let x = LEFT + (WIDTH * f64::from(percent) / 100.0) as i32;
            root.draw(&PathElement::new([(x, TOP as i32 - 6), (x, bottom + 4)], GRID))?;
            let text = format!("{percent} %");
            root.draw(&Text::new(text.clone(), (x - 4 * text.len() as i32, bottom + 8), ink(14)))?;
        }
        root.draw(&Text::new("share of the time", (LEFT + 250, bottom + 30), ink(15)))?;
        root.draw(&Text::new("median", (LEFT + WIDTH as i32 + 20, TOP as i32 - 26), ink(14)))?;
        for (number, bar) in (0..).zip(&group.bars) {
            let y = TOP as i32 + number * ROW as i32;
            root.draw(&Text::new(bar.label.clone(), (16, y + 3), ink(14)))?;
            let mut from = f64::from(LEFT);
            for (share, (_, colour)) in bar.shares.iter().zip(PARTS) {
                let to = from + share * WIDTH;
                root.draw(&Rectangle::new(
                    [(from.round() as i32, y), (to.round() as i32, y + ROW as i32 - 6)],
                    colour.filled(),
                ))?;
                from = to;
            }
            let time = Text::new(duration(bar.total_ns), (LEFT + WIDTH as i32 + 20, y + 3), ink(14));
            root.draw(&time)?;
        }
        Ok(())
    })
}

/// Bars that begin at 0, or at a decade where the longest is more than twenty times the shortest; a line from the first to
/// the third quartile.
///
/// # Errors
/// When plotters cannot draw.
pub fn ratios(chart: &Chart) -> Result<String> {
    const ROW: i32 = 26;
    const TOP: i32 = 60;
    const LEFT: i32 = 280;
    const WIDTH: f64 = 600.0;
    let medians = || chart.bars.iter().map(|(_, bar)| bar.p50);
    let (least, most) = (medians().fold(f64::INFINITY, f64::min), medians().fold(0.0, f64::max));
    let axis = decades(medians());
    let place = |value: f64| {
        let share = if most > 20.0 * least {
            (log(value) - axis.start) / (axis.end - axis.start)
        } else {
            value / (1.1 * most.max(f64::MIN_POSITIVE))
        };
        LEFT + (WIDTH * share.clamp(0.0, 1.0)).round() as i32
    };
    let bottom = TOP + ROW * chart.bars.len() as i32;
    draw_sized((SIZE.0, bottom as u32 + 44), |root| {
        let ink = |size: i32| (FONT, size).into_font().color(&INK);
        root.draw(&Text::new(chart.title.clone(), (16, 12), ink(18)))?;
        root.draw(&Text::new(chart.axis, (LEFT, bottom + 14), ink(15)))?;
        for (y, (label, bar)) in (TOP..).step_by(ROW as usize).zip(&chart.bars) {
            root.draw(&Text::new(label.clone(), (16, y + 3), ink(14)))?;
            let colour = RGBColor(86, 180, 233);
            root.draw(&Rectangle::new([(LEFT, y), (place(bar.p50), y + ROW - 8)], colour.filled()))?;
            let middle = y + (ROW - 8) / 2;
            let spread = [(place(bar.p25), middle), (place(bar.p75), middle)];
            root.draw(&PathElement::new(spread, INK.stroke_width(2)))?;
            let number = if bar.p50 < 20.0 { format!("{:.3}", bar.p50) } else { format!("{:.0}", bar.p50) };
            let right = place(bar.p50.max(bar.p75)) + 10;
            root.draw(&Text::new(number, (right, y + 3), ink(14)))?;
        }
        Ok(())
    })
}

type DrawError = DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>;

fn draw(work: impl FnOnce(&Area<'_>) -> Result<(), DrawError>) -> Result<String> {
    draw_sized(SIZE, work)
}

fn draw_sized(size: (u32, u32), work: impl FnOnce(&Area<'_>) -> Result<(), DrawError>) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)
            .and_then(|()| work(&root))
            .and_then(|()| root.present())
            .map_err(|error| anyhow!("draw a plot: {error}"))?;
    }
    Ok(svg)
}

/// An axis in decades: grid lines and labels at whole ones only.
struct Decades(RangedCoordf64);

impl Decades {
    fn of(range: std::ops::Range<f64>) -> Self {
        Self(range.into())
    }
}

impl Ranged for Decades {
    type FormatOption = plotters::coord::ranged1d::DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.0.map(value, limit)
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let range = self.0.range();
        (range.start.round() as i32..=range.end.round() as i32).map(f64::from).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0.range()
    }
}
