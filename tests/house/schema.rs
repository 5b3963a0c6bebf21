//! `docs/schema` is what the types say.

use std::fs;

use crate::root;

#[test]
fn the_schemas_are_those_of_the_types() {
    let directory = root().join("docs/schema");
    for (name, text) in skreap::schema::files() {
        let kept = fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert!(kept == text, "docs/schema/{name} is not that of the types: run `make schema`");
    }
}
