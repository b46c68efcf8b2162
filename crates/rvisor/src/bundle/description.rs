//! Descriptions of guests in TOML: what may be written, and what it means.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rvisor_machine::bundle::{Attachment, DiskRange, MAX_NETWORKS, Settings};
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
    pub initrd: Option<PathBuf>,
    #[serde(default)]
    pub append: String,
    #[serde(default = "default_memory")]
    memory: String,
    #[serde(default = "default_harts")]
    pub harts: u32,
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Percent of a physical hart.
    pub cap: Option<u32>,
    /// Physical harts.
    affinity: Option<Vec<u32>>,
    #[serde(default = "default_start")]
    pub start: bool,
    pub disk: Option<GuestDisk>,
    network: Option<String>,
    mac: Option<String>,
}

/// A guest's part of the physical disk.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestDisk {
    start: String,
    size: String,
    #[serde(default)]
    readonly: bool,
    /// What `rvisor bundle disk` puts there.
    pub from: Option<PathBuf>,
}

fn default_memory() -> String {
    "256M".into()
}

const fn default_harts() -> u32 {
    1
}

const fn default_weight() -> u32 {
    100
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

    /// The network card of the guest with this index.
    pub fn card(&self, index: usize) -> anyhow::Result<Option<Attachment>> {
        let guest = &self.guest[index];
        let Some(name) = &guest.network else {
            return match &guest.mac {
                Some(_) => bail!("has a mac and no network; give network = \"NAME\""),
                None => Ok(None),
            };
        };
        let network = self.network.iter().position(|network| network.name == *name);
        let network = network
            .with_context(|| format!("no [[network]] is called {name:?}; add it or correct the name"))?;
        let mac = match &guest.mac {
            Some(text) => {
                mac(text).with_context(|| format!("mac {text:?}: write it as 52:54:00:12:34:56"))?
            }
            // Locally administered; the same guest has the same each time.
            None => [0x52, 0x54, 0, 0x52, 0x56, 1 + index as u8],
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
    /// Bytes of memory.
    pub fn memory(&self) -> anyhow::Result<u64> {
        cli::size(&self.memory).map_err(anyhow::Error::msg).context("memory")
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
    /// The range of the physical disk.
    pub fn range(&self) -> anyhow::Result<DiskRange> {
        let sectors = |text: &str, what| -> anyhow::Result<u64> {
            let bytes = cli::size(text).map_err(anyhow::Error::msg).context(what)?;
            if !bytes.is_multiple_of(SECTOR) {
                bail!("{what}: {text} isn't a multiple of 512 bytes");
            }
            Ok(bytes / SECTOR)
        };
        let (start, sectors) = (sectors(&self.start, "disk start")?, sectors(&self.size, "disk size")?);
        if sectors == 0 {
            bail!("disk size: 0 is no disk; leave disk out for none");
        }
        Ok(DiskRange { start, sectors, read_only: self.readonly })
    }
}

/// An error in TOML, in one line.
fn first_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(" "))
}
