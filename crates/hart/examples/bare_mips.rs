//! Measures the interpreter: millions of guest instructions a second on a loop of arithmetic, memory accesses
//! and calls. `cargo run --release -p rvisor-hart --example bare_mips`

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use rvisor_hart::{Config, Environment, Exit, Hart};
use rvisor_isa::{Instruction, Op, encode};
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};

const RAM: u64 = 0x8000_0000;
const SIZE: u64 = 1 << 20;
const ITERATIONS: u64 = 5_000_000;

/// RAM of one hart, without unsafe code and so not quite as fast as a home's.
struct Ram(Vec<AtomicU64>);

impl Ram {
    fn cell(&self, address: GuestPhysical, size: u64) -> Result<(&AtomicU64, u32), OutOfRange> {
        let offset = address.0.wrapping_sub(RAM);
        let cell = self.0.get((offset / 8) as usize).ok_or(OutOfRange)?;
        if address.is_aligned(size) { Ok((cell, (offset % 8 * 8) as u32)) } else { Err(OutOfRange) }
    }

    fn bytes(address: GuestPhysical, length: usize) -> impl Iterator<Item = GuestPhysical> {
        (0..length as u64).map(move |offset| address.offset(offset))
    }
}

impl GuestMemory for Ram {
    fn range(&self) -> Range<GuestPhysical> {
        GuestPhysical(RAM)..GuestPhysical(RAM + SIZE)
    }

    #[inline(always)]
    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let (cell, shift) = self.cell(address, T::SIZE)?;
        Ok(T::truncate(cell.load(Relaxed) >> shift))
    }

    #[inline(always)]
    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        let (cell, shift) = self.cell(address, T::SIZE)?;
        let mask = u64::MAX >> (64 - 8 * T::SIZE) << shift;
        cell.store(cell.load(Relaxed) & !mask | value.widen() << shift, Relaxed);
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        let found = match width {
            AtomicWidth::Word => self.load::<u32>(address)?.into(),
            AtomicWidth::Double => self.load::<u64>(address)?,
        };
        if found == expected {
            match width {
                AtomicWidth::Word => self.store(address, new as u32)?,
                AtomicWidth::Double => self.store(address, new)?,
            }
        }
        Ok(found)
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        let high = address.offset(8);
        let found = u128::from(self.load::<u64>(high)?) << 64 | u128::from(self.load::<u64>(address)?);
        if found == expected {
            self.store(address, new as u64)?;
            self.store(high, (new >> 64) as u64)?;
        }
        Ok(found)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        for (at, byte) in Self::bytes(address, buffer.len()).zip(buffer) {
            *byte = self.load(at)?;
        }
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        Self::bytes(address, buffer.len()).zip(buffer).try_for_each(|(at, byte)| self.store(at, *byte))
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        Self::bytes(address, length as usize).try_for_each(|at| self.store(at, 0u8))
    }
}

/// RAM and nothing else.
struct World(Ram);

impl Environment for World {
    type Memory = Ram;

    fn memory(&self) -> &Ram {
        &self.0
    }

    fn ticks(&self) -> u64 {
        0
    }

    fn interrupt_lines(&self) -> u64 {
        0
    }

    fn take_software_interrupt(&self) -> bool {
        false
    }

    fn attention(&self) -> bool {
        false
    }
}

/// Counts random numbers into buckets, with a call for each.
fn program() -> Vec<u32> {
    const ENTRY: &[(Op, u8, u8, u8, i32)] = &[
        (Op::Mul, 5, 5, 8, 0),
        (Op::Add, 5, 5, 9, 0),
        (Op::Srli, 6, 5, 0, 33),
        (Op::And, 6, 6, 18, 0),
        (Op::Slli, 6, 6, 0, 3),
        (Op::Add, 6, 6, 19, 0),
        (Op::Ld, 7, 6, 0, 0),
        (Op::Addi, 7, 7, 0, 1),
        (Op::Sd, 0, 6, 7, 0),
        (Op::Xor, 11, 11, 7, 0),
        (Op::Jal, 1, 0, 0, 16),
        (Op::Addi, 10, 10, 0, -1),
        (Op::Bne, 0, 10, 0, -48),
        (Op::Wfi, 0, 0, 0, 0),
        (Op::Sltu, 28, 7, 11, 0),
        (Op::Add, 12, 12, 28, 0),
        (Op::Jalr, 0, 1, 0, 0),
    ];
    let assemble =
        |&(op, rd, rs1, rs2, imm)| encode(&Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) });
    ENTRY.iter().filter_map(assemble).collect()
}

fn main() -> Result<(), OutOfRange> {
    let world = World(Ram((0..SIZE / 8).map(|_| AtomicU64::new(0)).collect()));
    for (index, word) in (0..).zip(program()) {
        world.0.store(GuestPhysical(RAM + 4 * index), word)?;
    }
    let mut hart = Hart::new(Config::default());
    hart.pc = RAM;
    hart.x[8] = 6_364_136_223_846_793_005;
    hart.x[9] = 1_442_695_040_888_963_407;
    hart.x[10] = ITERATIONS;
    hart.x[18] = 0xfff;
    hart.x[19] = RAM + SIZE / 2;
    let start = Instant::now();
    let exit = hart.run(&world, u64::MAX);
    assert_eq!(exit, Exit::WaitForInterrupt, "the program ends with wfi");
    let seconds = start.elapsed().as_secs_f64();
    let millions = hart.retired as f64 / 1e6;
    println!("{millions:.0} million instructions in {seconds:.3} s: {:.0} MIPS", millions / seconds);
    Ok(())
}
