//! Filters of a log, as people write them on a command line.

/// The levels, in the order of messages.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks that no word of a `tracing` filter is a level that is misspelt. Such a word alone would be the name of a target,
/// so that nothing is logged, without a word about it; a target of others is written with its level, as in `hyper=trace`.
///
/// # Errors
/// What to write instead.
pub fn check_log_filter(filter: &str) -> Result<(), String> {
    // What is in braces are fields of spans.
    let words = filter.split(',').filter(|_| !filter.contains(['{', '[']));
    let is_word = |word: &&str| !word.is_empty() && !word.contains(['=', ':']);
    let known = |word: &str| {
        LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
            || word.starts_with("skreap")
            || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
    };
    match words.map(str::trim).filter(is_word).find(|word| !known(word)) {
        Some(word) => Err(format!(
            "{word:?} is no level; write {}, or a filter such as skreap::service=debug",
            LEVELS.join(", ")
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_no_target() {
        for good in [
            "",
            "info",
            "WARN",
            "off",
            "5",
            "skreap",
            "skreap_bpf=trace,info",
            "warn, skreap::service::source=debug",
            "hyper=trace",
            "[event{id,by}]=debug",
        ] {
            assert_eq!(check_log_filter(good), Ok(()), "{good}");
        }
        let message = "\"inof\" is no level; write off, error, warn, info, debug, trace, or a filter such as \
                       skreap::service=debug";
        for bad in ["inof", "skreap=debug,inof", " inof"] {
            assert_eq!(check_log_filter(bad).unwrap_err(), message, "{bad}");
        }
    }
}
