use super::*;

const RET: u8 = 0xc3;
const NOP: u8 = 0x90;

fn memory() -> CodeMemory {
    let mut memory = CodeMemory::new(4096).expect("the host has a page");
    assert!(memory.prepare(64));
    memory
}

/// `mov eax, value`
fn mov(value: u32) -> [u8; 5] {
    let [a, b, c, d] = value.to_le_bytes();
    [0xb8, a, b, c, d]
}

/// Executes a function.
fn call(code: u64) -> u32 {
    // SAFETY: the tests' functions change `eax` and return.
    unsafe { std::mem::transmute::<u64, extern "C" fn() -> u32>(code)() }
}

#[test]
fn code_is_appended_at_aligned_addresses_and_runs() {
    let mut memory = memory();
    for (part, value) in [(Part::Hot, 7), (Part::Cold, 8), (Part::Hot, 9)] {
        let code = memory.next(part);
        assert!(code.is_multiple_of(8));
        assert!(memory.append(part, &[&mov(value)[..], &[RET]].concat()));
        assert_eq!(call(code), value);
        assert_eq!(memory.next(part), code + 8);
    }
}

#[test]
fn append_without_room_changes_nothing() {
    let mut memory = memory();
    let next = memory.next(Part::Hot);
    assert!(!memory.append(Part::Hot, &[RET; 513]));
    assert_eq!(memory.next(Part::Hot), next);
    assert!(memory.append(Part::Hot, &[RET; 505]));
    assert!(!memory.append(Part::Hot, &[RET]));
    assert!(memory.append(Part::Cold, &[RET; 512]));
}

#[test]
fn each_part_takes_chunks_until_none_is_left() {
    let mut memory = memory();
    // Eight chunks of 512 bytes, of which each part has one.
    for left in [4, 2, 0] {
        assert!(memory.append(Part::Hot, &[RET; 500]) && memory.append(Part::Cold, &[RET; 500]));
        assert!(memory.prepare(512), "{left} are left");
    }
    assert!(memory.append(Part::Hot, &[RET]));
    assert!(!memory.has_room(512) && !memory.prepare(512));
    assert!(memory.has_room(496) && memory.prepare(496));
    memory.truncate(16);
    assert!(memory.prepare(512) && !memory.has_room(513));
}

#[test]
fn patch_changes_four_bytes() {
    let mut memory = memory();
    let code = memory.next(Part::Hot);
    assert!(memory.append(Part::Hot, &[&[NOP; 3][..], &mov(1), &[RET]].concat()));
    memory.patch(code + 4, 0x1234_5678);
    assert_eq!(call(code), 0x1234_5678);
}

#[test]
fn patch_start_changes_five_bytes_and_leaves_the_next() {
    let mut memory = memory();
    let code = memory.next(Part::Hot);
    assert!(memory.append(Part::Hot, &[&mov(1)[..], &[RET, NOP, NOP]].concat()));
    memory.patch_start(code, mov(2));
    assert_eq!(call(code), 2);
}

#[test]
fn patched_jump_leads_to_its_target() {
    const JMP: u8 = 0xe9;
    let mut memory = memory();
    let (jump, target) = (memory.next(Part::Hot), memory.next(Part::Hot) + 16);
    assert!(memory.append(Part::Hot, &[NOP, NOP, NOP, JMP, 0, 0, 0, 0, RET]));
    assert!(memory.append(Part::Hot, &[&mov(5)[..], &[RET]].concat()));
    memory.patch_jump(jump + 4, target);
    assert_eq!(call(jump), 5);
}

#[test]
#[should_panic(expected = "patch at")]
fn patch_outside_the_chunks_in_use_is_refused() {
    let memory = memory();
    memory.patch(memory.next(Part::Hot) + 2 * 512, 0);
}

#[test]
fn no_mapping_is_both_writable_and_executable() {
    let memory = memory();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a list of mappings");
    let rights = |address: *mut u8| {
        let start = format!("{:x}-", address as usize);
        let line = maps.lines().find(|line| line.trim_start_matches('0').starts_with(&start));
        line.and_then(|line| line.split(' ').nth(1)).expect("a mapping").to_owned()
    };
    assert_eq!(rights(memory.writable.as_ptr()), "rw-s");
    assert_eq!(rights(memory.executable.as_ptr()), "r-xs");
}
