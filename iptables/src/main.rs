//! The program `outrigger-iptables`.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use outrigger_iptables::address::Family;
use outrigger_iptables::backend::Error;
use outrigger_iptables::cli::{self, Command, Refusal, Request, Surroundings};
use outrigger_iptables::{apply, explain, nft, plan, restore, routes, validate};
use rustix::thread::LinkNameSpaceType;

/// Istio's code for rules that are not at work.
const NOT_VALID: u8 = 126;

fn main() -> ExitCode {
    let environment: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    // the namespace decides what the flags mean, so it is entered before they are read in full
    let request = cli::parse(arguments.clone(), &environment, &surroundings()).and_then(|request| {
        match &request.network_namespace {
            None => Ok(request),
            Some(path) => {
                let reason = |error: std::io::Error| Refusal::Value {
                    flag: "--network-namespace".into(),
                    reason: format!("{path}: {error}"),
                };
                enter(path).map_err(reason)?;
                cli::parse(arguments, &environment, &surroundings())
            }
        }
    });
    match request {
        Ok(request) => run(&request),
        Err(Refusal::Clap(error)) => {
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            ExitCode::from(code)
        }
        Err(refusal) => fail(&refusal, 1),
    }
}

fn enter(path: &str) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)?)
}

fn surroundings() -> Surroundings {
    let read = |path| std::fs::read_to_string(path).ok();
    Surroundings {
        addresses: routes::local_addresses(false),
        resolv_conf: read("/etc/resolv.conf"),
        passwd: read("/etc/passwd").unwrap_or_default(),
        group: read("/etc/group").unwrap_or_default(),
    }
}

fn run(request: &Request) -> ExitCode {
    for warning in &request.warnings {
        say(&format!("warning: {warning}"));
    }
    let plan = plan::plan(&request.options);
    match &request.command {
        Command::DryRun => {
            let rules = match request.nft {
                true => nft::render(&plan),
                false => plan.families().map(|family| restore::render(&plan, family)).collect(),
            };
            print(&(rules + &routes::described(&plan)))
        }
        Command::Explain(packet) => print(&explain::in_words(packet, &explain::explain(&plan, packet))),
        Command::Run { validation, .. } => {
            match apply::apply(request, &surroundings()) {
                Ok(apply::Done::Nothing) => say("the rules are as they should be"),
                Ok(apply::Done::Applied) => say("the rules are in place"),
                Ok(apply::Done::Removed) => say("the rules are removed"),
                Err(error) => return fail(&error, 1),
            }
            let Some(validation) = validation else { return ExitCode::SUCCESS };
            let v6 = plan.families().any(|family| family == Family::V6)
                && !surroundings().addresses.iter().any(std::net::IpAddr::is_ipv4);
            match validate::validate(&request.options, &plan, *validation, v6) {
                Ok(()) => {
                    say("a connection arrived at the proxy's port");
                    ExitCode::SUCCESS
                }
                Err(error) => invalid(&error),
            }
        }
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn fail(error: &impl std::fmt::Display, code: u8) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::from(code)
}

fn invalid(error: &Error) -> ExitCode {
    say(
        "the redirection does not work, so the workload must not start; if a CNI plugin sets it up, this pod came before it",
    );
    fail(error, NOT_VALID)
}
