//! From the program counter to prepared code.

use rvisor_isa::Part;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, OutOfRange, PAGE_SIZE};

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
    /// The instruction at `pc` as it is in memory now, read as [`rvisor_isa::read`] has it.
    pub fn fetch<E: Environment>(&mut self, env: &E, pc: u64) -> Result<u32, Trap> {
        rvisor_isa::read(pc, |address, part| {
            let physical = match self.tlb.fetch(address) {
                Some((physical, _)) => physical,
                None => self.translate(env, GuestVirtual(address), Access::Execute, 2)?.physical,
            };
            load_part(env.memory(), physical, part)
                .map_err(|_| Trap::exception(Access::Execute.access_fault(), address))
        })
    }
}

/// Part of an instruction in memory.
pub fn load_part<M: GuestMemory>(memory: &M, address: GuestPhysical, part: Part) -> Result<u32, OutOfRange> {
    match part {
        Part::Half => memory.load::<u16>(address).map(u32::from),
        Part::Word => memory.load(address),
    }
}
