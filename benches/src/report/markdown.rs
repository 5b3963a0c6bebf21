//! `results.md`.

use crate::results::Results;

use super::tables::{self, Table};

/// Meaning of the words in the tables; the HTML page says the same.
pub const LEGEND: [(&str, &str); 11] = [
    ("targeted", "the walk of one bucket of the index: the first of kfunc and netlink that ran"),
    (
        "iter, diag, diag-filter",
        "full scans of every netns of the world; (known netns): of only those that hold victims, which nobody but the index can know",
    ),
    ("index-scan", "a pass over every bucket of the index, all netns at once"),
    (
        "event, event-quiet",
        "Reaper::handle, all of it, as an embedder has it: right after another event, and the first after a pause with the caches as they are",
    ),
    (
        "service, service-quiet",
        "the round trip over the unix socket of skreap serve, from the client's write to the end of the answer",
    ),
    ("ss", "ss -K with the backend as its filter, one process in each netns, one after the other"),
    (
        "floor",
        "one walk that finds nothing, and the same destroys by exact id with everything known beforehand and a socket open in every netns",
    ),
    ("floor-closed", "as floor, with no socket open: one thread opens, enters and leaves each netns"),
    (
        "floor-quiet, floor-closed-quiet, base-service",
        "the same after a pause; service of the build that was compared with",
    ),
    (
        "walk, destroy",
        "finding, and destroying over netlink; iter does both in one step, all of it counted as walk",
    ),
    (
        "samples",
        "runs after which exactly the victims were dead, by cookie, and all other sockets alive; times are medians and percentiles of single runs",
    ),
];

/// The whole file.
pub fn page(results: &Results) -> String {
    let mut text = "# skreap-bench\n\n## Ratios\n\n".to_owned();
    table(&mut text, &tables::ratios(&results.cases));
    text.push_str("\n## Times\n");
    for (title, cases) in tables::by_world(&results.cases) {
        text.push_str(&format!("\n### {title}\n\n"));
        table(&mut text, &tables::times(&cases));
    }
    text.push_str("\n## Words\n\n");
    for (word, meaning) in LEGEND {
        text.push_str(&format!("* **{word}**: {meaning}.\n"));
    }
    text.push_str("\n## Machine\n\n");
    table(&mut text, &tables::machine(results));
    text
}

/// Adds the table to the text.
pub fn table(text: &mut String, table: &Table) {
    let mut row = |cells: &[String]| {
        text.push('|');
        for cell in cells {
            text.push_str(&format!(" {} |", cell.replace('|', "\\|")));
        }
        text.push('\n');
    };
    row(&table.head);
    let lines: Vec<String> =
        (0..table.head.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned()).collect();
    row(&lines);
    for cells in &table.rows {
        row(cells);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_do_not_end_a_cell() {
        let mut text = String::new();
        let rows = vec![vec!["a|b".to_owned(), "1".to_owned()]];
        table(&mut text, &Table { head: vec!["x".to_owned(), "y".to_owned()], rows });
        assert_eq!(text, "| x | y |\n| --- | ---: |\n| a\\|b | 1 |\n");
    }
}
