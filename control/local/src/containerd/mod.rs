//! Our own containerd: configured, started, adopted, restarted, and never stopped with the agent.
//!
//! ```text
//!  ensure ──▶ one answers on the socket ──────────────▶ adopted ─┐
//!    └──────▶ none: configuration, start, wait for it ─▶ started ─┴─▶ supervise: died ─▶ ensure
//! ```
//! It leads its own session, so it outlives the agent; the next agent adopts it. Whose socket it is
//! the kernel says (SO_PEERCRED), so no pid file can be stale.

mod config;
mod images;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::sys;
pub use config::Config;
use config::{Host, lacks_sys_resource, major_version};
pub(crate) use images::{import_arguments, imported_names};

/// How long a containerd may take to answer: it reads all of its containers first.
const START: Duration = Duration::from_secs(60);

/// How often a starting one is asked.
const POLL: Duration = Duration::from_millis(10);

/// Pauses between two starts, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What Debian's packages containerd and runc bring.
const PROGRAMS: [&str; 3] = ["containerd", "ctr", "runc"];

/// Of the log's end that goes into an error.
const TAIL: u64 = 2048;

/// A log larger than this moves to `.1` before the next start.
const LOG_BYTES: u64 = 64 << 20;

/// Why containerd can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not installed.
    #[error("{0} is not on the PATH: install it (Debian: apt-get install containerd runc)")]
    Missing(&'static str),
    /// Only root can run containers.
    #[error("containerd needs root")]
    NotRoot,
    /// A folder or file of its configuration.
    #[error("write {0} for containerd")]
    Write(std::path::PathBuf, #[source] io::Error),
    /// The kernel refuses to start it or to look at it.
    #[error("start containerd")]
    Start(#[source] io::Error),
    /// It ended by itself.
    #[error("containerd ended with {status}; the end of {log}:\n{tail}")]
    Ended {
        /// How it ended.
        status: String,
        /// Its log.
        log: std::path::PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// It runs and does not answer.
    #[error("containerd does not answer on {socket} after {START:?}; the end of its log:\n{tail}")]
    Silent {
        /// Its socket.
        socket: std::path::PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// `ctr` does not start.
    #[error("run ctr")]
    Ctr(#[source] io::Error),
    /// An archive is not to be read.
    #[error("read the image archive {0}")]
    Archive(std::path::PathBuf, #[source] io::Error),
    /// containerd refuses an archive.
    #[error("containerd does not import {archive}: {message}")]
    Import {
        /// The archive.
        archive: std::path::PathBuf,
        /// What it said.
        message: String,
    },
}

/// A containerd that answered.
#[derive(Debug)]
pub struct Containerd {
    config: Config,
    process: Mutex<Arc<Process>>,
}

/// The present process: readable when it has died.
#[derive(Debug)]
struct Process {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// Of one that we started: to be taken when it dies.
    child: Mutex<Option<Child>>,
}

impl Containerd {
    /// Adopts the one that answers on the socket, or starts one and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, does not start, or does not answer in time; with the end of its
    /// log.
    pub async fn ensure(config: Config) -> Result<Self, Error> {
        let process = adopt_or_start(&config).await?;
        Ok(Self { config, process: Mutex::new(Arc::new(process)) })
    }

    /// The one that answers on the socket, whoever started it; none when nobody answers.
    ///
    /// # Errors
    /// When the kernel does not let it be watched.
    pub async fn adopt(config: Config) -> Result<Option<Self>, Error> {
        let Some(pid) = answering(&config.socket).await else { return Ok(None) };
        let process = Process::watch(pid, None).map_err(Error::Start)?;
        Ok(Some(Self { config, process: Mutex::new(Arc::new(process)) }))
    }

    /// Where CRI answers.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.config.socket
    }

    /// The pid of the present process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.present().pid
    }

    /// Starts it again whenever it dies, until `shutdown`, which leaves it running. Its containers
    /// run on meanwhile: their shims are processes of their own.
    pub async fn supervise(&self, shutdown: CancellationToken) {
        let mut pause = PAUSES.0;
        loop {
            let process = self.present();
            tokio::select! {
                _ = process.pidfd.readable() => {}
                () = shutdown.cancelled() => return,
            }
            process.take_the_dead();
            tracing::warn!(pid = process.pid, "containerd died; starting it again");
            match adopt_or_start(&self.config).await {
                Ok(process) => {
                    pause = PAUSES.0;
                    tracing::info!(pid = process.pid, "containerd answers again");
                    *self.process.lock().unwrap_or_else(PoisonError::into_inner) =
                        Arc::new(process);
                }
                Err(error) => {
                    let error = crate::node_init::chain(&error);
                    tracing::error!(error, "containerd does not start; trying again");
                    tokio::select! {
                        () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    fn present(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Process {
    fn watch(pid: i32, child: Option<Child>) -> io::Result<Self> {
        let pidfd = sys::watch_process(pid)?;
        Ok(Self { pid, pidfd, child: Mutex::new(child) })
    }

    fn take_the_dead(&self) {
        if let Some(child) = &mut *self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            // It has died, so this returns at once; an adopted one is taken by PID 1.
            let _ = child.wait();
        }
    }
}

async fn adopt_or_start(config: &Config) -> Result<Process, Error> {
    if let Some(pid) = answering(&config.socket).await {
        return Process::watch(pid, None).map_err(Error::Start);
    }
    let mut child = start(config)?;
    let deadline = Instant::now() + START;
    loop {
        if let Some(pid) = answering(&config.socket).await {
            let child = (u32::try_from(pid) == Ok(child.id())).then_some(child);
            return Process::watch(pid, child).map_err(Error::Start);
        }
        if let Some(status) = child.try_wait().map_err(Error::Start)? {
            let (log, tail) = (config.log.clone(), tail(&config.log));
            return Err(Error::Ended { status: status.to_string(), log, tail });
        }
        if Instant::now() > deadline {
            // Else the next attempt would start a second one beside it.
            let _ = child.kill().and_then(|()| child.wait());
            let (socket, tail) = (config.socket.clone(), tail(&config.log));
            return Err(Error::Silent { socket, tail });
        }
        sleep(POLL).await;
    }
}

/// The pid of the process that listens on the socket. containerd listens once all of its plugins
/// are loaded.
async fn answering(socket: &Path) -> Option<i32> {
    UnixStream::connect(socket).await.ok()?.peer_cred().ok()?.pid()
}

/// Whether this machine can run containerd at all, for commands that want to say so at once.
///
/// # Errors
/// Names what is missing and how to install it.
pub fn preflight() -> Result<(), Error> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let missing = PROGRAMS.into_iter().find(|program| !is_on_path(program));
    missing.map_or(Ok(()), |program| Err(Error::Missing(program)))
}

fn start(config: &Config) -> Result<Child, Error> {
    preflight()?;
    let path = prepare(config)?;
    rotate(&config.log);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&config.log)
        .map_err(|error| Error::Write(config.log.clone(), error))?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&path).current_dir("/").stdin(Stdio::null());
    command.stdout(log.try_clone().map_err(Error::Start)?).stderr(log);
    sys::lead_session_in(&mut command, None);
    command.spawn().map_err(Error::Start)
}

/// Writes the configuration and makes the folders; where the configuration is.
fn prepare(config: &Config) -> Result<std::path::PathBuf, Error> {
    let version = Command::new("containerd").arg("--version").output();
    let version = version.map_err(|_| Error::Missing("containerd"))?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let host = Host {
        major: major_version(&String::from_utf8_lossy(&version.stdout)),
        restrict_oom_score: lacks_sys_resource(&status),
    };
    let parents = [&config.log, &config.socket].map(|file| file.parent().unwrap_or(Path::new("/")));
    let own = [&config.root, &config.state, &config.cni_bin_dir, &config.cni_conf_dir];
    for folder in parents.into_iter().chain(own.map(std::path::PathBuf::as_path)) {
        fs::create_dir_all(folder).map_err(|error| Error::Write(folder.to_owned(), error))?;
    }
    let path = config.root.with_extension("toml");
    crate::record::write_whole(&path, config.render(host).as_bytes())
        .map_err(|error| Error::Write(path.clone(), error))?;
    Ok(path)
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn rotate(log: &Path) {
    if fs::metadata(log).is_ok_and(|data| data.len() > LOG_BYTES) {
        // A log that can't be moved goes on growing; that is no reason not to start.
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}

fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(not readable: {error})"))
}
