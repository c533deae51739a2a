//! `mynah bench`: how fast a model runs, or every kernel, beside what the machine can do.

mod adapters;
mod compare;
mod kernels;
pub mod machine;
mod models;
mod report;

use crate::args::{Bench, Usage};
use crate::{Outcome, load, meter};
use mynah::kernel::{self, Kernels};

pub fn bench(args: &Bench, json: bool) -> anyhow::Result<Outcome> {
    meter::catch_interrupt("stopping after this test")?;
    match &args.model {
        Some(path) if args.report => report::report(args, path),
        Some(path) => models::bench(args, path, json),
        None => kernels::bench(args, json),
    }
}

/// The backends that are asked for, or those that `default` gives.
fn backends(
    args: &Bench,
    default: impl FnOnce() -> mynah::Result<Vec<&'static Kernels>>,
) -> anyhow::Result<Vec<&'static Kernels>> {
    let named = args.backend.iter().map(|name| kernel::by_name(name));
    let all = if args.backend.is_empty() { default() } else { named.collect() };
    crate::args::setting(all)
}

/// The numbers of threads that are asked for, or one and all cores.
fn threads(args: &Bench) -> anyhow::Result<Vec<usize>> {
    let most = if args.cpus.is_empty() { load::cores() } else { args.cpus.len() };
    let mut threads = if args.threads.is_empty() { vec![1, most] } else { args.threads.clone() };
    if args.threads.is_empty() {
        threads.dedup();
    }
    if (1..threads.len()).any(|i| threads[..i].contains(&threads[i])) {
        return Err(Usage::error("--threads: the same number twice"));
    }
    if let Some(t) = threads.iter().find(|t| !args.cpus.is_empty() && **t > most) {
        return Err(Usage::error(format!("--threads {t}: --cpus names {most}")));
    }
    Ok(threads)
}

/// A middle value, the smallest and the largest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(samples: &[f64]) -> Spread {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        Spread { median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0, min: sorted[0], max: sorted[n - 1] }
    }
}

/// Three significant digits, as people read them.
fn digits(x: f64) -> String {
    let places = match x.abs() {
        x if !x.is_finite() => return "-".into(),
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 1.0 => 2,
        _ => 3,
    };
    format!("{x:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_samples() {
        let of = |samples: &[f64]| {
            let s = Spread::of(samples);
            [s.median, s.min, s.max]
        };
        assert_eq!(of(&[3.0]), [3.0; 3]);
        assert_eq!(of(&[3.0, 1.0]), [2.0, 1.0, 3.0]);
        assert_eq!(of(&[9.0, 1.0, 4.0]), [4.0, 1.0, 9.0]);
        assert_eq!(of(&[9.0, 1.0, 4.0, 6.0]), [5.0, 1.0, 9.0]);
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.12345, 1.2345, 12.345, 123.45, 1234.5].map(digits), ["0.123", "1.23", "12.3", "123", "1234"]);
    }
}
