//! Requests to stop: Ctrl-C, and those of the system. One that is ignored when the program starts, as `nohup` ignores the
//! end of a terminal, stays ignored.
//!
//! And the system's word that a mapped file was cut, which is a signal too. Only a program may take that, never a library:
//! the message is written and the process ends inside the signal, with system calls alone, since whatever else the process
//! was doing may be half done. No file of ours suffers, since files are replaced whole.
#![allow(unsafe_code)] // the question whether a signal is ignored, and what a signal's handler may call

use std::io;

/// The number of the signal that Ctrl-C sends.
pub const INTERRUPT: i32 = 2;

/// Bytes of the stack of the thread that hears signals.
#[cfg(unix)]
const STACK: usize = 512 << 10;

/// Calls `on` with the number of each request from now on, on a thread of its own.
#[cfg(unix)]
pub fn watch(on: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let heard = [INTERRUPT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(|signal| !ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(heard)?;
    // The standard library panics in a new thread that finds no memory, so it is looked for here.
    mynah::bytes::room("a thread", 2 * STACK).map_err(|_| io::ErrorKind::OutOfMemory)?;
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(STACK)
        .spawn(move || signals.forever().for_each(on))?;
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

/// From now on a fault in a mapped file, which means that the file was cut, or its disk failed, ends the process with a
/// message that names the file and exit status 1. Faults elsewhere do what they did.
pub fn name_cut_files() {
    #[cfg(target_os = "linux")]
    fault::install();
}

#[cfg(target_os = "linux")]
mod fault {
    use mynah::error::is_unseen;
    use std::cell::UnsafeCell;
    use std::mem::{MaybeUninit, zeroed};
    use std::ptr;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SIGNALS: [i32; 2] = [libc::SIGBUS, libc::SIGSEGV];
    /// Bytes of a line of the system's list of mappings: addresses and the longest path.
    const LINE: usize = 4096 + 128;

    /// What the handler needs, in memory that is there before.
    struct Room {
        /// Whether a thread is in the handler.
        taken: AtomicBool,
        line: UnsafeCell<[u8; LINE]>,
        before: UnsafeCell<[MaybeUninit<libc::sigaction>; 2]>,
    }

    // SAFETY: `before` is written before the handlers are there, and read after; `line` belongs to the one thread that
    // took `taken`.
    unsafe impl Sync for Room {}

    static ROOM: Room = Room {
        taken: AtomicBool::new(false),
        line: UnsafeCell::new([0; LINE]),
        before: UnsafeCell::new([MaybeUninit::uninit(); 2]),
    };

    pub fn install() {
        // SAFETY: the actions are whole, the handler has the form that SA_SIGINFO says, and nothing else runs yet.
        unsafe {
            let mut now: libc::sigaction = zeroed();
            now.sa_sigaction = handle as *const () as usize;
            now.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for (signal, before) in SIGNALS.iter().zip(&mut *ROOM.before.get()) {
                libc::sigaction(*signal, &now, before.as_mut_ptr());
            }
        }
    }

    /// Calls nothing but the system.
    extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes what SA_SIGINFO promises.
        let address = unsafe { (*info).si_addr() } as usize;
        if ROOM.taken.swap(true, Ordering::Acquire) {
            loop {
                // SAFETY: another thread ends the process.
                unsafe { libc::pause() };
            }
        }
        // SAFETY: this thread has the room.
        let line = unsafe { &mut *ROOM.line.get() };
        if let Some(path) = shared_file_at(address, line) {
            say(&[b"mynah: ", path, b": the file was cut short, or cannot be read, while it was in use; "]);
            say(&[
                b"nothing more is made from it; put it back, leave it alone, and start again, from a checkpoint if ",
            ]);
            say(&[b"there is one; of a model, --io read takes a copy in memory\n"]);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(1) };
        }
        for (i, own) in SIGNALS.iter().enumerate() {
            if *own == signal {
                // SAFETY: `install` wrote it. The instruction at fault runs again, into the action before.
                unsafe { libc::sigaction(signal, (*ROOM.before.get())[i].as_ptr(), ptr::null_mut()) };
            }
        }
        ROOM.taken.store(false, Ordering::Release);
    }

    fn say(parts: &[&[u8]]) {
        for part in parts {
            // SAFETY: the bytes are there.
            unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
        }
    }

    /// The file that is mapped at an address, if one is and the mapping is a shared one, as ours are and those of programs
    /// and their libraries are not.
    fn shared_file_at(address: usize, line: &mut [u8; LINE]) -> Option<&[u8]> {
        // SAFETY: the path ends with 0.
        let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        let (mut len, mut at, mut end, mut block) = (0, 0, 0, [0u8; 512]);
        if file < 0 {
            return None;
        }
        loop {
            if at == end {
                // SAFETY: the block has that many bytes.
                let n = unsafe { libc::read(file, block.as_mut_ptr().cast(), block.len()) };
                (at, end) = (0, usize::try_from(n).ok().filter(|n| *n > 0)?);
            }
            let byte = block[at];
            at += 1;
            if byte != b'\n' {
                if len < line.len() {
                    line[len] = byte;
                    len += 1;
                }
                continue;
            }
            // `from-to perms offset device inode   path`, and a mapping without a file has no slash.
            let hex = |digits: &[u8]| {
                digits.iter().fold(0usize, |n, d| (n << 4) | (usize::from(d & 15) + 9 * usize::from(d >> 6)))
            };
            let dash = line[..len].iter().position(|b| *b == b'-')?;
            let space = line[..len].iter().position(|b| *b == b' ')?;
            let inside = (hex(&line[..dash])..hex(&line[dash + 1..space])).contains(&address);
            if inside {
                let slash = line[..len].iter().position(|b| *b == b'/')?;
                hide(&mut line[slash..len]);
                return (line[space + 4] == b's').then_some(&line[slash..len]);
            }
            len = 0;
        }
    }

    /// Keeps off the terminal what it would act on; nothing is reserved here, so it is not escaped.
    fn hide(name: &mut [u8]) {
        let mut at = 0;
        while let Some(chunk) = name[at..].utf8_chunks().next() {
            let (len, hidden) = match chunk.valid().chars().next() {
                Some(c) => (c.len_utf8(), is_unseen(c)),
                None => (chunk.invalid().len(), true),
            };
            if hidden {
                name[at..at + len].fill(b'?');
            }
            at += len;
        }
    }

    #[test]
    fn names_keep_what_can_be_seen() {
        let mut name = "/é\u{1b}[2J\u{202e}\u{9b}日".as_bytes().to_vec();
        name.push(0xff);
        hide(&mut name);
        assert_eq!(name, "/é?[2J?????日?".as_bytes());
    }
}
