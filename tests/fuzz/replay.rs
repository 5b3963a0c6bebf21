//! The inputs that are kept in `corpus/`, tried on every property; no fuzzer needed. `make fuzz` looks for more.

mod properties;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use properties::PROPERTIES;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus");

#[test]
fn what_is_kept_holds() {
    for (name, property) in PROPERTIES {
        let mut inputs: Vec<_> =
            fs::read_dir(Path::new(CORPUS).join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for input in inputs {
            let data = fs::read(&input).unwrap();
            if std::panic::catch_unwind(|| property(&data)).is_err() {
                panic!("{name} does not hold for {}", input.display());
            }
        }
    }
}

#[test]
fn every_property_has_a_target_and_every_directory_a_property() {
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(Path::new(CORPUS).join(directory)).unwrap();
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(&entry.unwrap().path())).collect()
    };
    let expected: BTreeSet<String> = PROPERTIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("."), expected);
    assert_eq!(names("../targets"), expected);
}
