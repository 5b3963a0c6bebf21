//! Rust sources, as far as imports need them: files, modules, `use` items.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A crate: its modules by path (`engine::kfunc`; the root is empty).
pub struct Crate {
    /// Name of its directory.
    pub name: String,
    pub modules: BTreeMap<String, Module>,
}

/// One file.
pub struct Module {
    pub file: PathBuf,
    /// The code without comments, strings' contents and unit tests.
    pub code: String,
    /// Its modules that are compiled for tests only and have files of their own.
    tests: Vec<String>,
    /// Lines without the unit tests at the end.
    pub product_lines: usize,
    uses: Vec<Use>,
}

/// One imported path, from the crate's root on if it begins with a module of the crate.
struct Use {
    path: Vec<String>,
    /// What it is called here.
    name: String,
    /// A `pub use`: those who import this name from here mean that path.
    exported: bool,
}

impl Crate {
    /// Reads every file of a source directory.
    pub fn read(directory: &Path) -> Self {
        let name = directory.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut modules = BTreeMap::new();
        for file in files(directory) {
            let relative = file.strip_prefix(directory).unwrap().with_extension("");
            let mut path: Vec<String> =
                relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if path.last().is_some_and(|last| last == "mod" || path.len() == 1 && last == "lib") {
                path.pop();
            }
            modules.insert(path.join("::"), Module::read(&file, &path));
        }
        let tests: Vec<String> =
            modules.iter().flat_map(|(path, module)| module.test_modules(path)).collect();
        modules.retain(|path, _| !tests.contains(path));
        Self { name, modules }
    }

    /// Every module, and the modules of this crate whose items it names.
    pub fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        self.modules
            .iter()
            .map(|(path, module)| {
                let named = module.uses.iter().filter(|item| !item.exported).map(|item| &item.path);
                let imported = named.filter_map(|item| self.home(item)).filter(|home| home != path);
                (path.as_str(), imported.collect())
            })
            .collect()
    }

    /// The module in which the item with this path is defined; `None` if it is none of this crate's.
    fn home(&self, path: &[String]) -> Option<&str> {
        let depth = (0..=path.len()).rev().find(|&n| self.modules.contains_key(&path[..n].join("::")))?;
        let (home, module) = self.modules.get_key_value(&path[..depth].join("::"))?;
        let exported = |name: &String| module.uses.iter().find(|item| item.exported && item.name == *name);
        match path.get(depth).and_then(exported) {
            Some(item) if item.path != path[..=depth] => {
                let further: Vec<String> = item.path.iter().chain(&path[depth + 1..]).cloned().collect();
                self.home(&further)
            }
            // A path of another crate begins with none of the modules.
            _ if depth == 0 => None,
            _ => Some(home),
        }
    }
}

/// What stands before the name of a module that is compiled for tests only.
const TESTS: &str = "#[cfg(test)]\nmod ";

impl Module {
    /// The paths of its modules that are tests.
    fn test_modules(&self, path: &str) -> impl Iterator<Item = String> {
        let parent = if path.is_empty() { String::new() } else { format!("{path}::") };
        self.tests.iter().map(move |name| format!("{parent}{name}"))
    }

    fn read(file: &Path, path: &[String]) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let (mut tests, mut end) = (Vec::new(), text.len());
        for (at, _) in text.match_indices(TESTS) {
            let declared = text[at + TESTS.len()..].lines().next().unwrap_or_default();
            let Some(name) = declared.strip_suffix(';') else {
                end = at;
                break;
            };
            tests.push(name.to_owned());
        }
        let text = &text[..end];
        let code = without_comments(text);
        let is_root_of_folder = file.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
        let uses = uses(&code, path, is_root_of_folder);
        Self { file: file.to_owned(), product_lines: text.lines().count(), code, tests, uses }
    }
}

/// The Rust files below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text with comments and the contents of strings blanked out; lines stay lines.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let after = &text[at..];
        if after.starts_with("//") {
            while rest.next_if(|(_, c)| *c != '\n').is_some() {}
        } else if c == '"' {
            code.push('"');
            while let Some((_, c)) = rest.next() {
                match c {
                    '\\' => drop(rest.next()),
                    '"' => break,
                    '\n' => code.push('\n'),
                    _ => {}
                }
            }
            code.push('"');
        } else if after.starts_with("'\"'") || after.starts_with("'{'") || after.starts_with("'}'") {
            rest.nth(1);
        } else {
            code.push(c);
        }
    }
    code
}

/// All paths that a module names with `use`, and those that it spells out with `crate::`.
fn uses(code: &str, module: &[String], is_root_of_folder: bool) -> Vec<Use> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = rest[line..at].trim();
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if before.is_empty() || before.starts_with("pub") {
            let exported = before.starts_with("pub");
            for (path, name) in tree(&rest[at + 4..end]) {
                if let Some(path) = absolute(path, module, is_root_of_folder) {
                    found.push(Use { path, name, exported });
                }
            }
        }
        rest = &rest[end..];
    }
    for (at, _) in code.match_indices("crate::") {
        let spelled = code[at + 7..].split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next();
        let path: Vec<String> = spelled.unwrap().split("::").map(str::to_owned).collect();
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let line = code[..at].rsplit('\n').next().unwrap();
        if is_word && !line.trim_start().starts_with("use ") && !line.trim_start().starts_with("pub") {
            found.push(Use { name: path.last().cloned().unwrap_or_default(), path, exported: false });
        }
    }
    found
}

/// `a::{b, c::{self, d as e}}`: each path in it, and its name.
fn tree(text: &str) -> Vec<(Vec<String>, String)> {
    let text = text.trim();
    if let Some(open) = text.find('{') {
        let prefix: Vec<String> =
            text[..open].split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let inside = &text[open + 1..text.rfind('}').unwrap_or(text.len())];
        let mut depth = 0;
        let parts = inside.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        let parts: Vec<_> = parts.filter(|part| !part.trim().is_empty()).collect();
        return parts
            .into_iter()
            .flat_map(tree)
            .map(|(path, name)| {
                let path: Vec<String> =
                    prefix.iter().chain(&path).filter(|s| *s != "self").cloned().collect();
                let name = if name == "self" { path.last().cloned().unwrap_or_default() } else { name };
                (path, name)
            })
            .collect();
    }
    let (path, name) = text.split_once(" as ").map_or((text, None), |(path, name)| (path, Some(name)));
    let path: Vec<String> = path.split("::").map(|s| s.trim().to_owned()).collect();
    let name = name.map_or_else(|| path.last().cloned().unwrap_or_default(), |name| name.trim().to_owned());
    vec![(path, name)]
}

/// The path from the root of the crate; `None` if it is of another crate, or of the standard library.
fn absolute(path: Vec<String>, module: &[String], is_root_of_folder: bool) -> Option<Vec<String>> {
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "std" | "core" | "alloc" => None,
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let above = module.len().checked_sub(ups)?;
            Some(module[..above].iter().chain(&path[ups..]).cloned().collect())
        }
        // A module below, or another crate: the caller finds no module of that name then.
        _ if is_root_of_folder || module.is_empty() => {
            Some(module.iter().chain(&path).filter(|s| *s != "self").cloned().collect())
        }
        _ => None,
    }
}
