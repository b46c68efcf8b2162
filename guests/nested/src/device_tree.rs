//! The device tree of the virtual machine (Devicetree Specification 0.4): a hart, memory, no devices.

use core::ops::Range;

/// What is to be described.
pub struct Machine {
    /// Start and size of memory.
    pub memory: (u64, u64),
    /// Where the initial RAM disk is.
    pub initrd: Range<u64>,
    /// Ticks of `time` in a second.
    pub frequency: u32,
}

const COMMAND_LINE: &[u8] = b"earlycon=sbi keep_bootcon quiet loglevel=5 panic=-1\0";
const ISA: &[u8] = b"rv64imafdc_zicntr_zicsr_zifencei_sstc\0";

/// Property names, in the order in which they stand in the strings block.
const NAMES: [&[u8]; 13] = [
    b"#address-cells\0",
    b"#size-cells\0",
    b"compatible\0",
    b"bootargs\0",
    b"linux,initrd-start\0",
    b"linux,initrd-end\0",
    b"device_type\0",
    b"reg\0",
    b"timebase-frequency\0",
    b"riscv,isa\0",
    b"mmu-type\0",
    b"#interrupt-cells\0",
    b"interrupt-controller\0",
];

const HEADER: usize = 40;
/// The header, and the empty list of reserved memory.
const STRUCTURE: usize = HEADER + 16;

struct Writer<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn word(&mut self, word: u32) {
        self.bytes(&word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        self.room[self.at..end].copy_from_slice(bytes);
        self.at = end.next_multiple_of(4);
        self.room[end..self.at].fill(0);
    }

    fn begin(&mut self, name: &[u8]) {
        self.word(1);
        self.bytes(name);
    }

    fn end(&mut self) {
        self.word(2);
    }

    fn property(&mut self, name: &[u8], value: &[u8]) {
        let before = NAMES.iter().take_while(|known| known[..known.len() - 1] != *name);
        let offset: usize = before.map(|known| known.len()).sum();
        self.word(3);
        self.word(value.len() as u32);
        self.word(offset as u32);
        self.bytes(value);
    }

    fn number(&mut self, name: &[u8], value: u32) {
        self.property(name, &value.to_be_bytes());
    }

    fn address(&mut self, name: &[u8], value: u64) {
        self.property(name, &value.to_be_bytes());
    }
}

/// Writes the tree.
pub fn write(room: &mut [u8], machine: &Machine) {
    let mut tree = Writer { room, at: STRUCTURE };
    tree.room[HEADER..STRUCTURE].fill(0);
    tree.begin(b"\0");
    tree.number(b"#address-cells", 2);
    tree.number(b"#size-cells", 2);
    tree.property(b"compatible", b"linux,dummy-virt\0");
    tree.begin(b"chosen\0");
    tree.property(b"bootargs", COMMAND_LINE);
    tree.address(b"linux,initrd-start", machine.initrd.start);
    tree.address(b"linux,initrd-end", machine.initrd.end);
    tree.end();
    tree.begin(b"memory@80000000\0");
    tree.property(b"device_type", b"memory\0");
    let mut range = [0; 16];
    range[..8].copy_from_slice(&machine.memory.0.to_be_bytes());
    range[8..].copy_from_slice(&machine.memory.1.to_be_bytes());
    tree.property(b"reg", &range);
    tree.end();
    write_hart(&mut tree, machine.frequency);
    tree.end();
    tree.word(9);
    finish(&mut tree);
}

fn write_hart(tree: &mut Writer<'_>, frequency: u32) {
    tree.begin(b"cpus\0");
    tree.number(b"#address-cells", 1);
    tree.number(b"#size-cells", 0);
    tree.number(b"timebase-frequency", frequency);
    tree.begin(b"cpu@0\0");
    tree.property(b"device_type", b"cpu\0");
    tree.number(b"reg", 0);
    tree.property(b"compatible", b"riscv\0");
    tree.property(b"riscv,isa", ISA);
    tree.property(b"mmu-type", b"riscv,sv57\0");
    tree.begin(b"interrupt-controller\0");
    tree.property(b"compatible", b"riscv,cpu-intc\0");
    tree.number(b"#interrupt-cells", 1);
    tree.property(b"interrupt-controller", b"");
    tree.end();
    tree.end();
    tree.end();
}

/// Writes the strings and the header.
fn finish(tree: &mut Writer<'_>) {
    const MAGIC: u32 = 0xd00d_feed;
    let strings = tree.at;
    for name in NAMES {
        let end = tree.at + name.len();
        tree.room[tree.at..end].copy_from_slice(name);
        tree.at = end;
    }
    let size = tree.at;
    let header = [
        MAGIC,
        size as u32,
        STRUCTURE as u32,
        strings as u32,
        HEADER as u32,
        17,
        16,
        0,
        (size - strings) as u32,
        (strings - STRUCTURE) as u32,
    ];
    for (place, word) in tree.room.chunks_exact_mut(4).zip(header) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}
