//! `report.html`: one file, nothing is loaded from elsewhere.

use anyhow::Result;

use crate::results::Results;

use super::markdown::LEGEND;
use super::tables::{self, Table};
use super::{charts, series};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #1b1f24; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2em; } h3 { margin: 1.8em 0 .5em; font-size: 1.05em; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #d8dee4; padding: .3em .7em; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } th { background: #f6f8fa; }
svg { display: block; max-width: 100%; height: auto; margin: 1em 0; }
dt { font-weight: 600; } dd { margin: 0 0 .4em 1.2em; }
";

/// The whole file.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(results: &Results) -> Result<String> {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>skreap-bench</title>\n<style>{STYLE}</style></head><body>\n<h1>skreap-bench</h1>\n\
         <p>{}, commit {}</p>\n<h2>Ratios</h2>\n",
        escape(&results.machine.kernel),
        escape(&results.machine.commit)
    );
    table(&mut html, &tables::ratios(&results.cases));

    html.push_str("<h2>Latency against the number of sockets</h2>\n");
    for group in series::growths(&results.cases) {
        html.push_str(&charts::growth(&group)?);
    }
    html.push_str("<h2>Percentiles</h2>\n");
    for group in series::distributions(&results.cases) {
        html.push_str(&charts::distribution(&group)?);
    }
    html.push_str("<h2>Where the time goes</h2>\n");
    for group in series::splits(&results.cases) {
        html.push_str(&charts::split(&group)?);
    }

    html.push_str("<h2>Times</h2>\n");
    for (title, cases) in tables::by_world(&results.cases) {
        html.push_str(&format!("<h3>{}</h3>\n", escape(&title)));
        table(&mut html, &tables::times(&cases));
    }
    html.push_str("<h2>Words</h2>\n<dl>");
    for (word, meaning) in LEGEND {
        html.push_str(&format!("<dt>{}</dt><dd>{}</dd>\n", escape(word), escape(meaning)));
    }
    html.push_str("</dl>\n<h2>Machine</h2>\n");
    table(&mut html, &tables::machine(results));
    html.push_str("</body></html>\n");
    Ok(html)
}

fn table(html: &mut String, table: &Table) {
    html.push_str("<table>\n");
    let mut row = |cells: &[String], tag: &str| {
        html.push_str("<tr>");
        for cell in cells {
            html.push_str(&format!("<{tag}>{}</{tag}>", escape(cell)));
        }
        html.push_str("</tr>\n");
    };
    // A head without words is none.
    if table.head.iter().any(|name| !name.is_empty()) {
        row(&table.head, "th");
    }
    for cells in &table.rows {
        row(cells, "td");
    }
    html.push_str("</table>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
