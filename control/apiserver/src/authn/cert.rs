//! Users of client certificates: the subject's CN is the name, each O a group.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

/// The user of a certificate whose chain TLS has checked; `None` without a common name.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned));
    Some(User { name, groups: groups.collect(), ..User::default() })
}
