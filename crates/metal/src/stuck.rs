//! Harts that can never get anywhere again: their trap handler can't be fetched, so that each trap leads to the next.
//!
//! Hardware would spin until it is switched off. Here that costs the guest its time and nobody else anything, but it is
//! better ended with a word on why.

use rvisor_hart::Hart;
use rvisor_isa::Exception;

/// Slices in a row in which a hart was found stuck, until it is believed: another hart may mend things.
const PATIENCE: u32 = 100;

/// Looks at one hart after each of its slices.
#[derive(Clone, Copy, Default, Debug)]
pub struct Watch {
    found: u32,
}

impl Watch {
    /// Looks at a hart. Returns why it is given up, if it is.
    pub fn look(&mut self, hart: &Hart) -> Option<&'static str> {
        let why = why(hart);
        self.found = if why.is_some() { self.found + 1 } else { 0 };
        why.filter(|_| self.found >= PATIENCE)
    }
}

/// Why a hart doesn't get out of its trap handler's first instruction, if it doesn't.
fn why(hart: &Hart) -> Option<&'static str> {
    let handler = hart.csr.stvec & !3;
    // Direct mode and exceptions: the handler is where the trap came from.
    if hart.pc != handler || hart.csr.sepc != handler {
        return None;
    }
    match Exception::from_code(hart.csr.scause)? {
        Exception::InstructionPageFault => Some("its trap handler is on a page that it may not execute"),
        Exception::InstructionAccessFault => Some("its trap handler is where no memory is"),
        Exception::IllegalInstruction => Some("its trap handler begins with an illegal instruction"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rvisor_hart::Config;

    use super::*;

    fn stuck() -> Hart {
        let mut hart = Hart::new(Config { supervisor_only: true, ..Config::default() });
        hart.csr.stvec = 0x1000;
        (hart.pc, hart.csr.sepc) = (0x1000, 0x1000);
        hart.csr.scause = Exception::InstructionPageFault.code();
        hart
    }

    #[test]
    fn hart_that_never_leaves_its_handler_is_given_up_after_a_while() {
        let mut watch = Watch::default();
        let looks = (0..PATIENCE).map(|_| watch.look(&stuck()).is_some());
        assert_eq!(looks.filter(|given_up| *given_up).count(), 1);
    }

    #[test]
    fn hart_that_gets_on_is_left_alone() {
        let mut watch = Watch::default();
        for slice in 0..2 * PATIENCE {
            let mut hart = stuck();
            if slice % PATIENCE == 7 {
                hart.pc = 0x2000;
            }
            assert_eq!(watch.look(&hart), None);
        }
        let mut hart = stuck();
        hart.csr.scause = Exception::Breakpoint.code();
        assert_eq!(why(&hart), None);
    }
}
