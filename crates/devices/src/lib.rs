//! UART, PLIC, ACLINT, RTC and test finisher of Rvisor's board.
#![no_std]
#![forbid(unsafe_code)]
