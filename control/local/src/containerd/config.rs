//! containerd's configuration file, for version 2 (containerd 1.6 and 1.7) and 3 (2.x).

use std::path::PathBuf;

/// The capability without which no process's `oom_score_adj` can be lowered (capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

/// Snapshotters and services that nothing here uses, and which are slow or noisy to load where
/// their kernel side is missing.
const DISABLED: [&str; 6] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.opt",
];

/// Where containerd keeps what. [`Config::default`] has the paths of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Persistent data (images, snapshots).
    pub root: PathBuf,
    /// Data of running containers; must not survive a boot.
    pub state: PathBuf,
    /// Where CRI answers.
    pub socket: PathBuf,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// Where the CNI configuration appears.
    pub cni_conf_dir: PathBuf,
    /// Holds a pod's namespaces.
    pub pause_image: String,
    /// Where containerd's own output goes.
    pub log: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/bowline/agent/containerd".into(),
            state: "/run/bowline/containerd".into(),
            socket: "/run/bowline/containerd.sock".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            pause_image: concat!("bowline/pause:", env!("CARGO_PKG_VERSION")).into(),
            log: "/var/lib/bowline/agent/containerd.log".into(),
        }
    }
}

/// What the host's containerd and kernel make of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    /// containerd's major version.
    pub(crate) major: u32,
    /// Without CAP_SYS_RESOURCE a container that asks for a lower OOM score does not start.
    pub(crate) restrict_oom_score: bool,
}

impl Config {
    /// The file's text.
    pub(crate) fn render(&self, host: Host) -> String {
        let quoted = |path: &PathBuf| quote(&path.to_string_lossy());
        let disabled: Vec<_> = DISABLED.iter().map(|plugin| quote(plugin)).collect();
        let version = if host.major >= 2 { 3 } else { 2 };
        let common = format!(
            "# Written by bowline at every start of containerd.\n\
             version = {version}\n\
             root = {root}\n\
             state = {state}\n\
             oom_score = 0\n\
             disabled_plugins = [{disabled}]\n\n\
             [grpc]\n  address = {socket}\n\n\
             [ttrpc]\n  address = \"\"\n\n",
            root = quoted(&self.root),
            state = quoted(&self.state),
            disabled = disabled.join(", "),
            socket = quoted(&self.socket),
        );
        let plugins = if version == 3 { self.plugins_of_3(host) } else { self.plugins_of_2(host) };
        common + &plugins
    }

    fn plugins_of_2(&self, host: Host) -> String {
        const CRI: &str = "plugins.\"io.containerd.grpc.v1.cri\"";
        format!(
            "[{CRI}]\n\
             \x20 sandbox_image = {pause}\n{streams}{runtime}\n\
             [{CRI}.containerd]\n\
             \x20 snapshotter = \"overlayfs\"\n\
             \x20 default_runtime_name = \"runc\"\n\n\
             {runc}\n\
             [{CRI}.cni]\n{cni}\n\
             [{CRI}.registry]\n\
             \x20 config_path = \"/etc/containerd/certs.d\"\n",
            pause = quote(&self.pause_image),
            streams = STREAMS,
            runtime = runtime_options(host),
            runc = self.runc(CRI),
            cni = self.cni("bin_dir", false),
        )
    }

    fn plugins_of_3(&self, host: Host) -> String {
        const IMAGES: &str = "plugins.\"io.containerd.cri.v1.images\"";
        const RUNTIME: &str = "plugins.\"io.containerd.cri.v1.runtime\"";
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n{streams}\n\
             [{IMAGES}]\n\
             \x20 snapshotter = \"overlayfs\"\n\n\
             [{IMAGES}.pinned_images]\n\
             \x20 sandbox = {pause}\n\n\
             [{IMAGES}.registry]\n\
             \x20 config_path = \"/etc/containerd/certs.d\"\n\n\
             [{RUNTIME}]\n{runtime}\n\
             [{RUNTIME}.containerd]\n\
             \x20 default_runtime_name = \"runc\"\n\n\
             {runc}\n\
             [{RUNTIME}.cni]\n{cni}",
            streams = STREAMS,
            pause = quote(&self.pause_image),
            runtime = runtime_options(host),
            runc = self.runc(RUNTIME),
            cni = self.cni("bin_dirs", true),
        )
    }

    fn runc(&self, plugin: &str) -> String {
        let root = quote(&self.state.join("runc").to_string_lossy());
        format!(
            "[{plugin}.containerd.runtimes.runc]\n\
             \x20 runtime_type = \"io.containerd.runc.v2\"\n\n\
             [{plugin}.containerd.runtimes.runc.options]\n\
             \x20 SystemdCgroup = false\n\
             \x20 Root = {root}\n"
        )
    }

    fn cni(&self, key: &str, list: bool) -> String {
        let bin = quote(&self.cni_bin_dir.to_string_lossy());
        let bin = if list { format!("[{bin}]") } else { bin };
        let conf = quote(&self.cni_conf_dir.to_string_lossy());
        format!("\x20 {key} = {bin}\n  conf_dir = {conf}\n  max_conf_num = 1\n")
    }
}

/// Exec, attach and port-forward are served on the loopback, where the kubelet fetches them.
const STREAMS: &str = "  disable_tcp_service = true\n  stream_server_address = \"127.0.0.1\"\n  \
                       stream_server_port = \"0\"\n";

fn runtime_options(host: Host) -> String {
    format!(
        "\x20 restrict_oom_score_adj = {}\n\
         \x20 tolerate_missing_hugetlb_controller = true\n\
         \x20 disable_hugetlb_controller = true\n\
         \x20 netns_mounts_under_state_dir = true\n",
        host.restrict_oom_score
    )
}

/// A TOML string.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The major version in `containerd --version` (`containerd github.com/… 1.6.20~ds1 …`); 1 where
/// it is not understood, as every 1.x and 2.x reads a configuration of version 2.
pub(crate) fn major_version(output: &str) -> u32 {
    let version = output.split_whitespace().nth(2).unwrap_or_default();
    let digits = version.trim_start_matches('v').split('.').next().unwrap_or_default();
    digits.parse().unwrap_or(1)
}

/// Whether `/proc/self/status` lacks CAP_SYS_RESOURCE among the effective capabilities.
pub(crate) fn lacks_sys_resource(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX);
    set & (1 << CAP_SYS_RESOURCE) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_file_follows_containerds() {
        for (output, major) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", 1),
            ("containerd github.com/containerd/containerd/v2 v2.1.3 abc", 2),
            ("what", 1),
        ] {
            assert_eq!(major_version(output), major, "{output}");
        }
        let config = Config::default();
        let of = |major| config.render(Host { major, restrict_oom_score: true });
        assert!(of(1).contains("version = 2\n") && of(1).contains("sandbox_image = \"bowline/"));
        assert!(of(2).contains("version = 3\n") && of(2).contains("sandbox = \"bowline/pause"));
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        assert!(lacks_sys_resource("CapInh:\t0\nCapEff:\t000001fffeffffff\n"));
        assert!(!lacks_sys_resource("CapEff:\t000001ffffffffff\n"));
    }

    #[test]
    fn quotes_in_a_path_stay_in_the_path() {
        assert_eq!(quote("a\"b\\c"), r#""a\"b\\c""#);
    }
}
