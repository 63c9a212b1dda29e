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
