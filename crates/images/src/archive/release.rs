//! The archive's signed table of contents (`InRelease`): OpenPGP signature, dates, and the digests of the
//! index files below it (RFC 9580, section 7 "Cleartext Signature Framework"; Debian's repository format).

use std::io::BufRead;
use std::time::{Duration, SystemTime};

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::packet::{Signature, SignatureType};
use pgp::types::KeyDetails as _;

use super::control::stanzas;
use super::packages::is_sha256;
use crate::error::{Error, Result};

/// Signing keys of the Debian archive, as the package `debian-archive-keyring` distributes them.
const DEBIAN_KEYS: [&[u8]; 4] = [
    include_bytes!("../../keys/debian-archive-trixie-automatic.gpg"),
    include_bytes!("../../keys/debian-archive-trixie-stable.gpg"),
    include_bytes!("../../keys/debian-archive-bookworm-automatic.gpg"),
    include_bytes!("../../keys/debian-archive-bookworm-stable.gpg"),
];

/// How far ahead of this machine's clock a signature may be.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys whose signature is accepted.
#[derive(Clone, Debug)]
pub struct Keyring(Vec<SignedPublicKey>);

impl Keyring {
    /// The keys of the Debian archive.
    pub fn debian() -> Result<Self> {
        let mut keys = Vec::new();
        for bytes in DEBIAN_KEYS {
            keys.extend(Self::read(bytes)?.0);
        }
        Ok(Self(keys))
    }

    /// Reads binary OpenPGP certificates.
    pub fn read(bytes: impl BufRead) -> Result<Self> {
        let damaged = |error: pgp::errors::Error| Error::malformed("keyring", error);
        let keys = SignedPublicKey::from_bytes_many(bytes).map_err(damaged)?;
        Ok(Self(keys.collect::<std::result::Result<_, _>>().map_err(damaged)?))
    }

    /// The text of a cleartext-signed message, if one of its signatures is by one of these keys.
    fn verify(&self, message: &str) -> std::result::Result<String, String> {
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| format!("it isn't signed: {error}"))?;
        let text = message.signed_text();
        let good =
            |signature: &Signature| self.0.iter().any(|key| is_signed_by(signature, key, text.as_bytes()));
        if message.signatures().iter().any(good) {
            return Ok(text);
        }
        Err("no valid signature by a key of the Debian archive; if this machine's clock is right, \
             the mirror isn't to be trusted: choose another with --mirror URL"
            .to_owned())
    }
}

/// Whether `key` or one of its signing subkeys made the signature while it was valid. The keyring is trusted as
/// it is: who certified its keys isn't asked.
fn is_signed_by(signature: &Signature, key: &SignedPublicKey, text: &[u8]) -> bool {
    let Some(made) = signature.created().map(SystemTime::from) else { return false };
    let certifications = key.details.users.iter().flat_map(|user| &user.signatures);
    let certifications = certifications.chain(&key.details.direct_signatures);
    let primary_created = SystemTime::from(key.primary_key.created_at());
    if made > SystemTime::now() + CLOCK_TOLERANCE
        || !key.details.revocation_signatures.is_empty()
        || !lives(primary_created, certifications, made)
    {
        return false;
    }
    let by_subkey = || {
        key.public_subkeys.iter().any(|subkey| {
            let revoked = |s: &Signature| s.typ() == Some(SignatureType::SubkeyRevocation);
            subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                && !subkey.signatures.iter().any(revoked)
                && lives(SystemTime::from(subkey.key.created_at()), subkey.signatures.iter(), made)
                && signature.verify(&subkey.key, text).is_ok()
        })
    };
    signature.verify(&key.primary_key, text).is_ok() || by_subkey()
}

/// Whether a key created at `created` was valid at `moment`, by the longest life that a self-signature gives.
fn lives<'a>(
    created: SystemTime,
    self_signatures: impl Iterator<Item = &'a Signature>,
    moment: SystemTime,
) -> bool {
    let lifetime = self_signatures.filter_map(Signature::key_expiration_time).map(Duration::from).max();
    created <= moment && lifetime.is_none_or(|life| life.is_zero() || moment <= created + life)
}

/// A verified table of contents.
#[derive(Clone, Debug)]
pub struct Release {
    /// `Codename`: trixie.
    pub codename: String,
    /// `Version`: 13.1.
    pub version: String,
    /// `Acquire-By-Hash: yes`.
    pub by_hash: bool,
    files: Vec<IndexFile>,
}

/// An index file: its path below the suite, size and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFile {
    /// Path, as `main/binary-riscv64/Packages.xz`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in lowercase hexadecimal.
    pub sha256: String,
}

impl Release {
    /// Checks the signature and the validity of an `InRelease` file that came from `url`, and reads it.
    pub fn verify(url: &str, text: &str, keyring: &Keyring) -> Result<Self> {
        let untrusted = |reason: String| Error::Untrusted { url: url.to_owned(), reason };
        let signed = keyring.verify(text).map_err(untrusted)?.replace('\r', "");
        Self::parse(&signed, SystemTime::now()).map_err(untrusted)
    }

    /// Reads the signed text.
    pub fn parse(text: &str, now: SystemTime) -> std::result::Result<Self, String> {
        let stanza = stanzas(text).next().ok_or("it is empty")?;
        if let Some(until) = stanza.field("Valid-Until") {
            let limit = parse_date(until).ok_or_else(|| format!("Valid-Until {until:?} isn't a date"))?;
            if now > limit {
                return Err(format!("it was valid until {until}: the mirror is out of date, choose another"));
            }
        }
        let digests = stanza.field("SHA256").ok_or("it lists no SHA256 digests")?;
        let files = digests.lines().filter(|line| !line.trim().is_empty()).map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (sha256, size, path) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            is_sha256(sha256).then(|| IndexFile { path: path.to_owned(), size, sha256: sha256.to_owned() })
        });
        Ok(Self {
            codename: stanza.field("Codename").unwrap_or_default().to_owned(),
            version: stanza.field("Version").unwrap_or_default().to_owned(),
            by_hash: stanza.field("Acquire-By-Hash") == Some("yes"),
            files: files.collect::<Option<_>>().ok_or("its list of digests is damaged")?,
        })
    }

    /// The index file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&IndexFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// Reads `Sat, 12 Sep 2026 07:55:41 UTC`.
fn parse_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "UTC" | "GMT" | "+0000"] = words[..] else { return None };
    let month = MONTHS.iter().position(|&name| name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut parts = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    // Days since 1970 of a year that begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_from_1970() {
        let seconds =
            |text| parse_date(text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 UTC"), 0);
        assert_eq!(seconds("Tue, 29 Feb 2000 12:00:00 UTC"), 951_825_600);
        assert_eq!(seconds("Sat, 12 Sep 2026 07:55:41 UTC"), 1_789_199_741);
        assert_eq!(parse_date("yesterday"), None);
        assert_eq!(parse_date("Sat, 12 Foo 2026 07:55:41 UTC"), None);
    }

    #[test]
    fn digests_are_found_by_path() {
        let digest = "a".repeat(64);
        let text = format!("Codename: trixie\nAcquire-By-Hash: yes\nSHA256:\n {digest} 12 main/x\n");
        let release = Release::parse(&text, SystemTime::now()).unwrap();
        assert!(release.by_hash);
        assert_eq!(release.file("main/x").unwrap().size, 12);
        assert_eq!(release.file("main/y"), None);
    }

    #[test]
    fn expired_release_returns_error() {
        let text = "Valid-Until: Tue, 29 Feb 2000 12:00:00 UTC\nSHA256:\n";
        assert!(Release::parse(text, SystemTime::now()).unwrap_err().contains("valid until"));
        assert!(Release::parse(text, SystemTime::UNIX_EPOCH).is_ok());
    }

    #[test]
    fn damaged_digest_list_returns_error() {
        assert!(Release::parse("SHA256:\n zz 12 main/x\n", SystemTime::now()).is_err());
        assert!(Release::parse("Codename: x\n", SystemTime::now()).is_err());
    }

    #[test]
    fn shipped_keys_can_be_read() {
        assert!(Keyring::debian().unwrap().0.len() >= 4);
    }
}
