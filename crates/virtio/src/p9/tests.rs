use alloc::string::String;

use rvisor_waist::{
    Device, LockKind, SetTime, ShareAttributes, ShareEntry, ShareFile, ShareLock, ShareTime, Width,
};

use super::*;
use crate::testing::{Buffer, Driver, Submission, TestShare};
use crate::transport::{register, status};
use wire::Writer;

use Buffer::{Readable, Writable};

const TAG: u16 = 7;

fn started() -> (Driver<P9>, TestShare) {
    let share = TestShare::default();
    (Driver::started(P9::new(Box::new(share.clone())), F_MOUNT_TAG), share)
}

fn request(kind: u8, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    body(&mut w);
    message::reply(kind, TAG, &w.0, 0)
}

/// Sends a request with room for a reply of `room` bytes; returns the reply's type and body.
fn ask(driver: &mut Driver<P9>, request: &[u8], room: u32) -> (u8, Vec<u8>) {
    let submission = driver.submit(0, &[Readable(request), Writable(room)]);
    reply_to(driver, &submission, 1)
}

fn reply_to(driver: &mut Driver<P9>, submission: &Submission, buffer: usize) -> (u8, Vec<u8>) {
    let (id, written) = driver.used(0).expect("an answer");
    assert_eq!(id, submission.id);
    let bytes = driver.bytes(submission, buffer);
    let bytes = &bytes[..written as usize];
    assert_eq!(bytes[..4], written.to_le_bytes(), "the size is right");
    assert_eq!(bytes[5..7], TAG.to_le_bytes());
    (bytes[4], bytes[7..].to_vec())
}

fn error(number: u32) -> (u8, Vec<u8>) {
    (7, number.to_le_bytes().to_vec())
}

/// What a request is for the back end.
fn call(driver: &mut Driver<P9>, share: &TestShare, kind: u8, body: impl FnOnce(&mut Writer)) -> ShareCall {
    share.state.lock().calls.clear();
    let (reply, text) = ask(driver, &request(kind, body), 4096);
    assert_eq!(reply, kind + 1, "{text:?}");
    share.state.lock().calls.pop().expect("a call")
}

fn version(w: &mut Writer) {
    w.u32(8192).string(VERSION);
}

#[test]
fn device_whose_files_nobody_holds_can_be_saved() {
    let (mut driver, share) = started();
    assert!(matches!(call(&mut driver, &share, 100, version), ShareCall::Reset));
    share.state.lock().is_in_use = true;
    let is_refused = |result| matches!(result, Err(StateError::Unsupported("shared directories")));
    assert!(is_refused(driver.replace(P9::new(Box::new(share.clone())))));
    share.state.lock().is_in_use = false;
    share.state.lock().manual = true;
    let submission = driver.submit(0, &[Readable(&request(100, version)), Writable(64)]);
    assert!(is_refused(driver.replace(P9::new(Box::new(share.clone())))), "a request is on the way");
    share.finish();
    driver.transport.poll();
    assert_eq!(reply_to(&mut driver, &submission, 1).0, 101);
    let other = TestShare::default();
    driver.replace(P9::new(Box::new(other.clone()))).unwrap();
    assert!(matches!(call(&mut driver, &other, 100, version), ShareCall::Reset));
}

#[test]
fn configuration_is_the_tag() {
    let (mut driver, _) = started();
    assert_eq!(driver.config(0, Width::Half), 5);
    let tag: String = (2..7).map(|at| driver.config(at, Width::Byte) as u8 as char).collect();
    assert_eq!(tag, "files");
}

#[test]
fn version_is_agreed_on_and_the_session_begins_anew() {
    let (mut driver, share) = started();
    let version = |longest: u32, name: &[u8]| request(100, |w| _ = w.u32(longest).string(name));
    let mut expected = Writer::default();
    expected.u32(8192).string(b"9P2000.L");
    assert_eq!(ask(&mut driver, &version(8192, b"9P2000.L"), 64), (101, expected.0));
    assert_eq!(share.state.lock().calls, [ShareCall::Reset]);
    let (_, body) = ask(&mut driver, &version(u32::MAX, b"9P2000.u"), 64);
    assert_eq!(body[..4], LONGEST_MESSAGE.to_le_bytes());
    assert_eq!(&body[6..], b"unknown");
}

#[test]
fn requests_are_taken_apart() {
    let (mut driver, share) = started();
    let name = || b"n".to_vec();
    let attach = call(&mut driver, &share, 104, |w| _ = w.u32(1).u32(!0).string(b"root").string(b"t").u32(0));
    assert_eq!(attach, ShareCall::Attach { fid: 1, tree: b"t".to_vec() });
    let walk = call(&mut driver, &share, 110, |w| _ = w.u32(1).u32(2).u16(2).string(b"a").string(b"b"));
    assert_eq!(walk, ShareCall::Walk { fid: 1, new_fid: 2, names: vec![b"a".to_vec(), b"b".to_vec()] });
    let create = call(&mut driver, &share, 14, |w| _ = w.u32(1).string(b"n").u32(2).u32(0o644).u32(0));
    assert_eq!(create, ShareCall::Create { fid: 1, name: name(), flags: 2, mode: 0o644 });
    let unlink = call(&mut driver, &share, 76, |w| _ = w.u32(1).string(b"n").u32(0x200));
    assert_eq!(unlink, ShareCall::Unlink { directory: 1, name: name(), is_directory: true });
    let lock = |w: &mut Writer| _ = w.u32(1).u8(1).u32(1).u64(5).u64(6).u32(9).string(b"host");
    let expected = ShareLock { kind: LockKind::Exclusive, start: 5, length: 6, process: 9 };
    assert_eq!(call(&mut driver, &share, 52, lock), ShareCall::Lock { fid: 1, lock: expected });
    let sync = call(&mut driver, &share, 50, |w| _ = w.u32(1));
    assert_eq!(sync, ShareCall::Sync { fid: 1, data_only: false });
    let set = call(&mut driver, &share, 26, |w| {
        w.u32(1)
            .u32(0x1 | 0x8 | 0x10 | 0x20 | 0x100)
            .u32(0o600)
            .u32(1)
            .u32(2)
            .u64(3)
            .u64(4)
            .u64(5)
            .u64(6)
            .u64(7);
    });
    let ShareCall::SetAttributes { fid: 1, change } = set else { panic!("{set:?}") };
    assert_eq!((change.mode, change.user, change.size), (Some(0o600), None, Some(3)));
    assert_eq!(change.accessed, Some(SetTime::Now));
    assert_eq!(change.modified, Some(SetTime::To(ShareTime { seconds: 6, nanoseconds: 7 })));
}

#[test]
fn replies_are_put_together() {
    let (mut driver, share) = started();
    let file = ShareFile { kind: 0x80, version: 3, path: 4 };
    let qid = [&[0x80][..], &3_u32.to_le_bytes(), &4_u64.to_le_bytes()].concat();
    let mut answer = |reply: ShareReply, kind: u8, body: &dyn Fn(&mut Writer)| {
        share.state.lock().answers.push_back(Ok(reply));
        ask(&mut driver, &request(kind, |w| body(w)), 4096).1
    };
    let walked = answer(ShareReply::Walked(vec![file; 2]), 110, &|w| _ = w.u32(1).u32(2).u16(0));
    assert_eq!(walked, [&[2, 0][..], &qid, &qid].concat());
    let opened = answer(ShareReply::Opened(file), 12, &|w| _ = w.u32(1).u32(0));
    assert_eq!(opened, [&qid[..], &[0; 4]].concat());
    let entry = ShareEntry { file, offset: 5, kind: 4, name: b"ab".to_vec() };
    let read = answer(ShareReply::Entries(vec![entry]), 40, &|w| _ = w.u32(1).u64(0).u32(100));
    let expected = [&26_u32.to_le_bytes()[..], &qid, &5_u64.to_le_bytes(), &[4, 2, 0], b"ab"].concat();
    assert_eq!(read, expected);
    let attributes = ShareAttributes {
        file,
        mode: 1,
        user: 2,
        group: 3,
        links: 4,
        size: 5,
        block_size: 6,
        blocks: 7,
        accessed: ShareTime::default(),
        modified: ShareTime { seconds: 8, nanoseconds: 9 },
        changed: ShareTime::default(),
    };
    let told = answer(ShareReply::Attributes(attributes), 24, &|w| _ = w.u32(1).u64(0));
    assert_eq!(told.len(), 153);
    assert_eq!((told[21], told[49], told[89]), (1, 5, 8), "mode, size and time of change");
    assert_eq!(
        answer(ShareReply::Locked(false), 52, &|w| {
            w.u32(1).u8(0).u32(0).u64(0).u64(0).u32(0).string(b"");
        }),
        [1]
    );
    let none = answer(ShareReply::InTheWay(None), 54, &|w| {
        w.u32(1).u8(0).u64(0).u64(0).u32(0).string(b"");
    });
    assert_eq!(none[0], 2);
}

#[test]
fn data_goes_past_the_headers() {
    let (mut driver, share) = started();
    let head = request(118, |w| _ = w.u32(1).u64(9).u32(6));
    let mut head = head;
    head[..4].copy_from_slice(&(23_u32 + 6).to_le_bytes());
    // The fixed part and the data as the driver likes: cut in two, and more memory than the message takes.
    let parts =
        [Readable(&head[..10]), Readable(&head[10..]), Readable(b"abc"), Readable(b"defgh"), Writable(11)];
    let submission = driver.submit(0, &parts);
    assert_eq!(reply_to(&mut driver, &submission, 4).0, 119);
    let ShareCall::Write { offset: 9, segments, .. } = share.state.lock().calls.remove(0) else { panic!() };
    let lengths: Vec<_> = segments.iter().map(|segment| segment.length).collect();
    assert_eq!(lengths, [3, 3]);

    share.state.lock().answers.push_back(Ok(ShareReply::Count(4)));
    let read = request(116, |w| _ = w.u32(1).u64(0).u32(100));
    let submission = driver.submit(0, &[Readable(&read), Writable(11), Writable(8), Writable(4)]);
    let ShareCall::Read { segments, .. } = share.state.lock().calls.remove(0) else { panic!() };
    assert_eq!(segments, submission.segments[2..]);
    assert_eq!(driver.used(0), Some((submission.id, 15)));
    let header = driver.bytes(&submission, 1);
    assert_eq!((&header[..4], &header[7..]), (&15_u32.to_le_bytes()[..], &4_u32.to_le_bytes()[..]));
}

#[test]
fn messages_that_make_no_sense_are_errors() {
    let (mut driver, share) = started();
    let truncated = request(110, |w| _ = w.u32(1).u32(2).u16(3).string(b"a"));
    let long_string = request(104, |w| _ = w.u32(1).u32(2).u16(u16::MAX));
    let too_much = request(12, |w| _ = w.u32(1).u32(2).u8(0));
    let names = request(110, |w| _ = w.u32(1).u32(2).u16(17));
    let lock = request(52, |w| _ = w.u32(1).u8(3).u32(0).u64(0).u64(0).u32(0).string(b""));
    let flags = request(76, |w| _ = w.u32(1).string(b"n").u32(0x400));
    let write = request(118, |w| _ = w.u32(1).u64(0).u32(1));
    for bytes in [truncated, long_string, too_much, names, lock, flags, write] {
        assert_eq!(ask(&mut driver, &bytes, 64), error(22), "{bytes:?}");
    }
    for kind in [0, 6, 7, 20, 30, 32, 102, 255] {
        assert_eq!(ask(&mut driver, &request(kind, |_| ()), 64), error(95), "{kind}");
    }
    // Sizes that don't fit the buffer.
    for size in [0_u32, 6, 12, u32::MAX] {
        let mut bytes = request(120, |w| _ = w.u32(1));
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        assert_eq!(ask(&mut driver, &bytes, 64), error(22), "{size}");
    }
    assert!(share.state.lock().calls.is_empty());
    assert!(!driver.needs_reset());
    driver.submit(0, &[Readable(&[0; 6]), Writable(64)]);
    assert!(driver.needs_reset());
}

#[test]
fn reply_that_does_not_fit_is_an_error_or_nothing() {
    let (mut driver, share) = started();
    share.state.lock().answers.push_back(Ok(ShareReply::Target(vec![b'x'; 100])));
    assert_eq!(ask(&mut driver, &request(22, |w| _ = w.u32(1)), 11), error(90));
    let submission = driver.submit(0, &[Readable(&request(120, |w| _ = w.u32(1))), Writable(6)]);
    assert_eq!(driver.used(0), Some((submission.id, 0)));
    let submission = driver.submit(0, &[Readable(&request(120, |w| _ = w.u32(1)))]);
    assert_eq!(driver.used(0), Some((submission.id, 0)));
}

#[test]
fn flush_is_answered_behind_its_request() {
    let (mut driver, share) = started();
    share.state.lock().manual = true;
    let slow = driver.submit(0, &[Readable(&request(120, |w| _ = w.u32(1))), Writable(64)]);
    let flush = driver.submit(0, &[Readable(&request(108, |w| _ = w.u16(TAG))), Writable(64)]);
    assert_eq!(driver.used(0), None);
    share.finish();
    driver.transport.poll();
    assert_eq!(reply_to(&mut driver, &slow, 1).0, 121);
    assert_eq!(reply_to(&mut driver, &flush, 1).0, 109);
    let none = driver.submit(0, &[Readable(&request(108, |w| _ = w.u16(99))), Writable(64)]);
    assert_eq!(reply_to(&mut driver, &none, 1).0, 109);
}

#[test]
fn back_end_s_errors_are_told_by_number() {
    let (mut driver, share) = started();
    share.state.lock().answers.push_back(Err(ShareError(13)));
    assert_eq!(ask(&mut driver, &request(12, |w| _ = w.u32(1).u32(0)), 64), error(13));
}

#[test]
fn reset_leaves_no_request_behind() {
    let (mut driver, share) = started();
    share.state.lock().manual = true;
    driver.submit(0, &[Readable(&request(120, |w| _ = w.u32(1))), Writable(64)]);
    driver.set_register(register::STATUS, 0);
    share.finish();
    driver.start(F_MOUNT_TAG);
    driver.transport.poll();
    assert_eq!(driver.used(0), None);
    assert_eq!(driver.register(register::STATUS) & status::DEVICE_NEEDS_RESET, 0);
}
