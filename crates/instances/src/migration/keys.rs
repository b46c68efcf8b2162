//! Who is at the other end: each home has a key of its own, made when it is first needed, and knows others' by their
//! fingerprints, as ssh does. Nobody signs keys.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

const DIRECTORY: &str = "keys";
const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";
const PEERS: &str = "peers";

/// A home's key, and what it knows of others'.
pub struct Identity {
    directory: PathBuf,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// The key of the home with this store; it is made if there is none.
    ///
    /// # Errors
    /// If it can't be read, or be made.
    pub fn open(store: &Path) -> Result<Self> {
        let directory = store.join(DIRECTORY);
        if !directory.join(KEY).exists() {
            make(store, &directory)?;
        }
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).context("read", &path)
        };
        let (certificate, key) = (read(CERTIFICATE)?.into(), read(KEY)?);
        Ok(Self { directory, certificate, key })
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::try_from(self.key.clone()).map_err(|_| self.damaged())
    }

    fn damaged(&self) -> Error {
        let path = self.directory.display();
        Error::Refused(format!("the key in {path} is damaged; remove that directory for a new one"))
    }

    pub(super) fn client(&self) -> Result<Arc<ClientConfig>> {
        let versions = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| self.damaged())?;
        let config = versions
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyKey))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key()?);
        config.map(Arc::new).map_err(|_| self.damaged())
    }

    pub(super) fn server(&self) -> Result<Arc<ServerConfig>> {
        let versions = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| self.damaged())?;
        let config = versions
            .with_client_cert_verifier(Arc::new(AnyKey))
            .with_single_cert(vec![self.certificate.clone()], self.key()?);
        let mut config = config.map_err(|_| self.damaged())?;
        // The source takes anything that comes unasked for a failure.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn peers(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.directory.join(PEERS)).unwrap_or_default();
        let entry = |line: &str| line.split_once(' ').map(|(name, key)| (name.to_owned(), key.to_owned()));
        text.lines().filter_map(entry).collect()
    }

    /// The key that is known for a peer.
    pub(super) fn known(&self, name: &str) -> Option<String> {
        self.peers().into_iter().rev().find(|(known, _)| known == name).map(|(_, key)| key)
    }

    /// Whether a key is known for any peer under this name.
    pub(super) fn knows(&self, name: &str, key: &str) -> bool {
        self.peers().iter().any(|(known, found)| known == name && found == key)
    }

    /// Remembers a peer's key.
    pub(super) fn remember(&self, name: &str, key: &str) -> Result<()> {
        if self.knows(name, key) {
            return Ok(());
        }
        let path = self.directory.join(PEERS);
        let mut file =
            File::options().create(true).append(true).mode(0o600).open(&path).context("write", &path)?;
        file.write_all(format!("{name} {key}\n").as_bytes()).context("write", &path)
    }
}

/// Makes a key; who else makes one at the same time wins.
fn make(store: &Path, directory: &Path) -> Result<()> {
    let failed = |error: rcgen::Error| Error::Refused(format!("a key for this home can't be made: {error}"));
    let made = rcgen::generate_simple_self_signed(vec!["rvisor".into()]).map_err(failed)?;
    let draft = store.join(format!(".{DIRECTORY}-{}", std::process::id()));
    fs::create_dir_all(store).context("create", store)?;
    let _ = fs::remove_dir_all(&draft);
    fs::DirBuilder::new().mode(0o700).create(&draft).context("create", &draft)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = draft.join(name);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).context("write", &path)
    };
    write(CERTIFICATE, made.cert.der())?;
    write(KEY, &made.signing_key.serialize_der())?;
    let renamed = fs::rename(&draft, directory);
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    if directory.join(KEY).exists() { Ok(()) } else { renamed.context("create", directory) }
}

/// How people see a key.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate.as_ref());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What is done about a key that isn't known: called with a question that a person may answer; false if there is none.
pub type Trust<'a> = &'a dyn Fn(&str) -> bool;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Has the other side prove that it has its key; whose that is, is looked at afterwards.
#[derive(Debug)]
struct AnyKey;

fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signed, &algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    ring::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_keeps_its_key_and_knows_others() {
        let store = tempfile::tempdir().unwrap();
        let first = Identity::open(store.path()).unwrap();
        let again = Identity::open(store.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 7 + 64);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::open(other.path()).unwrap().fingerprint(), first.fingerprint());
        assert_eq!(first.known("host:1"), None);
        first.remember("host:1", "sha256:1").unwrap();
        first.remember("host:1", "sha256:1").unwrap();
        assert_eq!(again.known("host:1").as_deref(), Some("sha256:1"));
        assert!(again.knows("host:1", "sha256:1") && !again.knows("host:2", "sha256:1"));
        first.remember("host:1", "sha256:2").unwrap();
        assert_eq!(again.known("host:1").as_deref(), Some("sha256:2"), "the latest counts");
    }
}
