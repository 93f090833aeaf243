//! What the allocator is told.
#![allow(unsafe_code)]

/// Has the process live in pages of 4 KiB.
///
/// The allocator's heaps are sparse by design: with huge pages each of them begins with 2 MiB, of which a proxy that has
/// little to do uses a tenth. The crate's `no_thp` keeps the allocator from asking for huge pages; this is for systems that
/// hand them out unasked (`transparent_hugepage=always`). What they save in address translation was measured to be below one
/// percent of a request.
pub fn use_small_pages() {
    // A kernel without the call, or a sandbox that forbids it: then memory is all it costs.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Returns freed memory to the kernel now.
///
/// Reading a large configuration frees many times the memory that it leaves in use, and the allocator gives memory back
/// only while it is busy: a process that idles after its start would keep all of it.
pub fn give_back() {
    // SAFETY: takes no pointers; may be called on any thread, with any allocator in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
