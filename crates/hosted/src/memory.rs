//! Guest memory as host memory: anonymous, in large pages of the host where it gives them.
//!
//! Pages cost nothing until the guest touches them. The mapping is shared with nobody, but it is reached from
//! every thread of the VM at once, so all accesses go through atomics or raw copies: no Rust reference into it
//! ever exists.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use portable_atomic::AtomicU128;
use rustix::fs::{MemfdFlags, SeekFrom, ftruncate, memfd_create, seek};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use rvisor_waist::{AtomicWidth, CodePages, GuestMemory, GuestPhysical, OutOfRange, PAGE_SIZE, Word};

use crate::lockstep::Journal;

/// Size of the host's large pages, in bytes: x86-64's.
const LARGE_PAGE: usize = 2 << 20;

/// Addresses that are unmapped at the end.
struct Mapping {
    start: *mut c_void,
    length: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: these addresses were mapped for this value, whose owner goes too.
        let unmapped = unsafe { munmap(self.start, self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// RAM of one VM.
pub struct HostMemory {
    base: GuestPhysical,
    size: u64,
    start: NonNull<u8>,
    /// Around it.
    _mapping: Mapping,
    file: Option<OwnedFd>,
    /// Bytes of the host's pages. Asked for when the memory is made: a sandbox may not let that be later.
    page: usize,
    /// By which the host tells which pages are in use.
    page_map: Option<File>,
    code: CodePages,
    journal: Option<Journal>,
}

// SAFETY: the mapping lives as long as the value, and every access to it is atomic or a copy of bytes that
// may race with the guest, as DMA does on hardware.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Maps `size` bytes of zeros at guest physical `base`. `size` is rounded up to host pages by the host;
    /// accesses are not.
    ///
    /// # Errors
    /// What the host says: no memory, or a limit on it.
    pub fn new(base: GuestPhysical, size: u64) -> io::Result<Self> {
        let length = length(base, size)?;
        // Room for a start that large pages can be at.
        let all = length.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the host's choosing.
        let first =
            unsafe { mmap_anonymous(ptr::null_mut(), all, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let mapping = Mapping { start: first, length: all };
        let start = first.map_addr(|address| address.next_multiple_of(LARGE_PAGE));
        // SAFETY: the range is inside the mapping, which nobody uses yet.
        if let Err(error) = unsafe { madvise(start, length, Advice::LinuxHugepage) } {
            log::info!("no large pages for the guest's memory: {error}");
        }
        Self::with(base, size, mapping, start, None)
    }

    /// The same in a file of the host without a name, from which it can be seen what was never written to.
    ///
    /// # Errors
    /// What the host says: no memory, or a limit on it.
    pub fn in_file(base: GuestPhysical, size: u64) -> io::Result<Self> {
        let length = length(base, size)?;
        let file = memfd_create("rvisor-ram", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size)?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a fresh mapping at an address of the host's choosing.
        let start = unsafe { mmap(ptr::null_mut(), length, rights, flags, &file, 0)? };
        Self::with(base, size, Mapping { start, length }, start, Some(file))
    }

    /// The content of a file from its beginning, which stays as it is: pages are read as the guest touches them, and
    /// copied when it writes to them. All memories of one file share what none has written to. The file must not
    /// change as long as the memory is in use.
    ///
    /// # Errors
    /// What the host says, or if the file is shorter than that.
    pub fn copy_of(base: GuestPhysical, size: u64, file: File) -> io::Result<Self> {
        let length = length(base, size)?;
        if file.metadata()?.len() < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a fresh mapping at an address of the host's choosing.
        let start = unsafe { mmap(ptr::null_mut(), length, rights, flags, &file, 0)? };
        Self::with(base, size, Mapping { start, length }, start, Some(file.into()))
    }

    fn with(
        base: GuestPhysical,
        size: u64,
        mapping: Mapping,
        start: *mut c_void,
        file: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            size,
            start,
            _mapping: mapping,
            file,
            page: rustix::param::page_size(),
            page_map: None,
            code: CodePages::new(base, size),
            journal: None,
        })
    }

    /// The file by which the host tells this process which pages are in use, if it has pages of the guest's size; a
    /// process that is confined can't open it any more.
    #[must_use]
    pub fn page_map() -> Option<File> {
        let map = File::open("/proc/self/pagemap").ok();
        map.filter(|_| rustix::param::page_size() as u64 == PAGE_SIZE)
    }

    /// Uses such a file.
    #[must_use]
    pub fn with_page_map(self, page_map: Option<File>) -> Self {
        Self { page_map, ..self }
    }

    /// The file behind the memory; offset 0 is the first byte of RAM. That of a [copy](Self::copy_of) has what was
    /// there at the beginning.
    ///
    /// # Errors
    /// If there is none.
    pub fn file(&self) -> io::Result<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Where writes are noted.
    pub(crate) fn written_pages(&self) -> &CodePages {
        &self.code
    }

    /// Which pages may be other than zero, as far as the host tells: those that it has given, and those that the file
    /// has something for. All, where it doesn't tell.
    pub(crate) fn occupied_pages(&self) -> Vec<bool> {
        let pages = self.size.div_ceil(PAGE_SIZE) as usize;
        let found = self.present_pages(pages).and_then(|mut occupied| {
            if let Some(file) = &self.file {
                mark_data(file, self.size, &mut occupied)?;
            }
            Ok(occupied)
        });
        found.unwrap_or_else(|error| {
            log::debug!("the host doesn't tell which pages are in use: {error}");
            vec![true; pages]
        })
    }

    /// Pages that are mapped, or swapped out (the kernel's documentation, "Examining Process Page Tables").
    fn present_pages(&self, pages: usize) -> io::Result<Vec<bool>> {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        let map = self.page_map.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut entries = vec![0; pages * 8];
        map.read_exact_at(&mut entries, self.start.as_ptr() as u64 / PAGE_SIZE * 8)?;
        let (entries, _) = entries.as_chunks::<8>();
        Ok(entries.iter().map(|entry| u64::from_ne_bytes(*entry) & (PRESENT | SWAPPED) != 0).collect())
    }

    /// Writes down what is written from now on, for an engine that compares.
    pub(crate) fn keep_journal(&mut self) {
        self.journal = Some(Journal::default());
    }

    /// What was written, and the right to write.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Gives whole pages back to the host, by their bytes from the start. They read as what the file has, or else zeros.
    fn give_back(&self, pages: Range<u64>) -> io::Result<()> {
        let (start, length) = (self.base.offset(pages.start), pages.end - pages.start);
        let start = self.pointer(start, length).map_err(io::Error::other)?;
        // SAFETY: inside the mapping, which stays.
        unsafe { madvise(start.as_ptr().cast(), length as usize, Advice::LinuxDontNeed) }.map_err(Into::into)
    }

    /// Notes a write that is about to be made, or was just made.
    #[inline(always)]
    fn note_write(&self, address: GuestPhysical, length: u64) {
        self.code.note_write(address, length);
        if let Some(journal) = &self.journal {
            journal.add(address, length);
        }
    }

    /// Host address of `length` bytes of RAM, for system calls that transfer straight from or to it. Valid as
    /// long as the memory; the guest and other threads may write to it at any moment.
    ///
    /// # Errors
    /// [`OutOfRange`] unless all bytes are RAM.
    #[inline(always)]
    pub fn pointer(&self, address: GuestPhysical, length: u64) -> Result<NonNull<u8>, OutOfRange> {
        let offset = address.0.wrapping_sub(self.base.0);
        if offset > self.size || length > self.size - offset {
            return Err(OutOfRange);
        }
        // SAFETY: `offset` is inside the mapping or one past its end.
        Ok(unsafe { self.start.add(offset as usize) })
    }
}

// SAFETY: the mapping has the size of the range, and lives as long as the value.
unsafe impl rvisor_translator::DirectMemory for HostMemory {
    fn host_address(&self) -> NonNull<u8> {
        self.start
    }
}

/// Marks the pages that a file has data for.
fn mark_data(file: &OwnedFd, size: u64, pages: &mut [bool]) -> io::Result<()> {
    let mut end = 0;
    while end < size {
        let start = match seek(file, SeekFrom::Data(end)) {
            // None behind it.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            start => start?,
        };
        end = seek(file, SeekFrom::Hole(start))?.min(size);
        let last = (end.div_ceil(PAGE_SIZE) as usize).min(pages.len());
        if let Some(pages) = pages.get_mut((start / PAGE_SIZE) as usize..last) {
            pages.fill(true);
        }
    }
    Ok(())
}

/// Does something with the whole pages of a range for which a file has nothing. Where it has something, a page that is
/// given back would be what it was long ago, and neither what it is nor zeros.
fn holes(
    file: &OwnedFd,
    range: Range<u64>,
    page: u64,
    mut each: impl FnMut(Range<u64>) -> io::Result<()>,
) -> io::Result<()> {
    let mut start = range.start;
    while start < range.end {
        start = seek(file, SeekFrom::Hole(start))?;
        let end = match seek(file, SeekFrom::Data(start)) {
            // None behind it.
            Err(rustix::io::Errno::NXIO) => range.end,
            end => end?.min(range.end),
        };
        let hole = start.next_multiple_of(page)..end / page * page;
        if hole.start < hole.end {
            each(hole)?;
        }
        start = end;
    }
    Ok(())
}

/// Checks a size, which is to be that of a mapping.
fn length(base: GuestPhysical, size: u64) -> io::Result<usize> {
    let length = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    if length == 0 || base.0.checked_add(size).is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(length)
}

/// Loads a word that isn't naturally aligned, byte by byte.
#[cold]
fn load_bytes<T: Word>(pointer: NonNull<u8>) -> T {
    let byte = |i: u64| {
        // SAFETY: the caller checked that all bytes of the word are inside the mapping.
        u64::from(unsafe { AtomicU8::from_ptr(pointer.add(i as usize).as_ptr()) }.load(Ordering::Relaxed))
    };
    T::truncate((0..T::SIZE).fold(0, |word, i| word | byte(i) << (8 * i)))
}

/// Stores a word that isn't naturally aligned, byte by byte.
#[cold]
fn store_bytes(pointer: NonNull<u8>, value: u64, size: u64) {
    for i in 0..size {
        // SAFETY: the caller checked that all bytes of the word are inside the mapping.
        let byte = unsafe { AtomicU8::from_ptr(pointer.add(i as usize).as_ptr()) };
        byte.store((value >> (8 * i)) as u8, Ordering::Relaxed);
    }
}

impl GuestMemory for HostMemory {
    fn range(&self) -> Range<GuestPhysical> {
        self.base..self.base.offset(self.size)
    }

    #[inline(always)]
    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let pointer = self.pointer(address, T::SIZE)?;
        let start = pointer.as_ptr();
        if !(start as u64).is_multiple_of(T::SIZE) {
            return Ok(load_bytes(pointer));
        }
        // SAFETY: inside the mapping, aligned, and reached through atomics only.
        let value = unsafe {
            match T::SIZE {
                1 => u64::from(AtomicU8::from_ptr(start).load(Ordering::Relaxed)),
                2 => u64::from(u16::from_le(AtomicU16::from_ptr(start.cast()).load(Ordering::Relaxed))),
                4 => u64::from(u32::from_le(AtomicU32::from_ptr(start.cast()).load(Ordering::Relaxed))),
                _ => u64::from_le(AtomicU64::from_ptr(start.cast()).load(Ordering::Relaxed)),
            }
        };
        Ok(T::truncate(value))
    }

    fn code_pages(&self) -> Option<&CodePages> {
        Some(&self.code)
    }

    /// Notes the write on both sides, so that a `fence.i` of another hart in between misses nothing.
    #[inline(always)]
    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        let pointer = self.pointer(address, T::SIZE)?;
        self.note_write(address, T::SIZE);
        let start = pointer.as_ptr();
        if !(start as u64).is_multiple_of(T::SIZE) {
            store_bytes(pointer, value.widen(), T::SIZE);
            self.note_write(address, T::SIZE);
            return Ok(());
        }
        let value = value.widen();
        // SAFETY: inside the mapping, aligned, and reached through atomics only.
        unsafe {
            match T::SIZE {
                1 => AtomicU8::from_ptr(start).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(start.cast()).store((value as u16).to_le(), Ordering::Relaxed),
                4 => AtomicU32::from_ptr(start.cast()).store((value as u32).to_le(), Ordering::Relaxed),
                _ => AtomicU64::from_ptr(start.cast()).store(value.to_le(), Ordering::Relaxed),
            }
        }
        self.note_write(address, T::SIZE);
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        let size = match width {
            AtomicWidth::Word => 4,
            AtomicWidth::Double => 8,
        };
        let start = self.pointer(address, size)?.as_ptr();
        if !(start as u64).is_multiple_of(size) {
            return Err(OutOfRange);
        }
        self.note_write(address, size);
        // SAFETY: inside the mapping, aligned, and reached through atomics only.
        Ok(unsafe {
            match width {
                AtomicWidth::Word => {
                    let found = AtomicU32::from_ptr(start.cast()).compare_exchange(
                        (expected as u32).to_le(),
                        (new as u32).to_le(),
                        Ordering::SeqCst,
                        Ordering::SeqCst,
                    );
                    u64::from(u32::from_le(found.unwrap_or_else(|found| found)))
                }
                AtomicWidth::Double => {
                    let found = AtomicU64::from_ptr(start.cast()).compare_exchange(
                        expected.to_le(),
                        new.to_le(),
                        Ordering::SeqCst,
                        Ordering::SeqCst,
                    );
                    u64::from_le(found.unwrap_or_else(|found| found))
                }
            }
        })
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        let start = self.pointer(address, 16)?.as_ptr();
        if !(start as u64).is_multiple_of(16) {
            return Err(OutOfRange);
        }
        self.note_write(address, 16);
        // SAFETY: inside the mapping and aligned. On hosts without a 16-byte compare-and-exchange the library
        // falls back to a lock, which then orders these operations with each other but not with plain
        // stores.
        let cell = unsafe { AtomicU128::from_ptr(start.cast()) };
        let found = cell.compare_exchange(expected.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst);
        Ok(u128::from_le(found.unwrap_or_else(|found| found)))
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let source = self.pointer(address, buffer.len() as u64)?;
        fence(Ordering::Acquire);
        // SAFETY: both ranges are valid for their length and can't overlap: a Rust slice is never inside the
        // mapping.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let target = self.pointer(address, buffer.len() as u64)?;
        let _turn = self.journal.as_ref().map(Journal::turn);
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(buffer.as_ptr(), target.as_ptr(), buffer.len()) };
        // Whether to note the write is looked at behind it.
        fence(Ordering::SeqCst);
        self.note_write(address, buffer.len() as u64);
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let target = self.pointer(address, length)?;
        let _turn = self.journal.as_ref().map(Journal::turn);
        // SAFETY: inside the mapping.
        unsafe { ptr::write_bytes(target.as_ptr(), 0, length as usize) };
        fence(Ordering::SeqCst);
        self.note_write(address, length);
        Ok(())
    }

    fn release(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let start = self.pointer(address, length)?.as_ptr();
        // What is compared is left as it is.
        if self.journal.is_some() {
            return Ok(());
        }
        let page = self.page;
        let skipped = start.addr().next_multiple_of(page) - start.addr();
        let whole = (length as usize).saturating_sub(skipped) / page * page;
        if whole > 0 {
            self.note_write(address, length);
            let first = address.0 - self.base.0 + skipped as u64;
            let pages = first..first + whole as u64;
            let released = match &self.file {
                None => self.give_back(pages),
                Some(file) => holes(file, pages, page as u64, |hole| self.give_back(hole)),
            };
            if let Err(error) = released {
                log::warn!("the host doesn't take memory back: {error}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: GuestPhysical = GuestPhysical(0x8000_0000);

    fn memory() -> HostMemory {
        HostMemory::new(BASE, 0x10_0000).expect("the host has a mebibyte")
    }

    #[test]
    fn released_memory_is_the_hosts_again_and_reads_as_zeros() {
        let memory = HostMemory::new(BASE, 64 << 20).unwrap();
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * rustix::param::page_size() as i64
        };
        memory.write(BASE, &vec![7; 64 << 20]).unwrap();
        let before = resident();
        memory.release(BASE.offset(1), (64 << 20) - 1).unwrap();
        assert!(before - resident() > 50 << 20);
        assert_eq!(memory.load::<u8>(BASE.offset(8192)), Ok(0));
        // What isn't a whole page stays.
        assert_eq!(memory.load::<u8>(BASE), Ok(7));
        assert!(memory.release(BASE.offset(64 << 20), 1).is_err() && memory.release(BASE, u64::MAX).is_err());
    }

    #[test]
    fn released_memory_of_a_copy_is_the_hosts_again_where_the_file_has_nothing() {
        const PAGES: u64 = 1024;
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES * PAGE_SIZE).unwrap();
        // What the file has lies between two holes.
        file.write_all_at(&[1; PAGE_SIZE as usize], 5 * PAGE_SIZE).unwrap();
        let memory = HostMemory::copy_of(BASE, PAGES * PAGE_SIZE, file).unwrap();
        let memory = memory.with_page_map(HostMemory::page_map());
        memory.write(BASE, &vec![7; (PAGES * PAGE_SIZE) as usize]).unwrap();
        memory.release(BASE.offset(1), (PAGES - 2) * PAGE_SIZE).unwrap();
        let first = |page: u64| memory.load::<u8>(BASE.offset(page * PAGE_SIZE)).unwrap();
        let there = memory.present_pages(PAGES as usize).unwrap();
        for (page, there) in (0..PAGES).zip(there) {
            let kept = [0, 5, PAGES - 2, PAGES - 1].contains(&page);
            assert_eq!((page, there, first(page)), (page, kept, if kept { 7 } else { 0 }));
        }
        memory.release(BASE, PAGES * PAGE_SIZE).unwrap();
        assert_eq!([0, 5, PAGES - 1].map(first), [0, 7, 0]);
    }

    #[test]
    fn words_of_all_sizes_and_alignments_are_little_endian() {
        let memory = memory();
        memory.store(BASE.offset(3), 0x8877_6655_4433_2211u64).unwrap();
        assert_eq!(memory.load::<u8>(BASE.offset(3)), Ok(0x11));
        assert_eq!(memory.load::<u16>(BASE.offset(4)), Ok(0x3322));
        assert_eq!(memory.load::<u32>(BASE.offset(5)), Ok(0x6655_4433));
        assert_eq!(memory.load::<u64>(BASE.offset(3)), Ok(0x8877_6655_4433_2211));
    }

    #[test]
    fn access_past_either_end_returns_error() {
        let memory = memory();
        let end = memory.range().end;
        assert_eq!(memory.load::<u64>(end.offset(8u64.wrapping_neg())), Ok(0));
        assert_eq!(memory.load::<u64>(end.offset(7u64.wrapping_neg())), Err(OutOfRange));
        assert_eq!(memory.load::<u8>(end), Err(OutOfRange));
        assert_eq!(memory.store(GuestPhysical(BASE.0 - 1), 0u8), Err(OutOfRange));
        assert_eq!(memory.store(GuestPhysical(u64::MAX - 3), 0u64), Err(OutOfRange));
        assert_eq!(memory.read(BASE, &mut vec![0; 0x10_0001]), Err(OutOfRange));
        assert_eq!(memory.zero(BASE.offset(1), u64::MAX), Err(OutOfRange));
    }

    #[test]
    fn compare_exchange_needs_alignment_and_the_expected_value() {
        let memory = memory();
        assert_eq!(memory.compare_exchange(BASE, AtomicWidth::Double, 0, 5), Ok(0));
        assert_eq!(memory.compare_exchange(BASE, AtomicWidth::Word, 4, 9), Ok(5));
        assert_eq!(memory.load::<u64>(BASE), Ok(5));
        assert_eq!(memory.compare_exchange(BASE.offset(4), AtomicWidth::Double, 0, 5), Err(OutOfRange));
        assert_eq!(memory.compare_exchange_quad(BASE, 5, 1 << 100), Ok(5));
        assert_eq!(memory.compare_exchange_quad(BASE.offset(8), 0, 0), Err(OutOfRange));
        assert_eq!(memory.load::<u64>(BASE.offset(8)), Ok(1 << 36));
    }

    #[test]
    fn untouched_memory_costs_nothing() {
        let memory = HostMemory::new(BASE, 1 << 40).expect("address space is plentiful");
        memory.store(BASE.offset((1 << 40) - 8), 7u64).unwrap();
        assert_eq!(memory.load::<u64>(BASE.offset(1 << 39)), Ok(0));
    }
}
