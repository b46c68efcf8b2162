//! Shell completions and man pages, generated from the command line's own description.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    clap_complete::generate(shell, &mut Cli::command(), "rvisor", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

/// Writes a man page for each command into `directory`.
pub fn man_pages(directory: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| {
            format!("can't write man pages to {}; choose another directory", directory.display())
        })?;
    Ok(ExitCode::SUCCESS)
}
