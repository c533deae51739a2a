//! Compressors: the nearest values that a codec of few bits can hold. [`COMPRESSORS`] has one for each codec; a [`Spec`]
//! names one with its settings.
//!
//! A compressor loses something and a codec nothing. So what a file will hold is known before it is written, and training
//! can go on through it: the trainer keeps the unrounded values, uses the rounded ones in every pass, and gives the
//! gradients of these to those (the straight-through estimator).
//!
//! ```text
//! levels            v = (n + ½)·Δ, n clamped to b bits; Δ = c_b · rms of all values of parts with one name, where c_b is
//!                   the step of the best uniform quantiser of a normal distribution (Max 1960)
//! ternary, masks    τ = v − start; the fraction `density` of largest |τ| becomes ±s, the rest 0; s is the mean |τ| of
//!                   what is kept, or `scale` standard deviations of all τ (ComPEFT, arXiv:2311.13171)
//! sparse, sparse-q8 the values of largest |τ| stay, the others become their start
//! ```

use crate::container::codec::{Codec, Params};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::knob::{Domain, Knob, Setting, Value, Values, resolve};
use half::bf16;
use std::prelude::v1::*;

/// Bits of a value.
pub static BITS: Knob =
    Knob { name: "bits", about: "Bits of a value", metavar: "B", domain: Domain::Whole { low: 1, high: 8 } };

/// The fraction of values that are changed.
pub static DENSITY: Knob = Knob {
    name: "density",
    about: "Fraction of the values that differ from their start, those that training moved most",
    metavar: "D",
    domain: Domain::Real { low: 1e-6, high: 1.0 },
};

/// The size of a change, in standard deviations.
pub static SCALE: Knob = Knob {
    name: "scale",
    about: "Size of a change in standard deviations of all changes; 0: the mean size of those that are kept",
    metavar: "S",
    domain: Domain::Real { low: 0.0, high: 1e3 },
};

/// One row of [`COMPRESSORS`].
pub struct Kind {
    /// Its name, that of the codec that holds its results.
    pub name: &'static str,
    /// A short description.
    pub about: &'static str,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// The fraction of the steps of a training after which passes go through it.
    pub from: f32,
    /// Bytes of the values in the codec's spelling, at most, whatever they are.
    pub most: fn(&Params, &Values) -> usize,
    /// Rounds the values.
    round: fn(&mut [f32], &Params, &Values) -> Result<()>,
}

const FIFTH: Setting = Setting::real(&DENSITY, 0.2);

/// Every compressor.
pub static COMPRESSORS: &[Kind] = &[
    Kind {
        name: "f32",
        about: "no rounding",
        knobs: &[],
        from: 1.0,
        most: |p, _| plain("f32", p),
        round: |_, _, _| Ok(()),
    },
    Kind {
        name: "f16",
        about: "16 bits a value",
        knobs: &[],
        from: 0.5,
        most: |p, _| plain("f16", p),
        round: |v, p, _| held("f16", v, p),
    },
    Kind {
        name: "bf16",
        about: "16 bits a value, 8 of them for the size",
        knobs: &[],
        from: 0.5,
        most: |p, _| plain("bf16", p),
        round: |v, p, _| held("bf16", v, p),
    },
    Kind {
        name: "q8",
        about: "8 bits a value, in blocks of 32 with a scale",
        knobs: &[],
        from: 0.5,
        most: |p, _| plain("q8", p),
        round: |v, p, _| held("q8", v, p),
    },
    Kind {
        name: "q4",
        about: "4 bits a value, in blocks of 32 with a scale",
        knobs: &[],
        from: 0.5,
        most: |p, _| plain("q4", p),
        round: |v, p, _| held("q4", v, p),
    },
    Kind {
        name: "levels",
        about: "1 to 8 bits a value, evenly spaced around zero; for values that start at zero",
        knobs: &[Setting::whole(&BITS, 2)],
        from: 0.0,
        most: most_levels,
        round: levels,
    },
    Kind {
        name: "ternary",
        about: "few changes of one size: 0.9 bits a value at a fifth (ComPEFT)",
        knobs: &[FIFTH, Setting::real(&SCALE, 0.0)],
        from: 0.5,
        most: |p, v| most_gaps(p, v, 1, |_| 0),
        round: ternary,
    },
    Kind {
        name: "masks",
        about: "the same in 2 bits a value, for use without unpacking",
        knobs: &[FIFTH, Setting::real(&SCALE, 0.0)],
        from: 0.5,
        most: |p, _| plain("masks", p),
        round: ternary,
    },
    Kind {
        name: "sparse",
        about: "few changes, 16 bits each",
        knobs: &[FIFTH],
        from: 0.5,
        most: |p, v| most_gaps(p, v, 0, |n| 2 * n),
        round: |v, p, values| sparse("sparse", v, p, values),
    },
    Kind {
        name: "sparse-q8",
        about: "few changes, 8 bits each",
        knobs: &[FIFTH],
        from: 0.5,
        most: |p, v| most_gaps(p, v, 0, |n| n + 2 * n.div_ceil(32)),
        round: |v, p, values| sparse("sparse-q8", v, p, values),
    },
];

/// A compressor with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// A name of [`COMPRESSORS`].
    pub kind: String,
    /// Values that differ from the defaults of its row, [`Kind::knobs`].
    pub values: Values,
}

impl Spec {
    /// The row with its default settings.
    pub fn new(kind: &str) -> Spec {
        Spec { kind: kind.into(), values: Values::new() }
    }

    /// This specification with a setting changed.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Spec {
        self.values.set(name, value);
        self
    }

    /// The row, and the values of all its settings.
    ///
    /// # Errors
    /// `Unsupported` for an unknown name; `Invalid` for a setting that cannot be used or that it does not have.
    pub fn row(&self) -> Result<(&'static Kind, Values)> {
        let kind = COMPRESSORS.iter().find(|k| k.name == self.kind);
        let kind = kind.ok_or_else(|| Error::unsupported("codec", &*self.kind))?;
        Ok((kind, resolve(kind.name, kind.knobs, &self.values)?))
    }

    /// What it is, for people: `levels, bits 2`.
    ///
    /// # Errors
    /// Those of [`Spec::row`].
    pub fn words(&self) -> Result<String> {
        let (kind, values) = self.row()?;
        // The scale that follows from the values is no setting.
        let said = values.iter().filter(|(name, v)| *name != SCALE.name || **v != Value::Real(0.0));
        Ok(said.fold(kind.name.into(), |text, (name, value)| format!("{text}, {name} {value}")))
    }

    /// All facts that determine what it computes, for checkpoints.
    ///
    /// # Errors
    /// Those of [`Spec::row`].
    pub(crate) fn facts(&self, facts: &mut Head) -> Result<()> {
        let (kind, values) = self.row()?;
        facts.set("codec of training", kind.name);
        values.facts("codec ", facts);
        Ok(())
    }

    /// Rounds the values of these parameters to what the codec of the same name can hold.
    ///
    /// # Errors
    /// Those of [`Spec::row`]; `Invalid` if a value is not finite or too large; `Memory` if there is not enough.
    pub(crate) fn round(&self, values: &mut [f32], params: &Params) -> Result<()> {
        let (kind, settings) = self.row()?;
        (kind.round)(values, params, &settings)
    }
}

/// The values that the codec reads after it wrote these.
fn held(codec: &str, values: &mut [f32], params: &Params) -> Result<()> {
    let codec = Codec::by_name(codec)?;
    values.copy_from_slice(&codec.decode(&codec.encode(values, params)?, params)?);
    Ok(())
}

/// Bytes of a codec whose size follows from the number of values.
fn plain(codec: &str, params: &Params) -> usize {
    Codec::by_name(codec).map_or(usize::MAX, |codec| (codec.least)(params))
}

/// The head of each group, its bits, what the counts cost while they learn, and the end.
fn most_levels(params: &Params, settings: &Values) -> usize {
    let mut names: Vec<&str> = params.parts.iter().map(|part| part.name).collect();
    names.sort_unstable();
    names.dedup();
    let bits = settings.whole(BITS.name) as usize;
    params.len() * bits / 8 + names.len() * (3 + (1 << bits)) + 8
}

/// Gaps, which add up to less than the number of values, with `signs` bits for each change, and the bytes of the changes.
fn most_gaps(params: &Params, settings: &Values, signs: usize, bytes: fn(usize) -> usize) -> usize {
    let n = params.len();
    let changes = libm::ceil(settings.real(DENSITY.name) * n as f64) as usize;
    let bits = (0..30).map(|b| (n >> b) + changes * (b + 1 + signs)).min().unwrap_or(0);
    bits.div_ceil(8) + bytes(changes) + 16
}

/// Steps of the best uniform quantiser of a normal distribution with 2^b levels, over its deviation.
const STEPS: [f64; 8] = [1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308];

fn levels(values: &mut [f32], params: &Params, settings: &Values) -> Result<()> {
    let bits = settings.whole(BITS.name) as u32;
    let top = (1u32 << (bits - 1)) as f32;
    let mut done: Vec<&str> = Vec::new();
    for part in params.parts {
        if done.contains(&part.name) {
            continue;
        }
        done.push(part.name);
        let (mut n, mut squares) = (0usize, 0f64);
        own(values, params, part.name, |v| {
            n += 1;
            squares += f64::from(*v) * f64::from(*v);
        });
        let rms = libm::sqrt(squares / n.max(1) as f64);
        let step = bf16::from_f64(STEPS[bits as usize - 1] * rms).to_f32();
        own(values, params, part.name, |v| {
            // A step that has too few bits of its own is none.
            *v = match step.is_normal() && step > 1e-30 {
                true => (libm::floorf(*v / step).clamp(-top, top - 1.0) + 0.5) * step,
                false => 0.0,
            }
        });
    }
    Ok(())
}

/// Calls `f` for all values of parts of that name.
fn own(values: &mut [f32], params: &Params, name: &str, mut f: impl FnMut(&mut f32)) {
    let mut rest = values;
    for part in params.parts {
        let (own, more) = rest.split_at_mut(part.len);
        if part.name == name {
            own.iter_mut().for_each(&mut f);
        }
        rest = more;
    }
}

/// The starts, and which values moved furthest from them: the fraction `density`, the first of equal ones.
fn furthest(values: &[f32], params: &Params, settings: &Values) -> Result<(Vec<f32>, Vec<bool>)> {
    let starts = params.starts()?;
    let count = libm::ceil(settings.real(DENSITY.name) * values.len() as f64) as usize;
    let mut sizes: Vec<f32> = values.iter().zip(&starts).map(|(v, s)| (v - s).abs()).collect();
    let mut keep = vec![false; values.len()];
    if count == 0 {
        return Ok((starts, keep));
    }
    let place = count.min(sizes.len()) - 1;
    let (_, least, _) = sizes.select_nth_unstable_by(place, |a, b| b.total_cmp(a));
    let least = *least;
    let size = |i: usize| (values[i] - starts[i]).abs();
    let mut left = count;
    for equal in [false, true] {
        for i in 0..values.len() {
            let taken = size(i) > 0.0 && if equal { size(i) == least } else { size(i) > least };
            if taken && left > 0 {
                keep[i] = true;
                left -= 1;
            }
        }
    }
    Ok((starts, keep))
}

fn ternary(values: &mut [f32], params: &Params, settings: &Values) -> Result<()> {
    let (starts, keep) = furthest(values, params, settings)?;
    let scale = settings.real(SCALE.name);
    let (mut sum, mut n) = ([0f64; 2], 0usize);
    for ((v, s), keep) in values.iter().zip(&starts).zip(&keep) {
        let change = f64::from(v - s);
        match scale > 0.0 {
            true => (sum, n) = ([sum[0] + change, sum[1] + change * change], n + 1),
            false if *keep => (sum[0], n) = (sum[0] + change.abs(), n + 1),
            false => {}
        }
    }
    let mean = sum[0] / n.max(1) as f64;
    let size = if scale > 0.0 { scale * libm::sqrt((sum[1] / n.max(1) as f64 - mean * mean).max(0.0)) } else { mean };
    let size = bf16::from_f64(size).to_f32();
    for ((v, s), keep) in values.iter_mut().zip(&starts).zip(&keep) {
        *v = match keep {
            true if *v > *s => s + size,
            true => s - size,
            false => *s,
        };
    }
    Ok(())
}

fn sparse(codec: &str, values: &mut [f32], params: &Params, settings: &Values) -> Result<()> {
    let (starts, keep) = furthest(values, params, settings)?;
    for ((v, s), keep) in values.iter_mut().zip(&starts).zip(&keep) {
        *v = if *keep { *v } else { *s };
    }
    held(codec, values, params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::codec::Whole;
    use crate::rng::Stream;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Stream::new(seed, "values", "test").fill_uniform(0, &mut out);
        out
    }

    /// Parts `a` and `b`, twice.
    fn with<T>(zero: bool, f: impl FnOnce(&Params) -> T) -> T {
        let parts = [("a", 300), ("b", 200), ("a", 300), ("b", 200)];
        let parts = parts.map(|(name, len)| Whole { name, cols: 10, len });
        let start = |part: usize, out: &mut [f32]| match zero {
            true => out.fill(0.0),
            false => out.copy_from_slice(&noise(out.len(), 10 + part as u64)),
        };
        f(&Params { parts: &parts, start: &start })
    }

    #[test]
    fn codecs_hold_what_compressors_make() {
        for kind in COMPRESSORS {
            let codec = Codec::by_name(kind.name).unwrap();
            for zero in [true, false] {
                with(zero, |p| {
                    let starts = p.starts().unwrap();
                    let mut values: Vec<f32> = starts.iter().zip(noise(1000, 1)).map(|(s, x)| s + 0.05 * x).collect();
                    let before = values.clone();
                    let spec = Spec::new(kind.name);
                    spec.round(&mut values, p).unwrap();
                    let bytes = codec.encode(&values, p).unwrap();
                    assert_eq!(codec.decode(&bytes, p).unwrap(), values, "{}", kind.name);
                    let err: f32 = values.iter().zip(&before).map(|(a, b)| (a - b) * (a - b)).sum();
                    let all: f32 = before.iter().zip(&starts).map(|(a, b)| (a - b) * (a - b)).sum();
                    // These round values, whatever they started from.
                    let coarse = ["levels", "q4"].contains(&kind.name) && !zero;
                    assert!(err < 0.6 * all || coarse, "{}: {err} of {all}", kind.name);
                });
            }
        }
        let e = Spec::new("zip").row().err().unwrap();
        assert!(matches!(e, Error::Unsupported { .. }));
        assert_eq!(Spec::new("levels").with("bits", 3).words().unwrap(), "levels, bits 3");
        assert_eq!(Spec::new("ternary").words().unwrap(), "ternary, density 0.2");
    }

    #[test]
    fn more_bits_and_denser_changes_err_less() {
        with(true, |p| {
            let before: Vec<f32> = (0..12u64)
                .map(|i| noise(1000, 20 + i))
                .fold(vec![0.0; 1000], |a, b| a.iter().zip(b).map(|(a, b)| a + b).collect());
            let error = |spec: Spec| {
                let mut values = before.clone();
                spec.round(&mut values, p).unwrap();
                let err = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
                let (err, all): (f64, f64) =
                    (values.iter().zip(&before).map(err).sum(), before.iter().map(|v| f64::from(*v).powi(2)).sum());
                err / all
            };
            // Distortion of the best uniform quantisers of a normal distribution (Max 1960, table II).
            for (bits, wanted) in [(1, 0.3634), (2, 0.1188), (3, 0.0374), (4, 0.0115)] {
                let found = error(Spec::new("levels").with("bits", bits));
                assert!((found / wanted - 1.0).abs() < 0.15, "{bits} bits: {found}, {wanted}");
            }
            let at = |density: f64| error(Spec::new("ternary").with("density", density));
            assert!(at(0.5) < at(0.2) && at(0.2) < at(0.05));
            let scaled = |scale: f64| error(Spec::new("ternary").with("scale", scale));
            assert!(at(0.2) < scaled(1.0) && at(0.2) < scaled(3.0), "the mean is the best size");
        });
    }

    #[test]
    fn equal_changes_are_kept_from_the_first_on() {
        with(true, |p| {
            let mut values = vec![0.5; 1000];
            Spec::new("ternary").with("density", 0.01).round(&mut values, p).unwrap();
            assert!(values.iter().enumerate().all(|(i, v)| *v == if i < 10 { 0.5 } else { 0.0 }));
        });
    }
}
