//! What a machine starts with, loaded into its RAM: the boot protocols.
//!
//! 1. A Linux `Image` in S-mode over the built-in SBI.
//! 2. Firmware in M-mode, which may find a next stage behind it.
//! 3. A bare ELF program in M-mode, with `tohost`.
//! 4. A program in S-mode over the built-in SBI that is no `Image`: a boot loader, another kernel.

use alloc::vec::Vec;
use core::ops::Range;

use rvisor_waist::{GuestMemory, GuestPhysical};
use thiserror::Error;

use super::elf::{Elf, ElfError};
use super::image::{ImageError, LinuxImage};
use super::initrd::{self, InitrdError};
use super::layout::{DynamicInfo, EntryState, Layout, LayoutError, Stage};
use crate::device_tree::{DeviceTree, DeviceTreeError};
use crate::memory_map::VIRTIO_SLOTS;
use crate::signals::HartState;
use crate::{HostInterface, VirtualHart, Vm, VmConfig};

/// Why a program can't be started.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BootError {
    /// The kernel isn't one.
    #[error("kernel: {0}")]
    Kernel(#[from] ImageError),
    /// A program isn't one.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The initial RAM disk isn't one.
    #[error("initrd: {0}")]
    Initrd(#[from] InitrdError),
    /// The pieces don't fit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The device tree can't say it.
    #[error(transparent)]
    DeviceTree(#[from] DeviceTreeError),
    /// A file is empty.
    #[error("the {0} file is empty; give one with code in it")]
    Empty(&'static str),
}

/// The files of a boot protocol.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// A Linux kernel over the built-in SBI.
    Linux {
        /// An `Image`.
        kernel: &'a [u8],
        /// Initial RAM disk.
        initrd: Option<&'a [u8]>,
        /// Kernel command line.
        command_line: &'a str,
    },
    /// Firmware in M-mode.
    Firmware {
        /// Raw or ELF; raw firmware starts at the beginning of RAM.
        firmware: &'a [u8],
        /// What it starts: an `Image`, ELF, or a raw boot loader.
        next: Option<&'a [u8]>,
        /// Initial RAM disk.
        initrd: Option<&'a [u8]>,
        /// Kernel command line.
        command_line: &'a str,
    },
    /// A program in S-mode over the built-in SBI: the device tree's address is in `a1`.
    Supervisor {
        /// ELF, or raw: then it starts 2 MiB above the beginning of RAM, where firmware puts what it starts.
        program: &'a [u8],
        /// Initial RAM disk.
        initrd: Option<&'a [u8]>,
        /// Command line.
        command_line: &'a str,
    },
    /// A bare program in M-mode.
    Bare {
        /// ELF.
        elf: &'a [u8],
    },
}

/// A program with a place for each of its pieces.
pub struct Placed<'a> {
    pieces: Vec<Piece<'a>>,
    layout: Layout,
    initrd: Option<&'a [u8]>,
    device_tree: Vec<u8>,
    entry: EntryState,
    dynamic_info: Option<DynamicInfo>,
    host_interface: Option<HostInterface>,
}

enum Piece<'a> {
    Raw(GuestPhysical, &'a [u8]),
    Elf(Elf<'a>),
}

impl<'a> Program<'a> {
    /// Whether the program starts in M-mode and so needs a machine that has one.
    #[must_use]
    pub fn needs_machine_mode(&self) -> bool {
        !matches!(self, Self::Linux { .. } | Self::Supervisor { .. })
    }

    /// Checks every file and finds its place in `ram`. `rng_seed` goes into the device tree.
    pub fn place(
        &self,
        config: &VmConfig,
        ram: &Range<GuestPhysical>,
        rng_seed: &[u8],
    ) -> Result<Placed<'a>, BootError> {
        let (mut pieces, mut stages) = (Vec::new(), Vec::new());
        let mut host_interface = None;
        let (initrd, command_line) = match *self {
            Self::Linux { kernel, initrd, command_line } => {
                let stage = Stage::linux(&LinuxImage::parse(kernel)?, ram);
                pieces.push(Piece::Raw(stage.entry, kernel));
                stages.push(stage);
                (initrd, command_line)
            }
            Self::Firmware { firmware, next, initrd, command_line } => {
                let (piece, stage) = code("firmware", firmware, ram, |size| Stage::firmware(size, ram))?;
                pieces.push(piece);
                stages.push(stage);
                if let Some(next) = next {
                    // A kernel's header says how much memory it needs beyond its file.
                    let size = |file| LinuxImage::parse(next).map_or(file, |image| image.size.max(file));
                    let (piece, stage) = code("kernel", next, ram, |file| Stage::next(size(file), ram))?;
                    pieces.push(piece);
                    stages.push(stage);
                }
                (initrd, command_line)
            }
            Self::Supervisor { program, initrd, command_line } => {
                let (piece, stage) = code("program", program, ram, |size| Stage::next(size, ram))?;
                pieces.push(piece);
                stages.push(stage);
                (initrd, command_line)
            }
            Self::Bare { elf } => {
                let elf = Elf::parse(elf, ram)?;
                stages.push(Stage::elf("program", &elf));
                host_interface = elf
                    .symbol("tohost")
                    .map(|tohost| HostInterface { tohost, fromhost: elf.symbol("fromhost") });
                pieces.push(Piece::Elf(elf));
                (None, "")
            }
        };
        if let Some(initrd) = initrd {
            initrd::check(initrd)?;
        }
        let lacking: Vec<_> = config.extensions.lacking().collect();
        let mut tree = DeviceTree {
            harts: u32::try_from(config.harts).unwrap_or(u32::MAX),
            memory: ram.clone(),
            machine_mode: config.machine_mode,
            translation: config.translation,
            hypervisor: config.hypervisor,
            lacking: &lacking,
            virtio_slots: VIRTIO_SLOTS,
            command_line,
            initrd: initrd.map(|_| ram.start..ram.start),
            rng_seed,
        };
        // The initrd's place changes the tree's content but not its length.
        let size = tree.build()?.len() as u64;
        let layout = Layout::place(ram, &stages, initrd.map(|initrd| initrd.len() as u64), size)?;
        tree.initrd = layout.initrd.clone();
        let dynamic_info = stages.get(1).map(|next| DynamicInfo { next: next.entry, boot_hart: 0 });
        Ok(Placed {
            entry: EntryState {
                program_counter: stages[0].entry,
                device_tree: layout.device_tree.start,
                dynamic_info: if dynamic_info.is_some() { layout.dynamic_info } else { GuestPhysical(0) },
            },
            device_tree: tree.build()?,
            pieces,
            layout,
            initrd,
            dynamic_info,
            host_interface,
        })
    }
}

/// A file of code: ELF goes where it was linked, anything else where `raw` says for its size.
fn code<'a>(
    name: &'static str,
    file: &'a [u8],
    ram: &Range<GuestPhysical>,
    raw: impl FnOnce(u64) -> Stage,
) -> Result<(Piece<'a>, Stage), BootError> {
    if file.is_empty() {
        return Err(BootError::Empty(name));
    }
    if Elf::is_elf(file) {
        let elf = Elf::parse(file, ram)?;
        let stage = Stage::elf(name, &elf);
        return Ok((Piece::Elf(elf), stage));
    }
    let stage = raw(file.len() as u64);
    Ok((Piece::Raw(stage.entry, file), stage))
}

impl Placed<'_> {
    /// The device tree that the program will find.
    #[must_use]
    pub fn device_tree(&self) -> &[u8] {
        &self.device_tree
    }

    /// Writes everything into RAM and sets the harts up; `harts` are all of the VM's, after reset. RAM must be
    /// the range that [`Program::place`] was told.
    pub fn load<M: GuestMemory>(&self, vm: &Vm<M>, harts: &mut [VirtualHart]) -> Result<(), BootError> {
        let memory = vm.memory();
        // `place` made sure that everything lies in RAM.
        let write = |address, bytes: &[u8]| {
            memory.write(address, bytes).unwrap_or_else(|error| unreachable!("{address}: {error}"));
        };
        for piece in &self.pieces {
            match piece {
                Piece::Raw(start, bytes) => write(*start, bytes),
                Piece::Elf(elf) => elf.load(memory)?,
            }
        }
        if let (Some(initrd), Some(range)) = (self.initrd, &self.layout.initrd) {
            write(range.start, initrd);
        }
        if let Some(info) = self.dynamic_info {
            write(self.layout.dynamic_info, &info.to_bytes());
        }
        write(self.layout.device_tree.start, &self.device_tree);
        vm.set_host_interface(self.host_interface);
        for hart in harts {
            self.entry.apply(hart);
            // With the built-in SBI the kernel starts the other harts itself.
            if vm.config().machine_mode || hart.index() == 0 {
                vm.harts()[hart.index()].update_state(|_| Some(HartState::Started));
            }
        }
        Ok(())
    }
}

impl EntryState {
    fn apply(&self, hart: &mut VirtualHart) {
        const A0: usize = 10;
        let id = hart.index() as u64;
        hart.hart.pc = self.program_counter.0;
        hart.hart.x[A0..A0 + 3].copy_from_slice(&[id, self.device_tree.0, self.dynamic_info.0]);
    }
}
