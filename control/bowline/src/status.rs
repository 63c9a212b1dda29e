//! `bowline local status` as a table.

use std::fmt::Write;

use bowline_local::{NodeState, Status};

/// The cluster as text for people; `-o json` has all of it.
pub fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(format!(
        "cluster {}   network {}   host {}   disk {}",
        status.name,
        status.subnet,
        status.gateway,
        bytes(status.disk_bytes)
    ));
    line(format!(
        "{:<6} {:<15} {:<8} {:>8} {:>6} {:>10} {:>10}  UNITS",
        "NODE", "ADDRESS", "STATE", "PID", "PROCS", "MEMORY", "DISK"
    ));
    for node in &status.nodes {
        let state = match node.state {
            NodeState::Running => "Running",
            NodeState::Down => "Down",
        };
        let pid = |pid: Option<i32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
        let mut units = String::new();
        for unit in &node.units {
            // Writing to a String can't fail.
            let _infallible = write!(units, "{}({}) ", unit.name, pid(unit.pid));
        }
        line(format!(
            "{:<6} {:<15} {:<8} {:>8} {:>6} {:>10} {:>10}  {units}",
            node.name,
            node.address,
            state,
            pid(node.init_pid),
            node.processes,
            bytes(node.resident_bytes),
            bytes(node.disk_bytes)
        ));
    }
    text
}

fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    for (unit, size) in UNITS {
        if count >= size {
            return format!("{}.{}{unit}", count / size, count % size * 10 / size);
        }
    }
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        assert_eq!(bytes(512), "512");
        assert_eq!(bytes(1536), "1.5Ki");
        assert_eq!(bytes(3 << 30), "3.0Gi");
    }
}
