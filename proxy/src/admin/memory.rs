//! `/memory`: what the allocator and the system say (`envoy.admin.v3.Memory`).

use serde_json::{Value, json};

use super::json::print;
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// Bytes of memory, each by its role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use by the program.
    pub allocated: u64,
    /// Taken from the system for the heap.
    pub heap_size: u64,
    /// Given back to the system, address space kept.
    pub pageheap_unmapped: u64,
    /// Free pages of the heap.
    pub pageheap_free: u64,
    /// Free in caches of threads.
    pub total_thread_cache: u64,
    /// Resident.
    pub total_physical_bytes: u64,
}

impl MemoryUse {
    /// What the system says about this process: its resident bytes stand for all that only an allocator can tell.
    pub fn of_process() -> Self {
        let resident = resident_bytes().unwrap_or(0);
        Self { allocated: resident, heap_size: resident, total_physical_bytes: resident, ..Self::default() }
    }
}

/// `VmRSS` of this process; `None` where there is no procfs.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

pub(super) fn memory(state: &dyn AdminState, _request: &Request) -> Response {
    let MemoryUse {
        allocated,
        heap_size,
        pageheap_unmapped,
        pageheap_free,
        total_thread_cache,
        total_physical_bytes,
    } = state.memory();
    let text = |bytes: u64| Value::from(bytes.to_string());
    Response::json(print(&json!({
        "allocated": text(allocated),
        "heap_size": text(heap_size),
        "pageheap_unmapped": text(pageheap_unmapped),
        "pageheap_free": text(pageheap_free),
        "total_thread_cache": text(total_thread_cache),
        "total_physical_bytes": text(total_physical_bytes),
    })))
}
