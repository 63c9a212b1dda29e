//! What a certificate request asks for, whether that may be granted, and the granting. Pure.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::config::CertificateAuthority;

pub(crate) const CLIENT_KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const SERVING_KUBELET: &str = "kubernetes.io/kubelet-serving";
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
/// Clocks differ: certificates are valid from a little before now.
const BACKDATE: Duration = Duration::from_secs(300);
/// As the API says of `expirationSeconds`.
const SHORTEST: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error("the request can't be read or its signature is wrong: {0}")]
    Parse(#[source] rcgen::Error),
    #[error("{0}")]
    Refused(&'static str),
    #[error("can't sign with the cluster's CA: {0}")]
    Sign(#[source] rcgen::Error),
}

/// A request whose signature proves that the asker has the key.
pub(crate) struct Request {
    inner: CertificateSigningRequestParams,
    pub(crate) name: String,
    pub(crate) organization: Option<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Names of other kinds, which no kubelet needs.
    others: bool,
}

impl Request {
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, SignError> {
        let text = String::from_utf8_lossy(pem);
        let inner = CertificateSigningRequestParams::from_pem(&text).map_err(SignError::Parse)?;
        let names = &inner.params.distinguished_name;
        let (mut dns, mut addresses, mut others) = (Vec::new(), Vec::new(), false);
        for name in &inner.params.subject_alt_names {
            match name {
                SanType::DnsName(name) => dns.push(name.to_string()),
                SanType::IpAddress(address) => addresses.push(*address),
                _ => others = true,
            }
        }
        let name = names.get(&DnType::CommonName).map(text_of).unwrap_or_default();
        let organization = names.get(&DnType::OrganizationName).map(text_of);
        Ok(Self { name, organization, dns, addresses, others, inner })
    }

    /// The node that a kubelet's request is about.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())
    }

    /// Whether the request has the form that its signer signs.
    pub(crate) fn check(&self, spec: &CertificateSigningRequestSpec) -> Result<(), SignError> {
        let usages = spec.usages.as_deref().unwrap_or_default();
        let has = |usage: &str| usages.iter().any(|one| one == usage);
        let only = |allowed: &[&str]| usages.iter().all(|one| allowed.contains(&one.as_str()));
        let rule = |holds: bool, text: &'static str| {
            if holds { Ok(()) } else { Err(SignError::Refused(text)) }
        };
        match spec.signer_name.as_str() {
            CLIENT => rule(has("client auth"), "usages must include client auth"),
            CLIENT_KUBELET => {
                self.check_node()?;
                let none = self.dns.is_empty() && self.addresses.is_empty() && !self.others;
                rule(none, "a kubelet's client certificate has no alternative names")?;
                let known = ["key encipherment", "digital signature", "client auth"];
                rule(
                    only(&known) && has("client auth") && has("digital signature"),
                    "usages must be digital signature, client auth and perhaps key encipherment",
                )
            }
            SERVING_KUBELET => {
                self.check_node()?;
                rule(!self.others, "alternative names must be DNS names and IP addresses")?;
                let some = !self.dns.is_empty() || !self.addresses.is_empty();
                rule(some, "there must be a DNS name or an IP address")?;
                let known = ["key encipherment", "digital signature", "server auth"];
                rule(
                    only(&known) && has("server auth") && has("digital signature"),
                    "usages must be digital signature, server auth and perhaps key encipherment",
                )
            }
            _ => Err(SignError::Refused("this signer is not ours")),
        }
    }

    fn check_node(&self) -> Result<(), SignError> {
        if self.organization.as_deref() != Some(NODES) {
            return Err(SignError::Refused("the organization must be system:nodes"));
        }
        if self.node().is_none() {
            return Err(SignError::Refused("the common name must be system:node:NAME"));
        }
        Ok(())
    }

    /// The certificate, as PEM. Only what was checked goes into it.
    pub(crate) fn sign(
        self,
        spec: &CertificateSigningRequestSpec,
        ca: &CertificateAuthority,
        longest: Duration,
        now: OffsetDateTime,
    ) -> Result<String, SignError> {
        let key = KeyPair::from_pem(&ca.key_pem).map_err(SignError::Sign)?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate_pem, key).map_err(SignError::Sign)?;
        let mut names = DistinguishedName::new();
        if let Some(organization) = &self.organization {
            names.push(DnType::OrganizationName, organization.as_str());
        }
        names.push(DnType::CommonName, self.name.as_str());
        let mut params = CertificateParams::default();
        params.distinguished_name = names;
        params.subject_alt_names = self.inner.params.subject_alt_names.clone();
        params.is_ca = IsCa::ExplicitNoCa;
        params.not_before = now - BACKDATE;
        params.not_after = now + life(spec.expiration_seconds, longest);
        params.use_authority_key_identifier_extension = true;
        for usage in spec.usages.iter().flatten() {
            match usage.as_str() {
                "digital signature" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
                "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "client auth" => {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
                }
                "server auth" => {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                }
                _ => return Err(SignError::Refused("there is a usage that is not signed here")),
            }
        }
        let request = CertificateSigningRequestParams { params, public_key: self.inner.public_key };
        Ok(request.signed_by(&issuer).map_err(SignError::Sign)?.pem())
    }
}

fn life(asked: Option<i32>, longest: Duration) -> Duration {
    match asked.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) => Duration::from_secs(seconds).clamp(SHORTEST.min(longest), longest),
        None => longest,
    }
}

fn text_of(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        // No part of Kubernetes writes other forms; an empty text passes no check.
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn request(organization: &str, name: &str, sans: &[&str]) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = sans.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        params.serialize_request(&key).and_then(|csr| csr.pem()).expect("a request").into_bytes()
    }

    fn spec(signer: &str, usages: &[&str]) -> CertificateSigningRequestSpec {
        CertificateSigningRequestSpec {
            signer_name: signer.to_owned(),
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            request: ByteString(Vec::new()),
            ..Default::default()
        }
    }

    const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];

    fn accepted(pem: &[u8], spec: &CertificateSigningRequestSpec) -> bool {
        Request::parse(pem).expect("a request").check(spec).is_ok()
    }

    #[test]
    fn only_a_nodes_own_form_is_signed() {
        let client = spec(CLIENT_KUBELET, &CLIENT_USAGES);
        assert!(accepted(&request("system:nodes", "system:node:a", &[]), &client));
        assert!(!accepted(&request("system:masters", "system:node:a", &[]), &client));
        assert!(!accepted(&request("system:nodes", "admin", &[]), &client));
        assert!(!accepted(&request("system:nodes", "system:node:a", &["a"]), &client));
        let both = spec(CLIENT_KUBELET, &["digital signature", "client auth", "server auth"]);
        assert!(!accepted(&request("system:nodes", "system:node:a", &[]), &both));
        let serving = spec(SERVING_KUBELET, &["digital signature", "server auth"]);
        assert!(accepted(&request("system:nodes", "system:node:a", &["a", "10.0.0.1"]), &serving));
        assert!(!accepted(&request("system:nodes", "system:node:a", &[]), &serving));
    }

    #[test]
    fn a_signed_certificate_has_what_was_checked_and_ends_in_time() {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertificateAuthority {
            certificate_pem: params.self_signed(&key).expect("a CA").pem(),
            key_pem: key.serialize_pem(),
        };
        let mut spec = spec(CLIENT_KUBELET, &CLIENT_USAGES);
        spec.expiration_seconds = Some(3600);
        let now = OffsetDateTime::from_unix_timestamp(1_000_000_000).expect("a valid time");
        let asked = Request::parse(&request("system:nodes", "system:node:a", &[]));
        let day = Duration::from_secs(86_400);
        let pem = asked.and_then(|one| one.sign(&spec, &ca, day, now)).expect("it is signed");
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let certificate = der.parse_x509().expect("a certificate");
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:a");
        assert!(!certificate.is_ca());
        assert_eq!(certificate.validity().not_after.timestamp(), 1_000_003_600);
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let pem = request("system:nodes", "system:node:a", &[]);
        let text = String::from_utf8(pem).expect("text");
        let middle = text.len() - 80;
        let swapped = if &text[middle..=middle] == "A" { "B" } else { "A" };
        let broken = format!("{}{swapped}{}", &text[..middle], &text[middle + 1..]);
        assert!(Request::parse(broken.as_bytes()).is_err());
    }
}
