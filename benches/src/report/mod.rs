//! `skreap-bench report`: tables and plots, drawn from `results.json` and nothing else.

mod charts;
mod html;
mod markdown;
mod ratios;
mod readme;
mod scale;
mod series;
mod tables;
mod terminal;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::histogram;
use crate::results::{Results, write_whole};

/// File name of the tables.
pub const MARKDOWN: &str = "results.md";
/// File name of the page with plots.
pub const HTML: &str = "report.html";

/// File name of the plot of a run of another command.
pub const RATIOS: &str = "ratios.svg";

/// Reads `results.json` of the directory and writes `results.md`, `report.html`, the histograms
/// and, for use in other documents, the latency plots (`latency-*.svg`) beside it. Of the commands `hooks`, `selection` and
/// `memory` it writes one plot.
///
/// # Errors
/// When there is no result, or a file cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    if let Some(chart) = ratios::read(directory)? {
        return write_whole(&directory.join(RATIOS), charts::ratios(&chart)?.as_bytes());
    }
    let results = Results::read(directory)?;
    write_whole(&directory.join(MARKDOWN), markdown::page(&results).as_bytes())?;
    write_whole(&directory.join(HTML), html::page(&results)?.as_bytes())?;
    histogram::write(&results.cases, directory)?;
    for group in series::growths(&results.cases) {
        write_whole(&directory.join(plot_file(&group)), charts::growth(&group)?.as_bytes())?;
    }
    Ok(())
}

/// The table of the README from these runs, as Markdown.
///
/// # Errors
/// When there is no result.
pub fn readme(directories: &[PathBuf]) -> Result<String> {
    let runs = directories.iter().map(|directory| Results::read(directory)).collect::<Result<Vec<_>>>()?;
    let mut text = String::new();
    markdown::table(&mut text, &readme::table(&runs));
    Ok(text)
}

/// The same tables in columns, for a terminal.
///
/// # Errors
/// When there is no result.
pub fn terminal(directory: &Path) -> Result<String> {
    Ok(terminal::page(&Results::read(directory)?))
}

/// `latency-udp-100-netns-shared-tables-10-victims.svg`
fn plot_file(group: &series::Group) -> String {
    let (world, _) = group.title.split_once(':').unwrap_or((&group.title, ""));
    let words: Vec<_> = world.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!("latency-{}.svg", words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::case;

    #[test]
    fn written_from_results_alone() {
        let directory = tempfile::tempdir().unwrap();
        let cases = vec![
            case("netlink", 1_000, 10, 30_000),
            case("netlink", 100_000, 10, 31_000),
            case("iter", 1_000, 10, 6_000_000),
            case("iter", 100_000, 10, 620_000_000),
        ];
        Results { cases, ..Results::default() }.write(directory.path()).unwrap();
        write(directory.path()).unwrap();
        let markdown = std::fs::read_to_string(directory.path().join(MARKDOWN)).unwrap();
        assert!(markdown.contains("19,999"), "{markdown}");
        let html = std::fs::read_to_string(directory.path().join(HTML)).unwrap();
        assert_eq!(html.matches("<svg").count(), 3);
        let plots: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".svg"))
            .collect();
        assert_eq!(plots, ["latency-udp-100-netns-shared-tables-10-victims.svg"]);
        assert!(
            !html.contains("http://")
                || html.matches("http://").count() == html.matches("www.w3.org").count()
        );
    }

    #[test]
    fn an_empty_result_is_a_page_too() {
        let directory = tempfile::tempdir().unwrap();
        Results::default().write(directory.path()).unwrap();
        write(directory.path()).unwrap();
    }
}
