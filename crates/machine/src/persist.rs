//! A whole machine's state, but for its memory and the content of its disks (the book, "The snapshot format").
//!
//! Nothing here depends on the engine or the home: a machine that was saved under one goes on under another. Each
//! hart and each device writes down its own part; this puts them together.

mod memory;
mod signals;

use alloc::vec::Vec;

use rvisor_virtio::saved::SavedDevice;
use rvisor_waist::{Device, GuestMemory, GuestPhysical, StateError, StateReader, StateWriter};

pub use memory::{MemoryRun, MemoryRuns, MemoryWriter};

use crate::memory_map::{self, VIRTIO_SLOTS};
use crate::{Extensions, HostInterface, TranslationMode, VirtualHart, Vm, VmConfig};

/// What a saved state begins with.
const MAGIC: [u8; 8] = *b"RVISORST";
/// Version of the format. It changes when a reader of the old one would misread the new one; fields that are added
/// don't need that.
pub const VERSION: u32 = 1;
/// Bytes of magic, version and a checksum.
const HEADER: usize = 8 + 4 + 4;

/// Numbers of the fields.
mod field {
    pub const HART_COUNT: u16 = 1;
    pub const MACHINE_MODE: u16 = 2;
    /// The mode's number in `satp`; and [`HYPERVISOR`](super::HYPERVISOR) where the harts have that extension.
    pub const TRANSLATION: u16 = 3;
    pub const RAM_BASE: u16 = 4;
    pub const RAM_SIZE: u16 = 5;
    pub const TICKS: u16 = 6;
    /// A section for each hart, numbered from 1.
    pub const HARTS: u16 = 7;
    /// A section for each device in the order of their addresses, numbered from 1.
    pub const DEVICES: u16 = 8;
    /// Addresses of `tohost` and, if there is one, `fromhost`.
    pub const HOST_INTERFACE: u16 = 9;
    /// Names of the extensions that the guest was told of, with spaces between them; all, if it is missing.
    pub const EXTENSIONS: u16 = 10;

    /// Of a device: where it is.
    pub const BASE: u16 = 1;
    /// Of a device: what it has written down.
    pub const STATE: u16 = 2;
}

/// Added to the translation mode's number.
const HYPERVISOR: u64 = 1 << 4;

/// What must be known of a saved machine to make one that it can go on in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedShape {
    /// The processor side.
    pub config: VmConfig,
    /// Bytes of RAM.
    pub memory: u64,
    /// What the clock showed.
    pub ticks: u64,
}

/// A machine's saved state, checked for damage.
#[derive(Clone, Debug)]
pub struct SavedState {
    bytes: Vec<u8>,
}

impl SavedState {
    /// Takes bytes that [`Vm::save`] has made, maybe elsewhere.
    ///
    /// # Errors
    /// If they are something else, damaged, or of another version.
    pub fn new(bytes: Vec<u8>) -> Result<Self, StateError> {
        let header = bytes.first_chunk::<HEADER>().ok_or(StateError::Malformed)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != MAGIC {
            return Err(StateError::Malformed);
        }
        if word(8) != VERSION {
            return Err(StateError::Version(word(8)));
        }
        if word(12) != crc32fast::hash(&bytes[HEADER..]) {
            return Err(StateError::Malformed);
        }
        Ok(Self { bytes })
    }

    /// The bytes, to be kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn reader(&self) -> StateReader<'_> {
        StateReader::new(&self.bytes[HEADER..])
    }

    /// What machine it is of.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn shape(&self) -> Result<SavedShape, StateError> {
        read_shape(&mut self.reader())
    }

    /// What was in each virtio slot.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn slots(&self) -> Result<Vec<SavedDevice>, StateError> {
        let missing = StateError::Missing(field::DEVICES);
        let devices = StateReader::new(self.reader().find(field::DEVICES)?.ok_or(missing)?);
        let mut slots = Vec::new();
        for number in 1..=u16::MAX {
            let Some(device) = devices.find(number)? else { break };
            let mut device = StateReader::new(device);
            let base = device.number(field::BASE)?;
            if base == memory_map::virtio(slots.len() as u32).base.0 && slots.len() < VIRTIO_SLOTS as usize {
                slots.push(SavedDevice::look(&device.section(field::STATE)?)?);
            }
        }
        Ok(slots)
    }

    /// A number that tells this state from others, as far as a checksum can.
    #[must_use]
    pub fn id(&self) -> u64 {
        id(&self.bytes)
    }
}

/// See [`SavedState::id`]. Never 0.
#[must_use]
pub fn id(state: &[u8]) -> u64 {
    u64::from(crc32fast::hash(state)) << 32 | state.len() as u64 & u64::from(u32::MAX) | 1
}

fn read_shape(reader: &mut StateReader<'_>) -> Result<SavedShape, StateError> {
    let harts = reader.small(field::HART_COUNT, "number of harts")?;
    if !(1..=crate::MAX_HARTS).contains(&harts) {
        return Err(StateError::Invalid("number of harts"));
    }
    let machine_mode = reader.flag(field::MACHINE_MODE)?;
    let number = reader.number(field::TRANSLATION)?;
    let hypervisor = number & HYPERVISOR != 0;
    let translation = TranslationMode::of_satp(number << 60);
    let translation = translation.ok_or(StateError::Invalid("translation mode"))?;
    if reader.number(field::RAM_BASE)? != crate::memory_map::RAM_BASE.0 {
        return Err(StateError::Mismatch("address of RAM"));
    }
    let memory = reader.number(field::RAM_SIZE)?;
    let ticks = reader.number(field::TICKS)?;
    let extensions = match reader.find(field::EXTENSIONS)? {
        None => Extensions::ALL,
        Some(text) => Extensions::from_text(text).ok_or(StateError::Invalid("extension"))?,
    };
    let config = VmConfig { harts, machine_mode, translation, hypervisor, extensions };
    Ok(SavedShape { config, memory, ticks })
}

impl<M: GuestMemory> Vm<M> {
    /// Writes the machine's state down. No hart runs meanwhile, and the board is [frozen](crate::board::Board::freeze)
    /// until memory has been saved too; `harts` has what [`VirtualHart::save`] has written of
    /// each, `ticks` is what the clock shows. Devices finish what they have been given, which may change memory: save that afterwards.
    ///
    /// # Errors
    /// If a part can't be saved.
    pub fn save(&self, harts: &[Vec<u8>], ticks: u64) -> Result<SavedState, StateError> {
        let (config, ram) = (self.config(), self.memory().range());
        let mut writer = StateWriter::new();
        writer.number(field::HART_COUNT, config.harts as u64);
        writer.number(field::MACHINE_MODE, config.machine_mode.into());
        let hypervisor = if config.hypervisor { HYPERVISOR } else { 0 };
        writer.number(field::TRANSLATION, config.translation.satp_mode() | hypervisor);
        writer.number(field::RAM_BASE, ram.start.0);
        writer.number(field::RAM_SIZE, ram.end.0 - ram.start.0);
        writer.number(field::TICKS, ticks);
        writer.section(field::HARTS, |section| {
            (1..).zip(harts).for_each(|(number, hart)| section.bytes(number, hart));
            Ok::<_, StateError>(())
        })?;
        writer.section(field::DEVICES, |section| {
            let mut number = 0;
            self.board().for_each(|base, device| {
                number += 1;
                section.section(number, |section| save_device(section, base, device))
            })
        })?;
        if let Some(interface) = self.host_interface() {
            let addresses = [Some(interface.tohost), interface.fromhost];
            writer.numbers(field::HOST_INTERFACE, addresses.into_iter().flatten().map(|address| address.0));
        }
        writer.bytes(field::EXTENSIONS, config.extensions.to_text().as_bytes());
        let body = writer.finish();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(body);
        SavedState::new(bytes)
    }

    /// Takes a state over. The machine has just been made, with the memory that was saved and a clock that shows
    /// [`SavedShape::ticks`]; its harts haven't run.
    ///
    /// # Errors
    /// If it isn't the same kind of machine, or the state makes no sense. The machine is of no use then.
    pub fn restore(&self, state: &SavedState, harts: &mut [VirtualHart]) -> Result<(), StateError> {
        let mut reader = state.reader();
        let (shape, ram) = (read_shape(&mut reader)?, self.memory().range());
        if shape.config != *self.config() || harts.len() != shape.config.harts {
            return Err(StateError::Mismatch("number or kind of harts"));
        }
        if shape.memory != ram.end.0 - ram.start.0 {
            return Err(StateError::Mismatch("size of memory"));
        }
        let mut section = reader.section(field::HARTS)?;
        for (number, hart) in (1..).zip(harts) {
            hart.restore(section.section(number)?)?;
        }
        section.end()?;
        let (mut section, mut number) = (reader.section(field::DEVICES)?, 0);
        self.board().for_each(|base, device| {
            number += 1;
            restore_device(section.section(number)?, base, device)
        })?;
        section.end()?;
        if let Some(addresses) = reader.optional_numbers(field::HOST_INTERFACE)? {
            let at = |index: usize| addresses.get(index).map(|&address| GuestPhysical(address));
            let interface = at(0).map(|tohost| HostInterface { tohost, fromhost: at(1) });
            self.set_host_interface(interface);
        }
        // Part of the shape.
        reader.optional(field::EXTENSIONS)?;
        reader.end()
    }
}

fn save_device(
    writer: &mut StateWriter,
    base: GuestPhysical,
    device: &mut dyn Device,
) -> Result<(), StateError> {
    writer.number(field::BASE, base.0);
    writer.section(field::STATE, |writer| device.save(writer))
}

fn restore_device(
    mut reader: StateReader<'_>,
    base: GuestPhysical,
    device: &mut dyn Device,
) -> Result<(), StateError> {
    if reader.number(field::BASE)? != base.0 {
        return Err(StateError::Mismatch("board"));
    }
    let mut state = reader.section(field::STATE)?;
    device.restore(&mut state)?;
    state.end()?;
    reader.end()
}

#[cfg(test)]
mod tests;
