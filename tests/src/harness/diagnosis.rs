//! What to print when a test has failed.

use bowline_local::Cluster;

use super::Kubectl;

/// Last lines shown of each log.
const LAST_LINES: usize = 60;

/// Prints the state of the cluster and the ends of its logs.
pub(super) fn print(cluster: &Cluster, kubectl: &Kubectl) {
    for arguments in [
        &["get", "nodes,pods,deployments,daemonsets,services,endpointslices", "-A", "-o", "wide"][..],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
    ] {
        let output = kubectl.output(arguments);
        eprintln!(
            "\n$ kubectl {}\n{}{}",
            arguments.join(" "),
            last_lines(&String::from_utf8_lossy(&output.stdout), 200),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for node in &cluster.plan().nodes {
        for unit in ["server", "agent"] {
            if let Ok(path) = cluster.log_file(&node.name, unit) {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                eprintln!("\n== {}\n{}", path.display(), last_lines(&text, LAST_LINES));
            }
        }
    }
    for name in ["bowline-proxy", "bowline-dns"] {
        let label = format!("app.kubernetes.io/name={name}");
        let logs =
            kubectl.output(&["logs", "-n", "kube-system", "-l", &label, "--tail=40", "--prefix"]);
        eprintln!("\n== {name}\n{}", String::from_utf8_lossy(&logs.stdout));
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
