//! What the plugin remembers between its runs: a directory of small files.
//!
//! ```text
//! <state dir>/lock                              flock: held while anything here is changed
//!             boot                              which boot (and node) the rest belongs to
//!             addresses/<address> -> "<containerID> <ifname> <netns>"     who holds the address
//!             last/<range>                      the address given last; only a hint
//!             attachments/<containerID>-<ifname>.json   a finished ADD; read by the agent
//!             new                               the next attachment, before it is renamed
//! ```
//!
//! A reservation is a symbolic link, because the kernel makes one whole in a single step, and an
//! attachment is renamed into place. So a run that is killed leaves at worst a reservation without
//! attachment, which goes with the next ADD or DEL of the same attachment (runtimes DEL what they
//! could not ADD), with GC, or when its range is exhausted and its network namespace is gone.
//!
//! Nothing is synced to the disk: after a reboot, orderly or not, nothing of the directory is true
//! any more, and the first run empties it.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

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

impl Attachment {
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reservation {
    id: AttachmentId,
    netns: PathBuf,
}

impl Reservation {
    /// The target of the link. Neither a container id nor an interface name has spaces.
    fn target(&self) -> String {
        format!("{} {} {}", self.id.container_id, self.id.ifname, self.netns.display())
    }

    fn read(link: &Path) -> Option<Self> {
        let target = fs::read_link(link).ok()?;
        let mut words = target.to_str()?.splitn(3, ' ');
        let id = AttachmentId::new(words.next()?, words.next()?).ok()?;
        Some(Reservation { id, netns: words.next()?.into() })
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
        read_attachment(&self.attachment_path(id))
    }

    /// All finished attachments, in no order.
    pub fn all_attachments(&self) -> Vec<Attachment> {
        names(&self.attachments())
            .iter()
            .filter_map(|name| read_attachment(&self.attachments().join(name)))
            .collect()
    }
}

/// The state while no other run can change it.
pub struct Locked<'a> {
    dir: &'a StateDir,
    _lock: Flock<File>,
}

impl Locked<'_> {
    /// Makes the attachment known, whole or not at all; from here on the ADD counts.
    pub fn publish(&self, id: &AttachmentId, attachment: &Attachment) -> Result<(), StateError> {
        let beside = self.dir.root.join("new");
        let bytes = serde_json::to_vec(attachment).expect("a plain struct always encodes");
        fs::write(&beside, bytes).map_err(failed("write", &beside))?;
        let path = self.dir.attachment_path(id);
        fs::rename(&beside, &path).map_err(failed("rename to", &path))
    }

    pub fn withdraw(&self, id: &AttachmentId) -> Result<(), StateError> {
        remove(&self.dir.attachment_path(id))
    }

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
        fs::write(&path, current).map_err(failed("write", &path))
    }

    /// Reserves one address per family of `ranges`, or none: `None` says that one family is
    /// exhausted even after reclaiming what vanished pods held. What an earlier, unfinished ADD of
    /// `id` held is given back first. `unlink`: see [`Locked::reclaim_vanished`].
    pub fn reserve(
        &self,
        ranges: &[IpNetwork],
        id: &AttachmentId,
        netns: &Path,
        unlink: &mut dyn FnMut(&AttachmentId),
    ) -> Result<Option<Vec<IpAddr>>, StateError> {
        self.release(id)?;
        if !self.has_room(ranges, unlink)? {
            return Ok(None);
        }
        let choices = self.choose(ranges).unwrap_or_default();
        let target = Reservation { id: id.clone(), netns: netns.to_owned() }.target();
        for (index, address) in &choices {
            let path = self.dir.addresses().join(address.to_string());
            symlink(&target, &path).map_err(failed("make", &path))?;
            let last = self.last_path(&ranges[*index]);
            fs::write(&last, address.to_string()).map_err(failed("write", &last))?;
        }
        Ok(Some(choices.into_iter().map(|(_, address)| address).collect()))
    }

    /// Whether one more attachment would find its addresses.
    pub fn has_room(
        &self,
        ranges: &[IpNetwork],
        unlink: &mut dyn FnMut(&AttachmentId),
    ) -> Result<bool, StateError> {
        if self.choose(ranges).is_some() {
            return Ok(true);
        }
        self.reclaim_vanished(unlink)?;
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
        self.release_if(|reservation| reservation.id == *id)
    }

    /// All that hold an address, whether their ADD was finished or not.
    pub fn holders(&self) -> Vec<AttachmentId> {
        let mut ids: Vec<AttachmentId> = names(&self.dir.addresses())
            .iter()
            .filter_map(|name| Reservation::read(&self.dir.addresses().join(name)))
            .map(|reservation| reservation.id)
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Takes back the addresses whose network namespace no longer exists, and their attachments.
    ///
    /// `unlink` removes the node's end of such a pod's link before its address is free: the kernel
    /// takes its time with a namespace that is gone, and meanwhile the pod's route is still there.
    pub fn reclaim_vanished(
        &self,
        unlink: &mut dyn FnMut(&AttachmentId),
    ) -> Result<(), StateError> {
        for attachment in self.dir.all_attachments() {
            if !is_netns(&attachment.netns) {
                self.withdraw(&attachment.id())?;
            }
        }
        self.release_if(|reservation| {
            let vanished = !is_netns(&reservation.netns);
            if vanished {
                unlink(&reservation.id);
            }
            vanished
        })
    }

    /// What is no reservation of ours is nobody's.
    fn release_if(&self, mut gone: impl FnMut(&Reservation) -> bool) -> Result<(), StateError> {
        for name in names(&self.dir.addresses()) {
            let path = self.dir.addresses().join(&name);
            if Reservation::read(&path).is_none_or(|reservation| gone(&reservation)) {
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

fn read_attachment(path: &Path) -> Option<Attachment> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
