//! What the allocator is told.
#![allow(unsafe_code)]

/// Returns freed memory to the kernel now.
///
/// Reading a large configuration frees many times the memory that it leaves in use, and the allocator gives memory back
/// only while it is busy: a process that idles after its start would keep all of it.
pub fn give_back() {
    // SAFETY: takes no pointers; may be called on any thread, with any allocator in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
