//! Pulls images with QEMU as the builder VM, for work on the guest's scripts:
//! `cargo run -p rvisor-images --example pull -- STORE NAME-OR-RECIPE`.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rvisor_images::{BuildVm, Builder, Name, Options, Recipe, Store, build, progress, pull};

struct Qemu;

impl Builder for Qemu {
    fn boot(&self, vm: BuildVm<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut command = Command::new("qemu-system-riscv64");
        command.args(["-M", "virt", "-nographic", "-no-reboot", "-nic", "none", "-append", &vm.append]);
        command.arg("-kernel").arg(&vm.kernel).arg("-initrd").arg(&vm.initrd);
        command.args(["-m", &format!("{}M", vm.memory >> 20)]);
        for (number, disk) in vm.disks.iter().enumerate() {
            let read_only = if disk.read_only { "on" } else { "off" };
            let path = disk.path.display();
            command.args([
                "-drive",
                &format!("file={path},format=raw,if=none,id=d{number},cache=unsafe,discard=unmap,readonly={read_only}"),
                "-device",
                &format!("virtio-blk-device,drive=d{number}"),
            ]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if std::env::var_os("VERBOSE").is_some() {
                eprintln!("{line}");
            }
            (vm.on_console_line)(&line);
        }
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("QEMU ended with {status}").into()) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, what] = &arguments[..] else { return Err("arguments: STORE NAME-OR-RECIPE".into()) };
    let store = Store::open(Path::new(store))?;
    let progress = progress::for_standard_error();
    let options = Options { refresh: true, ..Options::default() };
    let image = match what.strip_suffix(".toml") {
        Some(name) => {
            let recipe = Recipe::read(Path::new(what))?;
            let name = Name::parse(name.rsplit('/').next().unwrap_or(name))?;
            build(&store, &name, &recipe, &options, &Qemu, &*progress)?
        }
        None => pull(&store, what, &options, &Qemu, &*progress)?,
    };
    println!("{image:#?}");
    Ok(())
}
