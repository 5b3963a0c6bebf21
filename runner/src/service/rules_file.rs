//! Rules in a file: TOML, one `[[rule]]` after the other, with the words of events.
//!
//! `docs/operating.md` describes it, and `dist/rules.example.toml` is one.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use skreap_core::{
    ACTION_FIELDS, ActionName, ActionRule, ActionRules, Backend, CommandName, Destinations, Instead,
    MAX_RULES, Move, PortRange, REVIVE_AFTER_MAX_MS, REVIVE_AFTER_MS, Revive, RuleError, Spread,
    VictimAction, excerpt,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of a file that are read.
const MAX_BYTES: u64 = 1 << 20;

/// The fields of a rule, in the order of messages.
const FIELDS: [&str; 13] = [
    "name", "protocol", "ports", "cgroup", "uid", "command", "action", "to", "spread", "force", "after_ms",
    "tcp", "else",
];

/// A place in a file; both are counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Why a file gives no rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct RulesFileError {
    /// The file.
    pub path: PathBuf,
    /// Where in it; `None`: the whole file.
    pub at: Option<Position>,
    /// What is wrong there.
    #[source]
    pub fault: RulesFault,
}

/// `rules.toml:3:7: …`, as compilers do.
impl fmt::Display for RulesFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(Position { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

/// What is wrong in a file of rules, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesFault {
    /// It cannot be read.
    #[error("{0}; name a file of rules that this user may read")]
    Read(io::Error),
    /// It is longer than any set of rules.
    #[error("it has more than {MAX_BYTES} bytes; write at most {MAX_RULES} rules")]
    TooLong,
    /// It is not TOML.
    #[error("this is not TOML: {0}")]
    Syntax(String),
    /// A key that is not known.
    #[error("{given} is not known; write one of: {known}")]
    Unknown {
        /// As it was written.
        given: String,
        /// What there is.
        known: String,
    },
    /// A required field is not there.
    #[error("{field} is missing; write {example}")]
    Missing {
        /// The field.
        field: &'static str,
        /// What it could be.
        example: &'static str,
    },
    /// A value of another type.
    #[error("{field} is {given}; write {wanted}")]
    Type {
        /// The field.
        field: String,
        /// The type of TOML.
        given: &'static str,
        /// What it has to be.
        wanted: &'static str,
    },
    /// A value that makes no sense.
    #[error("{field}: {message}")]
    Value {
        /// The field.
        field: String,
        /// What is wrong with it, and what to write.
        message: String,
    },
    /// A rule that is of no use.
    #[error("rule {name:?}: {source}")]
    Rule {
        /// What the rule is called.
        name: String,
        /// What is wrong with it.
        source: RuleError,
    },
}

type Fault = (Option<Range<usize>>, RulesFault);

/// Reads a file of rules.
///
/// # Errors
/// [`RulesFileError`] names the file, line and column, and says what to write there.
pub fn read(path: &Path) -> Result<ActionRules, RulesFileError> {
    let failed = |at, fault| RulesFileError { path: path.to_owned(), at, fault };
    let length = fs::metadata(path).map_err(|e| failed(None, RulesFault::Read(e)))?.len();
    if length > MAX_BYTES {
        return Err(failed(None, RulesFault::TooLong));
    }
    let text = fs::read_to_string(path).map_err(|e| failed(None, RulesFault::Read(e)))?;
    parse(&text).map_err(|(span, fault)| failed(span.map(|span| position(&text, span.start)), fault))
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    Position { line: before.matches('\n').count() + 1, column }
}

fn parse(text: &str) -> Result<ActionRules, Fault> {
    let table = DeTable::parse(text)
        .map_err(|e| (e.span(), RulesFault::Syntax(e.message().trim_end().replace('\n', ", "))))?;
    let mut rules = Vec::new();
    let mut places = Vec::new();
    for (key, value) in table.get_ref() {
        if key.get_ref() != "rule" {
            return Err(unknown(key.span(), key.get_ref(), &["rule"]));
        }
        let list = value.get_ref().as_array();
        let list = list.ok_or_else(|| wrong(value, "rule", "each rule below a line [[rule]]"))?;
        for (i, entry) in list.iter().enumerate() {
            let table = entry.get_ref().as_table();
            let table = table.ok_or_else(|| wrong(entry, "rule", "each rule below a line [[rule]]"))?;
            rules.push(Reader { table, span: entry.span() }.rule(i)?);
            places.push(entry.span());
        }
    }
    let names: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
    ActionRules::new(rules).map_err(|(i, source)| {
        let name = names.get(i).cloned().unwrap_or_default();
        (places.get(i).cloned(), RulesFault::Rule { name, source })
    })
}

fn unknown(span: Range<usize>, given: &str, known: &[&str]) -> Fault {
    (Some(span), RulesFault::Unknown { given: excerpt(given), known: known.join(", ") })
}

fn wrong(value: &Spanned<DeValue<'_>>, field: &str, wanted: &'static str) -> Fault {
    let given = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    (Some(value.span()), RulesFault::Type { field: field.to_owned(), given, wanted })
}

fn bad(value: &Spanned<DeValue<'_>>, field: &str, message: impl fmt::Display) -> Fault {
    (Some(value.span()), RulesFault::Value { field: field.to_owned(), message: message.to_string() })
}

/// One `[[rule]]`.
struct Reader<'a, 'i> {
    table: &'a DeTable<'i>,
    span: Range<usize>,
}

type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

impl<'a, 'i> Reader<'a, 'i> {
    fn rule(&self, i: usize) -> Result<ActionRule, Fault> {
        for key in self.table.keys() {
            if !FIELDS.contains(&key.get_ref().as_ref()) {
                return Err(unknown(key.span(), key.get_ref(), &FIELDS));
            }
        }
        let name = match self.get("name") {
            Some(value) => self.name(value)?,
            None => format!("rule {}", i + 1),
        };
        Ok(ActionRule {
            name,
            protocol: self.parsed("protocol")?,
            ports: self.several("ports", PORTS, port)?,
            cgroup: self.parsed("cgroup")?,
            uid: self.number("uid", u32::MAX - 1)?,
            commands: self.several("command", "a string, or an array of strings", |value| {
                text(value, "command", "a string")
                    .and_then(|text| text.parse::<CommandName>().map_err(|e| bad(value, "command", e)))
            })?,
            action: self.action()?,
        })
    }

    fn name(&self, value: Value<'_, 'i>) -> Result<String, Fault> {
        let name = text(value, "name", "a string")?;
        skreap_core::check_id(name).map_err(|_| bad(value, "name", "write 1 to 256 printable bytes"))?;
        Ok(name.to_owned())
    }

    fn action(&self) -> Result<VictimAction, Fault> {
        let missing = |field, example| (Some(self.span.clone()), RulesFault::Missing { field, example });
        let name: ActionName = self
            .parsed("action")?
            .ok_or_else(|| missing("action", "what is done with the sockets, as in action = \"revive\""))?;
        for (field, takers) in ACTION_FIELDS {
            if let Some(value) = self.get(field).filter(|_| !takers.contains(&name)) {
                let takers: Vec<&str> = takers.iter().map(|name| name.name()).collect();
                return Err(bad(value, field, format!("it needs action to be {}", takers.join(" or "))));
            }
        }
        let to = || -> Result<Destinations, Fault> {
            let example = "a living backend or the virtual address, as in to = \"udp://10.96.0.10:514\"";
            let value = self.get("to").ok_or_else(|| missing("to", example))?;
            let backends = self.several("to", "a string, or an array of strings", |value| {
                text(value, "to", "a string")
                    .and_then(|text| text.parse::<Backend>().map_err(|e| bad(value, "to", e)))
            })?;
            let spread = self.parsed::<Spread>("spread")?.unwrap_or_default();
            let to = Destinations::new(backends, spread).map_err(|e| bad(value, "to", e))?;
            Ok(to.forced(self.boolean("force")?))
        };
        Ok(match name {
            ActionName::Destroy => VictimAction::Destroy,
            ActionName::None => VictimAction::None,
            ActionName::Revive => VictimAction::Revive(Revive {
                to: to()?,
                after_ms: self.number("after_ms", REVIVE_AFTER_MAX_MS)?.unwrap_or(REVIVE_AFTER_MS),
            }),
            ActionName::Move => VictimAction::Move(Move {
                to: to()?,
                tcp: self.parsed::<Instead>("tcp")?.unwrap_or_default(),
                otherwise: self.parsed::<Instead>("else")?.unwrap_or_default(),
            }),
        })
    }

    fn get(&self, field: &str) -> Option<Value<'a, 'i>> {
        self.table.get(field)
    }

    /// An optional string that is read further.
    fn parsed<T: FromStr<Err: fmt::Display>>(&self, field: &str) -> Result<Option<T>, Fault> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        text(value, field, "a string")?.parse().map(Some).map_err(|e: T::Err| bad(value, field, e))
    }

    /// An optional list, or a single entry.
    fn several<T>(
        &self,
        field: &str,
        wanted: &'static str,
        read: impl Fn(Value<'a, 'i>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(value) => match value.get_ref().as_array() {
                // It would hold for all, or for none: who knows.
                Some(list) if list.is_empty() => {
                    Err(bad(value, field, format!("it is empty; write {wanted}")))
                }
                Some(list) => list.iter().map(read).collect(),
                None => Ok(vec![read(value)?]),
            },
        }
    }

    fn boolean(&self, field: &str) -> Result<bool, Fault> {
        self.get(field).map_or(Ok(false), |value| {
            value.get_ref().as_bool().ok_or_else(|| wrong(value, field, "true or false"))
        })
    }

    fn number(&self, field: &str, most: u32) -> Result<Option<u32>, Fault> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let number = integer(value, field, "a whole number")?;
        let fits = u32::try_from(number).ok().filter(|number| *number <= most);
        fits.map(Some).ok_or_else(|| bad(value, field, format!("it is {number}; write 0 to {most}")))
    }
}

const PORTS: &str = "a port, a range such as \"8000-9000\", or an array of these";

fn port(value: Value<'_, '_>) -> Result<PortRange, Fault> {
    let field = "ports";
    if let Some(text) = value.get_ref().as_str() {
        return text.parse().map_err(|e| bad(value, field, e));
    }
    let number = integer(value, field, PORTS)?;
    let port = u16::try_from(number)
        .map_err(|_| bad(value, field, format!("{number} is no port; write 1 to 65535")))?;
    PortRange::new(port, port).map_err(|e| bad(value, field, e))
}

fn text<'a>(value: &'a Spanned<DeValue<'_>>, field: &str, wanted: &'static str) -> Result<&'a str, Fault> {
    value.get_ref().as_str().ok_or_else(|| wrong(value, field, wanted))
}

fn integer(value: Value<'_, '_>, field: &str, wanted: &'static str) -> Result<i64, Fault> {
    let integer = value.get_ref().as_integer().ok_or_else(|| wrong(value, field, wanted))?;
    i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| bad(value, field, "it is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let (span, fault) = parse(text).unwrap_err();
        let at = span.map(|span| position(text, span.start));
        RulesFileError { path: "r.toml".into(), at, fault }.to_string()
    }

    #[test]
    fn all_that_a_rule_can_say_is_read() {
        let rules = parse(
            r#"
[[rule]]
name = "logs"
protocol = "udp"
ports = [514, "8000-9000"]
cgroup = "/sys/fs/cgroup/a.slice"
uid = 13
command = ["squid", "gmond"]
action = "revive"
to = ["udp://10.0.0.2:514", "udp://[fd00::2]:514"]
spread = "cookie"
after_ms = 0x64

[[rule]]
ports = 443
command = "x"
action = "move"
to = "udp://10.0.0.2:443"
tcp = "spare"
else = "spare"
force = true

[[rule]]
action = "none"
"#,
        )
        .unwrap();
        let [logs, moved, rest] = rules.rules() else { panic!("{rules:?}") };
        assert_eq!(
            logs.to_string(),
            "udp ports 514,8000-9000 cgroup /sys/fs/cgroup/a.slice uid 13 command squid|gmond"
        );
        let wire = |action: &VictimAction| serde_json::to_string(action).unwrap();
        assert_eq!(
            wire(&logs.action),
            r#"{"action":"revive","to":["udp://10.0.0.2:514","udp://[fd00::2]:514"],"spread":"cookie","after_ms":100}"#
        );
        assert_eq!((&*logs.name, &*moved.name, &*rest.name), ("logs", "rule 2", "rule 3"));
        assert_eq!(
            wire(&moved.action),
            r#"{"action":"move","to":"udp://10.0.0.2:443","force":true,"tcp":"spare","else":"spare"}"#
        );
        assert_eq!((rest.to_string(), &rest.action), ("every socket".to_owned(), &VictimAction::None));
        assert_eq!(parse("# nothing\n").unwrap(), ActionRules::default());
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_column() {
        for (text, expected) in [
            (
                "[[rule]]\naction = \"kill\"",
                "2:10: action: \"kill\" is not an action; write one of: destroy, revive, ",
            ),
            ("[[rule]]\nports = 1", "1:1: action is missing; write what is done"),
            (
                "[[rule]]\naction = \"none\"\nport = 1",
                "3:1: \"port\" is not known; write one of: name, protocol, ports",
            ),
            ("[rule]\naction = \"none\"", "1:1: rule is a table; write each rule below a line [[rule]]"),
            ("rules = 1", "1:1: \"rules\" is not known; write one of: rule"),
            ("[[rule]]\naction = ", "2:10: this is not TOML: "),
            (
                "[[rule]]\naction = \"none\"\nports = [1, 0]",
                "3:13: ports: port 0 is that of sockets without a peer",
            ),
            ("[[rule]]\naction = \"none\"\nports = 70000", "3:9: ports: 70000 is no port; write 1 to 65535"),
            ("[[rule]]\naction = \"none\"\nports = []", "3:9: ports: it is empty; write a port, a range"),
            ("[[rule]]\naction = \"none\"\nports = true", "3:9: ports is a boolean; write a port, a range"),
            ("[[rule]]\naction = \"none\"\nuid = -1", "3:7: uid: it is -1; write 0 to 4294967294"),
            ("[[rule]]\naction = \"none\"\ncgroup = \"a\"", "3:10: cgroup: \"a\" names no cgroup; write"),
            (
                "[[rule]]\naction = \"none\"\ncommand = \"systemd-resolved\"",
                "3:11: command: \"systemd-resolved\" never",
            ),
            (
                "[[rule]]\naction = \"none\"\nto = \"udp://10.0.0.2:5\"",
                "3:6: to: it needs action to be revive or move",
            ),
            ("[[rule]]\naction = \"revive\"", "1:1: to is missing; write a living backend"),
            (
                "[[rule]]\naction = \"revive\"\nto = \"tcp://10.0.0.2:5\"",
                "3:6: to: tcp://10.0.0.2:5 is no UDP backend",
            ),
            ("[[rule]]\naction = \"revive\"\nto = \"udp://224.0.0.1:5\"", "3:6: to: "),
            (
                "[[rule]]\naction = \"revive\"\nto = \"udp://10.0.0.2:5\"\nforce = 1",
                "4:9: force is an integer; write true",
            ),
            (
                "[[rule]]\naction = \"revive\"\nto = \"udp://10.0.0.2:5\"\nports = 443",
                "1:1: rule \"rule 1\": its ports are those of protocols whose two ends share state",
            ),
            (
                "# é\n[[rule]]\nname = \"é\"\naction = \"none\"\n[[rule]]\nname = \"é\"\naction = \"none\"",
                "5:1: rule \"é\": rule \"é\" is there twice",
            ),
            ("[[rule]]\nname = \"é\"; action = 1", "2:11: this is not TOML"),
        ] {
            let error = error(text);
            assert!(error.starts_with(&format!("r.toml:{expected}")), "{text}\n{error}\n{expected}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = read(Path::new("/no/such/rules.toml")).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/rules.toml: No such file"), "{error}");
        assert_eq!(error.at, None);
    }

    /// Whatever the file has in it.
    #[test]
    fn input_causes_no_panic() {
        use proptest::prelude::*;
        proptest!(|(text in "(\\[\\[rule\\]\\]\n|action|ports| = |\"none\"|\"|\\[|1|é|\n|[ -~]){0,40}")| {
            if let Err((Some(span), _)) = parse(&text) {
                let _ = position(&text, span.start);
            }
        });
    }

    #[test]
    fn the_example_is_one() {
        let example = include_str!("../../dist/rules.example.toml");
        // As it is shipped: nothing but comments, so all is destroyed.
        assert_eq!(parse(example).unwrap(), ActionRules::default());
        let uncommented: String =
            example.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let rules = parse(&uncommented).unwrap();
        assert!(rules.rules().len() >= 4 && !rules.review().has_useless(), "{rules:?}");
    }
}
