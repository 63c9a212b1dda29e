//! Resident memory of each component, as the kernel counts it.

use std::collections::BTreeMap;

use super::cluster::BenchCluster;

const AGENT: &str = "bowline agent";

/// Prints each process of the node: its program and its command line, then its figures.
const READ: &str = "for d in /proc/[0-9]*; do \
    c=$(tr '\\0' ' ' <$d/cmdline 2>/dev/null); [ -n \"$c\" ] || continue; \
    echo \"= $(readlink $d/exe) $c\"; grep -E '^Rss(Anon|File):' $d/status 2>/dev/null; done; true";

/// Memory in KiB: `anon` is the processes' own; `file` are pages of their binary, which all that run it
/// share, so that they count once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    pub processes: u64,
    pub anon: u64,
    pub file: u64,
}

/// What the processes in the node have in memory now, by component.
pub fn read(cluster: &BenchCluster) -> anyhow::Result<BTreeMap<&'static str, Resident>> {
    Ok(parse(&cluster.in_node(&["sh", "-c", READ], "")?))
}

/// What a node has of Bowline beside the server: kubelet, proxy and DNS.
pub fn of_agent(components: &BTreeMap<&'static str, Resident>) -> Resident {
    let of_agent = |name: &str| name == AGENT || name.starts_with("bowline-");
    let mut sum = Resident::default();
    let mut files: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, part) in components.iter().filter(|(name, _)| of_agent(name)) {
        sum.processes += part.processes;
        sum.anon += part.anon;
        let binary = files.entry(name.split(' ').next().unwrap_or(name)).or_default();
        *binary = part.file.max(*binary);
    }
    Resident { file: files.values().sum(), ..sum }
}

fn parse(text: &str) -> BTreeMap<&'static str, Resident> {
    let mut found: BTreeMap<&'static str, Resident> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("= ") {
            current = component(command);
            if let Some(name) = current {
                found.entry(name).or_default().processes += 1;
            }
        } else if let Some(name) = current
            && let Some((field, figure)) = line.split_once(':')
        {
            let figure = figure.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            let resident = found.entry(name).or_default();
            match field {
                "RssAnon" => resident.anon += figure,
                "RssFile" => resident.file = figure.max(resident.file),
                _ => {}
            }
        }
    }
    found
}

/// The component that a program and its command line are of; `None` for the bench's own pods and for
/// pause containers.
fn component(command: &str) -> Option<&'static str> {
    let mut words = command.split_whitespace();
    let program = words.next()?.rsplit('/').next()?;
    let _its_own_name_for_itself = words.next();
    match (program, words.next().unwrap_or("")) {
        ("bowline", "server") => Some("bowline server"),
        ("bowline", "agent") => Some(AGENT),
        ("bowline-proxy", _) => Some("bowline-proxy"),
        ("bowline-dns", "worker") => Some("bowline-dns worker"),
        ("bowline-dns", _) => Some("bowline-dns (PID 1)"),
        ("containerd", _) => Some("containerd"),
        ("containerd-shim-runc-v2", _) => Some("containerd's shims"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_component_are_added_up() {
        let process = |command: &str, anon: u64, file: u64| {
            format!("= {command} \nRssAnon:\t  {anon} kB\nRssFile:\t {file} kB\n")
        };
        let text = process("/run/bowline/bin/bowline bowline server --x", 30, 10)
            + &process("/pause /pause", 99, 99)
            + &process("/bin/bowline-dns /proc/self/exe worker -x", 1, 2)
            + &process("/bin/bowline-dns /bowline-dns run", 3, 1)
            + &process("/bin/bowline-proxy /bowline-proxy run", 10, 20)
            + &process("/usr/bin/containerd-shim-runc-v2 shim -id a", 5, 6)
            + &process("/usr/bin/containerd-shim-runc-v2 shim -id b", 7, 8);
        let found = parse(&text);
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(found["bowline-dns worker"], Resident { processes: 1, anon: 1, file: 2 });
        let server = Resident { processes: 1, anon: 30, file: 10 };
        assert_eq!(found["bowline server"], server);
        let shims = Resident { processes: 2, anon: 12, file: 8 };
        assert_eq!(found["containerd's shims"], shims, "they share their binary's pages");
        let agent = Resident { processes: 3, anon: 14, file: 22 };
        assert_eq!(of_agent(&found), agent, "so do DNS's two");
    }
}
