//! `rvisor disk create|info|resize|convert|check`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use rvisor_hosted::disk::{DiskOptions, check, convert, create_empty, create_overlay, info, resize};
use serde_json::json;

use crate::cli::{DiskCommand, DiskFormat, Format};
use crate::table;

/// `rvisor disk`.
pub fn disk(command: &DiskCommand) -> anyhow::Result<ExitCode> {
    match command {
        DiskCommand::Create { disk, size, format, backing } => match (size, backing) {
            (Some(size), None) => create_empty(disk, (*format).into(), *size)?,
            (None, Some(_)) if *format == DiskFormat::Raw => {
                bail!("a raw disk has no backing file; use --disk-format qcow2")
            }
            (None, Some(backing)) => create_overlay(disk, backing, None)?,
            (Some(size), Some(backing)) => {
                create_overlay(disk, backing, None)?;
                resize(disk, None, *size, false)?;
            }
            (None, None) => bail!("a disk without a backing file has a size; give one with --size"),
        },
        DiskCommand::Info { disks, format } => print_info(disks, *format)?,
        DiskCommand::Resize { disk, size, shrink } => resize(disk, None, *size, *shrink)?,
        DiskCommand::Convert { source, target, format } => {
            convert(&DiskOptions::new(source), target, (*format).into())?;
        }
        DiskCommand::Check { disk } => return print_check(disk),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_info(disks: &[std::path::PathBuf], format: Format) -> anyhow::Result<()> {
    let infos = disks.iter().map(|disk| Ok((disk, info(disk, None)?))).collect::<anyhow::Result<Vec<_>>>()?;
    if format == Format::Json {
        let rows: Vec<_> = infos
            .iter()
            .map(|(disk, info)| {
                json!({
                    "disk": disk,
                    "format": info.format.name(),
                    "size": info.size,
                    "occupied": info.occupied,
                    "backing": info.backing,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let rows = infos.into_iter().map(|(disk, info)| {
        [
            disk.display().to_string(),
            info.format.name().to_owned(),
            table::size(info.size),
            table::size(info.occupied),
            info.backing.map_or_else(|| "-".into(), |backing| backing.display().to_string()),
        ]
    });
    table::print(["DISK", "FORMAT", "SIZE", "OCCUPIED", "BACKING FILE"], rows);
    Ok(())
}

/// Exit code of a check that has found something, as `qemu-img check` has them.
const UNCOUNTED: u8 = 2;
const LEAKED: u8 = 3;

fn print_check(disk: &Path) -> anyhow::Result<ExitCode> {
    let found = check(disk, None)?;
    let name = disk.display();
    match (found.uncounted, found.leaked) {
        (0, 0) => {
            println!("{name}: sound");
            Ok(ExitCode::SUCCESS)
        }
        (0, leaked) => {
            println!("{name}: {leaked} clusters are lost space; `rvisor disk convert` makes a copy without");
            Ok(ExitCode::from(LEAKED))
        }
        (uncounted, _) => {
            println!(
                "{name}: {uncounted} clusters are used more often than counted; don't write to it, convert it"
            );
            Ok(ExitCode::from(UNCOUNTED))
        }
    }
}
