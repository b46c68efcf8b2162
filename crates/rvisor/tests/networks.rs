//! Named networks, with guests on them.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ended, FAILURE, LIMIT, Machine, finish, left_out, rvisor};

/// Waits until the guest has its address.
const WAIT: &str = "until ip addr show eth0 | grep -q 'inet 10'; do sleep 0.1; done; ";

/// Waits until it has an IPv6 address of its network's that nobody else has.
const WAIT6: &str =
    "until ip -6 addr show dev eth0 | grep 'inet6 fd00:' | grep -qv tentative; do sleep 0.1; done; ";

fn sh(machine: &Machine, script: &str) -> Ended {
    machine.exec(&["sh", "-c", &format!("{WAIT}{script}")])
}

/// The address of a machine on a network.
fn address(network: &Network, name: &str) -> String {
    let told = finish(&mut rvisor(["network", "inspect", &network.0]), b"", LIMIT).text();
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let machines = told[0]["machines"].as_array().expect("a list");
    let found = machines.iter().find(|machine| machine["name"] == name).expect("it is there");
    found["address"].as_str().expect("text").to_owned()
}

/// A network that is gone when the test is over.
struct Network(String);

impl Network {
    fn new(stem: &str, options: &[&str]) -> Self {
        let network = Self(format!("{stem}-{}", std::process::id()));
        let words = [&["network", "create"], options, &[&network.0]].concat();
        finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", network.0));
        network
    }

    fn machine(&self, stem: &str) -> Machine {
        Machine::run(stem, &["--network", &self.0, "busybox"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        finish(&mut rvisor(["network", "rm", &self.0]), b"", LIMIT);
    }
}

#[test]
fn machines_on_a_network_find_each_other_by_name_and_others_find_none() {
    let (lab, closed) = (Network::new("lab", &[]), Network::new("closed", &["--internal"]));
    let (web, db) = (lab.machine("web"), lab.machine("db"));
    let alone = closed.machine("alone");
    let db_address = address(&lab, &db.0);

    // By name, by name and network, by address; and something larger than a packet, unharmed.
    let ready = sh(
        &db,
        "mkdir -p /www; head -c 3000000 /dev/zero | tr '\\0' x >/www/big; busybox httpd -p 80 -h /www; echo up",
    );
    ready.assert(0, "up\n");
    for name in [&db.0, &format!("{}.{}", db.0, lab.0), &db_address] {
        sh(&web, &format!("ping -c 1 -W 20 {name} >/dev/null && echo there")).assert(0, "there\n");
    }
    let ping6 = |from: &Machine, to: &Machine| {
        sh(to, &format!("{WAIT6}echo up")).assert(0, "up\n");
        // The network waits a second to see whether somebody objects to an address.
        let ping = format!("ping -6 -c 1 -W 20 {} >/dev/null 2>&1", to.0);
        let script = format!("{WAIT6}until {ping}; do sleep 0.1; done; echo there");
        sh(from, &script).assert(0, "there\n");
    };
    ping6(&web, &db);
    sh(&web, &format!("wget -q -O - http://{}/big | wc -c", db.0)).assert(0, "3000000\n");

    // Another network: neither by name nor by address; and out of an internal one there is no way.
    let host = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = host.local_addr().expect("its address").port();
    // Whoever connects is let go at once.
    std::thread::spawn(move || host.incoming().for_each(drop));
    let gone = |script: &str| {
        sh(&alone, &format!("{script} >/dev/null 2>&1 && echo reached || echo not")).assert(0, "not\n")
    };
    gone(&format!("ping -c 1 -W 2 {}", db.0));
    gone(&format!("ping -c 1 -W 2 {db_address}"));
    let own6 = "ip -6 addr show dev eth0 | sed -n 's,.*inet6 \\(fd[^/]*\\)/.*,\\1,p'";
    let db_address6 = sh(&db, &format!("{WAIT6}{own6}")).text();
    assert!(db_address6.starts_with("fd00:10:89:"), "{db_address6}");
    gone(&format!("{WAIT6}ping -6 -c 1 -W 2 {}", db_address6.trim()));
    gone(&format!("nc -w 3 10.0.2.2 {port} </dev/null"));
    let gateway = "$(ip addr show eth0 | sed -n 's/.*inet \\([0-9]*\\.[0-9]*\\.[0-9]*\\)\\..*/\\1.1/p')";
    gone(&format!("nc -w 3 {gateway} {port} </dev/null"));
    // From the other network there is one.
    sh(&web, &format!("nc -w 20 {gateway} {port} </dev/null && echo reached")).assert(0, "reached\n");

    // Another name, under which it is found at once, or nearly; and no more under the old one.
    let old = db.0.clone();
    let db = Machine::named("store");
    finish(&mut rvisor(["rename", &old, &db.0]), b"", LIMIT).assert(0, "");
    let found = |name: &str| format!("ping -c 1 -W 5 {name} >/dev/null 2>&1");
    sh(&web, &format!("until {}; do sleep 0.1; done; echo there", found(&db.0))).assert(0, "there\n");
    sh(&web, &format!("{} && echo there || echo gone", found(&old))).assert(0, "gone\n");
    assert_eq!(address(&lab, &db.0), db_address);

    // A copy of it as it runs, with what it serves, in a place of its own.
    let copy = Machine::named("copy");
    finish(&mut rvisor(["clone", &db.0, &copy.0]), b"", LIMIT).assert(0, &format!("{}\n", copy.0));
    assert_ne!(address(&lab, &copy.0), db_address);
    for machine in [&copy, &db] {
        ping6(&web, machine);
        sh(&web, &format!("wget -q -O - http://{}/big | wc -c", machine.0)).assert(0, "3000000\n");
    }
    sh(&copy, &format!("ping -c 1 -W 20 {} >/dev/null && echo there", db.0)).assert(0, "there\n");

    let listed = finish(&mut rvisor(["network", "ls", "--format", "json"]), b"", LIMIT).text();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("a list");
    let names: Vec<_> = listed.iter().filter_map(|network| network["name"].as_str()).collect();
    assert!(names.contains(&&*lab.0) && names.contains(&&*closed.0), "{names:?}");
    let busy = finish(&mut rvisor(["network", "rm", &lab.0]), b"", LIMIT);
    assert_eq!(busy.status.code(), Some(FAILURE));
    assert!(busy.stderr.contains("is on network"), "{}", busy.stderr);
}

#[test]
fn guest_has_ipv6_where_the_host_has_it() {
    let server = TcpListener::bind("[::1]:0").expect("a port");
    let port = server.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in server.incoming().flatten() {
            let _ = (&stream).write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
            let _ = (&stream).read(&mut [0; 4096]);
        }
    });
    let outside = TcpListener::bind("[::1]:0").expect("a port").local_addr().expect("its address");
    let machine = Machine::run("six", &["-p", &format!("{outside}:80"), "busybox"]);
    // Its own address, of the gateway's prefix; then the gateway, and the host behind it.
    let sh = |script: &str| machine.exec(&["sh", "-c", &format!("{WAIT6}{script}")]);
    sh("ping -6 -c 1 -W 20 fd00:10:0:2::2 >/dev/null && echo there").assert(0, "there\n");
    sh(&format!("wget -q -O - 'http://[fd00:10:0:2::2]:{port}/'")).assert(0, "hello\n");
    // A way out is there if the host has one.
    let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let has_route =
        routes.lines().any(|line| line.starts_with(&format!("{:032} 00 ", 0)) && !line.ends_with(" lo"));
    let told = sh("ip -6 route | grep -q ^default && echo out || echo in").text();
    assert_eq!(told, if has_route { "out\n" } else { "in\n" });

    // Into the guest, from an IPv6 address of the host.
    sh("mkdir -p /www; echo welcome >/www/file; busybox httpd -p 80 -h /www; echo up").assert(0, "up\n");
    assert_eq!(get(outside, "/file").expect("an answer"), b"welcome\n");
}

#[test]
fn guest_has_no_way_out_on_a_host_without_ipv6() {
    // A network namespace in which there is nothing, not even a loopback that is up.
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net", env!("CARGO_BIN_EXE_rvisor")]);
    let is_possible = Command::new("unshare").args(["--user", "--map-root-user", "--net", "true"]).status();
    if !is_possible.is_ok_and(|status| status.success()) {
        return left_out("a host without IPv6; this one lets nobody make a network namespace");
    }
    let script = "ip -6 route | grep -q ^default && echo routed; \
        ip -6 route add default via fd00:10:0:2::2 dev eth0; \
        wget -q -O - -T 20 'http://[2001:db8::1]/' 2>&1 | grep -qE 'unreachable|No route' && echo unreachable; \
        ping -c 1 -W 20 10.0.2.2 >/dev/null && ping -6 -c 1 -W 20 fd00:10:0:2::2 >/dev/null && echo gateway";
    let script = format!("{WAIT6}{script}");
    let words = ["run", "--rm", "--cold", "busybox", "--", "sh", "-c", &script];
    finish(alone.args(words), b"", LIMIT).assert(0, "unreachable\ngateway\n");
}

/// Whether the host lets this user make a network namespace, and in there a tap device.
fn may_make_taps() -> bool {
    let script = "ip tuntap add probe0 mode tap";
    let words = ["--user", "--map-root-user", "--net", "sh", "-c", script];
    Command::new("unshare").args(words).output().is_ok_and(|made| made.status.success())
}

#[test]
fn guest_on_a_tap_device_is_a_neighbour_of_the_hosts() {
    if !may_make_taps() {
        return left_out("tap devices; this host lets nobody make one in a namespace");
    }
    // One that is there, and one that is made.
    for (before, network) in
        [("ip tuntap add lan0 mode tap && ip link set lan0 up &&", "tap=lan0"), ("", "tap")]
    {
        let program = env!("CARGO_BIN_EXE_rvisor");
        let device = if before.is_empty() { "rvisor0" } else { "lan0" };
        let script = format!(
            "{before} {{ {program} run --rm --network {network} busybox -- \
                sh -c 'ip addr add 10.77.0.2/24 dev eth0; until ping -c 1 -W 2 10.77.0.1 >/dev/null; do sleep 0.2; done; \
                ping -c 3 -s 1400 10.77.0.1 | grep -o \"3 packets received\"' & }}; \
            until ip link show {device} 2>/dev/null | grep -q LOWER_UP; do sleep 0.1; done; \
            ip addr add 10.77.0.1/24 dev {device}; wait"
        );
        let words = ["--user", "--map-root-user", "--net", "sh", "-c", &script];
        let ended = finish(Command::new("unshare").args(words), b"", LIMIT);
        assert_eq!(ended.text(), "3 packets received\n", "{network}: {}", ended.stderr);
    }
}

#[test]
fn tap_device_that_may_not_be_used_is_refused() {
    // In a namespace of users, nobody has rights over the host's network.
    let mut alone = Command::new("unshare");
    alone.args([
        "--user",
        "--map-root-user",
        env!("CARGO_BIN_EXE_rvisor"),
        "run",
        "--network",
        "tap=norvisor0",
        "busybox",
    ]);
    let ended = finish(&mut alone, b"", LIMIT);
    assert_ne!(ended.status.code(), Some(0));
    let told = ended.stderr.lines().collect::<Vec<_>>();
    if told.iter().any(|line| line.starts_with("unshare")) {
        left_out("tap devices that may not be used; this host lets nobody make a namespace");
    } else {
        assert!(ended.stderr.contains("tap device") && told.len() == 1, "{}", ended.stderr);
    }
    for (words, expected) in [
        (&["run", "--network", "tap=a/b", "busybox"][..], "not the name of a network device"),
        (&["run", "--network", "tap", "-p", "8080:80", "busybox"], "--publish"),
    ] {
        let ended = finish(&mut rvisor(words.iter().copied()), b"", LIMIT);
        assert_eq!(ended.status.code(), Some(FAILURE));
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}

/// What a web server answers to a request over a connection of its own; with an error if it isn't 200 or comes short.
fn get(to: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let wrong = || std::io::Error::other(format!("not an answer: {}", String::from_utf8_lossy(&answer)));
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").ok_or_else(wrong)?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_lowercase(), &answer[end + 4..]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).ok_or_else(wrong)?;
    match head.split(' ').nth(1) {
        Some("200") if length.trim() == body.len().to_string() => Ok(body.to_vec()),
        _ => Err(wrong()),
    }
}

/// Makes as many requests, so many at a time, and checks that each is answered rightly.
fn get_often(to: SocketAddr, path: &str, expected: &[u8], requests: usize, at_once: usize) {
    let left = AtomicUsize::new(requests);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                    let body = get(to, path).unwrap_or_else(|error| panic!("{error}"));
                    assert!(body == expected, "{} bytes", body.len());
                }
            });
        }
    });
}

/// A port of the host that nobody listens on, most likely.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn web_server_behind_a_forwarded_port_answers_every_request() {
    let outside = free_port();
    let machine = Machine::run("httpd", &["-p", &format!("{}:80", outside.port()), "busybox"]);
    sh(&machine, "mkdir -p /www; head -c 1000 /dev/zero >/www/file; busybox httpd -p 80 -h /www; echo up")
        .assert(0, "up\n");
    get_often(outside, "/file", &[0; 1000], 1000, 8);
    // A machine that goes on from a snapshot answers at once, too. A segment that gets lost is repeated after a second;
    // a busy host may take as long now and then, but not always.
    finish(&mut rvisor(["snapshot", "create", &machine.0, "serving"]), b"", LIMIT).assert(0, "serving\n");
    let first = || {
        machine.tell(&["snapshot", "restore", "--force"]);
        let asked = Instant::now();
        get_often(outside, "/file", &[0; 1000], 1, 1);
        asked.elapsed()
    };
    let times: Vec<_> = (0..5).map(|_| first()).collect();
    assert!(times.iter().any(|time| *time < Duration::from_millis(700)), "{times:?}");
}

/// Full size: `cargo test --release -p rvisor --test networks -- --ignored`. The image is built if it isn't there, which
/// takes a while.
#[test]
#[ignore = "full size"]
fn nginx_behind_a_forwarded_port_answers_ten_thousand_requests() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes/nginx.toml");
    let images = finish(&mut rvisor(["images"]), b"", LIMIT).text();
    if !images.lines().any(|line| line.starts_with("test-nginx ")) {
        let words = ["build", "--tag", "test-nginx", recipe.to_str().expect("text")];
        let built = finish(&mut rvisor(words), b"", 9 * LIMIT);
        assert_eq!(built.status.code(), Some(0), "{}", built.stderr);
    }
    let outside = free_port();
    let machine = Machine::named("nginx");
    let publish = format!("{}:80", outside.port());
    let words = ["run", "--detach", "--name", &machine.0, "-p", &publish, "test-nginx"];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
    sh(&machine, "until wget -q -O - http://127.0.0.1/ >/dev/null 2>&1 || busybox wget -q -O - http://127.0.0.1/ >/dev/null; \
        do sleep 0.2; done; echo up")
    .assert(0, "up\n");
    get_often(outside, "/", b"Hello from RISC-V.\n", 10_000, 16);
}

/// Full size: ten machines, each of which reaches the nine others by name, and none of another network's.
#[test]
#[ignore = "full size"]
fn ten_machines_on_a_network_reach_each_other_and_no_others() {
    const COUNT: usize = 10;
    let (lab, other) = (Network::new("ten", &[]), Network::new("others", &[]));
    let on = |network: &Network, stem: &str| Machine::run(stem, &["--network", &network.0, "debian"]);
    let machines: Vec<_> = (0..COUNT).map(|number| on(&lab, &format!("m{number}"))).collect();
    let stranger = on(&other, "stranger");
    let names: Vec<_> = machines.iter().map(|machine| machine.0.as_str()).collect();
    let addresses: std::collections::BTreeSet<_> = names.iter().map(|name| address(&lab, name)).collect();
    assert_eq!(addresses.len(), COUNT);
    // A packet may get lost where nobody has a processor for it; what comes back says what else is wrong.
    let ping = |name: &str| {
        format!("reach {name} || reach {name} || {{ echo no {name}; cat /tmp/said; ip neigh; }}; ")
    };
    let reach = "reach() { busybox ping -c 1 -W 10 $1 >/tmp/said 2>&1; }; ";
    for machine in &machines {
        let all: String = names.iter().map(|name| ping(name)).collect();
        sh(machine, &format!("{reach}{all} hostname")).assert(0, &format!("{}\n", machine.0));
        let there = [stranger.0.as_str(), &address(&other, &stranger.0)]
            .map(|to| format!("busybox ping -c 1 -W 1 {to} >/dev/null 2>&1 && echo reached {to}; "));
        sh(machine, &format!("{} echo done", there.concat())).assert(0, "done\n");
    }
}

#[test]
fn network_that_is_not_there_is_refused() {
    let ended = finish(&mut rvisor(["run", "--network", "nowhere", "busybox"]), b"", LIMIT);
    assert_eq!(ended.status.code(), Some(FAILURE));
    assert!(ended.stderr.contains("rvisor network create nowhere"), "{}", ended.stderr);
}
