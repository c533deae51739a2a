//! What this machine can do at most, measured.

use mynah::bytes::Bytes;
use mynah::kernel::Kernels;
use mynah::kernel::peak::{self, Unit};
use mynah::kernel::pool::bind;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Words that each thread reads, many times what caches hold together with those of the others.
const WORDS: usize = 1 << 24;
/// Each figure is the best of this number of runs: a limit is what is reached undisturbed.
const TRIES: usize = 5;
/// About how long one of them takes.
const TRY: Duration = Duration::from_millis(20);

/// Of that number of threads together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes a second from memory.
    pub bytes: f64,
    /// `f32` operations a second.
    pub float: Option<f64>,
    /// 8-bit integer operations a second.
    pub int8: Option<f64>,
    /// Operations a second on integers of 16 bits.
    pub int16: Option<f64>,
}

/// Amounts a second of `threads` that all do `work`, which says how much it did; each first makes itself ready.
fn together<T>(
    threads: usize,
    cpus: &[usize],
    ready: impl Fn() -> mynah::Result<T> + Sync,
    work: impl Fn(&T) -> u64 + Sync,
) -> mynah::Result<f64> {
    let start = Barrier::new(threads);
    let turns = |i: usize| {
        let bound = cpus.get(i).map_or(Ok(()), |core| bind(*core));
        let state = ready();
        let turns = std::array::from_fn(|_| {
            start.wait();
            let begin = Instant::now();
            let done = state.as_ref().map_or(0, &work);
            (begin, Instant::now(), done)
        });
        bound.and(state).map(|_| turns)
    };
    let all: mynah::Result<Vec<[(Instant, Instant, u64); TRIES]>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|i| {
                scope.spawn({
                    let turns = &turns;
                    move || turns(i)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a measuring thread")).collect()
    });
    let all = all?;
    let rate = |turn: usize| {
        let turns = all.iter().map(|turns| turns[turn]);
        let begin = turns.clone().map(|(begin, ..)| begin).min();
        let end = turns.clone().map(|(_, end, _)| end).max();
        let seconds = end.zip(begin).map_or(f64::INFINITY, |(end, begin)| (end - begin).as_secs_f64());
        turns.map(|(.., done)| done).sum::<u64>() as f64 / seconds
    };
    Ok((0..TRIES).map(rate).fold(0.0, f64::max))
}

/// Bytes a second that `threads` read from memory, in large pages where the system gives them; each reads `words` of 8 bytes.
pub fn bandwidth(threads: usize, cpus: &[usize], words: usize) -> mynah::Result<f64> {
    let read = |data: &Bytes| {
        black_box(peak::read(black_box(bytemuck::cast_slice(data))));
        data.len() as u64
    };
    together(threads, cpus, || Bytes::filled(8 * words, |data| data.fill(1)), read)
}

/// Operations a second of `threads` in a loop of this unit, if the backend has one.
fn operations(k: &Kernels, unit: Unit, threads: usize, cpus: &[usize]) -> mynah::Result<Option<f64>> {
    let Some(peak) = peak::peaks(k).into_iter().find(|p| p.unit == unit) else { return Ok(None) };
    // Long enough that starting the threads does not count.
    let mut rounds = 1000;
    loop {
        let begin = Instant::now();
        (peak.work)(rounds);
        if begin.elapsed() >= TRY / 2 {
            break;
        }
        rounds *= 2;
    }
    together(threads, cpus, || Ok(()), |()| (peak.work)(rounds)).map(Some)
}

/// The limits of a backend's instructions with `threads`, on the first of `cpus` if there are any.
pub fn arithmetic(k: &Kernels, threads: usize, cpus: &[usize], bytes: f64) -> mynah::Result<Limits> {
    let of = |unit| operations(k, unit, threads, cpus);
    Ok(Limits { bytes, float: of(Unit::Float)?, int8: of(Unit::Int8)?, int16: of(Unit::Int16)? })
}

/// All limits of a backend, likewise.
pub fn limits(k: &Kernels, threads: usize, cpus: &[usize]) -> mynah::Result<Limits> {
    arithmetic(k, threads, cpus, bandwidth(threads, cpus, WORDS)?)
}

/// What the system calls the CPU.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.split_once(':').map(|(_, v)| v.trim()));
    let name = of("model name").or_else(|| of("Model")).or_else(|| of("Hardware"));
    name.map_or_else(|| std::env::consts::ARCH.into(), String::from)
}
