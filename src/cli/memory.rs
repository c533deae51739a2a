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

/// Where address space is bounded, all threads share one arena of the C library: an arena of a thread's own takes 64 MiB of
/// addresses at its first request, which no plan could count.
pub fn share_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `bound` is a whole value of its type, and no other thread runs yet.
        unsafe {
            let mut bound = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            if libc::getrlimit(libc::RLIMIT_AS, &mut bound) == 0 && bound.rlim_cur != libc::RLIM_INFINITY {
                libc::mallopt(libc::M_ARENA_MAX, 1);
            }
        }
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
