//! Loads and stores that the caches don't answer: translation, page crossings, devices, faults.
//!
//! Misaligned accesses are performed wherever RAM is; the two parts of one that crosses pages are checked
//! before anything is written. Device accesses must be aligned: misaligned ones raise access faults, as do
//! atomics outside RAM.

use rvisor_isa::Exception;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE, Word};

use crate::exit::Environment;
use crate::mmu::Access;
use crate::state::Hart;
use crate::trap::{IllegalInstruction, Trap};

/// Why an instruction wasn't executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It traps.
    Trap(Trap),
    /// It is a load or store of a device.
    Device {
        /// Where on the board.
        physical: GuestPhysical,
        /// Where for the program.
        address: GuestVirtual,
        /// Whether that is an address of a virtual machine that the hart isn't in.
        is_guest: bool,
    },
    /// It traps as an illegal one.
    Illegal,
}

impl Fault {
    /// The same of an access to the memory of a virtual machine that the hart isn't in.
    pub fn of_guest(self) -> Self {
        match self {
            Self::Trap(trap) => Self::Trap(Trap { is_guest: true, ..trap }),
            Self::Device { physical, address, .. } => Self::Device { physical, address, is_guest: true },
            Self::Illegal => Self::Illegal,
        }
    }
}

impl From<Trap> for Fault {
    fn from(trap: Trap) -> Self {
        Self::Trap(trap)
    }
}

impl From<IllegalInstruction> for Fault {
    fn from(_: IllegalInstruction) -> Self {
        Self::Illegal
    }
}

impl Access {
    /// The exception of an access to where there is nothing.
    pub(crate) const fn access_fault(self) -> Exception {
        match self {
            Self::Load => Exception::LoadAccessFault,
            Self::Store => Exception::StoreAccessFault,
            Self::Execute => Exception::InstructionAccessFault,
        }
    }

    const fn misaligned(self) -> Exception {
        match self {
            Self::Load => Exception::LoadAddressMisaligned,
            Self::Store => Exception::StoreAddressMisaligned,
            Self::Execute => Exception::InstructionAddressMisaligned,
        }
    }
}

impl Hart {
    /// Makes cached translations those of the current context.
    pub(crate) fn refresh_context(&mut self) {
        if self.tlb.is_stale() {
            self.tlb.set_context(self.translation_context());
        }
    }

    /// Translates an access that doesn't cross a page, and remembers the translation.
    pub(crate) fn locate<E: Environment>(
        &mut self,
        env: &E,
        address: u64,
        access: Access,
        size: u64,
    ) -> Result<GuestPhysical, Trap> {
        let address = GuestVirtual(address);
        let translation = self.translate(env, address, access, size)?;
        if access != Access::Execute
            && !self.debug.watch(address.0, access, size)
            && env.memory().range().contains(&translation.physical)
        {
            self.tlb.insert(address, access, &translation, 0);
        }
        Ok(translation.physical)
    }

    /// Translates the address of an atomic, which must be aligned and in RAM.
    pub(crate) fn locate_atomic<E: Environment>(
        &mut self,
        env: &E,
        address: u64,
        access: Access,
        size: u64,
    ) -> Result<GuestPhysical, Trap> {
        if !address.is_multiple_of(size) {
            return Err(Trap::exception(access.misaligned(), address));
        }
        let cached = match access {
            Access::Load => self.tlb.load(address, size),
            _ => self.tlb.store(address, size),
        };
        if let Some(physical) = cached {
            return Ok(physical);
        }
        let physical = self.locate(env, address, access, size)?;
        if env.memory().range().contains(&physical) {
            Ok(physical)
        } else {
            Err(Trap::exception(access.access_fault(), address))
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn load_uncached<T: Word, E: Environment>(
        &mut self,
        env: &E,
        address: u64,
    ) -> Result<u64, Fault> {
        let to_page_end = PAGE_SIZE - address % PAGE_SIZE;
        if T::SIZE > to_page_end {
            let low = self.load_part(env, address, to_page_end)?;
            let high = self.load_part(env, address.wrapping_add(to_page_end), T::SIZE - to_page_end)?;
            return Ok(low | high << (8 * to_page_end));
        }
        let physical = self.locate(env, address, Access::Load, T::SIZE)?;
        match env.memory().load::<T>(physical) {
            Ok(value) => Ok(value.widen()),
            Err(_) => Err(not_memory(address, Access::Load, physical, T::SIZE)),
        }
    }

    /// Loads fewer than 8 bytes that don't cross a page.
    fn load_part<E: Environment>(&mut self, env: &E, address: u64, size: u64) -> Result<u64, Trap> {
        let physical = self.locate(env, address, Access::Load, size)?;
        let mut bytes = [0; 8];
        match env.memory().read(physical, &mut bytes[..size as usize]) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            Err(_) => Err(Trap::exception(Exception::LoadAccessFault, address)),
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn store_uncached<T: Word, E: Environment>(
        &mut self,
        env: &E,
        address: u64,
        value: u64,
    ) -> Result<(), Fault> {
        let to_page_end = PAGE_SIZE - address % PAGE_SIZE;
        if T::SIZE > to_page_end {
            return Ok(self.store_across(env, address, &value.to_le_bytes()[..T::SIZE as usize])?);
        }
        let physical = self.locate(env, address, Access::Store, T::SIZE)?;
        match env.memory().store::<T>(physical, T::truncate(value)) {
            Ok(()) => Ok(()),
            Err(_) => Err(not_memory(address, Access::Store, physical, T::SIZE)),
        }
    }

    fn store_across<E: Environment>(&mut self, env: &E, address: u64, bytes: &[u8]) -> Result<(), Trap> {
        let (low, high) = bytes.split_at((PAGE_SIZE - address % PAGE_SIZE) as usize);
        let second = address.wrapping_add(low.len() as u64);
        let low_at = self.locate_memory(env, address, low.len() as u64)?;
        let high_at = self.locate_memory(env, second, high.len() as u64)?;
        let fault = |address| move |_| Trap::exception(Exception::StoreAccessFault, address);
        env.memory().write(low_at, low).map_err(fault(address))?;
        env.memory().write(high_at, high).map_err(fault(second))
    }

    fn locate_memory<E: Environment>(
        &mut self,
        env: &E,
        address: u64,
        size: u64,
    ) -> Result<GuestPhysical, Trap> {
        let physical = self.locate(env, address, Access::Store, size)?;
        if env.memory().range().contains(&physical) {
            Ok(physical)
        } else {
            Err(Trap::exception(Exception::StoreAccessFault, address))
        }
    }
}

/// What an access outside RAM leads to.
pub fn not_memory(address: u64, access: Access, physical: GuestPhysical, size: u64) -> Fault {
    if physical.is_aligned(size) {
        Fault::Device { physical, address: GuestVirtual(address), is_guest: false }
    } else {
        Fault::Trap(Trap::exception(access.access_fault(), address))
    }
}
