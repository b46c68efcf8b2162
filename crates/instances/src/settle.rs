//! Puts a guest that goes on from another machine's state into its own place on a named network.
//!
//! Such a guest has the addresses of the machine that it was saved from. The agent runs a script that gives it those that
//! its number says, before it runs anything else. What the guest's own DHCP client knows is corrected when it next asks.

use std::io;
use std::thread;

use rvisor_hosted::net::Place;

use crate::agent::{AgentLink, ExecRequest};
use crate::protocol::Frame;

/// Its arguments: address with prefix, hardware address, DNS server, and the router if there is one. A link that was down has
/// forgotten all routes, and makes its IPv6 addresses anew.
const SCRIPT: &str = r#"
command -v ip >/dev/null && net() { ip "$@"; } || net() { busybox ip "$@"; }
net -4 address show dev eth0 | grep -q " $1 " && exit
net link set dev eth0 down &&
net address flush dev eth0 &&
net link set dev eth0 address "$2" &&
net link set dev eth0 up &&
net address add "$1" broadcast + dev eth0 || exit
[ -L /etc/resolv.conf ] || echo "nameserver $3" >/etc/resolv.conf
[ -z "$4" ] || net route add default via "$4" dev eth0"#;

/// Has the agent do it; commands that are asked for meanwhile wait.
pub(crate) fn settle(agent: &AgentLink, place: &Place) -> io::Result<()> {
    let Ok(channel) = agent.exec_first(&request(place)) else { return Ok(()) };
    let agent = agent.clone();
    thread::Builder::new().name("settle".into()).spawn(move || {
        let mut last = None;
        while let Some(frame) = channel.receive() {
            if let Frame::Stdout(bytes) | Frame::Stderr(bytes) = &frame {
                channel.credit(bytes.len());
            }
            last = Some(frame);
        }
        agent.let_others();
        if !matches!(last, Some(Frame::Exit(0))) {
            log::warn!(
                "the guest couldn't take its place on the network: it needs the program ip, or busybox"
            );
        }
    })?;
    Ok(())
}

fn request(place: &Place) -> ExecRequest {
    let [a, b, c, d, e, f] = place.mac;
    let words = [
        "/bin/sh".into(),
        "-c".into(),
        SCRIPT.into(),
        "sh".into(),
        format!("{}/{}", place.address, place.prefix),
        format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        place.dns.to_string(),
        place.router.map(|router| router.to_string()).unwrap_or_default(),
    ];
    ExecRequest::new(words.into(), [])
}
