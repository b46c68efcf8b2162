//! The virtio-mmio transport, version 2 (Virtio 1.3, "Virtio Over MMIO"). Not for what a device does: that is
//! its [`FrontEnd`].

pub(crate) mod persist;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use rvisor_waist::{
    Device, GuestMemory, GuestPhysical, InterruptLine, OutOfRange, StateError, StateReader, StateWriter,
    Width,
};

use crate::features;
use crate::front_end::{FrontEnd, Queues};
use crate::queue::{Queue, QueueError};

/// Bytes of the register block before the configuration space.
pub const CONFIG_OFFSET: u64 = 0x100;

/// `MagicValue`: "virt".
pub(crate) const MAGIC: u32 = 0x7472_6976;
pub(crate) const VERSION: u32 = 2;
/// `VendorID`: "Rvis".
const VENDOR: u32 = 0x7369_7652;

/// Offsets of the registers (Virtio 1.3, "MMIO Device Register Layout").
pub mod register {
    /// `MagicValue`
    pub const MAGIC_VALUE: u64 = 0x000;
    /// `Version`
    pub const VERSION: u64 = 0x004;
    /// `DeviceID`
    pub const DEVICE_ID: u64 = 0x008;
    /// `VendorID`
    pub const VENDOR_ID: u64 = 0x00c;
    /// `DeviceFeatures`: the 32 bits that `DeviceFeaturesSel` selects.
    pub const DEVICE_FEATURES: u64 = 0x010;
    /// `DeviceFeaturesSel`
    pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
    /// `DriverFeatures`: the 32 bits that `DriverFeaturesSel` selects.
    pub const DRIVER_FEATURES: u64 = 0x020;
    /// `DriverFeaturesSel`
    pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
    /// `QueueSel`
    pub const QUEUE_SELECT: u64 = 0x030;
    /// `QueueSizeMax`
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    /// `QueueSize`
    pub const QUEUE_SIZE: u64 = 0x038;
    /// `QueueReady`
    pub const QUEUE_READY: u64 = 0x044;
    /// `QueueNotify`
    pub const QUEUE_NOTIFY: u64 = 0x050;
    /// `InterruptStatus`
    pub const INTERRUPT_STATUS: u64 = 0x060;
    /// `InterruptACK`
    pub const INTERRUPT_ACK: u64 = 0x064;
    /// `Status`
    pub const STATUS: u64 = 0x070;
    /// `QueueDescLow`, and `QueueDescHigh` after it
    pub const QUEUE_DESCRIPTORS: u64 = 0x080;
    /// `QueueDriverLow`, and `QueueDriverHigh` after it
    pub const QUEUE_DRIVER: u64 = 0x090;
    /// `QueueDeviceLow`, and `QueueDeviceHigh` after it
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    /// `SHMLenLow`, the first of four registers that describe a shared memory region
    pub const SHARED_MEMORY: u64 = 0x0b0;
    /// Offset after the last of them, `SHMBaseHigh`
    pub const SHARED_MEMORY_END: u64 = 0x0c0;
    /// `ConfigGeneration`
    pub const CONFIG_GENERATION: u64 = 0x0fc;
}

/// Bits of `Status` (Virtio 1.3, "Device Status Field").
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// The driver's choice of features was accepted.
    pub const FEATURES_OK: u32 = 8;
    /// The driver broke a rule: the device works again after a reset.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// Bits of `InterruptStatus`.
pub mod interrupt {
    /// Buffers were used.
    pub const USED_BUFFER: u32 = 1;
    /// The configuration space or the device status changed.
    pub const CONFIG_CHANGE: u32 = 2;
}

/// A virtio device on the board's bus: a front end behind the registers of virtio-mmio.
pub struct Transport<F, M> {
    front_end: F,
    memory: Arc<M>,
    line: Arc<dyn InterruptLine>,
    queues: Vec<Queue>,
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    interrupt: u32,
    asserted: bool,
    config_generation: u32,
    /// See [`Queues::deferred`].
    deferred: u64,
}

impl<F: FrontEnd, M: GuestMemory> Transport<F, M> {
    /// A device after power-on.
    pub fn new(front_end: F, memory: Arc<M>, line: Arc<dyn InterruptLine>) -> Self {
        let queues = front_end.queue_sizes().into_iter().map(Queue::new).collect();
        Self {
            front_end,
            memory,
            line,
            queues,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            interrupt: 0,
            asserted: false,
            config_generation: 0,
            deferred: 0,
        }
    }

    /// The front end.
    pub fn front_end(&self) -> &F {
        &self.front_end
    }

    fn offered_features(&self) -> u64 {
        self.front_end.features()
            | features::VERSION_1
            | features::INDIRECT_DESC
            | features::EVENT_IDX
            | features::RING_PACKED
    }

    fn has_status(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    fn selected_queue(&self) -> Option<&Queue> {
        self.queues.get(self.queue_select as usize)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.front_end.device_id(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered_features(), self.device_features_select),
            register::QUEUE_SIZE_MAX => self.selected_queue().map_or(0, |queue| queue.max_size().into()),
            register::QUEUE_READY => self.selected_queue().is_some_and(Queue::is_ready).into(),
            register::INTERRUPT_STATUS => self.interrupt,
            register::STATUS => self.status,
            // No region exists: length and base are all ones.
            register::SHARED_MEMORY..register::SHARED_MEMORY_END => u32::MAX,
            register::CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::DRIVER_FEATURES if !self.has_status(status::FEATURES_OK) => {
                set_half(&mut self.driver_features, self.driver_features_select, value);
            }
            register::QUEUE_SELECT => self.queue_select = value,
            register::QUEUE_READY => self.set_queue_ready(value & 1 != 0),
            register::QUEUE_NOTIFY => self.notify(value as usize),
            register::INTERRUPT_ACK => self.set_interrupt(self.interrupt & !value),
            register::STATUS => self.set_status(value),
            _ => self.set_layout(offset, value),
        }
    }

    /// Stores into the selected queue's layout; ignored while the queue is ready.
    fn set_layout(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else { return };
        if queue.is_ready() {
            return;
        }
        let layout = &mut queue.layout;
        if offset == register::QUEUE_SIZE {
            // What doesn't fit is no supported size either; `Queue::start` refuses it.
            layout.size = u16::try_from(value).unwrap_or(u16::MAX);
            return;
        }
        let part = match offset & !4 {
            register::QUEUE_DESCRIPTORS => &mut layout.descriptors,
            register::QUEUE_DRIVER => &mut layout.driver,
            register::QUEUE_DEVICE => &mut layout.device,
            _ => return,
        };
        let mut address = part.0;
        set_half(&mut address, (offset >> 2 & 1) as u32, value);
        *part = GuestPhysical(address);
    }

    /// Starts or stops the selected queue. Features must have been agreed on: they decide the ring's format.
    fn set_queue_ready(&mut self, ready: bool) {
        let index = self.queue_select as usize;
        let Some(queue) = self.queues.get_mut(index) else { return };
        if ready == queue.is_ready() {
            return;
        }
        if !ready {
            queue.stop();
            self.front_end.stop_queue(index);
        } else if self.status & (status::FEATURES_OK | status::DEVICE_NEEDS_RESET) == status::FEATURES_OK {
            let started = queue.start(queue.layout, self.driver_features, &*self.memory);
            if let Err(error) = started {
                self.need_reset(error);
            }
        }
    }

    /// Only a reset clears bits of the status.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let added = value & !self.status;
        self.status |= value & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if added & status::FEATURES_OK != 0 && self.are_features_acceptable() {
            self.status |= status::FEATURES_OK;
        }
        if added & status::DRIVER_OK != 0 && self.has_status(status::FEATURES_OK) {
            self.activate();
        }
    }

    fn are_features_acceptable(&self) -> bool {
        self.driver_features & features::VERSION_1 != 0
            && self.driver_features & !self.offered_features() == 0
    }

    fn activate(&mut self) {
        self.status |= status::DRIVER_OK;
        if self.has_status(status::DEVICE_NEEDS_RESET) {
            // The queue failed before the driver could be told.
            self.set_interrupt(self.interrupt | interrupt::CONFIG_CHANGE);
            return;
        }
        self.front_end.activate(self.driver_features);
        self.serve(|front_end, queues| {
            (0..queues.count()).try_for_each(|index| front_end.notify(index, queues))
        });
    }

    fn notify(&mut self, index: usize) {
        if self.queues.get(index).is_some_and(Queue::is_ready) {
            self.serve(|front_end, queues| front_end.notify(index, queues));
        }
    }

    /// Goes on with queues that had more work than is done in one go.
    fn resume(&mut self, deferred: u64) {
        if deferred == 0 {
            return;
        }
        self.serve(|front_end, queues| {
            (0..queues.count())
                .filter(|&index| deferred >> index.min(63) & 1 != 0)
                .try_for_each(|index| front_end.notify(index, queues))
        });
    }

    /// Lets the front end work on its queues, then tells the driver what happened. Nothing is served before
    /// the driver is ready, nor after it broke a rule.
    fn serve(&mut self, work: impl FnOnce(&mut F, &mut Queues<'_, M>) -> Result<(), QueueError>) {
        if self.status & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) != status::DRIVER_OK {
            return;
        }
        let mut queues = Queues::new(&mut self.queues, &*self.memory);
        let worked = work(&mut self.front_end, &mut queues);
        let (deferred, config_changed) = (queues.deferred, queues.config_changed);
        let mut interrupt = self.interrupt;
        if config_changed {
            self.config_generation = self.config_generation.wrapping_add(1);
            interrupt |= interrupt::CONFIG_CHANGE;
        }
        if deferred != 0 {
            // The driver's handler accesses a register, and that goes on with the work.
            self.deferred |= deferred;
            interrupt |= interrupt::USED_BUFFER;
        }
        let mut result = worked;
        for queue in &mut self.queues {
            match queue.take_interrupt(&*self.memory) {
                Ok(true) => interrupt |= interrupt::USED_BUFFER,
                Ok(false) => {}
                Err(error) => result = Err(error),
            }
        }
        self.set_interrupt(interrupt);
        if let Err(error) = result {
            self.need_reset(error);
        }
    }

    fn need_reset(&mut self, error: QueueError) {
        log::debug!("virtio device {}: {error}; it needs a reset", self.front_end.device_id());
        self.status |= status::DEVICE_NEEDS_RESET;
        self.deferred = 0;
        if self.has_status(status::DRIVER_OK) {
            self.set_interrupt(self.interrupt | interrupt::CONFIG_CHANGE);
        }
    }

    fn set_interrupt(&mut self, interrupt: u32) {
        self.interrupt = interrupt;
        let level = interrupt != 0;
        if level != self.asserted {
            self.asserted = level;
            self.line.set(level);
        }
    }

    /// Bytes past the end of the configuration space read zero.
    fn read_config(&self, offset: u64, width: Width) -> u64 {
        let config = self.front_end.config();
        let mut bytes = [0; 8];
        for (byte, at) in bytes.iter_mut().zip(offset..offset.saturating_add(width.bytes())) {
            *byte = usize::try_from(at).ok().and_then(|at| config.as_ref().get(at)).copied().unwrap_or(0);
        }
        u64::from_le_bytes(bytes)
    }
}

impl<F: FrontEnd, M: GuestMemory> Device for Transport<F, M> {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        let deferred = mem::take(&mut self.deferred);
        self.resume(deferred);
        Ok(match offset.checked_sub(CONFIG_OFFSET) {
            Some(offset) => self.read_config(offset, width),
            None if width == Width::Word => self.read_register(offset).into(),
            None => 0,
        })
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        let deferred = mem::take(&mut self.deferred);
        match offset.checked_sub(CONFIG_OFFSET) {
            Some(offset) => {
                self.front_end.write_config(offset, &value.to_le_bytes()[..width.bytes() as usize]);
            }
            None if width == Width::Word => self.write_register(offset, value as u32),
            None => {}
        }
        // Only now: an acknowledgement must not take back the interrupt for what is used here.
        self.resume(deferred);
        Ok(())
    }

    fn poll(&mut self) {
        let deferred = mem::take(&mut self.deferred);
        self.resume(deferred);
        self.serve(|front_end, queues| front_end.poll(queues));
    }

    fn reset(&mut self) {
        self.front_end.reset();
        for queue in &mut self.queues {
            *queue = Queue::new(queue.max_size());
        }
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.deferred = 0;
        self.set_interrupt(0);
    }

    fn save(&mut self, state: &mut StateWriter) -> Result<(), StateError> {
        self.save_state(state)
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.restore_state(state)
    }
}

/// The 32 bits of `value` that a select register names; none above the second half.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Replaces the 32 bits of `value` that a select register names.
fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
