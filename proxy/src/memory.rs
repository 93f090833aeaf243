//! The allocator, and what it is told.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{mi_free, mi_malloc, mi_realloc, mi_zalloc};
use mimalloc::MiMalloc;

/// mimalloc, called by the short way where nothing needs more than the alignment of a word, which is nearly everywhere: the
/// entry for any alignment, which its crate takes always, costs more than the allocation itself.
pub struct Allocator;

/// What every block is aligned to.
const WORD: usize = align_of::<usize>();

// SAFETY: every block comes from mimalloc with at least the alignment that was asked for (any of its blocks is aligned to a
// word), and goes back to it, whichever entry made it.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= WORD {
            // SAFETY: any size may be asked for.
            unsafe { mi_malloc(layout.size()).cast() }
        } else {
            // SAFETY: the caller's promise.
            unsafe { MiMalloc.alloc(layout) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= WORD {
            // SAFETY: any size may be asked for.
            unsafe { mi_zalloc(layout.size()).cast() }
        } else {
            // SAFETY: the caller's promise.
            unsafe { MiMalloc.alloc_zeroed(layout) }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's promise: the block is one of ours.
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= WORD {
            // SAFETY: the caller's promise: the block is one of ours.
            unsafe { mi_realloc(block.cast(), size).cast() }
        } else {
            // SAFETY: the caller's promise.
            unsafe { MiMalloc.realloc(block, layout, size) }
        }
    }
}

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

/// Returns to the kernel what has been free for a second, and takes note of what other threads freed of this one's.
///
/// The allocator does so whenever it takes or drops a page of blocks, which a thread that serves from what it has may not do for
/// hours. It looks at each page of the calling thread that has room.
pub fn tidy() {
    // SAFETY: takes no pointers; may be called on any thread, with any allocator in use.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

/// Returns freed memory to the kernel now.
///
/// Reading a large configuration frees many times the memory that it leaves in use, and the allocator gives memory back
/// only while it is busy: a process that idles after its start would keep all of it.
pub fn give_back() {
    // SAFETY: takes no pointers; may be called on any thread, with any allocator in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
