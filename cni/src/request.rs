//! The request: the `CNI_*` environment variables, checked.

use std::{ffi::OsString, path::PathBuf};

use crate::error::{Code, Failure};

/// The longest interface name that Linux takes (IFNAMSIZ less its NUL).
pub const IFNAME_MAX: usize = 15;

/// A container id longer than this can't be part of a file name.
pub const CONTAINER_ID_MAX: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The attachment that an act is about: a container's interface. Both parts are safe as file names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttachmentId {
    pub container_id: String,
    pub ifname: String,
}

impl AttachmentId {
    /// Checks both parts by the rules of the specification.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, Failure> {
        let invalid = |what: &str, value: &str| {
            Failure::new(Code::InvalidEnvironment, format!("{what} {value:?} is not valid"))
        };
        let first_ok = container_id.starts_with(|c: char| c.is_ascii_alphanumeric());
        let rest_ok =
            container_id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !first_ok || !rest_ok || container_id.len() > CONTAINER_ID_MAX {
            return Err(invalid("CNI_CONTAINERID", container_id)
                .details("it starts with a letter or digit, then letters, digits, '_', '.', '-'"));
        }
        let ifname_ok = !ifname.is_empty()
            && ifname.len() <= IFNAME_MAX
            && ifname != "."
            && ifname != ".."
            && !ifname.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
        if !ifname_ok {
            return Err(invalid("CNI_IFNAME", ifname)
                .details("an interface name has 1 to 15 characters without '/', ':' or spaces"));
        }
        Ok(AttachmentId { container_id: container_id.into(), ifname: ifname.into() })
    }

    /// The name of this attachment's file in the state directory, without its extension.
    pub fn key(&self) -> String {
        format!("{}-{}", self.container_id, self.ifname)
    }

    /// The name of the node's end of the link: the same for every act on this attachment, so that
    /// DEL finds it without any state (FNV-1a of the key, 44 bits of it).
    pub fn host_ifname(&self) -> String {
        let hash = self.key().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{HOST_IFNAME_PREFIX}{:011x}", hash >> 20)
    }
}

/// What every link of ours on the node begins with; with 11 hex digits it fills IFNAMSIZ.
pub const HOST_IFNAME_PREFIX: &str = "bwl";

/// The pod that a container belongs to, from the runtime's `CNI_ARGS`. Parts may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One run of the plugin, before its configuration is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    /// Set for ADD, DEL and CHECK, and only for them.
    pub attachment: Option<AttachmentId>,
    /// Always set for ADD and CHECK; DEL may come without.
    pub netns: Option<PathBuf>,
    pub pod: PodRef,
}

impl Request {
    /// Reads the request with `var` giving an environment variable (unset and empty are the same).
    pub fn from_env(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let text = |name: &str| -> Result<Option<String>, Failure> {
            match var(name).map(OsString::into_string) {
                None => Ok(None),
                Some(Ok(value)) if value.is_empty() => Ok(None),
                Some(Ok(value)) => Ok(Some(value)),
                Some(Err(_)) => Err(Failure::new(
                    Code::InvalidEnvironment,
                    format!("{name} is not valid UTF-8"),
                )),
            }
        };
        let required = |name: &str| {
            text(name)?.ok_or_else(|| {
                Failure::new(Code::InvalidEnvironment, format!("{name} is not set"))
                    .details("this program is run by a container runtime (CNI specification 1.1)")
            })
        };
        let command = match required("CNI_COMMAND")?.as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            other => {
                return Err(Failure::new(
                    Code::InvalidEnvironment,
                    format!("CNI_COMMAND {other:?} is unknown"),
                )
                .details("known are ADD, DEL, CHECK, STATUS, GC and VERSION"));
            }
        };
        let attachment = match command {
            Command::Add | Command::Del | Command::Check => {
                Some(AttachmentId::new(&required("CNI_CONTAINERID")?, &required("CNI_IFNAME")?)?)
            }
            _ => None,
        };
        let netns = match command {
            Command::Add | Command::Check => Some(required("CNI_NETNS")?),
            Command::Del => text("CNI_NETNS")?,
            _ => None,
        };
        let pod = text("CNI_ARGS")?.map(|args| pod_of(&args)).unwrap_or_default();
        Ok(Request { command, attachment, netns: netns.map(PathBuf::from), pod })
    }
}

/// `K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c` and keys that are not ours.
fn pod_of(args: &str) -> PodRef {
    let mut pod = PodRef::default();
    for (key, value) in args.split(';').filter_map(|pair| pair.split_once('=')) {
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value.into(),
            "K8S_POD_NAME" => pod.name = value.into(),
            "K8S_POD_UID" => pod.uid = value.into(),
            _ => {}
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Request, Failure> {
        Request::from_env(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn add_needs_a_container_a_netns_and_an_interface() {
        let all = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
        ];
        assert!(read(&all).is_ok());
        for missing in 0..all.len() {
            let mut some = all.to_vec();
            let (name, _) = some.remove(missing);
            let failure = read(&some).expect_err(name);
            assert_eq!(failure.code, Code::InvalidEnvironment, "without {name}");
            assert!(failure.msg.contains(name), "the message names {name}: {failure}");
        }
    }

    #[test]
    fn del_does_without_a_netns() {
        let request =
            read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0")]);
        assert_eq!(request.expect("DEL").netns, None);
    }

    #[test]
    fn ids_that_would_escape_the_state_directory_are_refused() {
        for (id, ifname) in [
            ("../x", "eth0"),
            ("a/b", "eth0"),
            ("", "eth0"),
            ("a", "et/h"),
            ("a", ".."),
            ("a", "sixteen-letters-"),
            ("-a", "eth0"),
        ] {
            assert!(AttachmentId::new(id, ifname).is_err(), "{id:?} {ifname:?}");
        }
    }

    #[test]
    fn the_host_name_fits_an_interface_and_differs_per_attachment() {
        let a = AttachmentId::new("abc", "eth0").expect("valid").host_ifname();
        let b = AttachmentId::new("abc", "eth1").expect("valid").host_ifname();
        assert!(a.len() < IFNAME_MAX && a.starts_with(HOST_IFNAME_PREFIX), "{a}");
        assert_ne!(a, b);
    }

    #[test]
    fn the_pod_is_read_from_the_arguments() {
        let pod = pod_of("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u");
        assert_eq!(pod, PodRef { namespace: "ns".into(), name: "web-0".into(), uid: "u".into() });
    }
}
