//! The last view, kept outside the worker, so that the next one can answer before the apiserver does.
//!
//! A worker that starts while the apiserver is away would otherwise know nothing. The file lives in
//! memory and belongs to the supervisor, as the [`crate::journal`]'s does. It may be a second old.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::view::{Service, ZoneView};

/// What a file of ours begins with; the last byte is the version of its form.
const MAGIC: &[u8; 8] = b"bwl-dns\x01";
/// Magic, length and checksum.
const HEAD: usize = 24;
/// A longer file is not read: it can't be ours.
const BYTES_MAX: u64 = 512 << 20;

pub struct Snapshot {
    file: File,
}

#[derive(Serialize, Deserialize)]
struct Body {
    serial: u32,
    cluster_id: Arc<str>,
    services: Vec<(Arc<str>, Arc<str>, Arc<Service>)>,
}

impl Snapshot {
    pub fn new(file: File) -> Self {
        Snapshot { file }
    }

    /// The view that was stored last; `None` if there is none, or it was cut short by a kill.
    pub fn load(&self) -> Option<ZoneView> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, 0).ok()?;
        let (magic, rest) = head.split_first_chunk::<8>()?;
        let (length, sum) = rest.split_first_chunk::<8>()?;
        let length = u64::from_be_bytes(*length);
        if magic != MAGIC || length > BYTES_MAX {
            return None;
        }
        let mut body = vec![0; usize::try_from(length).ok()?];
        self.file.read_exact_at(&mut body, HEAD as u64).ok()?;
        if checksum(&body).to_be_bytes() != *sum {
            return None;
        }
        let body: Body = serde_json::from_slice(&body).ok()?;
        let mut view = ZoneView::default();
        view.serial = body.serial;
        view.cluster_id = body.cluster_id;
        for (namespace, name, service) in body.services {
            view.set(&namespace, &name, Some(Arc::unwrap_or_clone(service)));
        }
        Some(view)
    }

    /// Replaces what is stored. Takes some milliseconds for thousands of services.
    pub fn store(&self, view: &ZoneView) -> io::Result<()> {
        let services = view.services().map(|(namespace, name, service)| {
            (Arc::clone(namespace), Arc::clone(name), Arc::clone(service))
        });
        let cluster_id = Arc::clone(&view.cluster_id);
        let body = Body { serial: view.serial, cluster_id, services: services.collect() };
        let body = serde_json::to_vec(&body)?;
        let mut head = MAGIC.to_vec();
        head.extend((body.len() as u64).to_be_bytes());
        head.extend(checksum(&body).to_be_bytes());
        // A kill in between leaves a head that does not belong to its body: the checksum tells.
        self.file.write_all_at(&body, HEAD as u64)?;
        self.file.write_all_at(&head, 0)?;
        self.file.set_len((HEAD + body.len()) as u64)
    }
}

/// FNV-1a, by words: only to tell a file that was cut short.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::rr::Name;

    use super::*;
    use crate::view::{Endpoint, Port};

    fn view(services: u8) -> ZoneView {
        let mut view = ZoneView::default();
        view.serial = 9;
        view.cluster_id = "uid".into();
        let port = Port { name: "http".into(), protocol: "tcp".into(), number: 80 };
        for n in 0..services {
            let service = match n % 3 {
                0 => Service::ClusterIp {
                    addresses: vec![IpAddr::from([10, 96, 0, n])],
                    ports: vec![port.clone()],
                },
                1 => Service::Headless {
                    endpoints: vec![Endpoint {
                        hostname: "a".into(),
                        address: IpAddr::from([10, 244, 0, n]),
                        ports: [port.clone()].into(),
                    }],
                },
                _ => {
                    Service::External { target: Name::from_ascii("Example.com.").expect("a name") }
                }
            };
            view.set(&"ns".into(), &n.to_string().into(), Some(service));
        }
        view
    }

    fn same(a: &ZoneView, b: &ZoneView) -> bool {
        (a.serial, &a.cluster_id) == (b.serial, &b.cluster_id)
            && a.len() == b.len()
            && a.services().all(|(ns, name, service)| b.service(ns, name) == Some(&**service))
    }

    #[test]
    fn what_is_stored_is_loaded_also_when_it_shrinks() {
        let snapshot = Snapshot::new(tempfile::tempfile().expect("a file"));
        assert!(snapshot.load().is_none());
        for services in [3, 30, 6, 0] {
            snapshot.store(&view(services)).expect("stored");
            let loaded = snapshot.load().expect("loaded");
            assert!(same(&loaded, &view(services)), "{services} services");
            let owned = loaded.owners(IpAddr::from([10, 96, 0, 0])).len();
            assert_eq!(owned, usize::from(services > 0), "addresses as well");
        }
    }

    #[test]
    fn a_snapshot_that_was_cut_short_is_none() {
        let file = tempfile::tempfile().expect("a file");
        let snapshot = Snapshot::new(file.try_clone().expect("duplicate"));
        snapshot.store(&view(9)).expect("stored");
        let length = file.metadata().expect("metadata").len();
        let other = serde_json::to_vec("of another view").expect("encodes");
        file.write_all_at(&other, HEAD as u64).expect("half a body");
        assert!(snapshot.load().is_none(), "an old head before a new body");
        snapshot.store(&view(9)).expect("stored");
        file.set_len(length - 1).expect("cut");
        assert!(snapshot.load().is_none());
    }
}
