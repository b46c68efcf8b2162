//! Builds the image of the type-1 home: a file that boot loaders take for a Linux kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

const TARGET: &str = "riscv64gc-unknown-none-elf";

/// Build the image of the type-1 home.
#[derive(clap::Args)]
pub struct Metal {
    /// Where the image goes
    #[arg(short, long, default_value = "target/rvisor-metal.image")]
    output: PathBuf,
}

/// Builds the image and puts it where it was asked for.
pub fn metal(options: &Metal) -> anyhow::Result<()> {
    let size = build(&options.output)?;
    println!("{} ({} KiB)", options.output.display(), size / 1024);
    Ok(())
}

/// Builds the image and copies it to `output`; gives its size in bytes.
pub fn build(output: &Path) -> anyhow::Result<u64> {
    let target = Path::new("target").join("metal");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--release", "--package", "rvisor-metal", "--features", "image"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .status()
        .context("can't run cargo")?;
    if !status.success() {
        bail!("the image can't be built");
    }
    let built = target.join(TARGET).join("release/rvisor-metal");
    std::fs::copy(&built, output)
        .with_context(|| format!("can't copy {} to {}", built.display(), output.display()))
}
