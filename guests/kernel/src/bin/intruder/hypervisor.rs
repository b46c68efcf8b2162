//! The instructions of the H extension (Privileged ISA, "Hypervisor Instructions"), which guests don't have: whether the hardware below
//! does or not, they are illegal.

use kernel::println;

use super::{Random, outcome, targets};

/// `a0` is what is loaded or stored, `a1` the address.
const LOADED: u32 = 10 << 7 | 11 << 15;
const STORED: u32 = 10 << 20 | 11 << 15;
/// `hlv.b`, `hlv.bu`, `hlv.h`, `hlv.hu`, `hlvx.hu`, `hlv.w`, `hlv.wu`, `hlvx.wu`, `hlv.d`.
const LOADS: [u32; 9] = [
    0x6000_4073,
    0x6010_4073,
    0x6400_4073,
    0x6410_4073,
    0x6430_4073,
    0x6800_4073,
    0x6810_4073,
    0x6830_4073,
    0x6c00_4073,
];
/// `hsv.b`, `hsv.h`, `hsv.w`, `hsv.d`; then `hfence.vvma`, `hfence.gvma`, `hinval.vvma`, `hinval.gvma`.
const STORES_AND_FENCES: [u32; 8] =
    [0x6200_4073, 0x6600_4073, 0x6a00_4073, 0x6e00_4073, 0x2200_0073, 0x6200_0073, 0x2600_0073, 0x6600_0073];
/// `scause`.
const ILLEGAL_INSTRUCTION: usize = 2;

pub fn attack(random: &mut Random) {
    let instructions = LOADS.map(|load| load | LOADED);
    let others = STORES_AND_FENCES.map(|other| other | STORED);
    for target in targets() {
        for instruction in instructions.iter().chain(&others) {
            let came = outcome(*instruction, random.next(), target);
            if came != Err(ILLEGAL_INSTRUCTION) {
                println!("intruder: FAILED: {instruction:#x} at {target:#x} came to {came:x?}");
            }
        }
    }
}
