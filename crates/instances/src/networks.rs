//! Named networks of a store (the book, "Networking"). A network is a directory: `network.json` says what it is, and
//! the other files are its members' ([`rvisor_hosted::net::Member`]).

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rvisor_hosted::HostEntropy;
use rvisor_hosted::net::{Listed, PrivateNetwork, members, rename_member};
use rvisor_waist::EntropyBackend;
use serde::{Deserialize, Serialize};

use crate::directory::{check_name, names, rename};
use crate::error::{Context, Error, Result};

const FORMAT: u32 = 1;
/// How long the process of a machine that has ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1);
const FILE: &str = "network.json";
/// Prefixes that are given to networks without a wish: 10.89.0.0/24 to 10.89.255.0/24.
const OWN: [u8; 2] = [10, 89];

/// `network.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    id: String,
    subnet: String,
    internal: bool,
}

/// A network as listings show it.
#[derive(Clone, Debug, Serialize)]
pub struct ListedNetwork {
    /// Its name.
    pub name: String,
    /// Its addresses, as in `10.89.0.0/24`.
    pub subnet: String,
    /// Whether nothing leads out of it.
    pub internal: bool,
    /// The machines that are on it now.
    pub machines: Vec<ListedMember>,
}

/// A machine on a network.
#[derive(Clone, Debug, Serialize)]
pub struct ListedMember {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// All networks of a store.
#[derive(Clone, Debug)]
pub struct Networks {
    root: PathBuf,
}

impl Networks {
    /// Those of the store in this directory.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        Self { root: store.join("networks") }
    }

    /// Makes a network; without a subnet it gets one that no other has.
    ///
    /// # Errors
    /// If the name is taken or no name, the subnet isn't one of 256 addresses for such use, or the host refuses.
    pub fn create(&self, name: &str, subnet: Option<&str>, internal: bool) -> Result<()> {
        check_name(name)?;
        if ["user", "none", "tap"].contains(&name) {
            return Err(Error::Refused(format!("a network can't be called {name}; choose another name")));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).context("create", &self.root)?;
        // Two at once must not choose the same subnet.
        let path = self.root.join(".lock");
        let lock = File::create(&path).context("create", &path)?;
        lock.lock().context("lock", &path)?;
        let taken: Vec<_> = self.all()?.iter().map(|network| network.prefix).collect();
        let prefix = match subnet {
            Some(text) => parse(text).ok_or_else(|| {
                Error::Refused(format!("--subnet {text}: write 256 private addresses, as in 10.89.7.0/24"))
            })?,
            None => (0..=255)
                .map(|number| [OWN[0], OWN[1], number])
                .find(|prefix| !taken.contains(prefix))
                .ok_or_else(|| Error::Refused("all subnets are taken; remove networks".into()))?,
        };
        let mut id = [0; 8];
        HostEntropy::new().context("take random numbers from", Path::new("the host"))?.fill(&mut id);
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let document = Document { format: FORMAT, id, subnet: written(prefix), internal };
        let text = serde_json::to_vec_pretty(&document).map_err(io::Error::from).context("write", &path)?;
        let draft = self.root.join(format!(".new-{}", std::process::id()));
        let made = fs::DirBuilder::new()
            .mode(0o700)
            .create(&draft)
            .and_then(|()| fs::write(draft.join(FILE), text))
            .context("create", &draft)
            .and_then(|()| rename(&draft, &self.root.join(name), name));
        if made.is_err() {
            let _ = fs::remove_dir_all(&draft);
        }
        made.map_err(|error| match error {
            Error::NameTaken(name) => Error::Refused(format!(
                "there is a network called {name} already; choose another name, or remove it with `rvisor network rm {name}`"
            )),
            other => other,
        })
    }

    /// The network of this name.
    ///
    /// # Errors
    /// If there is none, or its description is damaged.
    pub fn open(&self, name: &str) -> Result<PrivateNetwork> {
        check_name(name)?;
        let path = self.root.join(name);
        let text = match fs::read(path.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Refused(format!(
                    "there is no network called {name}; make it with `rvisor network create {name}`"
                )));
            }
            text => text.context("read", &path)?,
        };
        let damaged = || Error::Refused(format!("{} is damaged; make the network anew", path.display()));
        let document: Document = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let is_id = document.id.len() == 16 && document.id.bytes().all(|c| c.is_ascii_hexdigit());
        let prefix = parse(&document.subnet).filter(|_| document.format == FORMAT && is_id);
        let prefix = prefix.ok_or_else(damaged)?;
        let Document { id, internal, .. } = document;
        Ok(PrivateNetwork { name: name.to_owned(), id, prefix, internal, path })
    }

    /// A machine on a network has another name now.
    pub(crate) fn rename_machine(&self, network: &str, old: &str, new: &str) -> Result<()> {
        let path = self.root.join(network);
        rename_member(&path, old, new).context("write to", &path)
    }

    fn all(&self) -> Result<Vec<PrivateNetwork>> {
        Ok(names(&self.root)?.iter().filter_map(|name| self.open(name).ok()).collect())
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn list(&self) -> Result<Vec<ListedNetwork>> {
        Ok(self.all()?.iter().map(listed).collect())
    }

    /// One network.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn look(&self, name: &str) -> Result<ListedNetwork> {
        self.open(name).map(|network| listed(&network))
    }

    /// Removes a network that no machine is on.
    ///
    /// # Errors
    /// If one is, or the host refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        let network = self.open(name)?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(Listed { name: machine, .. }) = members(&network.path).first() {
            if Instant::now() > deadline {
                let text = format!("machine {machine} is on network {name}; stop it first");
                return Err(Error::Refused(text));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let gone = self.root.join(format!(".gone-{}-{name}", std::process::id()));
        fs::rename(&network.path, &gone).context("remove", &network.path)?;
        fs::remove_dir_all(&gone).context("remove", &gone)
    }
}

fn listed(network: &PrivateNetwork) -> ListedNetwork {
    let [a, b, c] = network.prefix;
    let machines = members(&network.path);
    let machines = machines
        .into_iter()
        .map(|Listed { name, number, .. }| ListedMember { name, address: Ipv4Addr::new(a, b, c, number) });
    ListedNetwork {
        name: network.name.clone(),
        subnet: written(network.prefix),
        internal: network.internal,
        machines: machines.collect(),
    }
}

fn written([a, b, c]: [u8; 3]) -> String {
    format!("{a}.{b}.{c}.0/24")
}

/// The first three bytes of a private network of 256 addresses (RFC 1918), which isn't the one of machines on their own.
fn parse(text: &str) -> Option<[u8; 3]> {
    let address: Ipv4Addr = text.strip_suffix("/24")?.parse().ok()?;
    let [a, b, c, d] = address.octets();
    (d == 0 && address.is_private() && [a, b, c] != [10, 0, 2]).then_some([a, b, c])
}

#[cfg(test)]
mod tests {
    use rvisor_hosted::net::Member;

    use super::*;

    #[test]
    fn networks_are_made_with_subnets_of_their_own_and_removed_when_nobody_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let networks = Networks::new(directory.path());
        assert!(networks.list().unwrap().is_empty());
        networks.create("lab", None, false).unwrap();
        networks.create("other", None, true).unwrap();
        networks.create("third", Some("192.168.7.0/24"), false).unwrap();
        let subnets: Vec<_> = networks.list().unwrap().into_iter().map(|network| network.subnet).collect();
        assert_eq!(subnets, ["10.89.0.0/24", "10.89.1.0/24", "192.168.7.0/24"]);
        assert!(networks.create("lab", None, false).unwrap_err().to_string().contains("already"));

        let web = Member::join(&networks.open("lab").unwrap(), "web").unwrap();
        let db = Member::join(&networks.open("lab").unwrap(), "db").unwrap();
        let told = networks.look("lab").unwrap().machines;
        assert_eq!((&*told[0].name, told[0].address), ("web", web.address()));
        assert!(web.address() != db.address() && web.mac() != db.mac());
        assert!(networks.remove("lab").unwrap_err().to_string().contains("web"));
        let address = db.address();
        drop((web, db));
        // A name has the address that it had, whatever the order.
        let db = Member::join(&networks.open("lab").unwrap(), "db").unwrap();
        assert_eq!(db.address(), address);
        // It keeps it under another name, longer or shorter, which can't have been another's meanwhile.
        for (old, new) in [("db", "database"), ("database", "d")] {
            networks.rename_machine("lab", old, new).unwrap();
            let told = networks.look("lab").unwrap().machines;
            assert_eq!((&*told[0].name, told[0].address), (new, address));
        }
        drop(db);
        let db = Member::join(&networks.open("lab").unwrap(), "d").unwrap();
        assert_eq!(db.address(), address);
        drop(db);
        networks.rename_machine("nowhere", "d", "e").unwrap();
        networks.remove("lab").unwrap();
        assert!(networks.open("lab").is_err());
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let networks = Networks::new(directory.path());
        for subnet in ["", "10.89.0.0", "10.89.0.1/24", "10.0.2.0/24", "8.8.8.0/24", "10.89.0.0/16"] {
            assert!(networks.create("lab", Some(subnet), false).is_err(), "{subnet}");
        }
        for name in ["", "a/b", "none", "user"] {
            assert!(networks.create(name, None, false).is_err(), "{name}");
        }
        assert!(networks.list().unwrap().is_empty());
    }
}
