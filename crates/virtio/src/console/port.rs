//! One port of a console: two queues, one stream of bytes in each direction.

use alloc::boxed::Box;
use alloc::string::String;

use rvisor_waist::{ConsoleBackend, GuestMemory};

use crate::front_end::Queues;
use crate::queue::{Chain, QueueError};

/// Bytes copied at a time.
const CHUNK: usize = 8192;
/// Bytes moved in one go. A chain can name 4 GiB; what is left after so many waits for the next access.
const BYTE_BUDGET: usize = 1 << 20;

pub(super) struct Port {
    pub(super) name: String,
    console: bool,
    back_end: Box<dyn ConsoleBackend>,
    /// The driver has set the port up and is told what becomes of the host's end.
    pub(super) ready: bool,
    pub(super) guest_open: bool,
    /// As the driver was last told.
    pub(super) host_open: bool,
    /// A buffer for input that there wasn't any yet for.
    pub(super) receiving: Option<Chain>,
    /// Output that the back end had no room for yet.
    pub(super) transmitting: Option<Chain>,
}

impl Port {
    pub fn new(name: String, console: bool, back_end: Box<dyn ConsoleBackend>) -> Self {
        Self {
            name,
            console,
            back_end,
            ready: false,
            guest_open: false,
            host_open: false,
            receiving: None,
            transmitting: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_console(&self) -> bool {
        self.console
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    pub fn is_host_open(&self) -> bool {
        self.host_open
    }

    pub fn size(&self) -> Option<(u16, u16)> {
        self.back_end.size()
    }

    pub fn set_ready(&mut self) {
        self.ready = true;
        self.host_open = self.back_end.is_open();
    }

    pub fn set_guest_open(&mut self, open: bool) {
        if open != self.guest_open {
            self.guest_open = open;
            self.back_end.guest_open(open);
        }
    }

    /// Writes a byte without queues; lost where the back end has no room.
    pub fn emergency_write(&mut self, byte: &[u8]) {
        self.back_end.write(byte);
    }

    /// Looks whether the host's end was opened or closed; true where the driver should be told. It counts as
    /// open until the guest took what came before the end: until the port is `drained`.
    pub fn update_host_open(&mut self, drained: bool) -> bool {
        let open = self.back_end.is_open();
        if open == self.host_open || (!open && !drained) {
            return false;
        }
        self.host_open = open;
        true
    }

    /// Moves input from the back end to the guest; true where the back end has no more now. Input waits for a
    /// guest that listens.
    pub fn receive<M: GuestMemory>(
        &mut self,
        queue: usize,
        queues: &mut Queues<'_, M>,
    ) -> Result<bool, QueueError> {
        let mut budget = BYTE_BUDGET;
        while self.guest_open {
            if self.receiving.is_none() {
                self.receiving = queues.pop(queue)?;
            }
            let Some(mut chain) = self.receiving.take() else { break };
            if budget == 0 {
                self.receiving = Some(chain);
                queues.defer(queue);
                break;
            }
            let written = self.fill(&mut chain, queues.memory(), budget)?;
            if written == 0 && !chain.writable.is_empty() {
                self.receiving = Some(chain);
                return Ok(true);
            }
            budget -= written;
            queues.push_used(queue, chain, written as u32)?;
        }
        Ok(false)
    }

    /// Fills a chain with what the back end has now, up to `limit` bytes.
    fn fill<M: GuestMemory>(
        &mut self,
        chain: &mut Chain,
        memory: &M,
        limit: usize,
    ) -> Result<usize, QueueError> {
        let mut chunk = [0; CHUNK];
        let mut written = 0;
        loop {
            let room = CHUNK.min(limit - written).min(chain.writable.length() as usize);
            let count = self.back_end.read(&mut chunk[..room]).min(room);
            if count == 0 {
                return Ok(written);
            }
            written += chain.writable.write(memory, &chunk[..count])?;
        }
    }

    /// Moves output from the guest to the back end, as far as it has room.
    pub fn transmit<M: GuestMemory>(
        &mut self,
        queue: usize,
        queues: &mut Queues<'_, M>,
    ) -> Result<(), QueueError> {
        let mut budget = BYTE_BUDGET;
        loop {
            if self.transmitting.is_none() {
                self.transmitting = queues.pop(queue)?;
            }
            let Some(mut chain) = self.transmitting.take() else { return Ok(()) };
            let taken = self.empty(&mut chain, queues.memory(), budget)?;
            budget -= taken;
            if chain.readable.is_empty() {
                queues.push_used(queue, chain, 0)?;
                continue;
            }
            self.transmitting = Some(chain);
            if budget == 0 {
                queues.defer(queue);
            }
            return Ok(());
        }
    }

    /// Gives the back end up to `limit` bytes of a chain; returns how many it took.
    fn empty<M: GuestMemory>(
        &mut self,
        chain: &mut Chain,
        memory: &M,
        limit: usize,
    ) -> Result<usize, QueueError> {
        let mut chunk = [0; CHUNK];
        let mut taken = 0;
        loop {
            let count = chain.readable.peek(memory, &mut chunk[..CHUNK.min(limit - taken)])?;
            let accepted = if count == 0 { 0 } else { self.back_end.write(&chunk[..count]).min(count) };
            chain.readable.skip(accepted);
            taken += accepted;
            if accepted < CHUNK {
                return Ok(taken);
            }
        }
    }

    pub fn forget_receive(&mut self) {
        self.receiving = None;
    }

    pub fn forget_transmit(&mut self) {
        self.transmitting = None;
    }

    /// The guest is gone; the back end stays.
    pub fn reset(&mut self) {
        self.forget_receive();
        self.forget_transmit();
        self.set_guest_open(false);
        self.ready = false;
        self.host_open = false;
    }
}
