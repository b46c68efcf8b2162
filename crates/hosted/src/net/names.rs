//! Answers DNS queries for the names of machines on a network (RFC 1035, 4; RFC 3596).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a message's header.
const HEADER: usize = 12;
/// How long an answer may be kept, in seconds: machines come and go.
const TIME_TO_LIVE: u32 = 5;
/// Types and the class of the Internet.
const A: u16 = 1;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const INTERNET: u16 = 1;
/// Response codes.
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// A query with one question.
struct Question<'a> {
    /// The labels of the name.
    labels: Vec<&'a str>,
    kind: u16,
    class: u16,
    /// The question as it stands in the message.
    bytes: &'a [u8],
}

/// The answer to a query for `NAME` or `NAME.NETWORK`, if `find` knows it.
pub(super) fn answer(
    query: &[u8],
    network: &str,
    mut find: impl FnMut(&str) -> Option<(Ipv4Addr, Option<Ipv6Addr>)>,
) -> Option<Vec<u8>> {
    let question = parse(query)?;
    let name = match *question.labels.as_slice() {
        [name] => name,
        [name, zone] if zone.eq_ignore_ascii_case(network) => name,
        _ => return None,
    };
    let (v4, v6) = find(name)?;
    let mut known = vec![(A, v4.octets().to_vec())];
    known.extend(v6.map(|v6| (AAAA, v6.octets().to_vec())));
    let is_wanted = |kind| [kind, ANY].contains(&question.kind) && question.class == INTERNET;
    known.retain(|(kind, _)| is_wanted(*kind));
    Some(reply(query, question.bytes, NO_ERROR, &known))
}

/// The answer of network `lab`, on which `web` is, for fuzzing.
#[doc(hidden)]
pub fn answer_query(query: &[u8]) -> Option<Vec<u8>> {
    let web = (Ipv4Addr::new(10, 89, 0, 11), Ipv6Addr::new(0xfd00, 0x10, 0x89, 0, 0, 0, 0, 0x11));
    answer(query, "lab", |name| (name == "web").then_some((web.0, Some(web.1)))).or_else(|| refuse(query))
}

/// The answer that there is no such name; `None` for what isn't a query.
pub(super) fn refuse(query: &[u8]) -> Option<Vec<u8>> {
    Some(reply(query, parse(query)?.bytes, NO_SUCH_NAME, &[]))
}

fn parse(query: &[u8]) -> Option<Question<'_>> {
    let number = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    // A query (no response, operation 0) with one question.
    if number(2)? & 0xf800 != 0 || number(4)? != 1 {
        return None;
    }
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?),
            // A pointer: nothing stands before the first name that it could point at.
            _ => return None,
        }
        at += length;
    }
    let (kind, class) = (number(at)?, number(at + 2)?);
    Some(Question { labels, kind, class, bytes: &query[HEADER..at + 4] })
}

/// The message with these answers: their kinds, and addresses.
fn reply(query: &[u8], question: &[u8], code: u8, answers: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = query[..2].to_vec();
    // A response with authority; recursion as it was wished for, and available.
    message.extend([0x84 | query[2] & 1, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
    message.extend(question);
    for (kind, address) in answers {
        // The name is the question's.
        message.extend([0xc0, HEADER as u8]);
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message.extend(TIME_TO_LIVE.to_be_bytes());
        message.extend((address.len() as u16).to_be_bytes());
        message.extend(address);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message
    }

    fn find(name: &str) -> Option<(Ipv4Addr, Option<Ipv6Addr>)> {
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11);
        match name {
            "web" => Some((Ipv4Addr::new(10, 89, 0, 11), Some(v6))),
            "old" => Some((Ipv4Addr::new(10, 89, 0, 12), None)),
            _ => None,
        }
    }

    #[test]
    fn members_are_found_with_and_without_their_network() {
        for name in ["web", "web.lab", "web.LAB"] {
            let answer = answer(&query(name, A), "lab", find).unwrap();
            assert_eq!(answer[..4], [0xab, 0xcd, 0x85, 0x80]);
            assert_eq!(answer[answer.len() - 4..], [10, 89, 0, 11]);
        }
        let v6 = answer(&query("web", AAAA), "lab", find).unwrap();
        assert_eq!((v6[7], &v6[v6.len() - 2..]), (1, &[0, 0x11][..]));
        assert_eq!(answer(&query("web", ANY), "lab", find).unwrap()[7], 2);
        // It is there, and has nothing of another kind.
        for (name, kind) in [("web", 15), ("old", AAAA)] {
            let other = answer(&query(name, kind), "lab", find).unwrap();
            assert_eq!((other[3] & 15, other[7]), (NO_ERROR, 0));
        }
        for name in ["db", "web.other", "web.lab.example"] {
            assert!(answer(&query(name, A), "lab", find).is_none(), "{name}");
        }
        assert_eq!(refuse(&query("db", A)).unwrap()[3] & 15, NO_SUCH_NAME);
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        let whole = query("web.lab", A);
        for length in 0..whole.len() {
            assert!(answer(&whole[..length], "lab", find).is_none(), "{length}");
        }
        let mut response = whole.clone();
        response[2] |= 0x80;
        let mut pointer = whole;
        pointer[HEADER] = 0xc0;
        for message in [response, pointer] {
            assert!(answer(&message, "lab", find).is_none() && refuse(&message).is_none());
        }
    }
}
