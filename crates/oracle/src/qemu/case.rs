//! Random cases and the memory around them.

use rvisor_isa::csr::{envcfg, mstatus, satp};
use rvisor_isa::{Extension, Instruction, Op, Privilege, compressed, csr, decode, encode};

use super::guest::{self, Guest};
use super::layout::*;
use crate::random::Random;
use crate::world::RAM;

/// Where in the landing area the instruction stands, from its middle: some cross a page.
const CODE_OFFSETS: [u64; 6] = [0, 2, 4, 0x100, 0xffc, 0xffe];

/// What goes into a case.
#[derive(Clone)]
pub struct Case {
    pub instructions: Vec<u32>,
    pub x: [u64; 32],
    pub f: [u64; 32],
    pub fcsr: u64,
    pub mstatus: u64,
    pub satp: u64,
    pub pc: u64,
    pub code: u64,
    pub menvcfg: u64,
    pub pmpcfg: u64,
    pub sample: u64,
    pub entries_at: u64,
    pub entries: [u64; 2],
    /// With the hypervisor extension.
    pub guest: Option<Guest>,
}

/// Where a memory operand is to point.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Region {
    Physical,
    UserAlias,
    Window,
    /// The window, by a table that the second stage maps as the case says.
    TableWindow,
    /// The second stage's window.
    SecondWindow,
    Anywhere,
}

impl Case {
    /// Draws a case, for harts with the hypervisor extension or without.
    pub fn random(random: &mut Random, hypervisor: bool) -> Self {
        let mode = random.pick(&[Privilege::User, Privilege::Supervisor, Privilege::Machine]);
        let translation = random.pick(&[satp::BARE, satp::SV39, satp::SV39, satp::SV48, satp::SV57]);
        let root = match translation {
            satp::SV48 => TABLES + 0x1000,
            satp::SV57 => TABLES + 0x2000,
            _ => TABLES,
        };
        let code = LANDING + LANDING_SIZE / 2 + random.pick(&CODE_OFFSETS);
        let status = Self::status(random, mode);
        let is_machine = mode == Privilege::Machine;
        let menvcfg = random.bits() & (envcfg::ADUE | envcfg::PBMTE | envcfg::CBCFE | envcfg::CBZE)
            | random.pick(&[0, 1, 3]) << envcfg::CBIE_SHIFT;
        let menvcfg = if hypervisor { menvcfg | random.bits() & envcfg::STCE } else { menvcfg };
        let guest = hypervisor.then(|| Guest::random(random, mode, menvcfg));
        let inside = guest.as_ref().filter(|guest| guest.virtualized);
        let translates = match inside {
            Some(guest) => guest.translates(),
            None => translation != satp::BARE && (!is_machine || status & mstatus::MPRV != 0),
        };
        let status = if inside.is_some() { status | mstatus::MPV } else { status };
        let pc = if translates && mode == Privilege::User { code - RAM + USER_ALIAS } else { code };
        let mut case = Self {
            instructions: Vec::new(),
            x: std::array::from_fn(|_| random.value()),
            f: std::array::from_fn(|_| float(random)),
            fcsr: random.pick(&[0, 0, 1, 2, 3, 4, 5, 7]) << csr::fcsr::FRM_SHIFT
                | random.pick(&[0, 0, 1, 2, 4, 8, 16, 31]),
            mstatus: status,
            satp: if translation == satp::BARE {
                0
            } else {
                translation << satp::MODE_SHIFT | random.below(4) << satp::ASID_SHIFT | root >> 12
            },
            pc,
            code,
            menvcfg,
            pmpcfg: Self::protection(random),
            sample: DATA,
            entries_at: NO_ENTRIES,
            entries: [0; 2],
            guest,
        };
        case.x[0] = 0;
        case.draw_instructions(random, translates);
        case
    }

    fn status(random: &mut Random, mode: Privilege) -> u64 {
        // MPRV in a mode that `mret` doesn't go to would hit the harness.
        let mprv = if mode == Privilege::Machine { mstatus::MPRV } else { 0 };
        let toggles = mprv | mstatus::SUM | mstatus::MXR | mstatus::TVM | mstatus::TW | mstatus::TSR;
        let fs = random.pick(&[3, 3, 3, 3, 3, 3, 3, 0, 1, 2]) << mstatus::FS_SHIFT;
        random.bits() & toggles | fs | (mode as u64) << mstatus::MPP_SHIFT
    }

    /// Entries 0 to 6 are anything (unlocked), or off; entry 7 lets everything through.
    fn protection(random: &mut Random) -> u64 {
        let first = if random.chance(40) { random.bits() & 0x7f_7f7f_7f7f_7f7f } else { 0 };
        const NOT_NA4: [u64; 4] = [0, 1, 1, 3];
        let legal = (0..7).fold(0, |all, entry| {
            let config = first >> (8 * entry) & 0x1f;
            // W without R is reserved.
            let permissions = if config & 3 == 2 { config & 5 } else { config & 7 };
            let matching = NOT_NA4[(config >> 3) as usize];
            // The first entry's range would start at 0, and take in the page tables.
            let matching = if entry == 0 && matching == 1 { 0 } else { matching };
            all | (permissions | matching << 3) << (8 * entry)
        });
        legal | 0x1f << 56
    }

    fn draw_instructions(&mut self, random: &mut Random, translates: bool) {
        if self.guest.is_some() && random.chance(25) {
            let bits = guest::csr_instruction(random, &mut self.x);
            return self.instructions.push(bits);
        }
        loop {
            let bits = if random.chance(20) { random.bits() as u32 & 0xffff } else { operation(random) };
            let Some(instruction) = decode(bits) else { continue };
            if bits & 3 == 3 && instruction.length == 2 || !is_safe(&instruction, self.guest.is_some()) {
                continue;
            }
            if let Some(guest) = self.guest.as_mut().filter(|_| guest::is_of_hypervisor(instruction.op)) {
                guest.obey(self.menvcfg);
            }
            self.aim(random, &instruction, translates);
            self.instructions.push(bits);
            break;
        }
        let first = decode(self.instructions[0]);
        if let Some(lr) = first.filter(|first| matches!(first.op, Op::LrW | Op::LrD)) {
            let op = if lr.op == Op::LrW { Op::ScW } else { Op::ScD };
            let rd = random.below(32) as u8;
            let sc = Instruction { rd, rs1: lr.rs1, rs2: random.below(32) as u8, ..Instruction::new(op, 4) };
            self.instructions.extend(encode(&sc));
        }
    }

    /// Makes the registers of an instruction that reaches out point somewhere useful.
    fn aim(&mut self, random: &mut Random, instruction: &Instruction, translates: bool) {
        let Instruction { op, rs1, imm, .. } = *instruction;
        let rs1 = usize::from(rs1);
        if op == Op::Jalr {
            let landing = LANDING + random.below(LANDING_SIZE);
            let here = if translates && self.pc < RAM { landing - RAM + USER_ALIAS } else { landing };
            self.x[rs1] = if random.chance(60) { here } else { random.bits() | 1 << 62 };
        } else if is_memory(op) {
            let inside = self.guest.as_ref().filter(|guest| guest.virtualized || guest::is_of_hypervisor(op));
            let region = if let Some(guest) = inside {
                if guest.translates() {
                    random.pick(&[
                        Region::Physical,
                        Region::UserAlias,
                        Region::Window,
                        Region::Window,
                        Region::Window,
                        if guest.csr(csr::HGATP) == 0 { Region::Window } else { Region::TableWindow },
                        Region::Anywhere,
                    ])
                } else {
                    random.pick(&[
                        Region::Physical,
                        Region::SecondWindow,
                        Region::SecondWindow,
                        Region::Anywhere,
                    ])
                }
            } else if translates {
                random.pick(&[
                    Region::Physical,
                    Region::UserAlias,
                    Region::Window,
                    Region::Window,
                    Region::Anywhere,
                ])
            } else {
                random.pick(&[Region::Physical, Region::Physical, Region::Physical, Region::Anywhere])
            };
            let target = self.target(random, region);
            let offset = if op.extension() == Extension::I || is_float_access(op) { imm } else { 0 };
            self.x[rs1] = target.wrapping_sub(offset as i64 as u64);
        }
        self.x[0] = 0;
    }

    /// An address whose leaf entry, in the last level or the one above, is drawn for this case, and the one
    /// behind it too.
    fn target_in_window(&mut self, random: &mut Random) -> u64 {
        if random.chance(70) {
            let offset = random.below(1 << 21);
            let page = offset >> 12;
            self.entries_at = TABLES + 0x4000 + 8 * page;
            self.entries = [0, 1].map(|next| entry(random, DATA + (((page + next) % 16) << 12)));
            self.sample = DATA + ((page % 16) << 12) + (offset & 0xfc0);
            if let Some(guest) = self.guest.as_mut().filter(|_| random.chance(60)) {
                let (window, sample) = guest.window(random);
                let flags = |entry: u64| entry & !(((1 << 44) - 1) << 10);
                self.entries =
                    [0, 1].map(|next| flags(self.entries[next]) | ((window >> 12) + next as u64) << 10);
                self.sample = sample & !0xfff | offset & 0xfc0;
            }
            WINDOW + offset
        } else {
            let offset = (random.below(500) + 1) << 21 | random.below(1 << 21);
            self.entries_at = TABLES + 0x3000 + 8 * (offset >> 21);
            self.entries = [0, 1].map(|_| entry(random, SUPER_DATA));
            self.sample = SUPER_DATA + (offset & 0x1f_ffc0);
            WINDOW + offset
        }
    }

    fn target(&mut self, random: &mut Random, region: Region) -> u64 {
        let offset = match random.below(10) {
            0..6 => random.below(DATA_SIZE / 16) * 16,
            6 => random.below(DATA_SIZE / 4096 - 1) * 4096 + 4096 - 1 - random.below(16),
            _ => random.below(DATA_SIZE - 64),
        };
        let physical = DATA + offset;
        self.sample = physical & !63;
        match region {
            Region::Physical => physical,
            Region::UserAlias => physical - RAM + USER_ALIAS,
            Region::Window => self.target_in_window(random),
            Region::TableWindow => {
                let target = self.target_in_window(random);
                if let Some(guest) = &mut self.guest {
                    guest.map_tables(random);
                    // Whether it lets a walk read tables isn't said; in QEMU it does.
                    self.mstatus &= !mstatus::MXR;
                }
                target - WINDOW + TABLE_WINDOW
            }
            Region::SecondWindow => match &mut self.guest {
                Some(guest) => {
                    let (target, sample) = guest.window(random);
                    self.sample = sample;
                    target
                }
                None => physical,
            },
            // Nothing is there, on either side.
            Region::Anywhere => random.bits() | 1 << 58,
        }
    }
}

fn operation(random: &mut Random) -> u32 {
    let (mask, fixed) = random.pick(Op::ALL).encoding();
    random.bits() as u32 & !mask | fixed
}

/// A floating-point register: boxed or not, with the corners of each format.
fn float(random: &mut Random) -> u64 {
    const SINGLES: [u32; 12] = [
        0,
        1,
        0x7f_ffff,
        0x80_0000,
        0x3f80_0000,
        0x4f00_0000,
        0x5f00_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0x3eff_ffff,
    ];
    const DOUBLES: [u64; 10] = [
        0,
        1,
        0xf_ffff_ffff_ffff,
        0x10_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0x41e0_0000_0000_0000,
        0x43e0_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
    ];
    const HALVES: [u16; 9] = [0, 1, 0x3ff, 0x400, 0x3c00, 0x7bff, 0x7c00, 0x7e00, 0x7c01];
    let bits = random.bits();
    let sign = bits >> 63;
    let near = random.below(3);
    match random.below(12) {
        0 | 1 => {
            0xffff_ffff_0000_0000 | u64::from(random.pick(&SINGLES).wrapping_add(near as u32)) | sign << 31
        }
        2 | 3 => 0xffff_ffff_0000_0000 | bits >> 32,
        4 | 5 => random.pick(&DOUBLES).wrapping_add(near) | sign << 63,
        6 | 7 => {
            0xffff_ffff_ffff_0000 | u64::from(random.pick(&HALVES).wrapping_add(near as u16)) | sign << 15
        }
        8 | 9 => 0xffff_ffff_ffff_0000 | bits >> 48,
        // Exponents near zero, where sums cancel and conversions don't overflow.
        10 => bits & 0x800f_ffff_ffff_ffff | (0x3ff - 70 + random.below(140)) << 52,
        _ => bits,
    }
}

fn is_float_access(op: Op) -> bool {
    matches!(op, Op::Flh | Op::Flw | Op::Fld | Op::Fsh | Op::Fsw | Op::Fsd)
}

/// Whether `rs1` is an address.
fn is_memory(op: Op) -> bool {
    let is_integer_access = matches!(
        op,
        Op::Lb | Op::Lh | Op::Lw | Op::Ld | Op::Lbu | Op::Lhu | Op::Lwu | Op::Sb | Op::Sh | Op::Sw | Op::Sd
    );
    let is_other = matches!(
        op.extension(),
        Extension::A
            | Extension::Zacas
            | Extension::Zicbom
            | Extension::Zicboz
            | Extension::Zicbop
            | Extension::H
    );
    is_integer_access || is_other || is_float_access(op)
}

/// Whether the harness survives the instruction, and both sides must do the same.
fn is_safe(instruction: &Instruction, hypervisor: bool) -> bool {
    match instruction.op {
        // With the extension, where `sret` returns to is the case's.
        Op::Sret if hypervisor => true,
        op if guest::is_of_hypervisor(op) => hypervisor,
        // Waits, on one side or the other.
        Op::Wfi | Op::WrsNto | Op::WrsSto => false,
        // Where these return to is what other cases left.
        Op::Mret | Op::Sret => false,
        // An endless loop.
        Op::Jal | Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu => instruction.imm != 0,
        op if op.extension() == Extension::Zicsr => {
            matches!(instruction.imm as u16, csr::FFLAGS | csr::FRM | csr::FCSR)
        }
        _ => compressed::encode16(instruction).is_some() || instruction.length == 4,
    }
}

/// The page tables: identity for S-mode, the alias for U-mode, and the window that cases fill.
pub fn tables() -> Vec<[u64; 512]> {
    const VALID: u64 = 1;
    const USER: u64 = 1 << 4;
    const RWXAD: u64 = 0xce;
    let pointer = |page: u64| (TABLES + 0x1000 * page) >> 12 << 10 | VALID;
    let mut tables = vec![[0; 512]; TABLE_PAGES as usize];
    tables[0][2] = RAM >> 12 << 10 | VALID | RWXAD;
    tables[0][4] = RAM >> 12 << 10 | VALID | RWXAD | USER;
    tables[0][5] = pointer(3);
    tables[0][6] = (WINDOW + (511 << 12)) >> 12 << 10 | VALID;
    tables[1][0] = pointer(0);
    tables[2][0] = pointer(1);
    tables[3][0] = pointer(4);
    tables
}

/// A leaf that is often legal.
pub fn entry(random: &mut Random, physical: u64) -> u64 {
    const USUAL: u64 = 0xc1;
    let bits = random.bits();
    let flags = bits & 0x3ff | if random.chance(70) { USUAL } else { 0 };
    let high = match random.below(20) {
        // Not both bits of the memory type.
        0 => bits & 0xbfc0_0000_0000_0000,
        1 => 1 << 61,
        2 => 1 << 62,
        3 => 1 << 63,
        _ => 0,
    };
    let misplaced = if random.chance(5) { bits >> 40 & 7 } else { 0 };
    high | ((physical >> 12) + misplaced) << 10 | flags
}
