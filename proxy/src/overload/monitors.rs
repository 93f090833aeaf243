//! What is looked at: each monitor says how much of its resource is used, as a share of what there is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use prost_types::Any;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::runtime::Runtime;
use proxy_engine::listener::accept::GlobalConnections;
use xds_api::envoy::extensions::resource_monitors::cgroup_memory::v3::CgroupMemoryConfig;
use xds_api::envoy::extensions::resource_monitors::cpu_utilization::v3::CpuUtilizationConfig;
use xds_api::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use xds_api::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use xds_api::envoy::extensions::resource_monitors::injected_resource::v3::InjectedResourceConfig;

use super::cpu::Cpu;
use crate::admin::MemoryUse;

/// Envoy finds this monitor by its name.
const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";

/// The messages of monitors.
const TYPES: [&str; 5] = [
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
    "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig",
    "envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig",
    "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
];

/// Files of cgroups, version 2 and then version 1: what is used, and what may be.
const CGROUPS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"),
    ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
];

/// A resource.
#[derive(Debug)]
pub(crate) enum Monitor {
    /// The downstream connections of the process.
    Connections {
        /// How many there may be.
        most: usize,
    },
    /// The memory of this process, of so many bytes, or as many as a key of the runtime says.
    FixedHeap {
        /// Bytes.
        most: u64,
        /// The key, if there is one.
        key: Option<(String, Arc<Runtime>)>,
    },
    /// The memory of the container, of so many bytes if that is less than it may have.
    CgroupMemory {
        /// Bytes; 0 for what the container may have.
        most: u64,
    },
    /// The processors of the machine or of the container.
    Cpu(Cpu),
    /// A number in a file, for tests.
    Injected(PathBuf),
}

impl Monitor {
    pub(super) fn build(name: &str, any: &Any, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let (kind, payload) = cx.at("typed_config", |cx| cx.unpack(any))?;
        let [connections, fixed_heap, cgroup_memory, cpu, injected] = TYPES;
        if (kind == connections) != (name == CONNECTIONS) {
            let reason =
                format!("the monitor of downstream connections, and no other, is named '{CONNECTIONS}'");
            return Err(cx.at("name", |cx| cx.reject(reason)));
        }
        cx.at("typed_config", |cx| {
            if kind == connections {
                let DownstreamConnectionsConfig { max_active_downstream_connections } = decode(&payload, cx)?;
                let most = usize::try_from(max_active_downstream_connections).unwrap_or(0);
                return Ok(Self::Connections { most });
            }
            if kind == fixed_heap {
                return Self::fixed_heap(&decode(&payload, cx)?, cx);
            }
            if kind == cgroup_memory {
                let CgroupMemoryConfig { max_memory_bytes: most } = decode(&payload, cx)?;
                return Ok(Self::CgroupMemory { most });
            }
            if kind == cpu {
                let proto: CpuUtilizationConfig = decode(&payload, cx)?;
                return Ok(Self::Cpu(Cpu::new(proto.mode(), Instant::now())));
            }
            if kind == injected {
                let InjectedResourceConfig { filename } = decode(&payload, cx)?;
                return Ok(Self::Injected(filename.into()));
            }
            let known = TYPES.join(", ");
            Err(cx.reject(format!("extension type '{kind}' is not available here; what is: {known}")))
        })
    }

    fn fixed_heap(proto: &FixedHeapConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let FixedHeapConfig { max_heap_size_bytes: most, max_heap_size_bytes_runtime: said } = proto;
        let most = said.as_ref().map(|said| said.default_value).filter(|most| *most > 0).unwrap_or(*most);
        if most == 0 {
            let reason = "max heap size must be greater than 0";
            return Err(cx.at("max_heap_size_bytes", |cx| cx.reject(reason)));
        }
        let key = said.as_ref().map(|said| said.runtime_key.clone()).filter(|key| !key.is_empty());
        Ok(Self::FixedHeap { most, key: key.map(|key| (key, cx.env.runtime.clone())) })
    }

    /// Whether it is looked at, rather than counted as it is taken.
    pub(super) fn is_measured(&self) -> bool {
        !matches!(self, Self::Connections { .. })
    }

    /// The share that is used at `now`; more than 1 is more than there is.
    pub(super) fn pressure(&mut self, connections: &GlobalConnections, now: Instant) -> Result<f64, String> {
        match self {
            Self::Connections { most } => Ok(share(connections.count() as u64, *most as u64)),
            Self::FixedHeap { most, key } => {
                let said = key.as_ref().and_then(|(key, runtime)| runtime.number(key));
                let most = said.filter(|most| *most > 0).unwrap_or(*most);
                Ok(share(MemoryUse::of_process().total_physical_bytes, most))
            }
            Self::CgroupMemory { most } => {
                let (used, limit) = cgroup_memory(&CGROUPS)?;
                let most = if *most == 0 { limit } else { limit.min(*most) };
                // (Without any limit nothing is short.)
                Ok(if most == u64::MAX { 0.0 } else { share(used, most) })
            }
            Self::Cpu(cpu) => cpu.pressure(now),
            Self::Injected(path) => {
                let text = read(path)?;
                let pressure = text.trim().parse::<f64>().ok();
                let pressure = pressure.filter(|pressure| (0.0..=1.0).contains(pressure));
                pressure.ok_or_else(|| format!("'{}' holds no number from 0 to 1", path.display()))
            }
        }
    }
}

/// What is used and what may be, by the first pair of files that is there.
fn cgroup_memory(files: &[(&str, &str)]) -> Result<(u64, u64), String> {
    let found = files.iter().find(|(used, _)| Path::new(used).exists());
    let (used, limit) = found.ok_or("there is no cgroup with memory")?;
    let number = |path: &str| {
        let text = read(Path::new(path))?;
        match text.trim() {
            "max" => Ok(u64::MAX),
            number => number.parse().map_err(|_| format!("'{path}' holds no number")),
        }
    };
    Ok((number(used)?, number(limit)?))
}

pub(super) fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("'{}': {error}", path.display()))
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn share(used: u64, most: u64) -> f64 {
    used as f64 / most.max(1) as f64
}

#[cfg(test)]
mod tests {
    use proxy_engine::listener::accept::ConnectionLimit;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    fn pressure(mut monitor: Monitor) -> Result<f64, String> {
        let connections = GlobalConnections::new(ConnectionLimit::OverloadManager(10));
        monitor.pressure(&connections, Instant::now())
    }

    #[test]
    fn a_number_is_injected_by_a_file() {
        for (text, expected) in [("0.5\n", Some(0.5)), ("1", Some(1.0)), ("1.1", None), ("half", None)] {
            let file = file(text);
            assert_eq!(pressure(Monitor::Injected(file.path().to_owned())).ok(), expected, "{text}");
        }
        assert!(pressure(Monitor::Injected("/no/such/file".into())).is_err());
    }

    #[test]
    fn the_heap_is_measured_against_its_limit() {
        let of = |most| pressure(Monitor::FixedHeap { most, key: None }).unwrap();
        assert!(of(1) > 1.0);
        let small = of(1 << 50);
        assert!(small > 0.0 && small < 0.001, "{small}");
    }

    #[test]
    fn memory_of_a_container_is_read_from_its_files() {
        let (used, limit, none) = (file("500\n"), file("1000\n"), file("max\n"));
        let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
        let (used, limit, none) = (path(&used), path(&limit), path(&none));
        assert_eq!(cgroup_memory(&[("/no/such/file", "/x"), (&used, &limit)]), Ok((500, 1000)));
        assert_eq!(cgroup_memory(&[(&used, &none)]), Ok((500, u64::MAX)));
        assert!(cgroup_memory(&[("/no/such/file", "/x")]).is_err());
    }
}
