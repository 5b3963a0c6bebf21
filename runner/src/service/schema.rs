//! JSON Schemas (draft 2020-12) of what goes in and what comes out, made from the types.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};
use serde_json::Value;
use skreap_core::Request;

use crate::service::source::Reply;

/// The schema of one request: what [`Request::parse`] reads.
#[must_use]
pub fn request() -> Value {
    of::<Request>("A request to skreap serve: one JSON object a line")
}

/// The schema of one answer. Later versions may add fields; a reader ignores those that it does not know.
#[must_use]
pub fn answer() -> Value {
    of::<Reply>("An answer of skreap serve: one JSON object a line")
}

/// Name and contents of the files that `skreap generate schema` writes.
#[must_use]
pub fn files() -> [(&'static str, String); 2] {
    [("request.json", request()), ("answer.json", answer())]
        .map(|(name, schema)| (name, format!("{schema:#}\n")))
}

fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    RecursiveTransform(plain_description).transform(&mut schema);
    schema.to_value()
}

/// Descriptions are the documentation of the types: each line by line, with links that lead nowhere from here.
fn plain_description(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = plain(text);
    }
}

/// Without links and without single line ends.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        let link = after.split_once(']').filter(|(name, _)| !name.contains(['[', '\n', '"']));
        let Some((name, behind)) = link else {
            plain.push('[');
            rest = after;
            continue;
        };
        let target = behind.strip_prefix('(').and_then(|target| target.split_once(')'));
        match target {
            Some((_, behind)) => rest = behind,
            None if name.starts_with('`') => rest = behind,
            None => {
                plain.push('[');
                rest = after;
                continue;
            }
        }
        plain.push_str(name);
    }
    plain.push_str(rest);
    let paragraphs =
        plain.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_plain() {
        assert_eq!(
            plain("One\nline, [`A`](crate::A) and [`B`].\n\nA list [1, 2]."),
            "One line, `A` and `B`.\n\nA list [1, 2]."
        );
        assert_eq!(plain("open [ and [`C`](d"), "open [ and `C`(d");
        assert!(!files().iter().any(|(_, text)| text.contains("](")));
    }
}
