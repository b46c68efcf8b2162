//! A hart's architectural state.

use rvisor_hart::{Csrs, Hart, Reservation};
use rvisor_isa::Privilege;

/// All that software can tell of a hart but memory.
#[derive(Clone, PartialEq)]
pub struct State {
    pub pc: u64,
    pub retired: u64,
    x: [u64; 32],
    f: [u64; 32],
    privilege: Privilege,
    virtualized: bool,
    csr: Csrs,
    reservation: Option<Reservation>,
}

impl State {
    /// The state of `hart`.
    pub fn of(hart: &Hart) -> Self {
        Self {
            pc: hart.pc,
            retired: hart.retired,
            x: hart.x,
            f: hart.f,
            privilege: hart.privilege,
            virtualized: hart.virtualized,
            csr: hart.csr.clone(),
            reservation: hart.reservation,
        }
    }

    /// Makes it the state of `hart`, which forgets what it has cached.
    pub fn put(&self, hart: &mut Hart) {
        hart.pc = self.pc;
        hart.retired = self.retired;
        hart.x = self.x;
        hart.f = self.f;
        hart.privilege = self.privilege;
        hart.virtualized = self.virtualized;
        hart.csr = self.csr.clone();
        hart.reservation = self.reservation;
        hart.fence_vma(None, None);
        hart.fence_instructions();
    }

    /// All of it, one thing a line. Two states' have the same order.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("pc: {:#x}", self.pc),
            format!("retired: {}", self.retired),
            format!("privilege: {:?}", self.privilege),
            format!("virtualized: {}", self.virtualized),
        ];
        lines.extend((1..).zip(&self.x[1..]).map(|(number, x)| format!("x{number}: {x:#x}")));
        lines.extend((0..).zip(&self.f).map(|(number, f)| format!("f{number}: {f:#x}")));
        lines.push(format!("reservation: {:x?}", self.reservation));
        lines.extend(format!("{:#x?}", self.csr).lines().map(|line| line.trim().to_owned()));
        lines
    }

    /// The first line that differs: which one, and what it is in `translated` and here.
    pub fn difference(&self, translated: &Self) -> Option<(usize, String)> {
        if self == translated {
            return None;
        }
        let (ours, theirs) = (self.lines(), translated.lines());
        let number = (0..ours.len().min(theirs.len())).find(|&i| ours[i] != theirs[i])?;
        let value = ours[number].split_once(": ").map_or(&*ours[number], |(_, value)| value);
        let mut text = format!("{} and {value}", theirs[number]);
        let more = (number + 1..ours.len()).filter(|&i| theirs.get(i) != Some(&ours[i])).count();
        if more != 0 {
            text += &format!(", and {more} more");
        }
        Some((number, text))
    }
}
