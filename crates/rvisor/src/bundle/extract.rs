//! `rvisor bundle extract`: a guest of the type-1 home becomes a machine of this one, from what it has kept on its disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use rvisor_hosted::disk::Image;
use rvisor_images::Store;
use rvisor_instances::{Arriving, Error, Machines, arrive, check_name};
use rvisor_machine::bundle::{self, BundledGuest};
use rvisor_machine::save_area::{SaveArea, SaveError, Storage};
use rvisor_waist::{PAGE_SIZE, SECTOR_SIZE};

use crate::boot::{disk, read_file};
use crate::cli::BundleExtract;
use crate::snapshots;

/// A part of the disk.
struct Part {
    disk: Arc<dyn Image>,
    start: u64,
    size: u64,
}

impl Storage for Part {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SaveError> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        end.ok_or(SaveError::Damaged)?;
        self.disk.read_at(self.start + offset, buffer).map_err(|_| SaveError::Disk)
    }

    /// Nothing is changed on the disk.
    fn write(&mut self, _offset: u64, _bytes: &[u8]) -> Result<(), SaveError> {
        Err(SaveError::Disk)
    }

    fn flush(&mut self) -> Result<(), SaveError> {
        Ok(())
    }
}

/// `rvisor bundle extract`.
pub fn extract(options: &BundleExtract) -> anyhow::Result<ExitCode> {
    let file = read_file(&options.bundle, "bundle")?;
    let bundle = bundle::read(&file).with_context(|| options.bundle.display().to_string())?;
    let Some(guest) = bundle.guests.iter().find(|guest| guest.name == options.guest) else {
        let names: Vec<_> = bundle.guests.iter().map(|guest| guest.name).collect();
        bail!("{} has no guest {:?}; it has {}", options.bundle.display(), options.guest, names.join(", "));
    };
    let mut disk = disk(&options.disk)?;
    disk.read_only = true;
    let disk = disk.open()?;
    let mut area = area(guest, &disk).with_context(|| format!("guest {:?}", guest.name))?;
    let store = Store::open_default()?;
    let machines = Machines::new(&std::path::absolute(store.root())?);
    if let Some(path) = &options.output {
        snapshots::write_whole(path, |output| write(&machines, guest, &disk, &mut area, output))?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = options.name.as_deref().unwrap_or(guest.name);
    check_name(name)?;
    let mut exported = temporary_file(&machines)?;
    write(&machines, guest, &disk, &mut area, &mut exported)?;
    io::Seek::rewind(&mut exported).context("can't read a temporary file")?;
    snapshots::import_from(
        &store,
        &mut io::BufReader::with_capacity(1 << 20, exported),
        name,
        options.no_start,
    )
}

/// A file in the store that is gone once it is closed.
fn temporary_file(machines: &Machines) -> anyhow::Result<File> {
    let path = machines.store().join(format!(".extracted-{}", std::process::id()));
    let made = || {
        std::fs::create_dir_all(machines.store())?;
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        io::Result::Ok(file)
    };
    made().with_context(|| format!("can't make {}; check disk space and permissions", path.display()))
}

fn area(guest: &BundledGuest<'_>, disk: &Arc<dyn Image>) -> anyhow::Result<SaveArea<Part>> {
    let range = guest.save.context("it has no save area, so nothing of it is kept")?;
    let (start, size) = (range.start * SECTOR_SIZE, range.sectors * SECTOR_SIZE);
    if start.checked_add(size).is_none_or(|end| end > disk.size()) {
        bail!("its save area ends behind the disk; give the disk that the bundle was made for");
    }
    let area = SaveArea::open(Part { disk: Arc::clone(disk), start, size }, size)?;
    match area.content() {
        Some(content) if content.is_kept => Ok(area),
        _ => bail!("no state of it is kept on this disk; save it at the monitor's prompt first"),
    }
}

fn write(
    machines: &Machines,
    guest: &BundledGuest<'_>,
    disk: &Arc<dyn Image>,
    area: &mut SaveArea<Part>,
    output: &mut dyn io::Write,
) -> Result<(), Error> {
    let refused = |error: anyhow::Error| Error::Refused(format!("guest {:?}: {error:#}", guest.name));
    let state = area.state().map_err(|error| refused(error.into()))?;
    let shape = state.shape().map_err(|error| refused(anyhow!(error)))?;
    if shape.memory != guest.memory || shape.config.harts != guest.harts as usize {
        return Err(refused(anyhow!("what is kept is another machine's; give the bundle that it ran from")));
    }
    let is_its_own = area.content().is_some_and(|content| {
        content.origin == guest.saved.map_or(0, |saved| rvisor_machine::persist::id(saved.state))
    });
    if !is_its_own {
        return Err(refused(anyhow!("what is kept is of another bundle; give the bundle that it ran from")));
    }
    let part = guest.disk.map(|range| (&**disk, range.start * SECTOR_SIZE, range.sectors * SECTOR_SIZE));
    let arriving = Arriving {
        name: guest.name,
        state: &state,
        notes: guest.saved.map_or(&[], |saved| saved.notes),
        kernel: guest.kernel,
        initrd: guest.initrd.unwrap_or_default(),
        command_line: guest.command_line,
        disk: part,
    };
    let fill = |memory: &File| {
        area.memory(shape.memory / PAGE_SIZE, |run| {
            memory.write_all_at(&run.bytes, run.first * PAGE_SIZE).map_err(|_| SaveError::Disk)
        })
        .map_err(|error| refused(error.into()))
    };
    arrive(machines, &arriving, fill, output)
}
