//! The command line of Rvisor: a thin layer that turns words into calls of the library crates, and their ends
//! into exit codes.
#![forbid(unsafe_code)]

mod boot;
mod builder;
mod cli;
mod generate;
mod guest_command;
mod images;
mod machines;
mod run;
mod session;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// What Rvisor itself couldn't do, as docker says it; other codes come from the guest.
const FAILURE: u8 = 125;

fn main() -> ExitCode {
    // Quiet unless asked: what a guest prints must not be mixed with anything.
    env_logger::Builder::from_env(env_logger::Env::default().filter_or("RVISOR_LOG", "off")).init();
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rvisor: error: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => run::run(&options),
        Command::Pull(options) => images::pull(&options),
        Command::Build(options) => images::build(&options),
        Command::Images(options) => images::list(&options),
        Command::Rmi(options) => images::remove(&options),
        Command::Ps(options) => run::list(&options),
        Command::Rm { machines } => run::remove(&machines),
        Command::Boot(options) => boot::boot(&options),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { directory } => generate::man_pages(&directory),
    }
}
