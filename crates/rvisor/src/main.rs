//! The command line of Rvisor: a thin layer that turns words into calls of the library crates, and their ends
//! into exit codes.
#![forbid(unsafe_code)]

mod boot;
mod builder;
mod bundle;
mod cli;
mod confinement;
mod disks;
mod gdb;
mod generate;
mod images;
mod lifecycle;
mod listing;
mod migration;
mod networks;
mod run;
mod session;
mod sessions;
mod several;
mod snapshots;
mod table;
mod trace;

use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::{Cli, Command};

/// What Rvisor itself couldn't do, as docker says it; other codes come from the guest.
const FAILURE: u8 = 125;

fn main() -> ExitCode {
    // Quiet unless asked: what a guest prints must not be mixed with anything.
    env_logger::Builder::from_env(env_logger::Env::default().filter_or("RVISOR_LOG", "off")).init();
    let result = match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command).map_err(|error| in_one_line(&error)),
        // Help and version aren't errors.
        Err(error) if !error.use_stderr() || is_help(&error) => error.exit(),
        Err(error) => {
            let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            Err(with_dashes(&words, &error).unwrap_or_else(|| usage_in_one_line(&error)))
        }
    };
    match result {
        Ok(code) => code,
        Err(text) => {
            eprintln!("rvisor: error: {text}");
            ExitCode::from(FAILURE)
        }
    }
}

fn is_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// An error and its causes, leaving out a cause that the text before it has told.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// What is wrong with the command line, without the parser's pages around it.
fn usage_in_one_line(error: &clap::Error) -> String {
    let page = error.to_string();
    let lines = page.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<_> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let text = told.join(" ").replace(" tip: ", "; ");
    format!("{}; see --help", text.strip_prefix("error: ").unwrap_or(&text))
}

/// Where a command stands behind an image as other programs have it: what to write instead.
fn with_dashes(words: &[String], error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(unexpected)) = error.get(ContextKind::InvalidArg) else { return None };
    let is_command = error.kind() == ErrorKind::UnknownArgument && !unexpected.starts_with('-');
    if !is_command || words.get(1).is_none_or(|word| word != "run") {
        return None;
    }
    let line = |at: usize| {
        let (before, command) = words.split_at(at);
        let line: Vec<_> = before.iter().map(String::as_str).chain(["--"]).collect();
        [line, command.iter().map(String::as_str).collect()].concat()
    };
    // The same word may be the value of an option before.
    let is_right = |at: &usize| words[*at] == *unexpected && Cli::try_parse_from(line(*at)).is_ok();
    let line = line((2..words.len()).find(is_right)?);
    let line: Vec<_> = ["rvisor"].into_iter().chain(line.into_iter().skip(1)).map(for_a_shell).collect();
    Some(format!("unexpected argument '{unexpected}'; put -- before the command: {}", line.join(" ")))
}

/// A word as it is typed into a shell.
fn for_a_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => run::run(&options),
        Command::Pull(options) => images::pull(&options),
        Command::Build(options) => images::build(&options),
        Command::Images(options) => images::list(&options),
        Command::Rmi(options) => images::remove(&options),
        Command::Ps(options) => listing::ps(&options),
        Command::Inspect(options) => listing::inspect(&options),
        Command::Stats(options) => listing::stats(&options),
        Command::Start(options) => lifecycle::start(&options),
        Command::Stop(options) => lifecycle::stop(&options),
        Command::Kill(options) => lifecycle::kill(&options),
        Command::Restart(options) => lifecycle::restart(&options),
        Command::Pause { machines } => lifecycle::pause(&machines),
        Command::Resume { machines } => lifecycle::resume(&machines),
        Command::Rm(options) => lifecycle::remove(&options),
        Command::Rename { machine, name } => lifecycle::rename(&machine, &name),
        Command::Wait { machines } => lifecycle::wait(&machines),
        Command::Attach(options) => sessions::attach(&options),
        Command::Exec(options) => sessions::exec(&options),
        Command::Cp(options) => sessions::copy(&options),
        Command::Logs(options) => sessions::logs(&options),
        Command::Events(options) => sessions::events(&options),
        Command::MachineProcess { store, arriving, machine } => {
            run::machine_process(&store, &machine, arriving)
        }
        Command::BuilderProcess => builder::process(),
        Command::Disk { command } => disks::disk(&command),
        Command::Network { command } => networks::network(&command),
        Command::Snapshot { command } => snapshots::snapshot(&command),
        Command::Clone(options) => snapshots::clone(&options),
        Command::Export { output, machine } => snapshots::export(output.as_deref(), &machine),
        Command::Import { file, machine, copy, no_start } => {
            snapshots::import(&file, &machine, copy, no_start)
        }
        Command::Migrate(options) => migration::migrate(&options),
        Command::Receive(options) => migration::receive(&options),
        Command::Port { command } => lifecycle::port(&command),
        Command::Gdb(options) => gdb::gdb(&options),
        Command::Trace(options) => trace::trace(&options),
        Command::Boot(options) => boot::boot(&options),
        Command::Bundle { command: cli::Bundle::Build(options) } => bundle::build(&options),
        Command::Bundle { command: cli::Bundle::Disk(options) } => bundle::disk(&options),
        Command::Bundle { command: cli::Bundle::Run(options) } => bundle::run(&options),
        Command::Bundle { command: cli::Bundle::Extract(options) } => bundle::extract(&options),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { directory } => generate::man_pages(&directory),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn cause_is_told_once() {
        let outer = anyhow!("inner").context("middle: inner").context("outer");
        assert_eq!(in_one_line(&outer), "outer: middle: inner");
        assert_eq!(in_one_line(&anyhow!("two\n  lines")), "two lines");
    }

    #[test]
    fn usage_errors_take_one_line() {
        let text = |words: &[&str]| usage_in_one_line(&Cli::try_parse_from(words).unwrap_err());
        assert_eq!(
            text(&["rvisor", "pull"]),
            "the following required arguments were not provided: <IMAGE>; see --help"
        );
        assert!(text(&["rvisor", "imags"]).contains("'imags'; a similar subcommand exists: 'images'"));
        let harts = text(&["rvisor", "boot", "--bare", "x", "--cpus", "65"]);
        assert!(harts.contains("from 1 to 64"), "{harts}");
    }

    #[test]
    fn command_without_dashes_is_told_with_them() {
        let told = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            with_dashes(&words, &Cli::try_parse_from(&words).unwrap_err())
        };
        let hint = |line: &str| line.split_once("the command: ").map(|(_, line)| line.to_owned()).unwrap();
        let plain = told(&["/usr/bin/rvisor", "run", "debian", "uname", "-a"]).unwrap();
        assert_eq!(hint(&plain), "rvisor run debian -- uname -a");
        let twice = told(&["rvisor", "run", "--name", "sh", "-it", "debian", "sh", "-c", "it's 1"]).unwrap();
        assert_eq!(hint(&twice), r"rvisor run --name sh -it debian -- sh -c 'it'\''s 1'");
        assert_eq!(told(&["rvisor", "run", "debian", "--frob"]), None);
        assert_eq!(told(&["rvisor", "pull", "debian", "uname"]), None);
    }
}
