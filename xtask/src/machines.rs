//! The two machines that are compared, started from the same image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rvisor_hosted::disk::{Format, create_overlay};
use rvisor_images::Image;

/// RAM of both, and its size in bytes.
const RAM: &str = "1G";
pub const RAM_SIZE: u64 = 1 << 30;

/// What a machine is made of, beside its image.
pub struct Shape<'a> {
    /// Number of harts.
    pub cpus: u32,
    /// Whether it has a network card.
    pub network: bool,
    /// A raw disk, read-only, after the image's.
    pub second_disk: Option<&'a Path>,
}

/// The program built beside this one.
pub fn rvisor_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("rvisor");
    if !program.exists() {
        bail!("build Rvisor first: cargo build --release");
    }
    Ok(program)
}

/// Rvisor, with a throwaway disk in `directory`, which is its own among machines with so many harts.
pub fn rvisor(image: &Image, directory: &Path, shape: &Shape<'_>) -> anyhow::Result<Command> {
    let mut command = Command::new(rvisor_program()?);
    command.args(["boot", "--memory", RAM, "--cpus", &shape.cpus.to_string()]);
    command.args(["--net", if shape.network { "user" } else { "none" }]);
    command.arg("--kernel").arg(&image.kernel).arg("--initrd").arg(initrd(image)?);
    command.args(["--append", &image.manifest.append]);
    command.arg("--disk").arg(overlay(image, directory, &format!("rvisor-{}.qcow2", shape.cpus))?);
    if let Some(path) = shape.second_disk {
        command.arg("--disk").arg(format!("{},ro,format=raw", path.display()));
    }
    Ok(command)
}

/// QEMU with the processor model `cpu`, with a throwaway disk in `directory`.
pub fn qemu(image: &Image, directory: &Path, shape: &Shape<'_>, cpu: &str) -> anyhow::Result<Command> {
    let disk = overlay(image, directory, &format!("qemu-{}.qcow2", shape.cpus))?;
    let mut command = Command::new(QEMU);
    command.args(["-nographic", "-accel", "tcg,thread=multi", "-cpu", cpu]);
    command.args(["-smp", &shape.cpus.to_string()]);
    command.args(["-M", "virt", "-m", RAM]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(initrd(image)?);
    command.args(["-append", &image.manifest.append]);
    // Linux names disks in the order of the device tree; QEMU's begins with the highest address.
    command.arg("-drive").arg(format!("file={},format=qcow2,if=none,id=disk", disk.display()));
    command.args(["-device", "virtio-blk-device,drive=disk,bus=virtio-mmio-bus.1"]);
    if let Some(path) = shape.second_disk {
        let drive = format!("file={},format=raw,if=none,id=second,readonly=on", path.display());
        command.args(["-drive", &drive]);
        command.args(["-device", "virtio-blk-device,drive=second,bus=virtio-mmio-bus.0"]);
    }
    if shape.network {
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"]);
    } else {
        command.args(["-nic", "none"]);
    }
    Ok(command)
}

const QEMU: &str = "qemu-system-riscv64";

/// The first line of what QEMU says of its version.
pub fn qemu_version() -> anyhow::Result<String> {
    let output = Command::new(QEMU).arg("--version").output();
    let output = output.with_context(|| format!("can't start {QEMU}: install QEMU 10"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn overlay(image: &Image, directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let base = image.disk.as_ref().context("the image has no disk")?;
    create_overlay(&path, base, Some(Format::Raw))?;
    Ok(path)
}

/// Debian's own: what a boot loader would take.
fn initrd(image: &Image) -> anyhow::Result<&Path> {
    image.initrd.as_deref().context("the image has no initrd of its own")
}
