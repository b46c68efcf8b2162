//! Repeats one operation of an operating system, and says how many instructions the hart retired for it.
//!
//! An S-mode kernel in the format of a Linux `Image`, over any SBI firmware: on a machine itself and as a guest of
//! the type-1 home on the same machine, so that both can be compared. The command line names the operation and how
//! often it is done, `costs=null,1000`; the answer is a line `costs: null 1000 31000`. Two runs with different
//! counts tell what one operation costs, without what surrounds it.
#![no_std]
#![no_main]

mod csrs;
mod operations;
mod sbi;
mod start;
mod tables;
mod tricks;
mod user;

use core::panic::PanicInfo;

/// Hart 0, in S-mode, without translation.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(_hart: usize, tree: *const u8) -> ! {
    let requested = operations::requested(tree);
    tables::enable();
    match requested {
        Some((operation, count)) => {
            let instructions = operation.measure(count);
            println!("costs: {} {count} {instructions}", operation.name);
        }
        None => println!("costs: give costs=OPERATION,COUNT on the command line"),
    }
    sbi::shut_down()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("costs: {info}");
    sbi::shut_down()
}
