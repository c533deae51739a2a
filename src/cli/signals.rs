//! Requests to stop: Ctrl-C, and those of the system. One that is ignored when the program starts, as `nohup` ignores the
//! end of a terminal, stays ignored.
#![allow(unsafe_code)] // the question whether a signal is ignored

use std::io;

/// The number of the signal that Ctrl-C sends.
pub const INTERRUPT: i32 = 2;

/// Calls `on` with the number of each request from now on, on a thread of its own.
#[cfg(unix)]
pub fn watch(on: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let heard = [INTERRUPT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(|signal| !ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(heard)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || signals.forever().for_each(on))?;
    Ok(())
}

#[cfg(unix)]
fn ignored(signal: i32) -> bool {
    // SAFETY: without a new action the call only fills `now`, for which all bits 0 are a value.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

/// Calls `on` at each Ctrl-C from now on, on a thread of its own.
#[cfg(not(unix))]
pub fn watch(on: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(move || on(INTERRUPT)).map_err(io::Error::other)
}
