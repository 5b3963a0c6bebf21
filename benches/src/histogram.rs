//! HdrHistograms of the samples, in the two forms that other tools read.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::results::{Case, write_whole};

/// Significant digits kept: values are at most 0.1 % too high.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Lines of the percentile distribution for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;
/// Buckets that three significant digits need.
const SUB_BUCKETS: u32 = 2048;

/// One `.hgrm` for each case, and all of them in `histograms.hlog`.
///
/// # Errors
/// When a sample does not fit, or a file cannot be written.
pub fn write(cases: &[Case], out: &Path) -> Result<()> {
    let directory = out.join("hgrm");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut all = Vec::with_capacity(cases.len());
    for case in cases.iter().filter(|case| case.samples > 0) {
        let histogram = of(&case.raw.total_ns)?;
        let name = file_name(case);
        write_whole(&directory.join(format!("{name}.hgrm")), percentile_distribution(&histogram).as_bytes())?;
        all.push((name, histogram));
    }
    let log = interval_log(all.iter().map(|(name, histogram)| (name.as_str(), histogram)))?;
    write_whole(&out.join("histograms.hlog"), &log)
}

/// Names a case without blanks: `udp-100ns-100000-shared-v10-iter-all`.
fn file_name(case: &Case) -> String {
    format!(
        "{}-{}ns-{}-{}-v{}-{}-{}",
        case.proto,
        case.netns,
        case.sockets,
        case.tables.name(),
        case.victims,
        case.engine,
        case.scope.name()
    )
}

/// The histogram of some samples in nanoseconds.
///
/// # Errors
/// When a sample does not fit, which no u64 does.
pub fn of(samples_ns: &[u64]) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new(SIGNIFICANT_DIGITS).context("make a histogram")?;
    for &ns in samples_ns {
        histogram.record(ns).with_context(|| format!("record a sample of {ns} ns"))?;
    }
    Ok(histogram)
}

/// The percentile distribution (`.hgrm`), as the plotter at hdrhistogram.github.io reads it. In
/// microseconds.
pub fn percentile_distribution(histogram: &Histogram<u64>) -> String {
    let us = |ns: f64| ns / 1000.0;
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = us(step.value_iterated_to() as f64);
        // Writing to a String cannot fail.
        let _ = write!(text, "{value:12.3} {quantile:14.12} {count:10}");
        let _ =
            if quantile < 1.0 { writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]",
        us(histogram.mean()),
        us(histogram.stdev()),
        us(histogram.max() as f64),
        histogram.len(),
        histogram.buckets(),
        SUB_BUCKETS,
    );
    text
}

/// Histograms, each with the name of its case, as an HdrHistogram interval log: one line each, the
/// V2 form (deflate) in base64. In nanoseconds; the maximum of a line is in milliseconds.
///
/// # Errors
/// When a name is no tag (blank or comma in it).
pub fn interval_log<'a>(cases: impl Iterator<Item = (&'a str, &'a Histogram<u64>)>) -> Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Total time of each sample, in nanoseconds; one line a case, timestamps are ordinals]")
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut log, &mut serializer)
        .context("begin the interval log")?;
    for (ordinal, (name, histogram)) in (0..).zip(cases) {
        let tag = Tag::new(name).with_context(|| format!("{name:?} is no tag of an interval log"))?;
        writer
            .write_histogram(histogram, Duration::from_secs(ordinal), Duration::from_secs(1), Some(tag))
            .map_err(|e| anyhow::anyhow!("write the histogram of {name}: {e:?}"))?;
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::results::tests::case;

    #[test]
    fn histograms_are_files_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let empty = Case { samples: 0, ..case("iter", 10, 1, 9) };
        write(&[case("netlink", 1000, 10, 5000), empty], directory.path()).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path().join("hgrm"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["udp-100ns-1000-shared-v10-netlink-all.hgrm"]);
        let log = fs::read_to_string(directory.path().join("histograms.hlog")).unwrap();
        assert_eq!(log.lines().filter(|line| line.starts_with("Tag=")).count(), 1);
    }

    #[test]
    fn distribution_in_microseconds() {
        let text = percentile_distribution(&of(&[1000, 2000, 3000, 4000]).unwrap());
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[0].split_whitespace().count(), 4);
        assert_eq!(rows[2].split_whitespace().collect::<Vec<_>>(), ["1.000", "0.000000000000", "1", "1.00"]);
        let last = rows.iter().rev().find(|row| !row.starts_with('#')).unwrap();
        assert!(last.contains("1.000000000000") && last.trim().ends_with('4'), "{last}");
        assert!(text.contains("Total count    =            4"));
    }

    #[test]
    fn log_can_be_read_again() {
        let histogram = of(&[5, 7]).unwrap();
        let log = interval_log([("a", &histogram), ("b-c", &histogram)].into_iter()).unwrap();
        let tags: Vec<String> = IntervalLogIterator::new(&log)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(h) => h.tag().map(|t| t.as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["a", "b-c"]);
    }

    #[test]
    fn a_blank_is_no_tag() {
        assert!(interval_log([("a b", &of(&[1]).unwrap())].into_iter()).is_err());
    }
}
