//! The physical devices that guests share, each with its driver and its back end.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_machine::SlotBuilder;
use rvisor_machine::bundle::{BundledGuest, ConsoleDevice, DiskRange};
use rvisor_machine::slots::{MetalSlots, SlotKind, in_order};
use rvisor_virtio::Transport;
use rvisor_virtio::balloon::Balloon;
use rvisor_virtio::blk::Blk as BlkFrontEnd;
use rvisor_virtio::console::Console;
use rvisor_virtio::net::Net as NetFrontEnd;
use rvisor_virtio::rng::Rng;
use rvisor_waist::NetBackend;
use spin::Mutex;

use crate::arch::Partition;
use crate::arch::virtio::{Device, DeviceType};
use crate::backend::area::Area;
use crate::backend::disk::{RangeError, Shared};
use crate::backend::entropy::{SEED, Source};
use crate::backend::switch::{Switch, Uplink};
use crate::backend::{Ready, Served, nobody};
use crate::driver::blk::Blk;
use crate::driver::net::Net;
use crate::driver::plic::Plic;
use crate::driver::rng;
use crate::terminal::Terminal;

/// Looks at the entropy device before it is given up.
const PATIENCE: u64 = 100_000_000;

/// Devices that were found, not working yet: each with its source of interrupts.
pub struct Found {
    /// Interrupt controller.
    pub plic: Option<Plic>,
    /// Virtio devices.
    pub virtio: Vec<(Device, u32)>,
    /// Random bytes that the boot loader gave.
    pub seed: Option<[u8; SEED]>,
}

/// The devices at work.
pub struct Hardware {
    plic: Option<Plic>,
    disk: Option<(Arc<Shared<Blk>>, u32)>,
    card: Option<(Arc<Mutex<Net>>, u32)>,
    switch: Arc<Switch>,
    entropy: Option<Mutex<Source>>,
}

impl Hardware {
    /// Puts the first disk, the first card and the first entropy device to work. The card belongs to network `uplink`.
    pub fn new(found: Found, uplink: Option<u32>, ready: Ready) -> Self {
        let Found { plic, virtio, seed } = found;
        let (mut disk, mut card, mut entropy) = (None, None, None);
        for (device, source) in virtio {
            match device.kind() {
                // Without interrupts nobody would look at them.
                DeviceType::Block if disk.is_none() && plic.is_some() => {
                    disk = Blk::new(device).map(|blk| (Shared::new(blk, ready), source));
                }
                DeviceType::Network if card.is_none() && plic.is_some() && uplink.is_some() => {
                    card = Net::new(device).map(|net| (Arc::new(Mutex::new(net)), source));
                }
                DeviceType::EntropySource if entropy.is_none() => {
                    let seed = rng::read(device, SEED, PATIENCE).and_then(|seed| seed.try_into().ok());
                    entropy = seed.map(|seed: [u8; SEED]| Mutex::new(Source::new(seed)));
                }
                _ => {}
            }
        }
        let entropy = entropy.or_else(|| seed.map(|seed| Mutex::new(Source::new(seed))));
        if let Some(plic) = &plic {
            let sources = [disk.as_ref().map(|(_, source)| source), card.as_ref().map(|(_, source)| source)];
            plic.enable_sources(sources.into_iter().flatten().copied());
        }
        let out = card.as_ref().map(|(card, _): &(Arc<Mutex<Net>>, u32)| Arc::clone(card)).zip(uplink);
        let out = out.map(|(card, network)| {
            let send: Uplink = Box::new(move |frame: &[u8]| card.lock().send(frame));
            (network, send)
        });
        Self { plic, disk, card, switch: Switch::new(ready, out), entropy }
    }

    /// A physical hart is on, and says so itself.
    pub fn attach(&self, hart: usize) {
        if let Some(plic) = &self.plic {
            plic.attach(hart);
        }
    }

    /// A physical hart stays off: its interrupts go to the first one.
    pub fn leave_out(&self, hart: usize) {
        if let Some(plic) = &self.plic {
            plic.leave_out(hart);
        }
    }

    /// Serves the devices that interrupt this physical hart.
    pub fn serve(&self, hart: usize) {
        let Some(plic) = &self.plic else { return };
        while let Some(source) = plic.claim(hart) {
            if let Some((disk, _)) = self.disk.as_ref().filter(|(_, own)| *own == source) {
                disk.work(Blk::acknowledge);
            }
            if let Some((card, _)) = self.card.as_ref().filter(|(_, own)| *own == source) {
                card.lock().acknowledge();
                // Frames are given on without the card's lock: they may go out again.
                loop {
                    let Some(frame) = card.lock().receive() else { break };
                    self.switch.arrive(&frame);
                }
            }
            plic.complete(hart, source);
        }
    }

    /// Words on what there is.
    pub fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        match &self.disk {
            Some((disk, _)) => {
                let geometry = disk.geometry();
                let read_only = if geometry.is_read_only { ", read-only" } else { "" };
                write!(f, "disk of {} MiB{read_only}", geometry.capacity >> 11)?;
            }
            None => f.write_str("no disk")?,
        }
        f.write_str(if self.card.is_some() { ", network card" } else { ", no network card in use" })?;
        f.write_str(if self.entropy.is_some() { ", entropy" } else { ", no entropy" })
    }

    /// Checks a guest's range of the disk.
    pub fn check(&self, range: DiskRange) -> Result<DiskRange, RangeError> {
        match &self.disk {
            Some((disk, _)) => disk.check(range),
            None => Err(RangeError::NoDisk),
        }
    }

    /// A guest's save area, whose range was checked.
    pub fn area(&self, range: DiskRange) -> Option<Area<Blk>> {
        let (disk, _) = self.disk.as_ref()?;
        Some(Area::new(Arc::clone(disk), range))
    }

    /// Whether there is entropy.
    pub fn has_entropy(&self) -> bool {
        self.entropy.is_some()
    }

    /// The virtio devices of a guest, in the order of their slots, with what serves them. Its range is checked.
    pub fn slots(
        &self,
        index: usize,
        guest: &BundledGuest<'static>,
        memory: &Arc<Partition>,
        devices: MetalSlots,
        terminal: &Arc<Terminal>,
    ) -> Vec<(SlotBuilder<Partition>, Option<Served>)> {
        let mut slots: Vec<(SlotKind, (SlotBuilder<Partition>, _))> = Vec::new();
        if let Some((range, (disk, _))) = guest.disk.zip(self.disk.as_ref()) {
            let back_end = disk.attach(index, range, Arc::clone(memory), guest.name);
            let build: SlotBuilder<Partition> = Box::new(move |memory, line| {
                Box::new(Transport::new(BlkFrontEnd::new(back_end), memory, line))
            });
            slots.push((SlotKind::Disk, (build, Some(Served::Disk))));
        }
        if let Some(mac) = devices.network {
            let (back_end, served): (Box<dyn NetBackend>, _) = match guest.network {
                Some(attachment) => (self.switch.plug(index, attachment), Some(Served::Network)),
                None => (Box::new(nobody::Cable), None),
            };
            let build: SlotBuilder<Partition> = Box::new(move |memory, line| {
                Box::new(Transport::new(NetFrontEnd::new(mac, back_end), memory, line))
            });
            slots.push((SlotKind::Network, (build, served)));
        }
        if let Some(ports) = devices.console {
            let is_line = guest.console == ConsoleDevice::Virtio;
            let end = is_line.then(|| terminal.port(index));
            let build: SlotBuilder<Partition> = Box::new(move |memory, line| {
                let terminal = end.map_or_else(Console::unwatched, Console::new);
                let console = ports.into_iter().fold(terminal, |console, port| {
                    console.with_port(&port.name, Box::new(nobody::Port { is_open: port.is_open }))
                });
                Box::new(Transport::new(console, memory, line))
            });
            slots.push((SlotKind::Console, (build, is_line.then_some(Served::Console))));
        }
        if devices.balloon {
            let build: SlotBuilder<Partition> =
                Box::new(move |memory, line| Box::new(Transport::new(Balloon::new(), memory, line)));
            slots.push((SlotKind::Balloon, (build, None)));
        }
        if let Some(entropy) = self.entropy.as_ref().filter(|_| devices.entropy) {
            let generator = entropy.lock().generator();
            let build: SlotBuilder<Partition> = Box::new(move |memory, line| {
                Box::new(Transport::new(Rng::new(Box::new(generator)), memory, line))
            });
            slots.push((SlotKind::Entropy, (build, None)));
        }
        in_order(slots)
    }

    /// A seed for a guest's kernel; nothing where there is no entropy.
    pub fn seed(&self) -> Vec<u8> {
        self.entropy.as_ref().map_or(Vec::new(), |entropy| entropy.lock().seed().to_vec())
    }

    /// Bytes that a guest has read from its disk and written to it.
    pub fn moved(&self, guest: usize) -> [u64; 2] {
        self.disk.as_ref().map_or([0; 2], |(disk, _)| disk.moved(guest))
    }

    /// A guest is switched on: nothing from before waits for it.
    pub fn forget(&self, guest: usize) {
        self.switch.forget(guest);
    }

    /// Frames of a guest's that were lost.
    pub fn lost(&self, guest: usize) -> u64 {
        self.switch.lost(guest)
    }
}
