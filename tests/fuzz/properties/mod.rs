//! What must hold for any input. Each property panics where it does not; the fuzzer looks for such inputs, and
//! `replay.rs` tries those that are kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a property panics where it does not hold")]

pub mod connection;
pub mod lines;
pub mod records;
pub mod report;
pub mod request;
pub mod scrape;
pub mod selector;
pub mod sock_diag;

/// One property: holds for these bytes, or panics.
pub type Property = fn(&[u8]);

/// Every property, by the name of its fuzz target and of the directory of its inputs.
pub const PROPERTIES: [(&str, Property); 8] = [
    ("connection", connection::holds),
    ("lines", lines::holds),
    ("records", records::holds),
    ("report", report::holds),
    ("request", request::holds),
    ("scrape", scrape::holds),
    ("selector", selector::holds),
    ("sock_diag", sock_diag::holds),
];

/// Splits off the number of bytes that the first byte says: a part of the input that steers the rest.
fn head(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((&length, rest)) = data.split_first() else { return (&[], &[]) };
    rest.split_at(usize::from(length).min(rest.len()))
}
