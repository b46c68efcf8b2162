use super::*;
use crate::VirtualHart;
use crate::testing::TestVm;

/// A disk that loses power after so many writes: what was written since the last flush may be there or not.
struct Disk {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    writes_left: usize,
}

impl Disk {
    fn new(size: usize) -> Self {
        Self { bytes: alloc::vec![0; size], durable: alloc::vec![0; size], writes_left: usize::MAX }
    }

    fn spend(&mut self) -> Result<(), SaveError> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(SaveError::Disk)?;
        Ok(())
    }
}

impl Storage for &mut Disk {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SaveError> {
        assert!(offset.is_multiple_of(512) && buffer.len().is_multiple_of(512));
        let start = offset as usize;
        buffer.copy_from_slice(self.bytes.get(start..start + buffer.len()).ok_or(SaveError::Disk)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SaveError> {
        self.spend()?;
        assert!(offset.is_multiple_of(512) && bytes.len().is_multiple_of(512));
        self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SaveError> {
        self.spend()?;
        self.durable.clone_from(&self.bytes);
        Ok(())
    }
}

const SIZE: u64 = 64 << 10;
const PAGES: u64 = 16;

fn state() -> SavedState {
    let test = TestVm::new(2, false);
    let mut harts: Vec<_> = (0..2).map(|index| VirtualHart::new(index, &test.vm)).collect();
    let harts: Vec<_> = harts.iter_mut().map(|hart| hart.save(&test.vm).unwrap()).collect();
    test.vm.save(&harts, 77).unwrap()
}

fn keep(disk: &mut Disk, origin: u64, content: u8) -> Result<u64, SaveError> {
    let mut area = SaveArea::open(disk, SIZE)?;
    area.keep(origin, &state(), |put| {
        put(2, &[content; PAGE])?;
        put(9, &[7; PAGE])
    })
}

fn kept(disk: &mut Disk) -> Result<(u64, Vec<(u64, u8)>), SaveError> {
    let mut area = SaveArea::open(disk, SIZE)?;
    let origin = area.content().ok_or(SaveError::Nothing)?.origin;
    let mut found = Vec::new();
    assert_eq!(area.state()?.shape().unwrap().ticks, 77);
    area.memory(PAGES, |run| {
        found.extend(run.bytes.chunks(PAGE).zip(run.first..).map(|(page, number)| (number, page[0])));
        Ok(())
    })?;
    Ok((origin, found))
}

#[test]
fn kept_state_comes_back_until_it_is_used() {
    let mut disk = Disk::new(SIZE as usize);
    assert_eq!(SaveArea::open(&mut disk, SIZE).unwrap().content(), None);
    assert_eq!(kept(&mut disk), Err(SaveError::Nothing));
    for round in 1..4 {
        keep(&mut disk, 5, round).unwrap();
        assert_eq!(kept(&mut disk), Ok((5, alloc::vec![(2, round), (9, 7)])));
        SaveArea::open(&mut disk, SIZE).unwrap().note_use(5).unwrap();
        let content = SaveArea::open(&mut disk, SIZE).unwrap().content();
        assert_eq!(content, Some(Content { origin: 5, is_kept: false }));
        assert_eq!(kept(&mut disk), Err(SaveError::Nothing));
    }
}

#[test]
fn power_cut_leaves_nothing_or_all() {
    for writes in 0..12 {
        let mut disk = Disk::new(SIZE as usize);
        keep(&mut disk, 1, 3).unwrap();
        disk.writes_left = writes;
        let is_done = keep(&mut disk, 1, 4).is_ok();
        // Both what may be lost and what may have got to the disk.
        let torn = disk.bytes.clone();
        let durable = disk.durable.clone();
        for bytes in [torn, durable] {
            let mut after = Disk { durable: bytes.clone(), bytes, writes_left: usize::MAX };
            match kept(&mut after) {
                Ok((_, memory)) => {
                    let old = alloc::vec![(2, 3), (9, 7)];
                    let new = alloc::vec![(2, 4), (9, 7)];
                    assert!(memory == new || !is_done && memory == old, "{memory:?} after {writes}");
                }
                Err(error) => assert!(error == SaveError::Nothing && !is_done, "{error} after {writes}"),
            }
        }
    }
}

#[test]
fn area_that_is_too_small_keeps_nothing() {
    let mut disk = Disk::new(SIZE as usize);
    let mut area = SaveArea::open(&mut disk, 12 << 10).unwrap();
    let random = |page: u64| core::array::from_fn(|at| (at as u64 * 31 + at as u64 * at as u64 * page) as u8);
    let result = area.keep(1, &state(), |put| (0..PAGES).try_for_each(|page| put(page, &random(page))));
    assert_eq!(result, Err(SaveError::TooSmall));
    assert_eq!(area.content(), Some(Content { origin: 1, is_kept: false }));
    assert!(SaveArea::open(&mut disk, 4096).is_err());
}

#[test]
fn damage_is_found() {
    let mut good = Disk::new(SIZE as usize);
    let length = keep(&mut good, 1, 3).unwrap();
    let end = (STATE + length + 512) as usize;
    let fine = kept(&mut good).unwrap();
    for at in (0..512).chain(4096..4608).chain((STATE as usize..end).step_by(5)) {
        let mut bytes = good.bytes.clone();
        bytes[at] ^= 4;
        let mut disk = Disk { durable: bytes.clone(), bytes, writes_left: usize::MAX };
        // Bytes between the parts mean nothing.
        if let Ok(found) = kept(&mut disk) {
            assert_eq!(found, fine, "byte {at}");
        }
    }
}

#[test]
fn worst_memory_fits_into_the_size_that_is_asked_for() {
    let memory = 1 << 20;
    let mut disk = Disk::new(size_for(memory) as usize);
    let mut value = 1_u32;
    let mut random = || {
        value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (value >> 24) as u8
    };
    let mut area = SaveArea::open(&mut disk, size_for(memory)).unwrap();
    // Every second page, so that each is a run.
    area.keep(1, &state(), |put| {
        (0..memory / PAGE_SIZE).step_by(2).try_for_each(|page| put(page, &core::array::from_fn(|_| random())))
    })
    .unwrap();
}

#[test]
fn lengths_without_an_end_are_damage() {
    for (state, memory) in [(u64::MAX, 0), (0, u64::MAX), (MOST_STATE, u64::MAX - MOST_STATE)] {
        let mut disk = Disk::new(SIZE as usize);
        let extent = |length| Extent { length, sum: 0 };
        let header = Header { sequence: 1, origin: 0, kept: Some([extent(state), extent(memory)]) };
        disk.bytes[..SECTOR].copy_from_slice(&header.encode());
        let mut area = SaveArea::open(&mut disk, SIZE).unwrap();
        assert_eq!(area.state().err(), Some(SaveError::Damaged));
    }
}
