//! What was acknowledged is there after kill -9, and after a loss of power.
//!
//! A loss of power: ext4 on a loop device is shut down by `EXT4_IOC_SHUTDOWN` without flushing, so
//! that only what was fsynced is on the disk. Writes that were acknowledged after the cut began do
//! not count.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{open, runtime};
use bowline_store::{Query, Store as _};

const KILLS: usize = 8;
const CUTS: usize = 4;
/// Writes that must be acknowledged before the end comes.
const BEFORE: usize = 300;

/// The example `load`, which cargo builds along with the tests.
fn load(folder: &Path, acknowledged: &Path) -> Child {
    let test = std::env::current_exe().expect("a test knows its path");
    let debug = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let program = debug.join("examples/load");
    Command::new(&program)
        .args([folder, acknowledged])
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()))
}

/// Lines of `<writer> <i> <revision>`; the last one may be cut off.
fn acknowledged(text: &str) -> HashMap<String, u64> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let revision = parts[2].parse().expect("a revision");
            (format!("/k/{}/{}", parts[0], parts[1]), revision)
        })
        .collect()
}

fn wait_for_writes(file: &Path, more_than: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let lines = std::fs::read_to_string(file).map_or(0, |text| text.lines().count());
        if lines > more_than {
            return;
        }
        assert!(Instant::now() < end, "only {lines} writes in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn check(folder: &Path, wanted: &HashMap<String, u64>) {
    runtime().block_on(async {
        let store = open(folder);
        let page = store.list(Query { prefix: "/k/".into(), ..Query::default() }).await;
        let found: HashMap<String, u64> = page
            .expect("the store can be read")
            .records
            .into_iter()
            .map(|record| (record.key.to_string(), record.modified))
            .collect();
        let lost: Vec<_> = wanted.iter().filter(|(k, r)| found.get(*k) != Some(r)).collect();
        assert!(lost.is_empty(), "{} acknowledged writes are lost, as {:?}", lost.len(), lost[0]);
    });
}

#[test]
fn every_acknowledged_write_survives_kill_9_under_concurrent_writers() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acknowledged");
    for round in 0..KILLS {
        let before = std::fs::read_to_string(&file).map_or(0, |text| text.lines().count());
        let mut child = load(folder.path(), &file);
        wait_for_writes(&file, before + BEFORE + round * 37);
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        check(folder.path(), &acknowledged(&std::fs::read_to_string(&file).expect("its file")));
    }
}

/// An ext4 in a file, mounted for one test.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Self { folder };
        run("truncate", &["-s", "256M", path(&disk.image())]);
        run("mkfs.ext4", &["-q", "-F", path(&disk.image())]);
        std::fs::create_dir(disk.mount_point()).expect("a mount point");
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", path(&self.image()), path(&self.mount_point())]);
    }

    fn unmount(&self) {
        // What is still open on it would keep it busy for a moment.
        let end = Instant::now() + Duration::from_secs(20);
        while !Command::new("umount").arg(self.mount_point()).status().is_ok_and(|s| s.success()) {
            assert!(Instant::now() < end, "the disk stays busy");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Cuts the power: from here on nothing reaches the disk, not even what waits in memory.
    fn cut(&self) {
        nix::ioctl_read!(shutdown, b'X', 125, u32);
        let root = std::fs::File::open(self.mount_point()).expect("it is mounted");
        let mut without_flush: u32 = 2;
        #[expect(unsafe_code, reason = "the ioctl has no safe wrapper")]
        // SAFETY: the ioctl reads one u32 through the pointer, which is valid for the call.
        unsafe { shutdown(root.as_raw_fd(), &raw mut without_flush) }.expect("ext4 shuts down");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Only mounted still if the test failed.
        let _ = Command::new("umount").arg("-l").arg(self.mount_point()).output();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

#[test]
fn every_acknowledged_write_survives_a_power_cut_under_concurrent_writers() {
    assert!(nix::unistd::geteuid().is_root(), "mounting a disk needs root");
    let disk = Disk::new();
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("acknowledged");
    for round in 0..CUTS {
        disk.mount();
        let before = std::fs::read_to_string(&file).map_or(0, |text| text.lines().count());
        let mut child = load(&disk.mount_point(), &file);
        wait_for_writes(&file, before + BEFORE + round * 53);
        // What is acknowledged after this line may have been so after the cut.
        let certain = acknowledged(&std::fs::read_to_string(&file).expect("its file"));
        disk.cut();
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        disk.unmount();
        disk.mount();
        check(&disk.mount_point(), &certain);
        disk.unmount();
        // Later rounds judge only what was certain here.
        let lines: String = certain
            .iter()
            .map(|(key, revision)| {
                let mut parts = key.trim_start_matches("/k/").split('/');
                let (writer, i) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
                format!("{writer} {i} {revision}\n")
            })
            .collect();
        std::fs::write(&file, lines).expect("the list is ours");
    }
}
