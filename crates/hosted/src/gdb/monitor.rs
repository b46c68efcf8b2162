//! gdb's `monitor` commands.

use std::fmt::Write;

use rvisor_machine::PowerRequest;

use super::target::GdbTarget;

const HELP: &str = "\
monitor harts                  what each hart does
monitor translate ADDRESS [N]  where the page tables of hart N (0 if not given) lead, entry by entry
monitor physical on|off        read and write memory by guest physical address
monitor interrupts on|off      whether a single step takes a pending interrupt (off at first)
monitor reset                  reset the machine; it stops before its first instruction
monitor poweroff               end the machine
";

/// Carries a command out; what it says ends with a newline.
pub fn answer(target: &mut GdbTarget, command: &str) -> String {
    let words: Vec<_> = command.split_whitespace().collect();
    match words[..] {
        [] | ["help"] => HELP.to_owned(),
        ["harts"] => (0..target.debugger.vm().harts().len())
            .map(|hart| format!("hart {hart}: {}\n", describe(target, hart)))
            .collect(),
        ["translate", address] => translate(target, address, "0"),
        ["translate", address, hart] => translate(target, address, hart),
        ["physical", "on" | "off"] => {
            target.is_physical = words[1] == "on";
            let kind = if target.is_physical { "physical" } else { "virtual" };
            format!("memory is accessed by guest {kind} address\n")
        }
        ["interrupts", "on" | "off"] => {
            let on = words[1] == "on";
            target.debugger.vm().debug().step_into_interrupts(on);
            format!("a single step takes {} interrupts\n", if on { "pending" } else { "no" })
        }
        ["reset"] => reset(target),
        ["poweroff"] => {
            target.ends = true;
            "the machine ends\n".to_owned()
        }
        _ => format!("{command:?} means nothing; see `monitor help`\n"),
    }
}

/// What a hart does, in a few words.
pub fn describe(target: &GdbTarget, hart: usize) -> String {
    let seen = target.debugger.hart(hart, |hart, _| (hart.hart.privilege, hart.is_at_work(), hart.hart.pc));
    let Some((privilege, at_work, pc)) = seen else { return "gone".to_owned() };
    let mode = match privilege {
        rvisor_isa::Privilege::User => "U-mode",
        rvisor_isa::Privilege::Supervisor => "S-mode",
        rvisor_isa::Privilege::Machine => "M-mode",
    };
    let state = if at_work { "" } else { ", waiting" };
    format!("{mode} at {pc:#x}{state}")
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn translate(target: &GdbTarget, address: &str, hart: &str) -> String {
    let Some(at) = number(address) else {
        return format!("{address:?} is no address; write it as 0x80000000\n");
    };
    let walk = hart.parse().ok().and_then(|hart| target.debugger.walk(hart, at));
    let Some(walk) = walk else { return format!("there is no hart {hart}\n") };
    let mut text = String::new();
    for step in &walk.steps {
        let flags: String = "VRWXUGAD"
            .chars()
            .enumerate()
            .map(|(bit, name)| if step.pte >> bit & 1 != 0 { name } else { '-' })
            .collect();
        // Writing to a string can't fail.
        let _ = writeln!(text, "level {}: entry at {}, {:#018x} {flags}", step.level, step.entry, step.pte);
    }
    let _ = match walk.physical {
        Some((physical, _)) if walk.steps.is_empty() => {
            writeln!(text, "{at:#x} isn't translated: {physical}")
        }
        Some((physical, size)) => writeln!(text, "{at:#x} is {physical}, in a page of {} KiB", size >> 10),
        None => writeln!(text, "{at:#x} isn't mapped"),
    };
    text
}

fn reset(target: &GdbTarget) -> String {
    let vm = target.debugger.vm();
    vm.request_power(PowerRequest::Reset);
    // The harts' threads end, and new ones come to stand where these did.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while vm.power_requested().is_some() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    if target.debugger.stop() {
        "the machine is reset; `maintenance flush register-cache` makes gdb look again\n".to_owned()
    } else {
        "the machine ends instead: its guest may not reboot\n".to_owned()
    }
}
