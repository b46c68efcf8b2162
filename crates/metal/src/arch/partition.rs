//! A guest's partition: machine memory that is its RAM, given in chunks when they are first used.
//!
//! It is reached from every physical hart and by the guest itself at the same time, so all accesses go through
//! atomics or raw copies: no Rust reference into it ever exists.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use portable_atomic::AtomicU128;
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};
use spin::Mutex;

use super::frames::{CHUNK, Frames};
use crate::address::MachineAddress;
use crate::copies::Copies;

/// RAM of one guest.
pub struct Partition {
    frames: Arc<Frames>,
    base: GuestPhysical,
    size: u64,
    /// Machine address of each chunk; zero for one that was never written to, which reads as zeros.
    chunks: Box<[AtomicU64]>,
    /// Held while a chunk is added.
    adding: Mutex<()>,
    is_reserved: AtomicBool,
    copies: Option<Copies>,
}

/// Memory that is not there, as whoever reads it sees it.
static ZEROS: [u128; 1] = [0];

impl Partition {
    /// RAM of `size` bytes at guest physical `base`, all of it zeros.
    pub(super) fn new(frames: Arc<Frames>, base: GuestPhysical, size: u64) -> Self {
        let chunks = (0..size.div_ceil(CHUNK)).map(|_| AtomicU64::new(0)).collect();
        Self {
            frames,
            base,
            size,
            chunks,
            adding: Mutex::new(()),
            is_reserved: AtomicBool::new(false),
            copies: None,
        }
    }

    /// The same with copies of pages of the guest's text.
    #[must_use]
    pub fn with_copies(self, copies: Copies) -> Self {
        Self { copies: Some(copies), ..self }
    }

    /// Copies of pages of the guest's text, if there may be any.
    #[must_use]
    pub fn copies(&self) -> Option<&Copies> {
        self.copies.as_ref()
    }

    /// Before and after a write, of a range that is inside.
    #[inline]
    fn written(&self, address: GuestPhysical, length: u64) {
        if let Some(copies) = &self.copies {
            copies.written(address, length);
        }
    }

    /// Makes sure that the partition can have all of its size. False if there is too little memory.
    pub fn reserve(&self) -> bool {
        self.is_reserved.load(Ordering::Relaxed) || {
            let is_reserved = self.frames.reserve(self.chunks.len() as u64);
            self.is_reserved.store(is_reserved, Ordering::Relaxed);
            is_reserved
        }
    }

    /// Gives all memory back, and the reservation: everything reads as zeros. Nothing may map it any more: no hart
    /// runs, no shadow table has it, no device works for the guest.
    pub fn release(&self) {
        if let Some(copies) = &self.copies {
            copies.clear();
        }
        let _adding = self.adding.lock();
        for chunk in &self.chunks {
            match chunk.swap(0, Ordering::Relaxed) {
                0 => {}
                machine => self.frames.give(MachineAddress(machine)),
            }
        }
        if self.is_reserved.swap(false, Ordering::Relaxed) {
            self.frames.release(self.chunks.len() as u64);
        }
    }

    /// Bytes of machine memory that it has.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.chunks.iter().filter(|chunk| chunk.load(Ordering::Relaxed) != 0).count() as u64 * CHUNK
    }

    /// Where memory is: the guest physical address of each chunk, and its bytes.
    pub fn chunks(&self) -> impl Iterator<Item = (GuestPhysical, u64)> {
        let present = (0..).zip(&self.chunks).filter(|(_, chunk)| chunk.load(Ordering::Relaxed) != 0);
        present.map(|(number, _)| (self.base.offset(number * CHUNK), CHUNK.min(self.size - number * CHUNK)))
    }

    /// The machine address of a guest physical one, with the bytes of the same chunk that follow it; `None` outside
    /// RAM. What isn't there yet is added.
    #[must_use]
    pub fn machine(&self, address: GuestPhysical) -> Option<(MachineAddress, u64)> {
        let offset = address.0.wrapping_sub(self.base.0);
        if offset >= self.size {
            return None;
        }
        let chunk = self.added(offset)?;
        let inside = offset % CHUNK;
        Some((chunk.offset(inside), (CHUNK - inside).min(self.size - offset)))
    }

    /// The chunk at `offset` bytes, which is inside; added if need be.
    #[inline]
    fn added(&self, offset: u64) -> Option<MachineAddress> {
        match self.chunks[(offset / CHUNK) as usize].load(Ordering::Acquire) {
            0 => self.add(offset),
            machine => Some(MachineAddress(machine)),
        }
    }

    #[cold]
    fn add(&self, offset: u64) -> Option<MachineAddress> {
        let _adding = self.adding.lock();
        let chunk = &self.chunks[(offset / CHUNK) as usize];
        match chunk.load(Ordering::Acquire) {
            0 => {}
            machine => return Some(MachineAddress(machine)),
        }
        // Without a reservation the guest isn't on: nothing is to be written.
        let machine = self.is_reserved.load(Ordering::Relaxed).then(|| self.frames.take()).flatten()?;
        chunk.store(machine.0, Ordering::Release);
        Some(machine)
    }

    /// The offset of an access that lies inside.
    fn offset(&self, address: GuestPhysical, length: u64) -> Result<u64, OutOfRange> {
        let offset = address.0.wrapping_sub(self.base.0);
        if offset > self.size || length > self.size - offset { Err(OutOfRange) } else { Ok(offset) }
    }

    /// Where to write `length` bytes, which don't leave their chunk.
    fn pointer(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        let offset = self.offset(address, length)?;
        let chunk = self.added(offset).ok_or(OutOfRange)?;
        Ok(self.frames.pointer(chunk.offset(offset % CHUNK)))
    }

    /// Where to read up to 16 bytes, which don't leave their chunk.
    fn source(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        let offset = self.offset(address, length)?;
        Ok(match self.chunks[(offset / CHUNK) as usize].load(Ordering::Acquire) {
            0 => (&raw const ZEROS).cast_mut().cast(),
            machine => self.frames.pointer(MachineAddress(machine).offset(offset % CHUNK)),
        })
    }

    /// The same as `pointer`, for an access that must be aligned.
    fn aligned(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        if address.is_aligned(length) { self.pointer(address, length) } else { Err(OutOfRange) }
    }

    /// Splits a range into what lies in one chunk each: offset in the range, and bytes; checks it first.
    fn pieces(
        &self,
        address: GuestPhysical,
        length: u64,
    ) -> Result<impl Iterator<Item = (GuestPhysical, usize, usize)>, OutOfRange> {
        let start = self.offset(address, length)?;
        let mut done = 0;
        Ok(core::iter::from_fn(move || {
            let count = (CHUNK - (start + done) % CHUNK).min(length - done);
            let piece = (address.offset(done), done as usize, count as usize);
            done += count;
            (count != 0).then_some(piece)
        }))
    }
}

impl GuestMemory for Partition {
    fn range(&self) -> Range<GuestPhysical> {
        self.base..self.base.offset(self.size)
    }

    #[inline]
    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let pointer = self.source(address, T::SIZE)?;
        if !address.is_aligned(T::SIZE) {
            let mut bytes = [0; 8];
            self.read(address, &mut bytes[..T::SIZE as usize])?;
            return Ok(T::truncate(u64::from_le_bytes(bytes)));
        }
        // SAFETY: inside the partition, aligned, and reached through atomics only.
        let value = unsafe {
            match T::SIZE {
                1 => u64::from(AtomicU8::from_ptr(pointer).load(Ordering::Relaxed)),
                2 => u64::from(u16::from_le(AtomicU16::from_ptr(pointer.cast()).load(Ordering::Relaxed))),
                4 => u64::from(u32::from_le(AtomicU32::from_ptr(pointer.cast()).load(Ordering::Relaxed))),
                _ => u64::from_le(AtomicU64::from_ptr(pointer.cast()).load(Ordering::Relaxed)),
            }
        };
        Ok(T::truncate(value))
    }

    #[inline]
    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        let value = value.widen();
        if !address.is_aligned(T::SIZE) {
            return self.write(address, &value.to_le_bytes()[..T::SIZE as usize]);
        }
        let pointer = self.pointer(address, T::SIZE)?;
        self.written(address, T::SIZE);
        // SAFETY: inside the partition, aligned, and reached through atomics only.
        unsafe {
            match T::SIZE {
                1 => AtomicU8::from_ptr(pointer).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(pointer.cast()).store((value as u16).to_le(), Ordering::Relaxed),
                4 => AtomicU32::from_ptr(pointer.cast()).store((value as u32).to_le(), Ordering::Relaxed),
                _ => AtomicU64::from_ptr(pointer.cast()).store(value.to_le(), Ordering::Relaxed),
            }
        }
        self.written(address, T::SIZE);
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        use Ordering::SeqCst;
        let found = match width {
            AtomicWidth::Word => {
                let pointer = self.aligned(address, 4)?;
                self.written(address, 4);
                // SAFETY: inside the partition, aligned, and reached through atomics only.
                let cell = unsafe { AtomicU32::from_ptr(pointer.cast()) };
                let (expected, new) = ((expected as u32).to_le(), (new as u32).to_le());
                let found = cell.compare_exchange(expected, new, SeqCst, SeqCst);
                u32::from_le(found.unwrap_or_else(|found| found)).into()
            }
            AtomicWidth::Double => {
                let pointer = self.aligned(address, 8)?;
                self.written(address, 8);
                // SAFETY: as above.
                let cell = unsafe { AtomicU64::from_ptr(pointer.cast()) };
                let found = cell.compare_exchange(expected.to_le(), new.to_le(), SeqCst, SeqCst);
                u64::from_le(found.unwrap_or_else(|found| found))
            }
        };
        // It is aligned: the first bytes tell the page.
        self.written(address, 4);
        Ok(found)
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        let pointer = self.aligned(address, 16)?;
        self.written(address, 16);
        // SAFETY: inside the partition and aligned. Harts without a 16-byte compare-and-exchange take a lock,
        // which orders these operations with each other but not with plain stores.
        let cell = unsafe { AtomicU128::from_ptr(pointer.cast()) };
        let found = cell.compare_exchange(expected.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst);
        self.written(address, 16);
        Ok(u128::from_le(found.unwrap_or_else(|found| found)))
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        fence(Ordering::Acquire);
        for (from, at, count) in self.pieces(address, buffer.len() as u64)? {
            let target = &mut buffer[at..at + count];
            let offset = from.0 - self.base.0;
            match self.chunks[(offset / CHUNK) as usize].load(Ordering::Acquire) {
                0 => target.fill(0),
                machine => {
                    let source = self.frames.pointer(MachineAddress(machine).offset(offset % CHUNK));
                    // SAFETY: both ranges are valid for their length and can't overlap: a Rust slice is never inside
                    // a partition.
                    unsafe { ptr::copy_nonoverlapping(source, target.as_mut_ptr(), count) };
                }
            }
        }
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        for (to, at, count) in self.pieces(address, buffer.len() as u64)? {
            let target = self.pointer(to, count as u64)?;
            self.written(to, count as u64);
            // SAFETY: as in `read`.
            unsafe { ptr::copy_nonoverlapping(buffer[at..].as_ptr(), target, count) };
            self.written(to, count as u64);
        }
        fence(Ordering::Release);
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        for (to, _, count) in self.pieces(address, length)? {
            let offset = to.0 - self.base.0;
            // What isn't there is zero.
            if self.chunks[(offset / CHUNK) as usize].load(Ordering::Acquire) != 0 {
                let target = self.pointer(to, count as u64)?;
                self.written(to, count as u64);
                // SAFETY: inside the partition.
                unsafe { ptr::write_bytes(target, 0, count) };
                self.written(to, count as u64);
            }
        }
        fence(Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::regions::Regions;

    pub const BASE: GuestPhysical = GuestPhysical(0x8000_0000);
    pub const MACHINE: MachineAddress = MachineAddress(0x9020_0000);

    /// Memory for guests that the test never gives back, whose chunks have these machine addresses in this order.
    fn frames(chunks: u64) -> Arc<Frames> {
        let words = alloc::vec![0x55u128; (chunks * CHUNK / 16) as usize].leak();
        let direct = (words.as_ptr() as u64).wrapping_sub(MACHINE.0);
        let mut memory = Regions::new();
        memory.add(MACHINE..MACHINE.offset(chunks * CHUNK));
        // SAFETY: leaked, and nobody else has it.
        unsafe { Frames::new(&mut memory, direct) }
    }

    /// A partition, all of it there and in one piece.
    pub fn partition(size: usize) -> Partition {
        let frames = frames((size as u64).div_ceil(CHUNK));
        let memory = frames.partition(BASE, size as u64);
        assert!(memory.reserve());
        for offset in (0..size as u64).step_by(CHUNK as usize) {
            assert!(memory.machine(BASE.offset(offset)).is_some());
        }
        memory
    }

    #[test]
    fn access_past_either_end_returns_error() {
        let memory = partition(0x1000);
        let end = memory.range().end;
        assert_eq!(memory.store(end.offset(8u64.wrapping_neg()), 5u64), Ok(()));
        assert_eq!(memory.load::<u64>(end.offset(8u64.wrapping_neg())), Ok(5));
        assert_eq!(memory.load::<u64>(end.offset(7u64.wrapping_neg())), Err(OutOfRange));
        assert_eq!(memory.store(GuestPhysical(BASE.0 - 1), 0u8), Err(OutOfRange));
        assert_eq!(memory.load::<u64>(GuestPhysical(u64::MAX - 3)), Err(OutOfRange));
        assert_eq!(memory.zero(BASE.offset(1), u64::MAX), Err(OutOfRange));
        assert_eq!(memory.compare_exchange(BASE.offset(4), AtomicWidth::Double, 0, 5), Err(OutOfRange));
        assert_eq!(memory.compare_exchange_quad(BASE.offset(8), 0, 0), Err(OutOfRange));
    }

    #[test]
    fn machine_address_is_the_partitions_or_none() {
        let memory = partition(0x1000);
        assert_eq!(memory.machine(BASE.offset(0x10)), Some((MACHINE.offset(0x10), 0xff0)));
        assert_eq!(memory.machine(BASE.offset(0x1000)), None);
        assert_eq!(memory.machine(GuestPhysical(0)), None);
    }

    #[test]
    fn misaligned_words_are_little_endian() {
        let memory = partition(0x1000);
        memory.store(BASE.offset(3), 0x8877_6655_4433_2211u64).unwrap();
        assert_eq!(memory.load::<u16>(BASE.offset(4)), Ok(0x3322));
        assert_eq!(memory.load::<u64>(BASE.offset(3)), Ok(0x8877_6655_4433_2211));
    }

    #[test]
    fn memory_comes_when_it_is_written_to_and_is_zero_then() {
        let frames = frames(2);
        let memory = frames.partition(BASE, 2 * CHUNK);
        assert_eq!(memory.store(BASE, 1u8), Err(OutOfRange));
        assert!(memory.reserve());
        assert_eq!(memory.load::<u64>(BASE.offset(CHUNK - 8)), Ok(0));
        let mut across = [1; 16];
        memory.read(BASE.offset(CHUNK - 8), &mut across).unwrap();
        memory.zero(BASE, 2 * CHUNK).unwrap();
        assert_eq!((across, memory.resident()), ([0; 16], 0));
        memory.write(BASE.offset(CHUNK - 8), &[7; 16]).unwrap();
        memory.read(BASE.offset(CHUNK - 8), &mut across).unwrap();
        assert_eq!((across, memory.resident()), ([7; 16], 2 * CHUNK));
        assert_eq!((memory.load::<u64>(BASE), memory.load::<u64>(BASE.offset(CHUNK + 8))), (Ok(0), Ok(0)));
    }

    #[test]
    fn what_one_guest_gives_back_the_next_has_as_zeros() {
        let frames = frames(2);
        let (one, two) = (frames.partition(BASE, 2 * CHUNK), frames.partition(BASE, CHUNK));
        assert!(one.reserve() && one.reserve() && !two.reserve());
        one.store(BASE, 0x1234u16).unwrap();
        one.release();
        assert_eq!((one.load::<u16>(BASE), one.resident(), frames.unreserved()), (Ok(0), 0, 2 * CHUNK));
        assert!(two.reserve());
        two.store(BASE.offset(8), 1u8).unwrap();
        assert_eq!(two.load::<u16>(BASE), Ok(0));
    }
}
