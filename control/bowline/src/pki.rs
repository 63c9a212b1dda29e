//! The cluster's certificates and keys, all under one folder:
//!
//! | file | what |
//! |---|---|
//! | `ca.crt`, `ca.key` | the authority of servers and clients alike, 10 years |
//! | `apiserver.crt`, `.key` | the apiserver's serving certificate |
//! | `kubelet-client.crt`, `.key` | what the apiserver shows to kubelets |
//! | `sa.key`, `sa.pub` | signs and checks service account tokens (ES256) |
//!
//! Keys are made once and kept. Leaf certificates are issued anew at each start: they last a year,
//! so a server that is restarted at least once a year never meets an expired one.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use crate::durable;

const CA_LIFETIME: Duration = Duration::days(3650);
const LEAF_LIFETIME: Duration = Duration::days(365);
/// Certificates are valid from this long ago, for clocks that run behind.
const CLOCK_SKEW: Duration = Duration::minutes(5);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("can't write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} holds no usable key or certificate; restore it from a backup, or remove the folder to start a new cluster", path.display())]
    Parse { path: PathBuf, source: rcgen::Error },
    #[error("can't issue a certificate for {name}")]
    Issue { name: String, source: rcgen::Error },
}

/// Who a client certificate speaks for: its common name is the user, its organization the group.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    pub user: &'static str,
    pub group: Option<&'static str>,
}

pub const ADMIN: Identity = Identity { user: "kubernetes-admin", group: Some("system:masters") };
pub const CONTROLLER_MANAGER: Identity =
    Identity { user: "system:kube-controller-manager", group: None };
pub const SCHEDULER: Identity = Identity { user: "system:kube-scheduler", group: None };
const KUBELET_CLIENT: Identity =
    Identity { user: "kube-apiserver-kubelet-client", group: Some("system:masters") };

/// A certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// The cluster's certificate authority and where its files are.
pub struct Pki {
    folder: PathBuf,
    ca: Pair,
}

impl Pki {
    /// Opens the authority in `folder`, or makes it there when there is none.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        let key = keep_key(&key_path)?;
        let cert = if cert_path.exists() {
            read(&cert_path)?
        } else {
            let cert = self_signed(&key)
                .map_err(|source| PkiError::Issue { name: "the cluster's CA".into(), source })?;
            write(&cert_path, &cert, durable::PUBLIC)?;
            cert
        };
        Ok(Self { folder: folder.to_owned(), ca: Pair { cert, key: key.serialize_pem() } })
    }

    pub fn ca(&self) -> &Pair {
        &self.ca
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Writes everything that the apiserver needs: its serving pair for `addresses` and `names`,
    /// its client pair for kubelets, and the service account key.
    pub fn prepare_apiserver(
        &self,
        addresses: &[IpAddr],
        names: &[String],
    ) -> Result<(), PkiError> {
        let sa = keep_key(&self.path("sa.key"))?;
        write(&self.path("sa.pub"), &sa.public_key_pem(), durable::PUBLIC)?;
        let key = keep_key(&self.path("apiserver.key"))?;
        let mut params = leaf("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = addresses.iter().map(|a| SanType::IpAddress(*a)).collect();
        for name in names {
            let name = name.clone();
            let value =
                name.clone().try_into().map_err(|source| PkiError::Issue { name, source })?;
            params.subject_alt_names.push(SanType::DnsName(value));
        }
        let cert = self.sign("kube-apiserver", &params, &key)?;
        write(&self.path("apiserver.crt"), &cert, durable::PUBLIC)?;
        let key = keep_key(&self.path("kubelet-client.key"))?;
        let params =
            leaf(KUBELET_CLIENT.user, KUBELET_CLIENT.group, ExtendedKeyUsagePurpose::ClientAuth);
        let cert = self.sign(KUBELET_CLIENT.user, &params, &key)?;
        write(&self.path("kubelet-client.crt"), &cert, durable::PUBLIC)
    }

    /// A new client pair for `identity`; it is written nowhere.
    pub fn client(&self, identity: Identity) -> Result<Pair, PkiError> {
        let failed = |source| PkiError::Issue { name: identity.user.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let params = leaf(identity.user, identity.group, ExtendedKeyUsagePurpose::ClientAuth);
        Ok(Pair { cert: self.sign(identity.user, &params, &key)?, key: key.serialize_pem() })
    }

    /// SHA-256 of the authority's certificate in DER, in hex: what a join token pins.
    pub fn ca_hash(&self) -> Result<String, PkiError> {
        ca_hash(&self.ca.cert).ok_or_else(|| PkiError::Parse {
            path: self.path("ca.crt"),
            source: rcgen::Error::CouldNotParseCertificate,
        })
    }

    fn sign(
        &self,
        name: &str,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<String, PkiError> {
        let path = self.path("ca.key");
        let failed = |source| PkiError::Parse { path: path.clone(), source };
        let ca_key = KeyPair::from_pem(&self.ca.key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca.cert, ca_key).map_err(failed)?;
        let cert = params
            .signed_by(key, &issuer)
            .map_err(|source| PkiError::Issue { name: name.to_owned(), source })?;
        Ok(cert.pem())
    }
}

/// SHA-256, in hex, of the first certificate in `pem`; none when there is no certificate.
pub fn ca_hash(pem: &str) -> Option<String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(Sha256::digest(&block.contents).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn self_signed(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bowline-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.not_before = OffsetDateTime::now_utc() - CLOCK_SKEW;
    params.not_after = params.not_before + CA_LIFETIME;
    Ok(params.self_signed(key)?.pem())
}

fn leaf(user: &str, group: Option<&str>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::now_utc() - CLOCK_SKEW;
    params.not_after = params.not_before + LEAF_LIFETIME;
    params
}

/// The key at `path`; made there first when the file is absent.
fn keep_key(path: &Path) -> Result<KeyPair, PkiError> {
    let failed = |source| PkiError::Parse { path: path.to_owned(), source };
    if path.exists() {
        return KeyPair::from_pem(&read(path)?).map_err(failed);
    }
    let key = KeyPair::generate().map_err(failed)?;
    write(path, &key.serialize_pem(), durable::SECRET)?;
    Ok(key)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    durable::write(path, text.as_bytes(), mode)
        .map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_and_its_keys_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(folder.path()).unwrap();
        first.prepare_apiserver(&["10.96.0.1".parse().unwrap()], &["kubernetes".into()]).unwrap();
        let sa = fs::read_to_string(first.path("sa.key")).unwrap();
        let second = Pki::open(folder.path()).unwrap();
        second.prepare_apiserver(&[], &[]).unwrap();
        assert_eq!(first.ca().cert, second.ca().cert, "clients pin the CA");
        assert_eq!(sa, fs::read_to_string(second.path("sa.key")).unwrap(), "tokens stay valid");
    }

    #[test]
    fn private_keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Pki::open(folder.path()).unwrap().prepare_apiserver(&[], &[]).unwrap();
        for key in ["ca.key", "sa.key", "apiserver.key", "kubelet-client.key"] {
            let mode = fs::metadata(folder.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_client_certificate_names_its_user_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pki::open(folder.path()).unwrap().client(ADMIN).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.cert.as_bytes()).unwrap();
        let subject = pem.parse_x509().unwrap().subject().to_string();
        assert!(subject.contains("CN=kubernetes-admin"), "{subject}");
        assert!(subject.contains("O=system:masters"), "{subject}");
    }
}
