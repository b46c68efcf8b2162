use super::*;

const ADDRESS: u64 = 0x1234_5000;
const PHYSICAL: u64 = 0x8000_7000;

fn context(data: Privilege, asid: Option<u16>) -> TranslationContext {
    TranslationContext { fetch: data, data, sum: false, mxr: false, asid, guest: None }
}

fn user(asid: u16) -> TranslationContext {
    context(Privilege::User, Some(asid))
}

fn supervisor(asid: u16) -> TranslationContext {
    context(Privilege::Supervisor, Some(asid))
}

/// A readable base page of the kernel.
fn page() -> Translation {
    Translation {
        physical: GuestPhysical(PHYSICAL),
        page_size: PAGE_SIZE,
        fenced_size: PAGE_SIZE,
        global: false,
        whole_page: true,
        writable: false,
        user: false,
        readable: true,
    }
}

fn user_page() -> Translation {
    Translation { user: true, ..page() }
}

fn filled(context: TranslationContext, translation: Translation) -> Tlb {
    let mut tlb = Tlb::new();
    tlb.set_context(context);
    tlb.insert(GuestVirtual(ADDRESS), Access::Load, &translation, 0);
    tlb
}

fn hits(tlb: &mut Tlb, context: TranslationContext) -> bool {
    tlb.set_context(context);
    tlb.load(ADDRESS + 8, 8).is_some()
}

#[test]
fn a_hit_leads_to_the_same_offset_of_the_page() {
    let tlb = filled(supervisor(1), page());
    assert_eq!(tlb.load(ADDRESS + 0xff8, 8), Some(GuestPhysical(PHYSICAL + 0xff8)));
    assert_eq!(tlb.load(ADDRESS + 0xff9, 8), None);
    assert_eq!(tlb.load(ADDRESS - 4, 8), None);
    assert_eq!(tlb.load(ADDRESS + PAGE_SIZE * ENTRIES as u64, 8), None);
    assert_eq!(tlb.store(ADDRESS, 8), None);
    assert_eq!(tlb.fetch(ADDRESS), None);
}

#[test]
fn an_empty_cache_answers_nothing() {
    let mut tlb = Tlb::new();
    for privilege in [Privilege::User, Privilege::Supervisor, Privilege::Machine] {
        tlb.set_context(TranslationContext { sum: true, mxr: true, ..context(privilege, Some(0xffff)) });
        for address in [0, u64::MAX, u64::MAX - 7, ADDRESS] {
            assert_eq!((tlb.load(address, 1), tlb.store(address, 1)), (None, None));
            assert_eq!(tlb.fetch(address), None);
        }
    }
}

#[test]
fn address_spaces_and_modes_are_apart() {
    let mut tlb = filled(supervisor(1), page());
    assert!(hits(&mut tlb, supervisor(1)));
    assert!(!hits(&mut tlb, supervisor(2)));
    assert!(!hits(&mut tlb, user(1)));
    assert!(!hits(&mut tlb, context(Privilege::Supervisor, None)));
    assert!(!hits(&mut tlb, context(Privilege::Machine, Some(1))));
    assert!(hits(&mut tlb, supervisor(1)));
}

#[test]
fn global_pages_are_in_every_address_space_and_in_no_other() {
    let mut tlb = filled(supervisor(1), Translation { global: true, ..page() });
    assert!(hits(&mut tlb, supervisor(2)));
    assert!(!hits(&mut tlb, user(2)));
    assert!(!hits(&mut tlb, context(Privilege::Supervisor, None)));
    assert!(!hits(&mut tlb, context(Privilege::Machine, Some(2))));
}

#[test]
fn user_pages_are_the_supervisors_with_sum() {
    let mut tlb = filled(user(1), user_page());
    assert!(hits(&mut tlb, user(1)));
    assert!(!hits(&mut tlb, supervisor(1)));
    assert!(hits(&mut tlb, TranslationContext { sum: true, ..supervisor(1) }));
    let mut tlb = filled(supervisor(1), page());
    assert!(hits(&mut tlb, TranslationContext { sum: true, ..supervisor(1) }));
}

#[test]
fn pages_readable_by_mxr_need_it() {
    let mxr = TranslationContext { mxr: true, ..supervisor(1) };
    let mut tlb = filled(mxr, Translation { readable: false, ..page() });
    assert!(hits(&mut tlb, mxr));
    assert!(!hits(&mut tlb, supervisor(1)));
    let mut tlb = filled(mxr, page());
    assert!(hits(&mut tlb, supervisor(1)));
}

#[test]
fn divided_pages_are_not_kept() {
    let mut tlb = filled(supervisor(1), Translation { whole_page: false, ..page() });
    assert!(!hits(&mut tlb, supervisor(1)));
}

#[test]
fn writable_pages_answer_stores_after_a_load() {
    let tlb = filled(supervisor(1), Translation { writable: true, ..page() });
    assert_eq!(tlb.store(ADDRESS, 8), Some(GuestPhysical(PHYSICAL)));
}

#[test]
fn fences_forget_what_their_operands_name() {
    let address = Some(GuestVirtual(ADDRESS + 0x10));
    let other = Some(GuestVirtual(ADDRESS + PAGE_SIZE));
    let cases = [
        (None, None, false, false),
        (None, Some(1), false, true),
        (None, Some(2), true, true),
        (address, None, false, false),
        (address, Some(1), false, true),
        (other, None, true, true),
        (other, Some(1), true, true),
    ];
    for (address, asid, local_stays, global_stays) in cases {
        for page_size in [PAGE_SIZE, 2 << 20] {
            // In a large page, any address is every address.
            let (local_stays, global_stays) = match address {
                Some(_) if page_size > PAGE_SIZE => (false, asid.is_some()),
                _ => (local_stays, global_stays),
            };
            let mut tlb = filled(supervisor(1), Translation { page_size, fenced_size: page_size, ..page() });
            tlb.flush(address, asid);
            assert_eq!(hits(&mut tlb, supervisor(1)), local_stays, "{address:?} {asid:?} {page_size:#x}");
            let mut tlb = filled(
                supervisor(1),
                Translation { page_size, fenced_size: page_size, global: true, ..page() },
            );
            tlb.flush(address, asid);
            // More may be forgotten than was asked for.
            if !global_stays {
                assert!(!hits(&mut tlb, supervisor(1)), "{address:?} {asid:?} {page_size:#x}");
            }
        }
    }
}

#[test]
fn address_spaces_beyond_what_fits_are_found_empty() {
    let mut tlb = Tlb::new();
    for asid in 0..2000 {
        tlb.set_context(supervisor(asid));
        assert_eq!(tlb.load(ADDRESS, 8), None);
        tlb.insert(GuestVirtual(ADDRESS), Access::Load, &page(), 0);
        assert!(tlb.load(ADDRESS, 8).is_some());
        assert!(!tlb.is_stale());
    }
}

#[test]
fn fetches_lead_to_cookies() {
    let mut tlb = Tlb::new();
    tlb.set_context(user(3));
    tlb.insert(GuestVirtual(ADDRESS), Access::Execute, &user_page(), 42);
    assert_eq!(tlb.fetch(ADDRESS + 2), Some((GuestPhysical(PHYSICAL + 2), 42)));
    tlb.flush_fetches();
    assert_eq!(tlb.fetch(ADDRESS), None);
}
