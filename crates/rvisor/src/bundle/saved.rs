//! Guests of a description that are machines of the hosted home, saved there.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, bail};
use rvisor_hosted::disk::Image;
use rvisor_images::Store;
use rvisor_instances::{Leaving, Machines};
use rvisor_machine::VmConfig;
use rvisor_machine::bundle::{BundledGuest, SavedGuest};
use rvisor_machine::fit::{Limits, fit, fit_guest};
use rvisor_machine::persist::SavedState;
use rvisor_machine::slots::MetalSlots;
use rvisor_waist::SECTOR_SIZE;

use super::description::Guest;

/// A machine as a bundle has it.
pub struct Saved {
    state: SavedState,
    memory: Vec<u8>,
    notes: Vec<u8>,
    config: VmConfig,
    bytes: u64,
    slots: MetalSlots,
    /// Sectors of its disk, if it has one.
    pub sectors: Option<u64>,
}

/// The machine that a guest of a description is, if it is one.
pub fn open(guest: &Guest, directory: &Path) -> anyhow::Result<Option<Leaving>> {
    let machines = || anyhow::Ok(Machines::new(&std::path::absolute(Store::open_default()?.root())?));
    if let Some(text) = &guest.machine {
        let Some((machine, snapshot)) = text.split_once('@') else {
            bail!("machine {text:?}: write it as NAME@SNAPSHOT; `rvisor snapshot create {text}` makes one");
        };
        return Ok(Some(Leaving::of_snapshot(&machines()?, machine, snapshot)?));
    }
    let Some(path) = &guest.state else { return Ok(None) };
    let path = directory.join(path);
    let told = || format!("can't read {}; check its name and permissions", path.display());
    let mut file = BufReader::with_capacity(1 << 20, File::open(&path).with_context(told)?);
    let leaving = Leaving::of_export(&machines()?, &guest.name, &mut file);
    leaving.map(Some).with_context(|| path.display().to_string())
}

impl Saved {
    /// Reads a machine, and checks that it is one for the type-1 home.
    pub fn new(guest: &Guest, leaving: &Leaving) -> anyhow::Result<Self> {
        let state = leaving.state()?;
        let (config, slots) = fit(&state, &Limits::ANY)?;
        let sectors = leaving.disk()?.filter(|_| slots.disk).map(|disk| disk.size() / SECTOR_SIZE);
        match (&guest.disk, sectors) {
            (None, Some(sectors)) => bail!(
                "has a disk of {} MiB; give disk = {{ start = … }} for its place on the physical one",
                (sectors * SECTOR_SIZE).div_ceil(1 << 20)
            ),
            (Some(_), None) => bail!("has no disk; leave disk out"),
            _ => {}
        }
        let (memory, notes, bytes) = (leaving.memory()?, leaving.notes()?, state.shape()?.memory);
        Ok(Self { state, memory, notes, config, bytes, slots, sectors })
    }

    /// Its bytes of memory.
    pub fn memory(&self) -> u64 {
        self.bytes
    }

    /// Its number of harts.
    pub fn harts(&self) -> u32 {
        self.config.harts as u32
    }

    /// The address of its network card, if it has one.
    pub fn card(&self) -> Option<[u8; 6]> {
        self.slots.network
    }

    /// As it stands in a bundle.
    pub fn bundled(&self) -> SavedGuest<'_> {
        SavedGuest { state: self.state.as_bytes(), memory: &self.memory, notes: &self.notes }
    }

    /// Checks that the guest is this machine.
    pub fn check(&self, guest: &BundledGuest<'_>) -> anyhow::Result<()> {
        fit_guest(guest, &self.state, &Limits::ANY)?;
        Ok(())
    }
}

/// Copies a machine's disk to a place of the physical one; zeros stay holes.
pub fn copy(image: &dyn Image, target: &mut File, start: u64) -> anyhow::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let mut buffer = vec![0; CHUNK as usize];
    for offset in (0..image.size()).step_by(CHUNK as usize) {
        let chunk = &mut buffer[..(image.size() - offset).min(CHUNK) as usize];
        image.read_at(offset, chunk).context("can't read the machine's disk")?;
        for (number, piece) in (0..).zip(chunk.chunks(64 << 10)) {
            if piece.iter().any(|byte| *byte != 0) {
                let at = start + offset + number * (64 << 10);
                target.write_all_at(piece, at).context("can't write the disk")?;
            }
        }
    }
    Ok(())
}
