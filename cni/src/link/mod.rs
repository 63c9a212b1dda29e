//! The kernel edge: links, addresses, routes and neighbours by rtnetlink; namespaces; sysctls.
//!
//! Nothing here knows CNI. Every call is one kernel request with its answer; errors name the act
//! and the thing it was done to.

use std::{fmt, io, io::Read};

mod netlink;
mod netns;
mod ops;
pub mod sysctl;

pub use netlink::Netlink;
pub use netns::Netns;
pub use ops::{Link, RouteSpec, VethSpec};

use crate::error::{Code, Failure};

#[derive(Debug, thiserror::Error)]
#[error("can't {act} {subject}")]
pub struct LinkError {
    act: &'static str,
    subject: String,
    source: io::Error,
}

impl LinkError {
    pub(crate) fn new(act: &'static str, subject: impl fmt::Display, source: io::Error) -> Self {
        LinkError { act, subject: subject.to_string(), source }
    }

    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Failure::new(Code::LinkFailure, error.to_string()).details(&error.source)
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A random, locally administered unicast address.
    ///
    /// Setting one at creation, rather than taking the kernel's, keeps udev from changing it later
    /// (`MACAddressPolicy=persistent` spares addresses that were set), and with it our neighbours.
    pub fn random() -> Result<Self, LinkError> {
        let mut bytes = [0; 6];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|error| LinkError::new("read", "/dev/urandom", error))?;
        bytes[0] = (bytes[0] | 0b10) & !0b1;
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
