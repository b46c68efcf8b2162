//! The host's DNS servers.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const FILE: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// How long a reading of the file holds.
const FRESH: Duration = Duration::from_secs(5);

/// The DNS servers that stand behind 10.0.2.3.
pub(super) struct Resolver {
    /// Whether they come from the host's configuration, which may change (laptops travel).
    from_host: bool,
    servers: Vec<SocketAddr>,
    read: Option<Instant>,
}

impl Resolver {
    /// Serves through `servers`, or through the host's if there are none.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { from_host: servers.is_empty(), servers, read: None }
    }

    /// The server for the `attempt`th try of a query; `None` where the host has none.
    pub(super) fn server(&mut self, attempt: usize) -> Option<SocketAddr> {
        if self.from_host && self.read.is_none_or(|read| read.elapsed() > FRESH) {
            self.read = Some(Instant::now());
            // One that was replaced can't be read in a sandbox: what was known before holds.
            if let Ok(text) = fs::read_to_string(FILE) {
                self.servers = parse(&text);
            }
        }
        let count = self.servers.len();
        self.servers.get(attempt.checked_rem(count)?).copied()
    }
}

/// The servers in a `resolv.conf`, in order.
fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next()? != "nameserver" {
            return None;
        }
        Some(SocketAddr::new(words.next()?.parse::<IpAddr>().ok()?, DNS_PORT))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_among_comments_and_options() {
        let text = "# made by x\nsearch example\nnameserver 127.0.0.53\nnameserver ::1 # v6\noptions edns0\n\
                    nameserver bad\n nameserver 9.9.9.9";
        let expected = ["127.0.0.53:53", "[::1]:53", "9.9.9.9:53"].map(|a| a.parse().unwrap());
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn retries_go_round_all_servers() {
        let servers = ["127.0.0.1:1", "127.0.0.1:2"].map(|a| a.parse().unwrap());
        let mut resolver = Resolver::new(servers.to_vec());
        let picked = [0, 1, 2].map(|attempt| resolver.server(attempt).unwrap());
        assert_eq!(picked, [servers[0], servers[1], servers[0]]);
    }
}
