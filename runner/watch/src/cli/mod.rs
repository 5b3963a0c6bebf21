//! The command line.

mod common;
mod etcd;
mod generate;
mod kubernetes;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tells `skreap serve` which backends are gone.
#[derive(Parser)]
#[command(name = "skreap-watch", version, max_term_width = 100)]
struct Cli {
    /// Log level or filter: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", env = "SKREAP_LOG", default_value = "info", global = true,
          value_parser = log_filter)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch keys of etcd, or register one
    Etcd(Box<etcd::Etcd>),
    /// Watch EndpointSlices and Services of Kubernetes
    Kubernetes(kubernetes::Kubernetes),
    /// Write manual pages or shell completions
    #[command(hide = true)]
    Generate(generate::Generate),
}

fn log_filter(text: &str) -> Result<String, String> {
    skreap_core::check_log_filter(text).map(|()| text.to_owned())
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(e) => {
            eprintln!("error: --log {}: {e}", cli.log);
            return ExitCode::from(2);
        }
    };
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
    let run = match cli.command {
        Command::Etcd(etcd) => common::block_on(etcd.run()),
        Command::Kubernetes(kubernetes) => common::block_on(kubernetes.run()),
        Command::Generate(generate) => generate.run(),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

    use clap::CommandFactory as _;
    use serde_json::{Value, json};

    use super::*;

    fn manifests(text: &str) -> Vec<Value> {
        text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ()).map_err(|e| e.to_string());
        let ttl = "skreap-watch etcd register udp://10.0.0.1:53 --ttl";
        for line in [
            "skreap-watch etcd",
            "skreap-watch etcd --endpoints http://a:2379,http://b:2379 --settle-ms 0 --metrics",
            "skreap-watch kubernetes --initial-reconcile --within 10.0.0.0/8,fd00::/8 --when not-ready",
            &format!("{ttl} 5 --endpoints http://a:2379"),
        ] {
            assert_eq!(parse(line), Ok(()), "{line}");
        }
        for line in [
            "skreap-watch",
            "skreap-watch etcd --initial-reconcile",
            "skreap-watch etcd --user x",
            "skreap-watch etcd --cert x",
            "skreap-watch kubernetes --when maybe",
            "skreap-watch etcd --log inof",
            &format!("{ttl} 0"),
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    /// The DaemonSet runs what there is, and the RBAC allows exactly what is asked for.
    #[test]
    fn the_manifests_fit() {
        let daemonset = &manifests(include_str!("../../../dist/kubernetes/daemonset.yaml"))[0];
        let pod = &daemonset["spec"]["template"]["spec"];
        let watch = &pod["containers"][1];
        let words = [&watch["command"], &watch["args"]].into_iter().flat_map(|list| list.as_array().unwrap());
        Cli::try_parse_from(words.map(|word| word.as_str().unwrap())).unwrap();
        let security = &watch["securityContext"];
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(security["runAsNonRoot"], json!(true));
        // The service lets in the user that the watcher is.
        let serve = &pod["containers"][0];
        let arguments: Vec<&str> =
            serve["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let allowed = arguments.iter().position(|word| *word == "--allow-uid").unwrap();
        assert_eq!(arguments[allowed + 1], security["runAsUser"].to_string());

        let rbac = manifests(include_str!("../../../dist/kubernetes/rbac.yaml"));
        let read = json!(["list", "watch"]);
        assert_eq!(
            rbac[1]["rules"],
            json!([
                {"apiGroups": [""], "resources": ["services"], "verbs": read},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
            ])
        );
    }
}
