//! Long runs: a progress line on a terminal, peak memory, Ctrl-C.

use crate::signals;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mynah::decode::Stop;
#[cfg(unix)]
use nix::sys::termios::{self, Termios};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shorter runs show no progress line.
const PATIENCE: Duration = Duration::from_secs(2);

/// A progress line on standard error, if that is a terminal.
pub struct Meter {
    bar: ProgressBar,
    start: Instant,
}

impl Meter {
    /// For `len` units of work.
    pub fn new(len: u64) -> Meter {
        let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len}  {msg}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Meter { bar, start: Instant::now() }
    }

    /// Updates the progress; `message` is only called if it is shown.
    pub fn show(&self, done: u64, message: impl FnOnce() -> String) {
        if self.bar.is_hidden() && self.start.elapsed() > PATIENCE {
            // Stays hidden if standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done);
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        }
    }

    /// Removes the line.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// Memory of this process, in bytes.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Peak, including mapped files.
    pub peak: u64,
    /// Present memory that does not belong to a file.
    pub anonymous: u64,
    /// The program and its libraries, all pages of them, whether present yet or not.
    pub program: u64,
}

/// Memory of this process, if the system provides it.
pub fn memory() -> Option<Memory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let program = std::env::current_exe().ok()?;
    let program = maps.lines().filter_map(|line| mapping(line, &program.to_string_lossy())).sum();
    Some(Memory { peak: value("VmHWM:")?, anonymous: value("RssAnon:")?, program })
}

/// The bytes of a line of `maps`, if it is of the program or of a library.
fn mapping(line: &str, program: &str) -> Option<u64> {
    let path = line.splitn(6, ' ').nth(5)?.trim_start();
    let (low, high) = line.split(' ').next()?.split_once('-')?;
    let at = |text| u64::from_str_radix(text, 16).ok();
    (path == program || path.contains(".so")).then_some(at(high)?.checked_sub(at(low)?)?)
}

/// Peak memory of this process in bytes, if the system provides it.
pub fn peak_rss() -> Option<u64> {
    memory().map(|m| m.peak)
}

static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);
/// The last signal that asked to stop.
static SIGNAL: AtomicI32 = AtomicI32::new(signals::INTERRUPT);
/// Whether nothing is being done: a line is waited for.
static IDLE: AtomicBool = AtomicBool::new(false);
static STOP: LazyLock<Stop> = LazyLock::new(Stop::new);
static HINT: Mutex<Option<String>> = Mutex::new(None);

/// The message when a second Ctrl-C ends the process.
pub fn at_second_interrupt(hint: Option<String>) {
    *HINT.lock().unwrap_or_else(PoisonError::into_inner) = hint;
}

/// From now on the first Ctrl-C, or request to terminate, is recorded and prints `what`; the second one ends the process. A
/// request to terminate ends it at once while a line is waited for.
pub fn catch_interrupt(what: &'static str) -> anyhow::Result<()> {
    #[cfg(unix)]
    let terminal = Terminal::now();
    signals::watch(move |signal| {
        SIGNAL.store(signal, Ordering::SeqCst);
        let again = INTERRUPTS.fetch_add(1, Ordering::Relaxed) > 0;
        if again || IDLE.load(Ordering::SeqCst) && terminated() {
            if let Some(hint) = &*HINT.lock().unwrap_or_else(PoisonError::into_inner) {
                crate::out::say(hint);
            }
            #[cfg(unix)]
            terminal.restore();
            std::process::exit(status().into());
        }
        STOP.pull();
        crate::out::say(&format!("\n{what}; Ctrl-C again to end at once"));
    })
    .context("the thread that waits for Ctrl-C")?;
    Ok(())
}

/// How standard input was, if it is a terminal: whoever edits a line changes it for that long.
#[cfg(unix)]
struct Terminal(Option<Termios>);

#[cfg(unix)]
impl Terminal {
    fn now() -> Terminal {
        Terminal(termios::tcgetattr(std::io::stdin()).ok())
    }

    fn restore(&self) {
        // There is nothing to be done about a failure: the process ends.
        self.0.iter().for_each(|was| _ = termios::tcsetattr(std::io::stdin(), termios::SetArg::TCSANOW, was));
    }
}

/// The exit status of a process that was asked to stop: 128 and the number of the signal.
pub fn status() -> u8 {
    128 + SIGNAL.load(Ordering::SeqCst) as u8
}

/// Whether a request to terminate, rather than Ctrl-C, was the last.
fn terminated() -> bool {
    SIGNAL.load(Ordering::SeqCst) != signals::INTERRUPT
}

/// Waits for something from outside, such as a line. A request to terminate ends the process meanwhile.
pub fn idly<T>(wait: impl FnOnce() -> T) -> T {
    IDLE.store(true, Ordering::SeqCst);
    if terminated() {
        // It came while there was something to do, which has been stopped.
        std::process::exit(status().into());
    }
    let done = wait();
    IDLE.store(false, Ordering::SeqCst);
    done
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTS.load(Ordering::Relaxed) > 0
}

/// A handle that Ctrl-C triggers, for long operations.
pub fn stop() -> Stop {
    STOP.clone()
}

/// Clears a recorded Ctrl-C after the interrupted operation has stopped.
pub fn forget_interrupt() {
    INTERRUPTS.store(0, Ordering::Relaxed);
    STOP.reset();
}
