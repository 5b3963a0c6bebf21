//! `skreap probe`

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::{Failure, print_json};
use skreap::bpf::attach_order::Program;
use skreap::probe;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// cgroup2 directory that `serve` would be given [default: the root of cgroup2]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let findings = probe::all_on(args.cgroup.as_deref());
    if args.json {
        print_json(&findings)?;
    } else {
        let mut out = io::stdout().lock();
        writeln!(out, "kernel {}", findings.kernel)?;
        for f in &findings.features {
            let mark = match (f.works, f.required) {
                (true, _) => "yes",
                (false, true) => "NO",
                (false, false) => "no",
            };
            writeln!(out, "  {mark:<3}  {:<29}  {}", f.feature, f.detail)?;
        }
        if !findings.order.is_empty() {
            let place =
                args.cgroup.as_ref().map_or("the root cgroup".to_owned(), |c| c.display().to_string());
            writeln!(out, "order of the programs on {place} (`here`: where ours would run)")?;
        }
        for o in &findings.order {
            let list = |programs: &[Program]| programs.iter().map(Program::to_string).collect::<Vec<_>>();
            let mut row = list(&o.before);
            row.push("here".to_owned());
            row.extend(list(&o.after));
            row.extend(list(&o.above));
            writeln!(out, "  {:<9} {}", o.hook, row.join(", "))?;
        }
        match findings.engine {
            Some(engine) => writeln!(out, "auto takes the engine {engine}: {}", findings.why)?,
            None => writeln!(out, "no engine can be used: {}", findings.why)?,
        }
    }
    if findings.usable() {
        return Ok(());
    }
    let missing = findings.features.iter().find(|f| f.required && !f.works);
    Err(Failure::Cannot(missing.map_or_else(
        || anyhow::anyhow!("{}", findings.why),
        |f| anyhow::anyhow!("{}: {}", f.feature, f.detail),
    )))
}
