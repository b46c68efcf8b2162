use super::*;

/// What the tests' terminals print, each to a place of its own.
macro_rules! screen {
    () => {{
        static SCREEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        let output: Output = |bytes| SCREEN.lock().extend(bytes);
        let taken = || String::from_utf8(core::mem::take(&mut *SCREEN.lock())).unwrap();
        (output, taken)
    }};
}

fn typed(guests: u64) -> Typed {
    Typed { guests, commands: Vec::new() }
}

#[test]
fn lines_of_several_guests_carry_their_names_and_stay_whole() {
    let (output, screen) = screen!();
    let terminal = Terminal::new(&["a", "b"], true, output);
    let (mut a, mut b) = (terminal.port(0), terminal.port(1));
    a.write(b"one\ntw");
    b.write(b"thr");
    a.write(b"o");
    b.write(b"ee\n");
    a.write(b"\nfour");
    assert_eq!(screen(), "[a] one\n[a] two\n[b] three\n[a] four");
}

#[test]
fn what_is_typed_goes_to_one_of_a_guests_devices() {
    let (output, screen) = screen!();
    let terminal = Terminal::new(&["a"], true, output);
    let (mut serial, mut console) = (terminal.output(0), terminal.port(0));
    serial.write(b"early\n");
    console.write(b"late\n");
    assert_eq!(screen(), "early\nlate\n");
    assert_eq!(terminal.type_in(b"x"), typed(1));
    let mut buffer = [0; 4];
    assert_eq!((serial.read(&mut buffer), console.read(&mut buffer)), (0, 1));
}

#[test]
fn half_lines_wait_only_for_a_moment() {
    let (output, screen) = screen!();
    let terminal = Terminal::new(&["a", "b"], true, output);
    terminal.port(0).write(b"# ");
    terminal.port(1).write(b"# ");
    assert_eq!(screen(), "[a] # ");
    (0..PATIENCE).for_each(|_| terminal.tick());
    assert_eq!(screen(), "\r\n[b] # ");
    terminal.port(0).write(&[b'x'; 2 * LONGEST_LINE]);
    assert!(screen().ends_with('x'));
}

#[test]
fn without_prefixes_who_has_the_keyboard_prints() {
    let (output, screen) = screen!();
    let terminal = Terminal::new(&["a", "b"], false, output);
    let (mut a, mut b) = (terminal.port(0), terminal.port(1));
    a.write(b"one\n");
    b.write(&[b'x'; BACKLOG]);
    b.write(b"two\n");
    assert_eq!(screen(), "one\n");
    terminal.type_in(b"\x02n");
    let text = screen();
    assert!(text.starts_with("rvisor: keyboard: b\r\nxxxx") && text.ends_with("xtwo\n"));
    assert!(text.len() < BACKLOG + 30);
}

#[test]
fn only_guest_prints_as_it_likes() {
    let (output, screen) = screen!();
    let terminal = Terminal::new(&["a"], true, output);
    terminal.port(0).write(b"# ");
    terminal.port(0).write(b"ls\r\n");
    assert_eq!(screen(), "# ls\r\n");
}

#[test]
fn key_gives_the_keyboard_to_the_next_guest() {
    let terminal = Terminal::new(&["a", "b"], true, |_| {});
    let (mut a, mut b) = (terminal.port(0), terminal.port(1));
    assert_eq!(terminal.type_in(b"x\x02nyz"), typed(0b11));
    let mut buffer = [0; 8];
    assert_eq!((a.read(&mut buffer), buffer[0]), (1, b'x'));
    assert_eq!((b.read(&mut buffer), &buffer[..2]), (2, &b"yz"[..]));
    assert_eq!(b.read(&mut buffer), 0);
    assert_eq!(terminal.type_in(b"\x021\x02\x02"), typed(0b01));
    assert_eq!((a.read(&mut buffer), buffer[0]), (1, ESCAPE));
    // No such guest: nobody gets it.
    assert_eq!(terminal.type_in(b"\x029"), typed(0));
}

#[test]
fn prompt_takes_lines_and_stays_below_what_guests_print() {
    let (output, screen) = screen!();
    let terminal = Terminal::new(&["a", "b"], true, output);
    let mut a = terminal.port(0);
    a.write(b"half");
    terminal.type_in(b"\x02mli");
    a.write(b" a line\n");
    let entered = terminal.type_in(b"st\r");
    assert_eq!(entered, Typed { guests: 0, commands: alloc::vec!["list".into()] });
    terminal.say("all of them");
    terminal.prompt();
    assert_eq!(screen(), "[a] half\r\nrvisor> li\r\n[a]  a line\nrvisor> list\r\nall of them\r\nrvisor> ");
    assert!(terminal.is_at_prompt());
    terminal.focus(1);
    assert!(!terminal.is_at_prompt() && screen().ends_with("\r\nrvisor: keyboard: b\r\n"));
}

#[test]
fn too_much_typing_is_lost() {
    let terminal = Terminal::new(&["a"], true, |_| {});
    terminal.type_in(&[b'x'; 2 * TYPED_AHEAD]);
    assert_eq!(terminal.port(0).read(&mut [0; 3 * TYPED_AHEAD]), TYPED_AHEAD);
}
