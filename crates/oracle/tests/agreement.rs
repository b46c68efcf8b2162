//! The hart agrees with the Sail model. The program of this crate does the same at length.

use rvisor_oracle::Comparison;

#[test]
fn hart_agrees_with_the_sail_model() {
    let hook = std::panic::take_hook();
    // The model panics where it isn't complete.
    std::panic::set_hook(Box::new(|_| {}));
    let mut comparison = Comparison::new(2026);
    let report = comparison.run(100_000);
    let (agrees, text) = (report.differing.is_empty(), report.to_string());
    std::panic::set_hook(hook);
    assert!(agrees, "{text}");
}
