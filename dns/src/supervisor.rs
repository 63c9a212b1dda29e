//! The first process of the container: owns the sockets, keeps a worker running, reaps children.
//!
//! It does nothing else, so it has no reason to fail. A worker gets the UDP socket as its stdin,
//! the TCP listener as its stdout, and the files of [`crate::journal`] and [`crate::snapshot`] by
//! path; while there is no worker, queries wait in the sockets.

use std::{
    ffi::OsString,
    fs::File,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask},
        socket::{setsockopt, sockopt},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, alarm},
};
use tracing::{error, info, warn};

use crate::config::{Config, without_ipv6};

/// Tells a worker where its journal is; its presence says that stdin and stdout are the sockets.
pub const JOURNAL_ENV: &str = "BOWLINE_DNS_JOURNAL";
/// Tells a worker where the snapshot is.
pub const SNAPSHOT_ENV: &str = "BOWLINE_DNS_SNAPSHOT";
/// A worker that ends with this status found its configuration wrong: another one would, too.
pub const EXIT_CONFIG: u8 = 78;

/// Asked for as the UDP socket's receive buffer, so that queries find room while no worker runs.
/// The kernel gives at most `net.core.rmem_max`, unless we may force it.
const RECEIVE_BUFFER: usize = 4 << 20;
/// A worker is replaced at once, unless the one before it had not lived this long, either: then
/// after a pause that doubles from the first of `PAUSES` to the second.
const LIVED: Duration = Duration::from_millis(500);
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Beyond the lame duck's time, a worker that was told to stop gets so many seconds more.
const STOP_GRACE: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("can't listen on {address}/{protocol}; is another DNS server running there?")]
    Listen { address: SocketAddr, protocol: &'static str, source: io::Error },
    #[error("can't make a file in memory for the {what}")]
    File { what: &'static str, source: nix::Error },
    #[error("can't take over signals")]
    Signals { source: nix::Error },
    #[error("can't start a worker")]
    Start { source: io::Error },
}

struct Supervisor {
    udp: UdpSocket,
    tcp: TcpListener,
    journal: OwnedFd,
    snapshot: OwnedFd,
    arguments: Vec<OsString>,
}

/// Runs workers with `arguments` until told to stop by SIGTERM or SIGINT.
pub fn run(config: &Config, arguments: Vec<OsString>) -> Result<ExitCode, SupervisorError> {
    let signals = take_over_signals()?;
    let (udp, tcp) = open(config.listen)?;
    let file = |name, what| {
        memfd_create(name, MFdFlags::empty())
            .map_err(|source| SupervisorError::File { what, source })
    };
    let journal = file(c"bowline-dns-journal", "journal")?;
    let snapshot = file(c"bowline-dns-snapshot", "snapshot")?;
    let supervisor = Supervisor { udp, tcp, journal, snapshot, arguments };
    info!(listen = %config.listen, "the sockets are open");
    supervisor.supervise(&signals, config)
}

fn take_over_signals() -> Result<SigSet, SupervisorError> {
    let mut signals = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGALRM, Signal::SIGHUP]
    {
        signals.add(signal);
    }
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
        .map_err(|source| SupervisorError::Signals { source })?;
    Ok(signals)
}

/// Opens both sockets on the same address; on `0.0.0.0` where the kernel has no IPv6.
pub fn open(address: SocketAddr) -> Result<(UdpSocket, TcpListener), SupervisorError> {
    let failed = |protocol| move |source| SupervisorError::Listen { address, protocol, source };
    let udp = match (UdpSocket::bind(address), without_ipv6(address)) {
        (Err(error), Some(v4)) if error.kind() != io::ErrorKind::AddrInUse => UdpSocket::bind(v4),
        (bound, _) => bound,
    }
    .map_err(failed("udp"))?;
    let bound = udp.local_addr().map_err(failed("udp"))?;
    let tcp = TcpListener::bind(bound).map_err(failed("tcp"))?;
    if setsockopt(&udp, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err()
        && let Err(errno) = setsockopt(&udp, sockopt::RcvBuf, &RECEIVE_BUFFER)
    {
        warn!(%errno, "can't enlarge the UDP socket's buffer");
    }
    Ok((udp, tcp))
}

impl Supervisor {
    fn supervise(&self, signals: &SigSet, config: &Config) -> Result<ExitCode, SupervisorError> {
        let mut pause = Duration::ZERO;
        let mut stopping = false;
        loop {
            let started = Instant::now();
            let worker = self.start()?;
            let status = loop {
                match signals.wait() {
                    Ok(Signal::SIGCHLD) => match reap(&worker) {
                        Some(status) => break status,
                        None => continue,
                    },
                    Ok(Signal::SIGALRM) => {
                        warn!("the worker does not stop; it is killed");
                        signal(&worker, Signal::SIGKILL);
                    }
                    Ok(Signal::SIGHUP) => {
                        info!("replacing the worker");
                        signal(&worker, Signal::SIGKILL);
                    }
                    Ok(_) => {
                        stopping = true;
                        signal(&worker, Signal::SIGTERM);
                        let lameduck = u32::try_from(config.lameduck.as_secs()).unwrap_or(0);
                        alarm::set(lameduck + STOP_GRACE);
                    }
                    Err(errno) => return Err(SupervisorError::Signals { source: errno }),
                }
            };
            if stopping {
                return Ok(ExitCode::SUCCESS);
            }
            if status == WaitStatus::Exited(pid(&worker), i32::from(EXIT_CONFIG)) {
                return Ok(ExitCode::from(EXIT_CONFIG));
            }
            error!(?status, "the worker ended; the next one is started");
            if started.elapsed() < LIVED {
                // Signals that come meanwhile wait for the next worker.
                std::thread::sleep(pause);
                pause = (pause * 2).clamp(PAUSES[0], PAUSES[1]);
            } else {
                pause = Duration::ZERO;
            }
        }
    }

    fn start(&self) -> Result<Child, SupervisorError> {
        let start = || {
            Command::new("/proc/self/exe")
                .arg("worker")
                .args(&self.arguments)
                .stdin(Stdio::from(OwnedFd::from(self.udp.try_clone()?)))
                .stdout(Stdio::from(OwnedFd::from(self.tcp.try_clone()?)))
                .env(JOURNAL_ENV, format!("/proc/self/fd/{}", self.journal.as_raw_fd()))
                .env(SNAPSHOT_ENV, format!("/proc/self/fd/{}", self.snapshot.as_raw_fd()))
                .spawn()
        };
        start().map_err(|source| SupervisorError::Start { source })
    }
}

fn pid(worker: &Child) -> Pid {
    Pid::from_raw(i32::try_from(worker.id()).unwrap_or(i32::MAX))
}

fn signal(worker: &Child, signal: Signal) {
    // The worker is not reaped yet, so the id is still its own.
    if let Err(errno) = kill(pid(worker), signal) {
        warn!(%errno, %signal, "can't signal the worker");
    }
}

/// Reaps every child that has ended (as PID 1, orphans as well); the status is the worker's.
fn reap(worker: &Child) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
        match status.pid() {
            None => break,
            Some(child) if child == pid(worker) => ended = Some(status),
            Some(_) => {}
        }
    }
    ended
}

/// A file of the supervisor's as a worker finds it by one of the variables above.
pub fn file_of(variable: &str) -> Option<io::Result<File>> {
    let path = std::env::var_os(variable)?;
    Some(File::options().read(true).write(true).open(path))
}
