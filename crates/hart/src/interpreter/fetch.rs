//! From the program counter to prepared code.

use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE, Word};

use super::Interpreter;
use super::code::PageIndex;
use super::op::HALFWORDS;
use crate::exit::Environment;
use crate::mmu::Access;
use crate::state::Hart;
use crate::trap::Trap;

/// The halfword of an address within its page.
#[inline(always)]
pub const fn halfword(pc: u64) -> usize {
    (pc / 2) as usize % HALFWORDS
}

impl Interpreter {
    /// The page and position of the code at `pc`; `None` where it can't be cached, because PMP divides the
    /// page or it isn't all RAM.
    #[inline(always)]
    pub fn find<E: Environment>(
        &mut self,
        hart: &mut Hart,
        env: &E,
        pc: u64,
    ) -> Result<Option<(PageIndex, usize)>, Trap> {
        if let Some((_, index)) = hart.tlb.fetch(pc)
            && let Some(position) = self.code.position(index as PageIndex, hart.code_epoch, halfword(pc))
        {
            return Ok(Some((index as PageIndex, position)));
        }
        self.find_unprepared(hart, env, pc)
    }

    #[cold]
    #[inline(never)]
    fn find_unprepared<E: Environment>(
        &mut self,
        hart: &mut Hart,
        env: &E,
        pc: u64,
    ) -> Result<Option<(PageIndex, usize)>, Trap> {
        let index = match hart.tlb.fetch(pc) {
            Some((_, index)) => index as PageIndex,
            None => match self.find_page(hart, env, pc)? {
                Some(index) => index,
                None => return Ok(None),
            },
        };
        let position = self.code.prepare(index, hart.code_epoch, env.memory(), halfword(pc));
        Ok(position.ok().map(|position| (index, position)))
    }

    fn find_page<E: Environment>(
        &mut self,
        hart: &mut Hart,
        env: &E,
        pc: u64,
    ) -> Result<Option<PageIndex>, Trap> {
        let address = GuestVirtual(pc);
        let translation = hart.translate(env, address, Access::Execute, 2)?;
        let page = translation.physical.page();
        let ram = env.memory().range();
        let is_ram = ram.contains(&page) && ram.contains(&page.offset(PAGE_SIZE - 1));
        if !is_ram || !translation.whole_page {
            return Ok(None);
        }
        let index = self.code.find(page).unwrap_or_else(|| {
            if self.code.is_full() {
                hart.tlb.flush_fetches();
            }
            self.code.add(page, hart.code_epoch)
        });
        hart.tlb.insert(address, Access::Execute, &translation, index as u32);
        Ok(Some(index))
    }

    /// Makes the instruction at `pc` the single one, from memory as it is now.
    pub fn fetch_single<E: Environment>(&mut self, hart: &mut Hart, env: &E, pc: u64) -> Result<(), Trap> {
        let bits = hart.fetch(env, pc)?;
        self.single.set_single(bits, pc % PAGE_SIZE);
        Ok(())
    }
}

impl Hart {
    /// The instruction at `pc` as it is in memory now; a compressed one is zero-extended. An aligned word is read at
    /// once, as Ziccif has it: a hart that runs into code which another hart patches sees what was there or what is.
    pub fn fetch<E: Environment>(&mut self, env: &E, pc: u64) -> Result<u32, Trap> {
        let word = if pc.is_multiple_of(4) {
            fetch_part::<u32, E>(self, env, pc)?
        } else {
            fetch_part::<u16, E>(self, env, pc)?.into()
        };
        Ok(match (word & 3 == 3, pc.is_multiple_of(4)) {
            (true, true) => word,
            (true, false) => word | u32::from(fetch_part::<u16, E>(self, env, pc.wrapping_add(2))?) << 16,
            (false, _) => word & 0xffff,
        })
    }
}

fn fetch_part<T: Word, E: Environment>(hart: &mut Hart, env: &E, address: u64) -> Result<T, Trap> {
    let physical: GuestPhysical = match hart.tlb.fetch(address) {
        Some((physical, _)) => physical,
        None => hart.translate(env, GuestVirtual(address), Access::Execute, 2)?.physical,
    };
    env.memory().load(physical).map_err(|_| Trap::exception(Access::Execute.access_fault(), address))
}
