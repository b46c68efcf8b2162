//! Where things are in the memory of a batch.
//!
//! Addresses that random values are unlikely to hit: many bits set, except for those that are meant to be.

use crate::world::RAM;

/// Bytes of RAM.
pub const RAM_SIZE: u64 = 96 << 20;
/// The program.
pub const HARNESS: u64 = RAM + 0x3_5e00;
/// Page tables, one page each: roots of Sv39, Sv48, Sv57; then the tables of the window's levels 1 and 0.
pub const TABLES: u64 = RAM + 0x7_b000;
/// Pages of tables.
pub const TABLE_PAGES: u64 = 5;
/// Page tables of the second stage: roots of Sv39x4, Sv48x4, Sv57x4, four pages each; then the tables of the window's
/// levels 1 and 0.
pub const SECOND_TABLES: u64 = RAM + 0x9_0000;
/// Pages of them.
pub const SECOND_TABLE_PAGES: u64 = 14;
/// Where cases that need no page-table entries set up theirs.
pub const NO_ENTRIES: u64 = TABLES + TABLE_PAGES * 0x1000;
/// Memory that cases load from and store to.
pub const DATA: u64 = RAM + 0x15_6000;
/// Bytes of it.
pub const DATA_SIZE: u64 = 16 << 12;
/// Memory that the window's superpages map.
pub const SUPER_DATA: u64 = RAM + 0xc0_0000;
/// Memory full of `c.ebreak`, into which jumps lead; the instruction of a case is in its middle.
pub const LANDING: u64 = RAM + 0x40_0000;
/// Bytes of it: what `jal` can reach, twice.
pub const LANDING_SIZE: u64 = 4 << 20;
/// The cases.
pub const CASES: u64 = RAM + 0x123_4000;

/// Where the same memory is mapped for U-mode.
pub const USER_ALIAS: u64 = 0x1_0000_0000;
/// Where virtual addresses lead through random page-table entries: 2 MiB through the table of level 0, then
/// superpages.
pub const WINDOW: u64 = 0x1_4000_0000;

/// Where virtual addresses lead to the same entries as in the window, but through a table that only the second stage
/// maps, by an entry that cases fill: that of the guest physical page `WINDOW` plus 511 pages.
pub const TABLE_WINDOW: u64 = 0x1_8000_0000;

/// Offsets in a case, in bytes. What goes in comes first.
pub mod field {
    /// The instructions, 8 bytes, in place of `x0`; then `x1` to `x31`.
    pub const X: u64 = 0;
    /// `f0` to `f31`.
    pub const F: u64 = 256;
    /// `fcsr`.
    pub const FCSR: u64 = 512;
    /// `mstatus`, whose MPP is the mode.
    pub const MSTATUS: u64 = 520;
    /// `satp`.
    pub const SATP: u64 = 528;
    /// Where the program counter starts.
    pub const PC: u64 = 536;
    /// The physical address of that.
    pub const CODE: u64 = 544;
    /// `menvcfg`, and `senvcfg` where it has the same fields.
    pub const MENVCFG: u64 = 552;
    /// `pmpcfg0`.
    pub const PMPCFG: u64 = 560;
    /// What memory to show afterwards.
    pub const SAMPLE: u64 = 568;
    /// `mcause`, in place of `x0`; then `x1` to `x31`.
    pub const OUT_X: u64 = 576;
    /// `f0` to `f31`.
    pub const OUT_F: u64 = 832;
    /// `fcsr`.
    pub const OUT_FCSR: u64 = 1088;
    /// `mstatus`.
    pub const OUT_MSTATUS: u64 = 1096;
    /// `mepc`.
    pub const OUT_MEPC: u64 = 1104;
    /// `mtval`.
    pub const OUT_MTVAL: u64 = 1112;
    /// 64 bytes of memory.
    pub const OUT_SAMPLE: u64 = 1120;
    /// Where the two page-table entries are that the case sets up for itself.
    pub const ENTRIES_AT: u64 = 1184;
    /// Their values, one after the other.
    pub const ENTRIES: u64 = 1192;
    /// Their values afterwards.
    pub const OUT_ENTRIES: u64 = 1208;
    /// Where two entries of the second stage's tables are that the case sets up for itself.
    pub const SECOND_AT: u64 = 1224;
    /// Their values, one after the other.
    pub const SECOND: u64 = 1232;
    /// Their values afterwards.
    pub const OUT_SECOND: u64 = 1248;
    /// `guest::BEFORE`
    pub const BEFORE: u64 = 1264;
    /// `guest::AFTER`
    pub const AFTER: u64 = BEFORE + 8 * 26;
    /// Bytes of a case.
    pub const SIZE: u64 = AFTER + 8 * 31;
}

/// `pmpaddr0` to `pmpaddr6`: edges and blocks in the data. `pmpaddr7` covers everything.
pub const PMP_ADDRESSES: [u64; 7] = [
    DATA >> 2,
    (DATA + 0x1000) >> 2,
    (DATA + 0x1040) >> 2 | 7,
    (DATA + 0x2004) >> 2,
    (DATA + 0x3000) >> 2 | 0x1ff,
    (DATA + 0x5010) >> 2,
    (DATA + 0x6ff8) >> 2,
];
