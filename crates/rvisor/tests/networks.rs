//! Named networks, with guests on them.

mod common;

use common::{FAILURE, LIMIT, Machine, finish, rvisor};

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
    let told = finish(&mut rvisor(["network", "inspect", &lab.0]), b"", LIMIT).text();
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let machines = told[0]["machines"].as_array().expect("a list");
    let address = |name: &str| {
        let found = machines.iter().find(|machine| machine["name"] == name).expect("it is there");
        found["address"].as_str().expect("text").to_owned()
    };
    let db_address = address(&db.0);

    // By name, by name and network, by address; and something larger than a packet, unharmed.
    let wait =
        "until ip route | grep -q default || ip addr show eth0 | grep -q 'inet 10'; do sleep 0.2; done; ";
    let sh = |machine: &Machine, script: &str| machine.exec(&["sh", "-c", &format!("{wait}{script}")]);
    let ready = sh(
        &db,
        "mkdir -p /www; head -c 3000000 /dev/zero | tr '\\0' x >/www/big; busybox httpd -p 80 -h /www; echo up",
    );
    ready.assert(0, "up\n");
    for name in [&db.0, &format!("{}.{}", db.0, lab.0), &db_address] {
        sh(&web, &format!("ping -c 1 -W 20 {name} >/dev/null && echo there")).assert(0, "there\n");
    }
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
    gone(&format!("nc -w 3 10.0.2.2 {port} </dev/null"));
    let gateway = "$(ip addr show eth0 | sed -n 's/.*inet \\([0-9]*\\.[0-9]*\\.[0-9]*\\)\\..*/\\1.1/p')";
    gone(&format!("nc -w 3 {gateway} {port} </dev/null"));
    // From the other network there is one.
    sh(&web, &format!("nc -w 20 {gateway} {port} </dev/null && echo reached")).assert(0, "reached\n");

    let busy = finish(&mut rvisor(["network", "rm", &lab.0]), b"", LIMIT);
    assert_eq!(busy.status.code(), Some(FAILURE));
    assert!(busy.stderr.contains("is on network"), "{}", busy.stderr);
}

#[test]
fn network_that_is_not_there_is_refused() {
    let ended = finish(&mut rvisor(["run", "--network", "nowhere", "busybox"]), b"", LIMIT);
    assert_eq!(ended.status.code(), Some(FAILURE));
    assert!(ended.stderr.contains("rvisor network create nowhere"), "{}", ended.stderr);
}
