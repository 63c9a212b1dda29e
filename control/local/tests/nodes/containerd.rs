//! The real containerd, as root, on paths of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bowline_local::containerd::{Config, Containerd, Error};
use bowline_local::image::Image;
use tokio_util::sync::CancellationToken;

/// A containerd's folder; ends what runs there when the test ends.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> Config {
        Config {
            root: self.path("root"),
            state: self.path("state"),
            socket: self.path("containerd.sock"),
            cni_bin_dir: self.path("bin"),
            cni_conf_dir: self.path("net.d"),
            log: self.path("containerd.log"),
            ..Config::default()
        }
    }

    fn image(&self, name: &str, content: &[u8]) -> PathBuf {
        let archive = self.path(&format!("{name}.tar"));
        let image = Image::new(&format!("bowline/{name}:1")).bytes("/file", content, 0o644);
        image.write(&archive).expect("written");
        archive
    }

    fn processes(&self) -> Vec<i32> {
        let mine = self.0.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let line = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        pids.filter(|pid| line(pid).is_ok_and(|line| line.contains(&mine))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid);
        }
    }
}

fn kill(pid: i32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
    assert!(status.success());
}

#[tokio::test]
async fn the_next_agent_adopts_it_and_a_killed_one_is_started_again() {
    let folder = Folder::new();
    let first = Containerd::ensure(folder.config()).await.expect("containerd");
    let pid = first.pid();
    drop(first);
    let second = Containerd::ensure(folder.config()).await.expect("containerd");
    assert_eq!(second.pid(), pid, "a second one was started beside the first");
    assert_eq!(folder.processes(), [pid]);

    let shutdown = CancellationToken::new();
    let supervised = second.supervise(shutdown.clone());
    let kills = async {
        kill(pid);
        let deadline = Instant::now() + Duration::from_secs(20);
        while second.pid() == pid {
            assert!(Instant::now() < deadline, "not started again within 20 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.cancel();
    };
    tokio::join!(supervised, kills);
    let answers = tokio::net::UnixStream::connect(second.socket()).await;
    assert!(answers.is_ok(), "the end of the supervision ended containerd");
    assert_eq!(folder.processes(), [second.pid()]);
}

#[tokio::test]
async fn an_image_is_imported_once_and_again_when_it_changes() {
    let folder = Folder::new();
    let containerd = Containerd::ensure(folder.config()).await.expect("containerd");
    let archives = [folder.image("one", b"1"), folder.image("two", b"2")];
    let mut names = containerd.import(&archives).await.expect("imported");
    names.sort();
    assert_eq!(names, ["docker.io/bowline/one:1", "docker.io/bowline/two:1"]);
    let again = containerd.import(&archives).await.expect("nothing to do");
    assert!(again.is_empty(), "imported without need: {again:?}");
    folder.image("two", b"another");
    let changed = containerd.import(&archives).await.expect("imported");
    assert_eq!(changed, ["docker.io/bowline/two:1"]);
}

#[tokio::test]
async fn a_containerd_that_ends_says_why() {
    let folder = Folder::new();
    let mut config = folder.config();
    // A folder where the socket should be: containerd can't listen.
    std::fs::create_dir_all(config.socket.join("inside")).expect("a folder");
    config.pause_image = "\u{1}".to_owned();
    let error = Containerd::ensure(config).await.expect_err("it can't start");
    let Error::Ended { tail, .. } = &error else { panic!("another error: {error}") };
    assert!(!tail.is_empty(), "{error}");
}

#[tokio::test]
async fn a_broken_archive_is_named() {
    let folder = Folder::new();
    let containerd = Containerd::ensure(folder.config()).await.expect("containerd");
    let archive = folder.path("broken.tar");
    std::fs::write(&archive, b"no tar").expect("written");
    let error = containerd.import(std::slice::from_ref(&archive)).await.expect_err("broken");
    assert!(error.to_string().contains("broken.tar"), "{error}");
    let absent = Path::new("/no/such.tar").to_owned();
    assert!(containerd.import(&[absent]).await.is_err());
}
