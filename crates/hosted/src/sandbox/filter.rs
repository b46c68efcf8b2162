//! Makes filters (seccomp(2)) of the table of calls and puts them on.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::calls::{ALLOWED, NEVER, Need, UNKNOWN, When};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Puts the filters on all threads. The kernel asks all of them about a call, and heeds the strictest answer.
pub(super) fn confine(needs: &[Need]) -> Result<(), String> {
    let always = |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    let filters = [
        program(allowed(needs)?, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?,
        program(always(UNKNOWN), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
        program(always(NEVER), SeccompAction::Allow, SeccompAction::KillProcess)?,
    ];
    // The one that would forbid the others' being put on comes last.
    filters.iter().rev().try_for_each(|filter| apply_filter_all_threads(filter).map_err(told))
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, String> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(told)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, architecture).map_err(told)?;
    filter.try_into().map_err(|error: seccompiler::BackendError| told(error))
}

fn allowed(needs: &[Need]) -> Result<Rules, String> {
    let groups = ALLOWED.iter().filter(|group| group.need.is_none_or(|need| needs.contains(&need)));
    let mut rules = Rules::new();
    for (call, when) in groups.flat_map(|group| group.calls) {
        rules.entry(*call).or_default().extend(conditions(*when)?);
    }
    // Let through here: of two filters that answer with an error, the one put on last would have its way.
    rules.extend(UNKNOWN.iter().map(|call| (*call, Vec::new())));
    Ok(rules)
}

/// The rules, of which one must hold; none where nothing must.
fn conditions(when: When) -> Result<Vec<SeccompRule>, String> {
    let equal = |argument, value| {
        condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).and_then(|it| rule(vec![it]))
    };
    match when {
        When::Always => Ok(Vec::new()),
        When::OneOf(argument, [0]) => {
            // A pointer that is null, all of it.
            Ok(vec![rule(vec![condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?])?])
        }
        When::OneOf(argument, values) => values.iter().map(|value| equal(argument, *value)).collect(),
        When::OwnProcess(argument) => Ok(vec![equal(argument, u64::from(std::process::id()))?]),
        When::Flags { argument, set, clear } => {
            let operation = SeccompCmpOp::MaskedEq(set | clear);
            Ok(vec![rule(vec![condition(argument, SeccompCmpArgLen::Qword, operation, set)?])?])
        }
    }
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operation: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, length, operation, value).map_err(told)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, String> {
    SeccompRule::new(conditions).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_in_two_tables_or_twice_in_one() {
        let mut seen = std::collections::BTreeSet::new();
        let allowed = ALLOWED.iter().flat_map(|group| group.calls).map(|(call, _)| call);
        for call in allowed.chain(NEVER).chain(UNKNOWN) {
            assert!(seen.insert(call), "call {call}");
        }
    }

    #[test]
    fn filters_can_be_made_with_and_without_every_need() {
        for needs in [&[][..], &[Need::Network]] {
            let rules = allowed(needs).unwrap();
            assert_eq!(rules.contains_key(&libc::SYS_connect), !needs.is_empty());
            program(rules, SeccompAction::Errno(1), SeccompAction::Allow).unwrap();
        }
    }
}
