//! A small client of gdb's remote serial protocol (GDB manual, appendix "Remote Serial Protocol").

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{ChildStdin, ChildStdout};

/// Number of the program counter.
pub const PC: usize = 32;
/// Number of the stack pointer.
pub const SP: usize = 2;

/// A connection with a stub.
pub struct Rsp {
    input: Box<dyn Read>,
    output: Box<dyn Write>,
    /// Numbers of the other registers by their names.
    registers: Vec<(String, usize)>,
}

impl Rsp {
    pub fn over_socket(stream: UnixStream) -> Self {
        let output = stream.try_clone().expect("a descriptor");
        Self::new(Box::new(stream), Box::new(output))
    }

    pub fn over_pipes(input: ChildStdout, output: ChildStdin) -> Self {
        Self::new(Box::new(input), Box::new(output))
    }

    fn new(input: Box<dyn Read>, output: Box<dyn Write>) -> Self {
        let mut rsp = Self { input, output, registers: Vec::new() };
        let features = rsp.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
        assert!(features.contains("qXfer:features:read+"), "{features}");
        rsp.read_description();
        rsp
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.input.read_exact(&mut byte).expect("the stub answers");
        byte[0]
    }

    pub fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        write!(self.output, "${packet}#{sum:02x}")
            .and_then(|()| self.output.flush())
            .expect("the stub listens");
    }

    /// The next packet, acknowledged; run-length encoding undone.
    pub fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        let (mut packet, mut sum) = (Vec::new(), 0u8);
        loop {
            let byte = self.byte();
            if byte == b'#' {
                break;
            }
            sum = sum.wrapping_add(byte);
            if byte == b'*' {
                let count = self.byte();
                sum = sum.wrapping_add(count);
                let last = *packet.last().expect("a byte to repeat");
                packet.extend(std::iter::repeat_n(last, usize::from(count - 29)));
            } else {
                packet.push(byte);
            }
        }
        let digits = [self.byte(), self.byte()];
        let told = u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).expect("a checksum");
        assert_eq!(sum, told, "{}", String::from_utf8_lossy(&packet));
        // After its last word the stub is gone.
        let _ = self.output.write_all(b"+").and_then(|()| self.output.flush());
        String::from_utf8_lossy(&packet).into_owned()
    }

    pub fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    #[track_caller]
    pub fn tell(&mut self, packet: &str) {
        assert_eq!(self.ask(packet), "OK", "{packet}");
    }

    fn read_description(&mut self) {
        let mut text = String::new();
        loop {
            let part = self.ask(&format!("qXfer:features:read:target.xml:{:x},fff", text.len()));
            text.push_str(&part[1..]);
            if part.starts_with('l') {
                break;
            }
        }
        let attribute = |line: &str, name: &str| {
            let from = line.find(&format!("{name}=\""))? + name.len() + 2;
            Some(line[from..].split('"').next()?.to_owned())
        };
        self.registers = text
            .lines()
            .filter(|line| line.starts_with("<reg "))
            .filter_map(|line| Some((attribute(line, "name")?, attribute(line, "regnum")?.parse().ok()?)))
            .collect();
    }

    /// A register of the current thread.
    #[track_caller]
    pub fn register(&mut self, number: usize) -> u64 {
        let digits = self.ask(&format!("p{number:x}"));
        u64::from_str_radix(&digits, 16)
            .map(u64::swap_bytes)
            .unwrap_or_else(|_| panic!("p{number}: {digits}"))
    }

    /// The number of a register.
    #[track_caller]
    pub fn number(&self, name: &str) -> usize {
        self.registers.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// A register by its name.
    #[track_caller]
    pub fn named(&mut self, name: &str) -> u64 {
        self.register(self.number(name))
    }

    /// The thread that a stop reply is about becomes the current one.
    #[track_caller]
    pub fn follow(&mut self, stop: &str) {
        let from = stop.find("thread:").unwrap_or_else(|| panic!("{stop}")) + "thread:".len();
        let thread = stop[from..].split(';').next().expect("a thread").to_owned();
        self.tell(&format!("Hg{thread}"));
    }

    /// Lets the machine go on until it stops; that thread is current then.
    #[track_caller]
    pub fn go(&mut self) -> String {
        let stop = self.ask("vCont;c");
        self.follow(&stop);
        stop
    }

    /// The current thread executes one instruction, all others none.
    #[track_caller]
    pub fn step(&mut self, stop: &str) {
        let from = stop.find("thread:").expect("a thread") + "thread:".len();
        let thread = stop[from..].split(';').next().expect("a thread").to_owned();
        let stop = self.ask(&format!("vCont;s:{thread}"));
        assert!(stop.starts_with("T05"), "{stop}");
        self.follow(&stop);
    }

    /// What Ctrl-C sends.
    pub fn interrupt(&mut self) {
        self.output.write_all(&[3]).and_then(|()| self.output.flush()).expect("the stub listens");
    }

    /// What a monitor command says.
    pub fn monitor(&mut self, command: &str) -> String {
        let digits: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{digits}"));
        let mut text = String::new();
        loop {
            let packet = self.receive();
            match packet.strip_prefix('O') {
                Some(digits) if packet != "OK" => text.push_str(&unhex(digits)),
                _ => return text,
            }
        }
    }
}

fn unhex(digits: &str) -> String {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    String::from_utf8_lossy(&(0..digits.len() / 2).map(|at| byte(2 * at)).collect::<Vec<_>>()).into_owned()
}
