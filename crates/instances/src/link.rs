//! gdb's connection through frames of the control socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rvisor_hosted::gdb::Link;

use crate::protocol::{Frame, LONGEST_FRAME};

/// The machine's end of a session whose input and output are gdb's.
pub(crate) struct FramedLink(pub UnixStream);

impl Read for FramedLink {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Input { stream: self.0.try_clone()?, rest: Vec::new() }.read(buffer)
    }
}

impl Write for FramedLink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(LONGEST_FRAME)];
        Frame::Stdout(piece.to_vec()).write_to(&mut self.0)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for FramedLink {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Input { stream: self.0.try_clone()?, rest: Vec::new() }))
    }

    fn close(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

struct Input {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match Frame::read_from(&mut self.stream)? {
                Some(Frame::Input(bytes)) => self.rest = bytes,
                Some(Frame::InputEnd) | None => return Ok(0),
                Some(_) => {}
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_through_frames_in_both_directions() {
        let (mut client, machine) = UnixStream::pair().unwrap();
        let mut link = FramedLink(machine);
        let mut reader = link.reader().unwrap();
        Frame::Input(b"abc".to_vec()).write_to(&mut client).unwrap();
        Frame::Resize(1, 2).write_to(&mut client).unwrap();
        Frame::Input(b"d".to_vec()).write_to(&mut client).unwrap();
        Frame::InputEnd.write_to(&mut client).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
        link.write_all(&vec![7; LONGEST_FRAME + 1]).unwrap_or_else(|error| panic!("{error}"));
        let lengths = [LONGEST_FRAME, 1].map(|length| Some(Frame::Stdout(vec![7; length])));
        assert_eq!([(); 2].map(|()| Frame::read_from(&mut client).unwrap()), lengths);
    }
}
