//! `skreap check-rules`, and how `serve` reads rules.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use skreap::core::{ActionRule, ActionRules, Destinations, Finding, Instead, VictimAction};
use skreap::rules_file;

use super::Failure;
use super::text::counted;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rules as `serve --rules` reads them
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Exit code 1 if a rule can never match.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let rules = read(&args.file)?;
    let useless = print(&mut io::stdout().lock(), &rules)?;
    if useless { Err(Failure::Reported) } else { Ok(()) }
}

fn read(path: &Path) -> Result<ActionRules, Failure> {
    rules_file::read(path).map_err(|e| Failure::Failed(anyhow!("{e}")))
}

/// For `serve`, which says in its log what can never match.
pub(super) fn read_for_service(path: &Path, no_revive: bool) -> Result<ActionRules, Failure> {
    let rules = read(path)?;
    let connects = rules.rules().iter().find(|rule| rule.action.to().is_some());
    if let Some(rule) = connects.filter(|_| no_revive) {
        return Err(Failure::Misused(anyhow!(
            "--no-revive: rule {:?} of {} has sockets connected ({}); leave one of the two out",
            rule.name,
            path.display(),
            rule.action.name()
        )));
    }
    for (rule, findings) in rules.rules().iter().zip(rules.review().findings) {
        for finding in findings {
            let said = sentence(&finding, &rules);
            match finding {
                Finding::NeverMatches(_) => tracing::warn!("{}: rule {:?} {said}", path.display(), rule.name),
                _ => tracing::info!("{}: rule {:?}: {said}", path.display(), rule.name),
            }
        }
    }
    Ok(rules)
}

/// True if some rule can never match.
fn print(out: &mut impl Write, rules: &ActionRules) -> io::Result<bool> {
    let review = rules.review();
    for ((i, rule), findings) in rules.rules().iter().enumerate().zip(&review.findings) {
        writeln!(out, "{}. {}: {rule}", i + 1, rule.name)?;
        writeln!(out, "     {}", effect(rule))?;
        for finding in findings {
            writeln!(out, "     {}", sentence(finding, rules))?;
        }
    }
    writeln!(out, "{}; all other sockets are destroyed", counted(rules.rules().len() as u64, "rule"))?;
    Ok(review.has_useless())
}

fn effect(rule: &ActionRule) -> String {
    let to = |to: &Destinations| {
        let list: Vec<String> = to.backends().iter().map(ToString::to_string).collect();
        list.join(", ")
    };
    match &rule.action {
        VictimAction::Destroy => "destroyed".to_owned(),
        VictimAction::None => "left alone, and counted".to_owned(),
        VictimAction::Revive(how) => format!(
            "destroyed; UDP sockets that have no peer {} ms later are connected to {}",
            how.after_ms,
            to(&how.to)
        ),
        VictimAction::Move(how) => {
            let instead = |instead| match instead {
                Instead::Destroy => "destroyed",
                Instead::Spare => "left alone",
            };
            format!(
                "UDP sockets are connected to {}; those that cannot be are {}, TCP sockets are {}",
                to(&how.to),
                instead(how.otherwise),
                instead(how.tcp)
            )
        }
    }
}

fn sentence(finding: &Finding, rules: &ActionRules) -> String {
    match finding {
        Finding::NeverMatches(by) => {
            let names =
                by.iter().filter_map(|i| rules.rules().get(*i)).map(|rule| format!("{:?}", rule.name));
            let names: Vec<String> = names.collect();
            format!("can NEVER match: {} before it takes every such socket", names.join(" and "))
        }
        Finding::Stateful(ports) => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!(
                "UDP sockets of ports {} are destroyed all the same, as they share state with their servers; force = true \
                 would change that",
                ports.join(", ")
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_rule_does_is_said() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("rules.toml");
        let rules = concat!(
            "[[rule]]\nname = \"logs\"\nports = \"400-600\"\naction = \"revive\"\nto = \"udp://10.0.0.2:514\"\n",
            "[[rule]]\nports = 514\ncommand = \"squid\"\naction = \"none\"\n",
            "[[rule]]\naction = \"move\"\ntcp = \"spare\"\nto = \"udp://10.0.0.2:53\"\nforce = true\n",
        );
        std::fs::write(&path, rules).unwrap();
        let mut out = Vec::new();
        assert!(print(&mut out, &read(&path).unwrap()).unwrap());
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1. logs: ports 400-600\n     destroyed; UDP sockets that have no peer 3000 ms later are connected to \
             udp://10.0.0.2:514\n     UDP sockets of ports 443 are destroyed all the same, as they share state with \
             their servers; force = true would change that\n2. rule 2: ports 514 command squid\n     left alone, and \
             counted\n     can NEVER match: \"logs\" before it takes every such socket\n3. rule 3: every socket\n     \
             UDP sockets are connected to udp://10.0.0.2:53; those that cannot be are destroyed, TCP sockets are left \
             alone\n3 rules; all other sockets are destroyed\n"
        );
        assert!(matches!(read_for_service(&path, true), Err(Failure::Misused(_))));
        assert!(read_for_service(&path, false).is_ok());
    }
}
