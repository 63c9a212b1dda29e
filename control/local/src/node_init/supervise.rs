//! Keeps a node's units running, reaps orphans, stops in order.
//!
//! ```text
//!          start                 exit
//! waiting ───────▶ running ───────────▶ waiting (100 ms, doubled up to 1 s;
//!    ▲                 │                         from the start again after 10 s of running)
//!    └─────────────────┘
//! SIGTERM: units in reverse order: SIGTERM, then SIGKILL after the unit's time, then PID 1 leaves
//! and the kernel ends whatever is left in the node.
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::mounts::NODE_IN_NODE;
use super::spec::Spec;
use crate::cgroup;
use crate::plan::{BIN_IN_NODE, Unit};
use crate::sys;

/// Pause before the first start after an exit; doubled with each quick exit.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A unit that ran this long starts over with [`FIRST_PAUSE`].
const SETTLED: Duration = Duration::from_secs(10);

/// How often the logs' sizes are looked at.
const LOG_CHECK: Duration = Duration::from_secs(10);

/// A log that has grown over this moves to `NAME.log.1`; so a unit has at most about twice this.
const LOG_BYTES: u64 = 64 << 20;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the init writes about a unit into `units.json` in the node's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnitRecord {
    pub(crate) name: String,
    /// As the node numbers it.
    pub(crate) pid: Option<i32>,
    pub(crate) restarts: u64,
}

/// A unit and its present process.
#[derive(Debug)]
struct Running {
    unit: Unit,
    process: Option<(Pid, Instant)>,
    starts: u64,
    restart: Restart,
}

/// When a unit may start: pure, so that it can be tested without processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Restart {
    due: Instant,
    pause: Duration,
}

impl Restart {
    fn at_once(now: Instant) -> Self {
        Self { due: now, pause: FIRST_PAUSE }
    }

    fn exited(&mut self, started: Instant, now: Instant) {
        if now.duration_since(started) >= SETTLED {
            self.pause = FIRST_PAUSE;
        }
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }
}

/// PID 1's work.
#[derive(Debug)]
pub(crate) struct Supervisor {
    units: Vec<Running>,
    signals: SignalFd,
    v2: PathBuf,
    next_log_check: Instant,
}

impl Supervisor {
    pub(crate) fn new(spec: &Spec, v2: &Path) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let now = Instant::now();
        let units = spec.units.iter().map(|unit| Running {
            unit: unit.clone(),
            process: None,
            starts: 0,
            restart: Restart::at_once(now),
        });
        Ok(Self { units: units.collect(), signals, v2: v2.to_owned(), next_log_check: now })
    }

    /// Until SIGTERM.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            self.start_due();
            self.bound_logs();
            self.wait(self.pause())?;
            while let Some(signal) = self.signals.read_signal()? {
                if signal.ssi_signo != Signal::SIGCHLD as u32 {
                    self.stop_all();
                    return Ok(());
                }
            }
            self.reap();
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let mut changed = false;
        for running in &mut self.units {
            if running.process.is_some() || running.restart.due > now {
                continue;
            }
            match start(&running.unit, &self.v2) {
                Ok(pid) => {
                    running.process = Some((pid, now));
                    running.starts += 1;
                    changed = true;
                }
                Err(error) => {
                    eprintln!("unit {} does not start: {error}", running.unit.name);
                    running.restart.exited(now, now);
                }
            }
        }
        if changed {
            self.record();
        }
    }

    /// Until the next start that is due, at most until the next look at the logs.
    fn pause(&self) -> Duration {
        let idle = self.units.iter().filter(|running| running.process.is_none());
        let due = idle.map(|running| running.restart.due).min();
        let until = due.map_or(self.next_log_check, |due| due.min(self.next_log_check));
        until.saturating_duration_since(Instant::now())
    }

    fn wait(&self, pause: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // Rounded up: a pause of half a millisecond must not become a busy loop.
        let millis = u16::try_from(pause.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes every process that has ended: units and the orphans of containers alike.
    fn reap(&mut self) {
        let mut changed = false;
        while let Some((pid, how)) = reap_one() {
            let now = Instant::now();
            for running in &mut self.units {
                let Some((own, started)) = running.process else { continue };
                if own == pid {
                    eprintln!("unit {} ended: {how}", running.unit.name);
                    running.process = None;
                    running.restart.exited(started, now);
                    changed = true;
                }
            }
        }
        if changed {
            self.record();
        }
    }

    fn stop_all(&mut self) {
        for index in (0..self.units.len()).rev() {
            let timeout = Duration::from_millis(self.units[index].unit.stop_timeout_ms);
            let deadline = Instant::now() + timeout;
            let mut signal = Signal::SIGTERM;
            while let Some((pid, _)) = self.units[index].process {
                // Ended meanwhile: the reaping below finds it.
                let _ = kill(pid, signal);
                while self.units[index].process.is_some() && Instant::now() < deadline {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if self.wait(left).is_err() {
                        break;
                    }
                    while let Ok(Some(_)) = self.signals.read_signal() {}
                    self.reap();
                }
                if signal == Signal::SIGKILL {
                    break;
                }
                signal = Signal::SIGKILL;
            }
        }
    }

    /// For `status`: replaced at once, never half-written.
    fn record(&self) {
        let record = |running: &Running| UnitRecord {
            name: running.unit.name.clone(),
            pid: running.process.map(|(pid, _)| pid.as_raw()),
            restarts: running.starts.saturating_sub(1),
        };
        let units: Vec<_> = self.units.iter().map(record).collect();
        let path = Path::new(NODE_IN_NODE).join("units.json");
        let written = serde_json::to_vec(&units)
            .map_err(io::Error::from)
            .and_then(|bytes| fs::write(path.with_extension("new"), bytes))
            .and_then(|()| fs::rename(path.with_extension("new"), &path));
        if let Err(error) = written {
            eprintln!("the state of the units is not recorded: {error}");
        }
    }

    fn bound_logs(&mut self) {
        let now = Instant::now();
        if now < self.next_log_check {
            return;
        }
        self.next_log_check = now + LOG_CHECK;
        for running in &self.units {
            let log = log_path(&running.unit.name);
            if fs::metadata(&log).is_ok_and(|log| log.len() > LOG_BYTES) {
                // The unit goes on appending to the same file: copied away, then emptied.
                let moved = fs::copy(&log, log.with_extension("log.1"))
                    .and_then(|_| File::options().write(true).open(&log)?.set_len(0));
                if let Err(error) = moved {
                    eprintln!("the log of {} can't be rotated: {error}", running.unit.name);
                }
            }
        }
    }
}

fn log_path(unit: &str) -> PathBuf {
    Path::new(NODE_IN_NODE).join("logs").join(format!("{unit}.log"))
}

fn start(unit: &Unit, v2: &Path) -> io::Result<Pid> {
    let (program, arguments) =
        unit.command.split_first().ok_or_else(|| io::Error::other("its command is empty"))?;
    let own = Path::new(BIN_IN_NODE).join(program);
    let program = if !program.contains('/') && own.exists() { own } else { program.into() };
    let log = OpenOptions::new().create(true).append(true).open(log_path(&unit.name))?;
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), format!("{BIN_IN_NODE}:{PATH}")),
        ("HOME".to_owned(), "/root".to_owned()),
    ]);
    environment.extend(unit.env.clone());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    sys::lead_session_in(&mut command, Some(unit_cgroup(v2, &unit.name)?));
    let child = command.spawn()?;
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

/// The unit's leaf in the v2 tree. Every unit has one: a group whose children have controllers may
/// hold no process.
fn unit_cgroup(v2: &Path, name: &str) -> io::Result<OwnedFd> {
    let leaf = v2.join("system").join(name);
    fs::create_dir_all(&leaf)?;
    cgroup::open_procs(&leaf)
}

fn reap_one() -> Option<(Pid, String)> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some((pid, format!("exit code {code}"))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, format!("killed by {signal}"))),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_exits_pause_longer_up_to_a_second_and_a_long_run_forgives() {
        let start = Instant::now();
        let mut restart = Restart::at_once(start);
        assert_eq!(restart.due, start, "the first start waits for nothing");
        let mut pauses = Vec::new();
        for _ in 0..6 {
            restart.exited(start, start);
            pauses.push((restart.due - start).as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        let later = start + SETTLED;
        restart.exited(start, later);
        assert_eq!(restart.due - later, FIRST_PAUSE);
    }
}
