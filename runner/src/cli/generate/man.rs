//! A manual page: clap's definition of a command, with the additions of `pages`.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::pages::{self, Page};

/// Commands that have a page.
pub(super) fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// `skreap-serve`, of a command that was built.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

pub(super) fn file_name(command: &Command) -> String {
    format!("{}.1", name(command))
}

/// The page as roff, of a command that was built.
pub(super) fn page(command: &Command) -> Vec<u8> {
    let page = pages::of(command.get_name());
    let source = format!("skreap {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).manual("skreap").source(source);
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render_title(&mut out).and_then(|()| man.render_name_section(&mut out));
    let _ = synopsis(command).to_writer(&mut out);
    let _ = description(page.map_or(&[], |page| page.more)).to_writer(&mut out);
    out.extend(options(&man));
    if shown(command).next().is_some() {
        let _ = commands(command).to_writer(&mut out);
    }
    if let Some(page) = page {
        let _ = rest(command, page).to_writer(&mut out);
    }
    out
}

/// The options. Their groups are parts of the section, which `clap_mangen` makes sections of their own.
fn options(man: &Man) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render_options_section(&mut out);
    let text = String::from_utf8_lossy(&out);
    let lines = text.lines().map(|line| match line.strip_prefix(".SH ") {
        Some(heading) if heading != "OPTIONS" => format!(".SS {heading}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect::<String>().into_bytes()
}

fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let words = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    match usage.strip_prefix(words) {
        Some(rest) => roff.text([bold(words), roman(rest)]),
        None => roff.text([roman(usage)]),
    };
    roff
}

fn description(texts: &[&str]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    for text in texts {
        roff.control("PP", []);
        roff.text([roman(*text)]);
    }
    roff
}

fn commands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for sub in shown(command) {
        roff.control("TP", []);
        roff.text([bold(name(sub)), roman("(1)")]);
        roff.text([roman(sub.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    roff
}

/// A section of terms and their meanings.
fn terms(roff: &mut Roff, heading: &str, terms: &[(&str, &str)]) {
    if terms.is_empty() {
        return;
    }
    roff.control("SH", [heading]);
    for (term, text) in terms {
        roff.control("TP", []);
        roff.text([italic(*term)]);
        roff.text([roman(*text)]);
    }
}

fn rest(command: &Command, page: &Page) -> Roff {
    let mut roff = Roff::new();
    let exit = if page.command == "audit" { &pages::EXIT_OF_AUDIT } else { &pages::EXIT };
    terms(&mut roff, "EXIT STATUS", exit);
    terms(&mut roff, "ENVIRONMENT", page.environment);
    terms(&mut roff, "FILES", page.files);
    roff.control("SH", ["EXAMPLES"]);
    for (text, example) in page.examples {
        roff.control("PP", []);
        roff.text([roman(*text)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([bold(*example)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    let mut see: Vec<String> = page.see.iter().map(|see| (*see).to_owned()).collect();
    if page.command == "skreap" {
        see.extend(shown(command).map(|sub| format!("{}(1)", name(sub))));
    }
    roff.text([roman(see.join(", "))]);
    roff.control("PP", []);
    roff.text([
        roman("More, including metrics and troubleshooting: "),
        italic("/usr/share/doc/skreap/operating.md"),
        roman(" and the files in the same directory."),
    ]);
    roff
}
