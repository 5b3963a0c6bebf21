//! Names of the objects that the testbed creates in the system: `skreap-PID-LABEL`.
//!
//! The PID is that of the creating process, so that [`sweep`](super::sweep) can distinguish
//! leftovers from the objects of a running testbed.

use anyhow::{Result, bail};

/// Prefix of every name.
const PREFIX: &str = "skreap-";
/// Leaves room for prefix and PID within the 255 bytes of a file name.
const LONGEST_LABEL: usize = 200;

/// The name of this process's thing called `label`.
pub(super) fn make(label: &str) -> Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if label.is_empty() || label.len() > LONGEST_LABEL || !label.chars().all(fits) {
        bail!("label {label:?}: want 1 to {LONGEST_LABEL} letters, digits, dots, dashes, underscores");
    }
    Ok(format!("{PREFIX}{}-{label}", std::process::id()))
}

/// The PID in a name made by [`make`], or `None` for other names.
pub(super) fn creator(name: &str) -> Option<u32> {
    let (pid, label) = name.strip_prefix(PREFIX)?.split_once('-')?;
    if label.is_empty() || pid.starts_with('+') {
        return None;
    }
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_maker() {
        assert_eq!(creator(&make("a-b.c").unwrap()), Some(std::process::id()));
    }

    #[test]
    fn foreign_names_have_no_creator() {
        for name in ["skreap", "skreap-", "skreap-12", "skreap-12-", "skreap-x-y", "other-1-a"] {
            assert_eq!(creator(name), None, "{name}");
        }
    }

    #[test]
    fn labels_are_plain_file_names() {
        for label in ["", "a/b", "..\n", "a b", &"x".repeat(201)] {
            assert!(make(label).is_err(), "{label:?}");
        }
    }
}
