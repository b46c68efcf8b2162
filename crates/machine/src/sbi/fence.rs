//! Remote fences (chapter "RFENCE Extension" and its legacy forms).
//!
//! The calling hart goes on only when every target has carried out the fence or is outside guest code; until
//! then its engine isn't entered (see [`VirtualHart::advance`](crate::VirtualHart::advance)).

use rvisor_waist::{GuestMemory, GuestVirtual};

use super::{Call, Error, Outcome, eid, harts, legacy_base, legacy_mask, legacy_result};
use crate::signals::Fence;
use crate::{VirtualHart, Vm};

pub(super) fn call<M: GuestMemory>(call: &Call, hart: &mut VirtualHart, vm: &Vm<M>) -> Result<u64, Error> {
    const FENCE_I: u64 = 0;
    const SFENCE_VMA: u64 = 1;
    const SFENCE_VMA_ASID: u64 = 2;
    let [mask, base, start, size, asid, _] = call.arguments;
    let fence = match call.function {
        FENCE_I => Fence::Instructions,
        SFENCE_VMA => memory(start, size, None)?,
        SFENCE_VMA_ASID => memory(start, size, Some(asid as u16))?,
        // 3..=6 are the hypervisor's fences, for harts with the H extension.
        _ => return Err(Error::NotSupported),
    };
    post(hart, vm, mask, base, fence)
}

pub(super) fn legacy<M: GuestMemory>(call: &Call, hart: &mut VirtualHart, vm: &Vm<M>) -> Outcome {
    let [pointer, start, size, asid, ..] = call.arguments;
    let fence = match call.extension {
        eid::REMOTE_FENCE_I => Ok(Fence::Instructions),
        eid::REMOTE_SFENCE_VMA => memory(start, size, None),
        _ => memory(start, size, Some(asid as u16)),
    };
    let posted = fence.and_then(|fence| {
        let mask = legacy_mask(hart, vm, pointer)?;
        post(hart, vm, mask, legacy_base(mask), fence)
    });
    legacy_result(posted)
}

/// A `start` and `size` of zero, or a `size` of all ones, mean everything.
fn memory(start: u64, size: u64, asid: Option<u16>) -> Result<Fence, Error> {
    if size == u64::MAX || (start == 0 && size == 0) {
        return Ok(Fence::Memory { start: GuestVirtual(0), size: u64::MAX, asid });
    }
    if start.checked_add(size).is_none() {
        return Err(Error::InvalidAddress);
    }
    Ok(Fence::Memory { start: GuestVirtual(start), size, asid })
}

fn post<M: GuestMemory>(
    hart: &mut VirtualHart,
    vm: &Vm<M>,
    mask: u64,
    base: u64,
    fence: Fence,
) -> Result<u64, Error> {
    for index in harts(vm, mask, base)? {
        let ticket = vm.harts()[index].post_fence(fence);
        if index != hart.index {
            hart.awaited_fences.push((index, ticket));
        }
    }
    Ok(0)
}
