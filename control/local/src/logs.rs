//! Reading the units' logs from the host.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::containerd;
use crate::node::{Node, NodeError};

/// Names the node's own first process, for its log.
const INIT: &str = "init";

/// Names the containerd that the agent starts, for its log.
const CONTAINERD: &str = "containerd";

/// How often a log that is followed is looked at.
const FOLLOW: Duration = Duration::from_millis(100);

impl Node {
    /// The log file of a unit on the host; also of `init` and `containerd`, which are no units.
    ///
    /// # Errors
    /// When there is no such unit; the message lists those that exist.
    pub fn log_file(&self, unit: &str) -> Result<PathBuf, NodeError> {
        match unit {
            INIT => {}
            CONTAINERD => {
                let log = containerd::Config::default().log;
                if let Some(path) = self.host_path(&log) {
                    return Ok(path);
                }
            }
            _ => self.check_unit(unit)?,
        }
        Ok(self.dir().join("logs").join(format!("{unit}.log")))
    }

    /// Copies a unit's log to `out`: what is there, and then, if `follow` is given, what comes,
    /// until that becomes false. A log that was rotated is followed from its new start.
    ///
    /// # Errors
    /// When there is no such unit, or reading or writing fails.
    pub fn copy_log(
        &self,
        unit: &str,
        out: &mut dyn Write,
        follow: Option<&AtomicBool>,
    ) -> Result<(), NodeError> {
        let path = self.log_file(unit)?;
        copy(&path, out, follow).map_err(|error| NodeError::Files(path, error))
    }
}

fn copy(path: &Path, out: &mut dyn Write, follow: Option<&AtomicBool>) -> io::Result<()> {
    let mut file = match File::open(path) {
        // A unit that has written nothing yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound && follow.is_none() => return Ok(()),
        other => other?,
    };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => {
                out.flush()?;
                if !follow.is_some_and(|go_on| go_on.load(Ordering::Relaxed)) {
                    return Ok(());
                }
                if file.metadata()?.len() < file.stream_position()? {
                    file.seek(SeekFrom::Start(0))?;
                }
                std::thread::sleep(FOLLOW);
            }
            length => out.write_all(&buffer[..length])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::sync::Mutex;

    use super::*;

    /// What has arrived so far.
    struct Seen<'a>(&'a Mutex<Vec<u8>>);

    impl Write for Seen<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn wait_for(seen: &Mutex<Vec<u8>>, text: &[u8]) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !seen.lock().expect("not poisoned").ends_with(text) {
            assert!(std::time::Instant::now() < deadline, "never seen: {text:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_log_is_followed_through_its_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("unit.log");
        let append = || File::options().create(true).append(true).open(&path).expect("a file");
        append().write_all(b"first line\n").expect("written");
        let (seen, go_on) = (Mutex::new(Vec::new()), AtomicBool::new(true));
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| copy(&path, &mut Seen(&seen), Some(&go_on)));
            wait_for(&seen, b"first line\n");
            append().write_all(b"second\n").expect("written");
            wait_for(&seen, b"second\n");
            File::options().write(true).open(&path).and_then(|f| f.set_len(0)).expect("emptied");
            append().write_all(b"third\n").expect("written");
            wait_for(&seen, b"third\n");
            go_on.store(false, Ordering::Relaxed);
            follower.join().expect("no panic").expect("followed");
        });
        assert_eq!(seen.into_inner().expect("not poisoned"), b"first line\nsecond\nthird\n");
        fs::remove_file(&path).expect("removed");
        copy(&path, &mut io::sink(), None).expect("a log that is not there yet is empty");
    }
}
