#![no_main]
//! Sequences of a guest's instructions for the type-1 home without H: any path through any code is compiled or refused, and
//! what is compiled stores nowhere but in the hart's context, or where a store of the guest's own does.

use libfuzzer_sys::fuzz_target;
use rvisor_isa::{Op, decode};
use rvisor_metal::copies::SLOTS;
use rvisor_metal::sequence::{MOST, Routines, Step, class, compile};
use rvisor_metal::shadow::Guard;

const ROUTINES: Routines = Routines {
    status: -4096,
    leave: -4092,
    refuse: -4088,
    stale: -4084,
    fault: -4080,
    outdated: [-4076, -4072],
};
const START: i64 = 0x3000;

fuzz_target!(|input: (u64, bool, Option<u8>, Vec<(u32, bool)>)| {
    let (pc, is_call, slot, code) = input;
    let guard = slot.map(|slot| Guard { slot: usize::from(slot) % SLOTS, number: pc });
    let mut pc = pc & !1;
    let mut steps = Vec::new();
    for (bits, is_taken) in code.into_iter().take(MOST) {
        let Some(instruction) = decode(bits).filter(|instruction| class(instruction).is_some()) else {
            continue;
        };
        let bits = if instruction.length == 2 { bits & 0xffff } else { bits };
        let is_branch = matches!(instruction.op, Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu);
        let behind = pc.wrapping_add(instruction.length.into());
        let aim = pc.wrapping_add(instruction.imm as u64);
        let next = if instruction.op == Op::Jal || is_branch && is_taken { aim } else { behind };
        steps.push(Step { pc, bits, instruction, next });
        pc = next;
    }
    let Some(compiled) = compile(&steps, is_call, guard, START, &ROUTINES) else { return };
    assert!(compiled.places.is_sorted_by_key(|place| place.at));
    for place in compiled.places.iter().filter(|place| !place.compares) {
        let word = compiled.words[((place.at - START) / 4) as usize];
        let found = decode(word).expect("an instruction");
        let own = steps.iter().any(|step| {
            let guest = &step.instruction;
            (step.pc, guest.op, guest.imm) == (place.pc, found.op, found.imm)
        });
        // Of a copy only that something is mapped is looked at: by a load whose value nobody uses.
        let probes = guard.is_some() && is_call && place.pc == steps[0].pc && found.op == Op::Lhu;
        assert!(own || probes, "{found:?}");
    }
});
