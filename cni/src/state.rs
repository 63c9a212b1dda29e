//! What the plugin remembers between its runs: a directory of small files.
//!
//! ```text
//! <state dir>/lock                              flock: held while addresses change hands
//!             boot                              which boot (and node) the rest belongs to
//!             addresses/<address>               reservation: who holds the address
//!             last/<range>                      the address given last
//!             attachments/<containerID>-<ifname>.json   a finished ADD; read by the agent
//! ```
//!
//! Every file appears whole (written beside, synced, renamed), so a run that is killed leaves at
//! worst a reservation without attachment. Such a reservation goes with the DEL that follows a
//! failed ADD, with GC, or when its range is exhausted and its network namespace is gone. After a
//! reboot nothing of the directory is true any more, and the first run empties it.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{Code, Failure},
    ipam,
    request::AttachmentId,
};

/// `f_type` of a network namespace's file: a path that has another has lost its namespace.
const NSFS_MAGIC: i64 = 0x6e73_6673;

#[derive(Debug, thiserror::Error)]
#[error("can't {act} {}", path.display())]
pub struct StateError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Failure::new(Code::IoFailure, error.to_string()).details(&error.source)
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError { act, path, source }
}

/// A finished attachment: the file by which the agent learns of a pod. All of it is what ADD made;
/// nothing of it changes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
    /// Path of the pod's network namespace as the runtime gave it.
    pub netns: PathBuf,
    pub pod_namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    pub addresses: Vec<IpAddr>,
    pub host_ifname: String,
    pub host_ifindex: u32,
    /// MAC of the pod's end, as in `02:00:5e:10:00:01`.
    pub mac: String,
    /// The kernel's boot id at the time of ADD.
    pub boot_id: String,
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    container_id: String,
    ifname: String,
    netns: PathBuf,
}

impl Reservation {
    fn is_of(&self, id: &AttachmentId) -> bool {
        self.container_id == id.container_id && self.ifname == id.ifname
    }
}

/// Where and in which life of the node this run takes place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's boot id.
    pub id: String,
    /// Inode of the node's network namespace: a node that is itself a namespace may begin a new
    /// life without the kernel's doing so.
    pub netns: u64,
}

impl Boot {
    pub fn current() -> Result<Self, Failure> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let id = fs::read_to_string(path).map_err(failed("read", path))?.trim().to_owned();
        let path = Path::new("/proc/thread-self/ns/net");
        let netns = fs::metadata(path).map_err(failed("read", path))?.ino();
        Ok(Boot { id, netns })
    }
}

pub struct StateDir {
    root: PathBuf,
    boot: Boot,
}

impl StateDir {
    /// The directory is made when first locked, not here.
    pub fn new(root: &Path, boot: Boot) -> Self {
        StateDir { root: root.to_owned(), boot }
    }

    pub fn boot_id(&self) -> &str {
        &self.boot.id
    }

    fn addresses(&self) -> PathBuf {
        self.root.join("addresses")
    }

    fn attachments(&self) -> PathBuf {
        self.root.join("attachments")
    }

    fn attachment_path(&self, id: &AttachmentId) -> PathBuf {
        self.attachments().join(id.key() + ".json")
    }

    /// Waits for the lock, and empties the directory if it is from before a reboot.
    pub fn lock(&self) -> Result<Locked<'_>, StateError> {
        for dir in [self.addresses(), self.attachments(), self.root.join("last")] {
            fs::create_dir_all(&dir).map_err(failed("make the directory", &dir))?;
        }
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock", &path)(errno.into()))?;
        let locked = Locked { dir: self, _lock: lock };
        locked.forget_other_boots()?;
        Ok(locked)
    }

    /// The finished attachment of `id`, if there is one. A file that doesn't decode is none.
    pub fn attachment(&self, id: &AttachmentId) -> Option<Attachment> {
        read_json(&self.attachment_path(id))
    }

    /// All finished attachments, in no order.
    pub fn all_attachments(&self) -> Vec<Attachment> {
        names(&self.attachments())
            .iter()
            .filter(|name| name.ends_with(".json"))
            .filter_map(|name| read_json(&self.attachments().join(name)))
            .collect()
    }

    /// Makes the attachment known; from here on the ADD counts.
    pub fn publish(&self, id: &AttachmentId, attachment: &Attachment) -> Result<(), StateError> {
        write_whole(&self.attachment_path(id), attachment)
    }

    pub fn withdraw(&self, id: &AttachmentId) -> Result<(), StateError> {
        remove(&self.attachment_path(id))
    }
}

/// The state while no other run can change who holds which address.
pub struct Locked<'a> {
    dir: &'a StateDir,
    _lock: Flock<File>,
}

impl Locked<'_> {
    fn forget_other_boots(&self) -> Result<(), StateError> {
        let path = self.dir.root.join("boot");
        let current = format!("{} {}\n", self.dir.boot.id, self.dir.boot.netns);
        if fs::read_to_string(&path).is_ok_and(|known| known == current) {
            return Ok(());
        }
        for dir in [self.dir.addresses(), self.dir.attachments()] {
            for name in names(&dir) {
                remove(&dir.join(name))?;
            }
        }
        write_bytes(&path, current.as_bytes())
    }

    /// Reserves one address per family of `ranges`, or none: `None` says that one family is
    /// exhausted even after reclaiming what vanished pods held.
    pub fn reserve(
        &self,
        ranges: &[IpNetwork],
        id: &AttachmentId,
        netns: &Path,
    ) -> Result<Option<Vec<IpAddr>>, StateError> {
        let choices = match self.choose(ranges) {
            Some(choices) => choices,
            None => {
                self.reclaim_vanished()?;
                match self.choose(ranges) {
                    Some(choices) => choices,
                    None => return Ok(None),
                }
            }
        };
        let reservation = Reservation {
            container_id: id.container_id.clone(),
            ifname: id.ifname.clone(),
            netns: netns.to_owned(),
        };
        for (index, address) in &choices {
            write_whole(&self.dir.addresses().join(address.to_string()), &reservation)?;
            write_bytes(&self.last_path(&ranges[*index]), address.to_string().as_bytes())?;
        }
        Ok(Some(choices.into_iter().map(|(_, address)| address).collect()))
    }

    /// Whether one more attachment would find its addresses.
    pub fn has_room(&self, ranges: &[IpNetwork]) -> Result<bool, StateError> {
        if self.choose(ranges).is_some() {
            return Ok(true);
        }
        self.reclaim_vanished()?;
        Ok(self.choose(ranges).is_some())
    }

    fn choose(&self, ranges: &[IpNetwork]) -> Option<Vec<ipam::Choice>> {
        let used: std::collections::HashSet<IpAddr> =
            names(&self.dir.addresses()).iter().filter_map(|name| name.parse().ok()).collect();
        let last = |index: usize| {
            fs::read_to_string(self.last_path(&ranges[index])).ok()?.trim().parse().ok()
        };
        ipam::choose(ranges, last, |address| used.contains(&address))
    }

    fn last_path(&self, range: &IpNetwork) -> PathBuf {
        self.dir.root.join("last").join(range.to_string().replace('/', "-"))
    }

    /// Gives back every address that `id` holds.
    pub fn release(&self, id: &AttachmentId) -> Result<(), StateError> {
        self.release_if(|reservation| reservation.is_of(id))
    }

    /// Gives back `addresses`, as far as `id` holds them: the same as [`Locked::release`] without
    /// reading every reservation.
    pub fn release_known(&self, id: &AttachmentId, addresses: &[IpAddr]) -> Result<(), StateError> {
        for address in addresses {
            let path = self.dir.addresses().join(address.to_string());
            if read_json::<Reservation>(&path).is_none_or(|reservation| reservation.is_of(id)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// All that hold an address, whether their ADD was finished or not.
    pub fn holders(&self) -> Vec<AttachmentId> {
        let mut ids: Vec<AttachmentId> = names(&self.dir.addresses())
            .iter()
            .filter_map(|name| read_json::<Reservation>(&self.dir.addresses().join(name)))
            .map(|r| AttachmentId { container_id: r.container_id, ifname: r.ifname })
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Takes back the addresses whose network namespace no longer exists, and their attachments.
    pub fn reclaim_vanished(&self) -> Result<(), StateError> {
        for attachment in self.dir.all_attachments() {
            if !is_netns(&attachment.netns) {
                let id = AttachmentId {
                    container_id: attachment.container_id,
                    ifname: attachment.ifname,
                };
                self.dir.withdraw(&id)?;
            }
        }
        self.release_if(|reservation| !is_netns(&reservation.netns))
    }

    /// Under the lock nobody is writing a reservation, so one that doesn't decode is nobody's.
    fn release_if(&self, gone: impl Fn(&Reservation) -> bool) -> Result<(), StateError> {
        for name in names(&self.dir.addresses()) {
            let path = self.dir.addresses().join(&name);
            if read_json::<Reservation>(&path).is_none_or(|reservation| gone(&reservation)) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether the path is a network namespace now.
pub fn is_netns(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type().0 == NSFS_MAGIC)
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write_whole(path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(value).expect("plain structs always encode");
    write_bytes(path, &bytes)
}

/// Writes beside, syncs, renames: readers see the old file or the new one. The directory itself is
/// not synced: a reboot empties it anyway. The name beside begins with a dot and the process's id,
/// which no address, range or container id does.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{}.{name}", std::process::id()));
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&beside, path)
    });
    written.map_err(|error| {
        // The cause is reported; that the leftover stays, too, adds nothing to it.
        let _ = fs::remove_file(&beside);
        failed("write", path)(error)
    })
}

#[cfg(test)]
mod tests;
