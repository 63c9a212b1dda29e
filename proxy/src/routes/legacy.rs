//! iptables-legacy's FORWARD chain, which nftables neither shows nor can change. Only a node that
//! has its filter table in the kernel is asked, with its own `iptables-legacy`, run in the host's
//! mount namespace (the agent's image holds no tools).

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Output};

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns, unshare};

/// Lists the tables that iptables-legacy has in the kernel.
const TABLES_V4: &str = "/proc/thread-self/net/ip_tables_names";
const TABLES_V6: &str = "/proc/thread-self/net/ip6_tables_names";
/// The host's mount namespace, as the agent shares its process ids.
const HOST_MOUNTS: &str = "/proc/1/ns/mnt";
/// Where hosts have it.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Seconds that iptables may wait for another one's lock.
const LOCK_SECONDS: &str = "5";
const COMMENT: &str = "bowline: pods";

#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    #[error("can't enter the host's mount namespace; the agent needs hostPID and privileges")]
    Enter { source: io::Error },
    #[error(
        "iptables-legacy drops what is forwarded and can't be changed: {tool} {args} says {says}"
    )]
    Tool { tool: &'static str, args: String, says: String },
}

/// Makes a FORWARD chain that drops accept these pods' packets. Says what it does.
pub(super) fn open_for(own: &[IpNetwork]) -> Result<(), LegacyError> {
    in_families(|tool, is_v4| {
        let policy = run(tool, &["-S", "FORWARD"])?;
        if !String::from_utf8_lossy(&policy.stdout).contains("-P FORWARD DROP") {
            return Ok(());
        }
        for rule in rules(own, is_v4) {
            if attempt(tool, &with("-C", &rule))?.status.success() {
                continue;
            }
            run(tool, &with("-I", &rule))?;
            tracing::warn!(tool, rule = rule.join(" "), "FORWARD drops; it now accepts pods");
        }
        Ok(())
    })
}

/// Takes our rules out of the FORWARD chains.
pub(super) fn close() -> Result<(), LegacyError> {
    in_families(|tool, _| {
        let listed = run(tool, &["-S", "FORWARD"])?;
        let text = String::from_utf8_lossy(&listed.stdout).replace('"', "");
        for rule in text.lines().filter(|line| line.contains(COMMENT)) {
            // The comment is the only argument with a space in it.
            let (before, after) = rule.split_once(COMMENT).unwrap_or((rule, ""));
            let words = |text: &str| -> Vec<String> {
                text.split_whitespace().map(str::to_owned).collect()
            };
            let mut args = words(&before.replacen("-A", "-D", 1));
            args.push(COMMENT.to_owned());
            args.extend(words(after));
            run(tool, &args.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

/// Acts for each family whose filter table is in the kernel, on a thread in the host's mount
/// namespace: a namespace can't be left again, so the thread ends with the act.
fn in_families(
    act: impl Fn(&'static str, bool) -> Result<(), LegacyError> + Sync,
) -> Result<(), LegacyError> {
    let in_use = |path: &str| {
        std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|n| n == "filter"))
    };
    let tools = [("iptables-legacy", true, TABLES_V4), ("ip6tables-legacy", false, TABLES_V6)];
    let used: Vec<_> = tools.into_iter().filter(|(_, _, path)| in_use(path)).collect();
    if used.is_empty() {
        return Ok(());
    }
    std::thread::scope(|scope| {
        let body = || {
            enter_host().map_err(|source| LegacyError::Enter { source })?;
            used.iter().try_for_each(|(tool, is_v4, _)| act(tool, *is_v4))
        };
        scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Nothing to do where the tools are at hand: this is no container, or one with tools. A thread may
/// change its mount namespace only once it shares its root and working directory with no other.
fn enter_host() -> io::Result<()> {
    let at_hand = |directory: &str| Path::new(directory).join("iptables-legacy").exists();
    if TOOL_PATH.split(':').any(at_hand) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_FS)?;
    setns(File::open(HOST_MOUNTS)?, CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

fn rules(own: &[IpNetwork], is_v4: bool) -> Vec<Vec<String>> {
    let ranges = own.iter().filter(|range| range.is_ipv4() == is_v4);
    let both = ranges.flat_map(|range| ["-s", "-d"].map(|side| (side, range.to_string())));
    both.map(|(side, range)| {
        let words = [side, &range, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"];
        words.map(str::to_owned).to_vec()
    })
    .collect()
}

fn with<'a>(act: &'a str, rule: &'a [String]) -> Vec<&'a str> {
    [act, "FORWARD"].into_iter().chain(rule.iter().map(String::as_str)).collect()
}

fn run(tool: &'static str, args: &[&str]) -> Result<Output, LegacyError> {
    let output = attempt(tool, args)?;
    if output.status.success() {
        return Ok(output);
    }
    let says = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LegacyError::Tool { tool, args: args.join(" "), says })
}

fn attempt(tool: &'static str, args: &[&str]) -> Result<Output, LegacyError> {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output =
        Command::new(tool).env("PATH", path).args(["-w", LOCK_SECONDS]).args(args).output();
    output.map_err(|error| LegacyError::Tool {
        tool,
        args: args.join(" "),
        says: error.to_string(),
    })
}
