//! Random programs do the same through the cache, in slices of any length, as one step at a time.

use super::*;
use crate::exit::DeviceAccess;
use rvisor_isa::csr::{self, mstatus};

/// A generator of numbers that are random enough (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    /// Any instruction whose jumps stay near; compressed ones, and bits that are none, too.
    fn instruction(&mut self) -> u32 {
        if self.below(4) == 0 {
            // Two halves: one instruction each, or one that begins in the middle.
            return self.next() as u32;
        }
        let op = Op::ALL[self.below(Op::ALL.len() as u64) as usize];
        let (mask, fixed) = op.encoding();
        let bits = self.next() as u32 & !mask | fixed;
        match op {
            Op::Jal => asm(op, bits as u8 >> 3, 0, 0, (self.below(64) as i32 - 32) * 4),
            Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu => {
                asm(op, 0, bits as u8 >> 3, (bits >> 8) as u8 >> 3, (self.below(64) as i32 - 24) * 2)
            }
            _ => bits,
        }
    }
}

/// Code fills two pages and a bit, from the middle of the first; data is elsewhere.
const CODE: u64 = RAM + 0x0c00;
const CODE_WORDS: usize = 0x500;
const DATA: u64 = RAM + 0x8000;

fn world(seed: u64) -> (World, Vec<u32>) {
    let mut random = Random(seed);
    let code: Vec<u32> = (0..CODE_WORDS).map(|_| random.instruction()).collect();
    let world = World::new();
    put(&world, CODE, &code);
    for at in (0..0x4000).step_by(8) {
        world.ram.set_double(DATA + at, random.next());
    }
    (world, code)
}

fn start(world: &World, seed: u64) -> Hart {
    let mut random = Random(seed ^ 0x5555);
    let mut hart = hart_at(world, CODE + 2 * random.below(2 * CODE_WORDS as u64));
    hart.csr.mstatus |= mstatus::FS_INITIAL;
    // What traps is skipped; that the handler clobbers a register doesn't matter.
    let handler = [
        asm(Op::Csrrs, 31, 0, 0, csr::MEPC as i32),
        addi(31, 31, 4),
        asm(Op::Csrrw, 0, 31, 0, csr::MEPC as i32),
        asm(Op::Mret, 0, 0, 0, 0),
    ];
    put(world, HANDLER, &handler);
    for register in &mut hart.x[1..] {
        *register = match random.below(4) {
            0 => random.next(),
            1 => random.below(64),
            _ => DATA + 0x1000 + random.below(0x2000),
        };
    }
    hart.f.fill_with(|| random.next());
    hart
}

fn finish(hart: &mut Hart, access: &DeviceAccess) {
    hart.finish_device_access(access, Ok(access.address.0));
}

/// Runs until a wait or some hundred instructions; returns how many exits that took.
fn run_slices(hart: &mut Hart, world: &World, random: &mut Random) {
    for _ in 0..20 {
        match hart.run(world, random.below(40)) {
            Exit::Device(access) => finish(hart, &access),
            Exit::Budget => {}
            Exit::SbiCall | Exit::WaitForInterrupt => return,
        }
    }
}

#[test]
fn runs_and_steps_agree_on_random_programs() {
    let mut compared = 0;
    for seed in 1..1000 {
        let (cached, code) = world(seed);
        let mut hart = start(&cached, seed);
        run_slices(&mut hart, &cached, &mut Random(seed));

        let (plain, _) = world(seed);
        let mut stepped = start(&plain, seed);
        for _ in 0..5000 {
            if stepped.retired == hart.retired && stepped.pc == hart.pc {
                break;
            }
            if let Exit::Device(access) = stepped.step(&plain) {
                finish(&mut stepped, &access);
            }
        }
        let mut now = [0; 4 * CODE_WORDS];
        plain.ram.read(GuestPhysical(CODE), &mut now).unwrap();
        if now.chunks_exact(4).zip(&code).any(|(now, then)| now != then.to_le_bytes()) {
            continue;
        }
        assert_eq!((hart.pc, hart.x, hart.f), (stepped.pc, stepped.x, stepped.f), "seed {seed}");
        assert_eq!((hart.retired, &hart.csr), (stepped.retired, &stepped.csr), "seed {seed}");
        for at in (0..0x4000).step_by(8) {
            assert_eq!(cached.ram.double(DATA + at), plain.ram.double(DATA + at), "seed {seed}");
        }
        compared += hart.retired;
    }
    assert!(compared > 20_000, "only {compared} instructions were compared");
}
