//! The last word about memory. Whatever may be large asks for memory in a way that can fail, and says what it was for and what
//! takes less. What is small does not: where not even that is there, the program says so and ends with status 1, instead of
//! being aborted. Files are replaced whole, so none suffers.
#![allow(unsafe_code)] // the allocator of the system, with one look at what it returns

use std::alloc::{GlobalAlloc, Layout, System};

#[global_allocator]
static ALLOCATOR: Last = Last;

struct Last;

/// Requests of this size and more are refused, so that whoever asked can say what for.
const LARGE: usize = 64 << 10;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Last {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        given(unsafe { System.realloc(at, layout, size) }, size)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

fn given(at: *mut u8, size: usize) -> *mut u8 {
    if at.is_null() && size < LARGE {
        use std::io::Write;
        // Neither of these takes memory: standard error has no buffer, and the process ends without cleaning up.
        let _ = std::io::stderr().write_all(b"mynah: not enough memory; a smaller model or context takes less\n");
        end();
    }
    at
}

#[cfg(unix)]
fn end() -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(1) }
}

#[cfg(not(unix))]
fn end() -> ! {
    std::process::exit(1)
}
