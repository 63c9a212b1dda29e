//! What does not change while the kubelet runs: machine, kernel, operating system.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::context::Context;

/// The Kubernetes version whose behaviour this kubelet has.
const VERSION: &str = "v1.35.0";

/// Read once.
#[derive(Clone, Debug)]
pub struct Facts {
    pub info: NodeSystemInfo,
    pub architecture: String,
    pub capacity: BTreeMap<String, Quantity>,
    pub allocatable: BTreeMap<String, Quantity>,
}

impl Facts {
    pub fn read(ctx: &Context, container_runtime_version: String) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let os_release = text("/etc/os-release");
        let os_image = os_release
            .lines()
            .find_map(|l| l.strip_prefix("PRETTY_NAME="))
            .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
        let boot_id = text("/proc/sys/kernel/random/boot_id");
        let machine_id = Some(text("/etc/machine-id")).filter(|id| !id.is_empty());
        let machine_id = machine_id.unwrap_or_else(|| boot_id.replace('-', ""));
        let system_uuid = Some(text("/sys/class/dmi/id/product_uuid")).filter(|id| !id.is_empty());
        let info = NodeSystemInfo {
            architecture: architecture.to_owned(),
            boot_id,
            container_runtime_version,
            kernel_version: text("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: format!("{VERSION}+bowline"),
            system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
            machine_id,
            operating_system: "linux".to_owned(),
            os_image,
            swap: None,
        };
        let (machine, config) = (&ctx.machine, &ctx.config);
        let disk = nix::sys::statvfs::statvfs(&config.root_dir)
            .map(|s| s.blocks() * s.fragment_size())
            .unwrap_or(0);
        let amounts = |cpu_millis: u64, memory: u64, disk: u64| {
            BTreeMap::from([
                ("cpu".to_owned(), cpu(cpu_millis)),
                ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
                ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk / 1024))),
                ("pods".to_owned(), Quantity(config.max_pods.to_string())),
                ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
            ])
        };
        let millis = machine.cpus * 1000;
        let capacity = amounts(millis, machine.memory, disk);
        let allocatable = amounts(
            millis.saturating_sub(config.reserved_cpu_millis),
            machine.memory.saturating_sub(config.reserved_memory),
            disk,
        );
        Self { info, architecture: architecture.to_owned(), capacity, allocatable }
    }
}

fn cpu(millis: u64) -> Quantity {
    Quantity(if millis.is_multiple_of(1000) {
        (millis / 1000).to_string()
    } else {
        format!("{millis}m")
    })
}
