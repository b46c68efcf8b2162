//! Descriptions of guests in TOML: what may be written, and what it means.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rvisor_machine::bundle::{Attachment, ConsoleDevice, DiskRange, MAX_NETWORKS, Settings};
use rvisor_machine::save_area;
use serde::Deserialize;

use crate::cli;

const SECTOR: u64 = 512;

/// A whole description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    #[serde(default)]
    monitor: Monitor,
    #[serde(default)]
    network: Vec<Network>,
    #[serde(default)]
    pub guest: Vec<Guest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Monitor {
    /// Milliseconds.
    slice: u32,
    prefix: bool,
}

impl Default for Monitor {
    fn default() -> Self {
        let Settings { slice, prefix, .. } = Settings::default();
        Self { slice, prefix }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    name: String,
    #[serde(default)]
    uplink: bool,
}

/// One guest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    pub name: String,
    /// An image of the store, for its kernel, initrd and disk.
    pub image: Option<String>,
    /// A Linux `Image`.
    pub kernel: Option<PathBuf>,
    /// Another program that starts in S-mode.
    pub program: Option<PathBuf>,
    /// A machine of this host, as it was when a snapshot was made: `NAME@SNAPSHOT`.
    pub machine: Option<String>,
    /// A machine that `rvisor export` has written.
    pub state: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    #[serde(default)]
    pub append: String,
    memory: Option<String>,
    harts: Option<u32>,
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Percent of a physical hart.
    pub cap: Option<u32>,
    /// Physical harts.
    affinity: Option<Vec<u32>>,
    #[serde(default = "default_start")]
    pub start: bool,
    #[serde(default)]
    pub console: Console,
    pub disk: Option<GuestDisk>,
    /// Where its state is kept.
    save: Option<SaveRange>,
    network: Option<String>,
    mac: Option<String>,
}

/// A guest's save area on the physical disk.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaveRange {
    start: String,
    size: Option<String>,
}

/// A guest's part of the physical disk.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestDisk {
    start: String,
    size: Option<String>,
    #[serde(default)]
    readonly: bool,
    /// What `rvisor bundle disk` puts there.
    pub from: Option<PathBuf>,
}

const fn default_weight() -> u32 {
    100
}

/// Which device a guest's line ends at.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    #[default]
    Serial,
    Virtio,
}

impl From<Console> for ConsoleDevice {
    fn from(console: Console) -> Self {
        match console {
            Console::Serial => Self::Serial,
            Console::Virtio => Self::Virtio,
        }
    }
}

const fn default_start() -> bool {
    true
}

impl Description {
    /// Reads a description.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read {}; check its name and permissions", path.display()))?;
        toml::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), first_line(&error, &text)))
    }

    /// The monitor's settings.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        if self.network.len() > MAX_NETWORKS as usize {
            bail!("{} networks are too many; a bundle has {MAX_NETWORKS} at most", self.network.len());
        }
        for (index, network) in self.network.iter().enumerate() {
            if self.network[..index].iter().any(|other| other.name == network.name) {
                bail!("two networks are called {:?}; rename one", network.name);
            }
        }
        let mut uplinks = (0..).zip(&self.network).filter(|(_, network)| network.uplink);
        let uplink = uplinks.next().map(|(index, _)| index);
        if let Some((_, other)) = uplinks.next() {
            bail!("network {:?} is the second with an uplink; there is one physical card", other.name);
        }
        Ok(Settings { slice: self.monitor.slice, prefix: self.monitor.prefix, uplink })
    }

    /// The network card of the guest with this index. `known`: it has one with this address already, or none.
    pub fn card(&self, index: usize, known: Option<Option<[u8; 6]>>) -> anyhow::Result<Option<Attachment>> {
        let guest = &self.guest[index];
        if known.is_some() && guest.mac.is_some() {
            bail!("keeps the network address that it has; leave mac out");
        }
        if known == Some(None) && guest.network.is_some() {
            bail!("has no network card; leave network out, or save a machine with one");
        }
        let Some(name) = &guest.network else {
            return match &guest.mac {
                Some(_) => bail!("has a mac and no network; give network = \"NAME\""),
                None => Ok(None),
            };
        };
        let network = self.network.iter().position(|network| network.name == *name);
        let network = network
            .with_context(|| format!("no [[network]] is called {name:?}; add it or correct the name"))?;
        let mac = match (&guest.mac, known.flatten()) {
            (_, Some(mac)) => mac,
            (Some(text), None) => {
                mac(text).with_context(|| format!("mac {text:?}: write it as 52:54:00:12:34:56"))?
            }
            // Locally administered; the same guest has the same each time.
            (None, None) => [0x52, 0x54, 0, 0x52, 0x56, 1 + index as u8],
        };
        Ok(Some(Attachment { network: network as u32, mac }))
    }
}

/// Parses a hardware address.
fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<_>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    bytes?.try_into().ok()
}

impl Guest {
    /// Bytes of memory; of a machine that was saved, what it has.
    pub fn memory(&self, known: Option<u64>) -> anyhow::Result<u64> {
        let given = self.memory.as_deref().map(cli::size).transpose();
        let given = given.map_err(anyhow::Error::msg).context("memory")?;
        match (given, known) {
            (Some(given), Some(known)) if given != known => {
                bail!("has {} MiB of memory, as it was saved; leave memory out", known >> 20)
            }
            (given, known) => Ok(known.or(given).unwrap_or(256 << 20)),
        }
    }

    /// The number of harts; of a machine that was saved, what it has.
    pub fn harts(&self, known: Option<u32>) -> anyhow::Result<u32> {
        match (self.harts, known) {
            (Some(given), Some(known)) if given != known => {
                bail!("has {known} harts, as it was saved; leave harts out")
            }
            (given, known) => Ok(known.or(given).unwrap_or(1)),
        }
    }

    /// Its save area, for so much memory.
    pub fn save(&self, memory: u64) -> anyhow::Result<Option<DiskRange>> {
        let Some(save) = &self.save else { return Ok(None) };
        let needed = save_area::size_for(memory).next_multiple_of(1 << 20) / SECTOR;
        let size = save.size.as_deref().map(|size| sectors(size, "save size")).transpose()?;
        let start = sectors(&save.start, "save start")?;
        Ok(Some(DiskRange { start, sectors: size.unwrap_or(needed), read_only: false }))
    }

    /// Physical harts, one bit for each; zero for all.
    pub fn affinity(&self) -> anyhow::Result<u64> {
        let Some(harts) = &self.affinity else { return Ok(0) };
        if harts.is_empty() {
            bail!("affinity has no hart; leave it out for all of them");
        }
        harts.iter().try_fold(0, |all, hart| {
            let bit = 1u64.checked_shl(*hart);
            bit.map(|bit| all | bit).with_context(|| format!("affinity: hart {hart}; they are 0 to 63"))
        })
    }

    /// The percentage of `cap`, zero for none.
    pub fn cap(&self) -> anyhow::Result<u32> {
        match self.cap {
            Some(0) => bail!("a cap of 0 would never let it run; leave cap out for none"),
            cap => Ok(cap.unwrap_or(0)),
        }
    }
}

impl GuestDisk {
    /// The range of the physical disk; `known` are the sectors that the disk has, if it is there already.
    pub fn range(&self, known: Option<u64>) -> anyhow::Result<DiskRange> {
        let given = self.size.as_deref().map(|size| sectors(size, "disk size")).transpose()?;
        let (start, sectors) = match (given, known) {
            (Some(0), _) => bail!("disk size: 0 is no disk; leave disk out for none"),
            (Some(given), Some(known)) if given != known => {
                bail!("its disk has {} bytes, as it was saved; leave the size out", known * SECTOR)
            }
            (None, None) => bail!("disk size: it isn't known; give disk = {{ start = …, size = … }}"),
            (given, known) => (sectors(&self.start, "disk start")?, known.or(given).unwrap_or_default()),
        };
        Ok(DiskRange { start, sectors, read_only: self.readonly })
    }
}

/// Bytes, as sectors.
fn sectors(text: &str, what: &'static str) -> anyhow::Result<u64> {
    let bytes = cli::size(text).map_err(anyhow::Error::msg).context(what)?;
    if !bytes.is_multiple_of(SECTOR) {
        bail!("{what}: {text} isn't a multiple of 512 bytes");
    }
    Ok(bytes / SECTOR)
}

/// An error in TOML, in one line.
fn first_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(" "))
}
