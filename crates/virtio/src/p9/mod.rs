//! The 9P device (Virtio 1.3, "9P transport"): files of the host, in the protocol 9P2000.L. This is the transport and
//! the protocol; what a request does is the business of a [`FileShareBackend`].
//!
//! Each chain is a request and room for its reply. Data goes between guest memory and the back end without passing
//! here. Requests are answered in any order.

mod message;
mod wire;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use message::{DATA_HEADER, Data, HEADER, LONGEST, Request, WRITE_HEADER, kind};
use rvisor_waist::{
    FileShareBackend, GuestMemory, ShareCall, ShareError, ShareReply, ShareRequest, StateError, StateReader,
    StateWriter,
};

use crate::front_end::{FrontEnd, Queues};
use crate::queue::{Chain, QueueError};

/// `VIRTIO_9P_F_MOUNT_TAG`
pub const F_MOUNT_TAG: u64 = 1 << 0;
/// The one dialect spoken.
pub const VERSION: &[u8] = b"9P2000.L";
/// Longest message, and the longest that a guest may ask for.
pub const LONGEST_MESSAGE: u32 = 1 << 20;

/// Linux's numbers of errors that the front end finds.
pub mod errno {
    use rvisor_waist::ShareError;

    /// The request makes no sense.
    pub const EINVAL: ShareError = ShareError(22);
    /// There is no such request.
    pub const EOPNOTSUPP: ShareError = ShareError(95);
    /// The reply doesn't fit.
    pub const EMSGSIZE: ShareError = ShareError(90);
}

const QUEUE: usize = 0;
/// What a Linux driver makes its longest message from.
const QUEUE_SIZE: u16 = 128;

/// Where a reply goes.
struct Place {
    chain: Chain,
    tag: u16,
}

/// A request at the back end.
struct Pending {
    place: Place,
    /// The reply's type.
    reply: u8,
    /// What the reply says instead of what the back end answers.
    body: Option<Vec<u8>>,
    /// Those who wait until it is answered.
    flushes: Vec<Place>,
}

/// 9P front end.
pub struct P9 {
    back_end: Box<dyn FileShareBackend>,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
}

impl P9 {
    /// A device on `back_end`.
    #[must_use]
    pub fn new(back_end: Box<dyn FileShareBackend>) -> Self {
        Self { back_end, pending: BTreeMap::new(), next_id: 0 }
    }

    fn accept<M: GuestMemory>(
        &mut self,
        mut chain: Chain,
        queues: &mut Queues<'_, M>,
    ) -> Result<(), QueueError> {
        let memory = queues.memory();
        let available = chain.readable.length();
        let mut header = [0; HEADER];
        if chain.readable.read(memory, &mut header)? != HEADER {
            return Err(QueueError::Request);
        }
        let [s0, s1, s2, s3, kind, t0, t1] = header;
        let (size, tag) = (u32::from_le_bytes([s0, s1, s2, s3]), u16::from_le_bytes([t0, t1]));
        if size > available || (size as usize) < HEADER {
            return answer(queues, Place { chain, tag }, kind, Err(errno::EINVAL));
        }
        let rest = size as usize - HEADER;
        let fixed = if kind == kind::WRITE { rest.min(WRITE_HEADER - HEADER) } else { rest };
        if fixed > LONGEST {
            return answer(queues, Place { chain, tag }, kind, Err(errno::EINVAL));
        }
        let mut body = vec![0; fixed];
        chain.readable.read(memory, &mut body)?;
        let data = data(kind, &mut chain, (rest - fixed) as u32);
        let place = Place { chain, tag };
        match message::parse(kind, &body, data) {
            Err(error) => answer(queues, place, kind, Err(error)),
            Ok(Request::Flush(old)) => self.flush(old, place, queues),
            Ok(Request::Version(longest, version)) => {
                let version = if version.starts_with(VERSION) { VERSION } else { b"unknown" };
                let mut w = wire::Writer::default();
                w.u32(longest.min(LONGEST_MESSAGE)).string(version);
                self.submit(ShareCall::Reset, kind, Some(w.0), place);
                Ok(())
            }
            Ok(Request::Call(call)) => {
                self.submit(call, kind, None, place);
                Ok(())
            }
        }
    }

    fn submit(&mut self, call: ShareCall, kind: u8, body: Option<Vec<u8>>, place: Place) {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, Pending { place, reply: kind + 1, body, flushes: Vec::new() });
        self.back_end.submit(ShareRequest { id, call });
    }

    /// The answer to a flush comes behind that of the request; requests don't take long, so none is broken off.
    fn flush<M: GuestMemory>(
        &mut self,
        old: u16,
        place: Place,
        queues: &mut Queues<'_, M>,
    ) -> Result<(), QueueError> {
        match self.pending.values_mut().find(|pending| pending.place.tag == old) {
            Some(pending) => {
                pending.flushes.push(place);
                Ok(())
            }
            None => answer(queues, place, kind::FLUSH, Ok((Vec::new(), 0))),
        }
    }

    /// Forgets all requests, after the back end let go of their memory.
    fn forget_requests(&mut self) {
        self.back_end.drain();
        self.pending.clear();
    }
}

/// Memory for the data of a request: behind the fixed part of a write, or behind a reply's header.
fn data(kind: u8, chain: &mut Chain, rest: u32) -> Data {
    match kind {
        kind::WRITE => {
            let segments = core::mem::take(&mut chain.readable);
            let length = segments.length().min(rest);
            Data { segments: segments.into_vec(), length }
        }
        kind::READ | kind::READDIR => {
            let mut room = chain.writable.clone();
            room.skip(DATA_HEADER);
            let length = room.length().min(LONGEST_MESSAGE - DATA_HEADER as u32);
            Data { segments: room.into_vec(), length }
        }
        _ => Data::default(),
    }
}

/// Answers a request of type `kind` with a body and the number of bytes of data that are there already. An answer that
/// doesn't fit is an error; where not even that fits, the driver gets nothing.
fn answer<M: GuestMemory>(
    queues: &mut Queues<'_, M>,
    mut place: Place,
    kind: u8,
    result: Result<(Vec<u8>, u32), ShareError>,
) -> Result<(), QueueError> {
    let error = |ShareError(number)| message::reply(kind::RLERROR, place.tag, &number.to_le_bytes(), 0);
    let (mut bytes, mut data) = match result {
        Ok((body, data)) => (message::reply(kind + 1, place.tag, &body, data), data),
        Err(reason) => (error(reason), 0),
    };
    let room = place.chain.writable.length() as usize;
    if bytes.len() + data as usize > room {
        (bytes, data) = (error(errno::EMSGSIZE), 0);
    }
    let written = if bytes.len() > room { 0 } else { place.chain.writable.write(queues.memory(), &bytes)? };
    queues.push_used(QUEUE, place.chain, written as u32 + data)
}

impl FrontEnd for P9 {
    fn device_id(&self) -> u32 {
        9
    }

    fn features(&self) -> u64 {
        F_MOUNT_TAG
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> impl AsRef<[u8]> {
        let mut w = wire::Writer::default();
        w.string(self.back_end.tag().as_bytes());
        w.0
    }

    fn activate(&mut self, _features: u64) {}

    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(chain) = queues.pop(index)? {
            self.accept(chain, queues)?;
        }
        self.poll(queues)
    }

    fn poll<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(completion) = self.back_end.complete() {
            let Some(pending) = self.pending.remove(&completion.id) else { continue };
            let kind = pending.reply - 1;
            let result: Result<ShareReply, _> = completion.result;
            let result = match (result, pending.body) {
                (Ok(_), Some(body)) => Ok((body, 0)),
                (Ok(reply), None) => Ok(message::body(&reply, kind == kind::READ)),
                (Err(error), _) => Err(error),
            };
            answer(queues, pending.place, kind, result)?;
            for flush in pending.flushes {
                answer(queues, flush, kind::FLUSH, Ok((Vec::new(), 0)))?;
            }
        }
        Ok(())
    }

    fn stop_queue(&mut self, _index: usize) {
        self.forget_requests();
    }

    fn reset(&mut self) {
        self.forget_requests();
    }

    /// A guest that holds files of this host can't go on elsewhere. One that doesn't has nothing here that it would miss.
    fn save(&self, _state: &mut StateWriter) -> Result<(), StateError> {
        if self.pending.is_empty() && !self.back_end.is_in_use() {
            return Ok(());
        }
        Err(StateError::Unsupported("shared directories"))
    }

    fn restore<M: GuestMemory>(
        &mut self,
        _state: &mut StateReader<'_>,
        _memory: &M,
    ) -> Result<(), StateError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
