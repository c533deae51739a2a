//! Optimisers over one flat slice of parameters. [`OPTIMIZERS`] lists them; a [`Spec`] names one with its settings.
//!
//! The slice consists of parts ([`Part`]): some optimisers keep sums of rows and columns, and LoRA+ (arXiv:2402.12354)
//! gives the B of a low-rank change a higher rate, with any optimiser. Weight decay is decoupled everywhere: `p ← p·(1
//! − lr·λ)` before the step.

mod adafactor;
mod adamw;
mod adamw8;
mod lion;
mod sgd;

pub use super::state::{State, StateMut};
pub use crate::adapter::Part;
use crate::adapter::{Group, Known, Origin};

use super::state;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::knob::{Domain, Knob, Setting, Value, Values, resolve};
use std::prelude::v1::*;

/// An optimiser: updates parameters with their gradients.
pub trait Optimizer: Send {
    /// One step. All slices have the length of the optimiser's parts.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32);

    /// Continues with parts that have grown. Each keeps its index, and the state of its old values, which are in the
    /// upper left corner; the state of new values is zero.
    fn grow(&mut self, parts: Vec<Part>);

    /// Continues with values of which each was what `origins` says. New ones begin with what is known of their gradients.
    fn exchange(&mut self, origins: &[Origin]);

    /// From now on values have ages of their own, by which moments are corrected. Called before the first step of what
    /// [exchanges](Optimizer::exchange) values. Optimisers that correct nothing need none.
    fn keep_ages(&mut self) {}

    /// Its state: after [`Optimizer::restore`], the next steps are the same in every bit.
    fn state(&self) -> Vec<(&'static str, State<'_>)>;

    /// The state to be written, the same pieces in the same order.
    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)>;

    /// Restores what [`Optimizer::state`] returned; nothing changes on an error.
    ///
    /// # Errors
    /// `Mismatch` if it is the state of another optimiser or of other parts.
    fn restore(&mut self, saved: &[(&str, State)]) -> Result<()> {
        state::restore(self.state_mut(), saved)
    }
}

/// Decay of the first moment.
pub static BETA1: Knob = Knob {
    name: "beta1",
    about: "Decay of the first moment; of sgd its momentum",
    metavar: "B",
    domain: Domain::Real { low: 0.0, high: 0.999_999_9 },
};

/// Decay of the second moment.
pub static BETA2: Knob = Knob {
    name: "beta2",
    about: "Decay of the second moment; of lion that of its momentum",
    metavar: "B",
    domain: Domain::Real { low: 0.0, high: 0.999_999_9 },
};

/// ε.
pub static EPS: Knob = Knob {
    name: "eps",
    about: "Term that prevents a division by 0",
    metavar: "E",
    domain: Domain::Real { low: 1e-37, high: 1.0 },
};

/// λ.
pub static DECAY: Knob = Knob {
    name: "weight decay",
    about: "Decoupled weight decay",
    metavar: "D",
    domain: Domain::Real { low: 0.0, high: 1e3 },
};

/// The rate of B over that of A.
pub static RATIO: Knob = Knob {
    name: "loraplus ratio",
    about: "LoRA+: the factor of the learning rate for the B of a low-rank change",
    metavar: "R",
    domain: Domain::Real { low: 1e-3, high: 1e3 },
};

/// Settings of every row.
static COMMON: [Setting; 2] = [DECAY_OFF, ALIKE];
const DECAY_OFF: Setting = Setting::real(&DECAY, 0.0);
const ALIKE: Setting = Setting::real(&RATIO, 1.0);

/// One row of [`OPTIMIZERS`].
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// A short description.
    pub about: &'static str,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// Creates one with all settings of the row, for parts without gaps.
    pub create: fn(&Values, Vec<Part>) -> Box<dyn Optimizer>,
    /// Bytes of its state for given parts.
    pub bytes: fn(&[Part]) -> usize,
}

/// Every optimiser.
pub static OPTIMIZERS: &[Kind] = &[
    Kind {
        name: "adamw",
        about: "Adam with decoupled weight decay",
        knobs: &[Setting::real(&BETA1, 0.9), Setting::real(&BETA2, 0.999), Setting::real(&EPS, 1e-8), DECAY_OFF, ALIKE],
        create: |values, parts| Box::new(adamw::AdamW::new(values, parts)),
        bytes: |parts| 8 * values(parts) + 8,
    },
    Kind {
        name: "adamw_8bit",
        about: "AdamW with 8-bit moments",
        knobs: &[Setting::real(&BETA1, 0.9), Setting::real(&BETA2, 0.999), Setting::real(&EPS, 1e-8), DECAY_OFF, ALIKE],
        create: |values, parts| Box::new(adamw8::AdamW8::new(values, parts)),
        bytes: |parts| 2 * values(parts) + 8 * adamw8::blocks(parts) + 8,
    },
    Kind {
        name: "lion",
        about: "the sign of a momentum; rates are 3 to 10 times smaller than AdamW's",
        knobs: &[Setting::real(&BETA1, 0.9), Setting::real(&BETA2, 0.99), DECAY_OFF, ALIKE],
        create: |values, parts| Box::new(lion::Lion::new(values, parts)),
        bytes: |parts| 4 * values(parts),
    },
    Kind {
        name: "sgd",
        about: "gradient descent with momentum, beta1",
        knobs: &[Setting::real(&BETA1, 0.9), DECAY_OFF, ALIKE],
        create: |values, parts| Box::new(sgd::Sgd::new(values, parts)),
        bytes: |parts| 4 * values(parts),
    },
    Kind {
        name: "adafactor",
        about: "second moments as sums of rows and columns, no first moment: the smallest state",
        knobs: &[Setting::real(&EPS, 1e-30), DECAY_OFF, ALIKE],
        create: |values, parts| Box::new(adafactor::Adafactor::new(values, parts)),
        bytes: |parts| 4 * parts.iter().map(adafactor::values).sum::<usize>() + 8,
    },
];

impl Kind {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Kind> {
        OPTIMIZERS.iter().find(|k| k.name == name).ok_or_else(|| Error::unsupported("optimizer", name))
    }
}

/// An optimiser with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// A name of [`OPTIMIZERS`].
    pub kind: String,
    /// Values that differ from the defaults of its row, [`Kind::knobs`].
    pub values: Values,
}

impl Default for Spec {
    fn default() -> Self {
        Spec::new("adamw")
    }
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

    /// All facts that determine what it computes, for checkpoints: the common settings, and those of the others that
    /// were given.
    pub fn facts(&self, facts: &mut Head) {
        facts.set("optimizer", self.kind.as_str());
        let common = COMMON.iter().map(|setting| (setting.knob.name, &setting.value));
        for (name, value) in common.chain(self.values.iter()) {
            let key = match name {
                "eps" => "epsilon",
                "loraplus ratio" => "ratio of rates",
                same => same,
            };
            let text = match value {
                // The shortest text that reads back as the same f32.
                Value::Real(v) => (*v as f32).to_string(),
                other => other.to_string(),
            };
            facts.set(key, text);
        }
    }

    /// The row, and the values of all its settings.
    ///
    /// # Errors
    /// `Unsupported` for an unknown name; `Invalid` for a setting that cannot be used or that this optimiser does not have.
    pub fn row(&self) -> Result<(&'static Kind, Values)> {
        let kind = Kind::by_name(&self.kind)?;
        Ok((kind, resolve(kind.name, kind.knobs, &self.values)?))
    }
}

/// The part that all optimisers share.
#[derive(Clone, Copy)]
struct Common {
    decay: f32,
    ratio: f32,
}

impl Common {
    fn of(values: &Values) -> Common {
        Common { decay: single(values, &DECAY), ratio: single(values, &RATIO) }
    }

    /// A part's learning rate, and the weight-decay factor of its parameters.
    fn rate(&self, lr: f32, part: &Part) -> (f32, f32) {
        let lr = if part.group == Group::Fast { lr * self.ratio } else { lr };
        (lr, 1.0 - lr * self.decay)
    }
}

/// A setting in single precision.
fn single(values: &Values, knob: &Knob) -> f32 {
    values.real(knob.name) as f32
}

/// Copies values to parts that have grown: the old ones to the upper left corner of each, zeros elsewhere.
fn grown(old: &[Part], new: &[Part], values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; self::values(new)];
    for (old, new) in old.iter().zip(new) {
        let rows = values[old.range.clone()].chunks_exact(old.cols.max(1));
        for (from, to) in rows.zip(out[new.range.clone()].chunks_exact_mut(new.cols.max(1))) {
            to[..from.len()].copy_from_slice(from);
        }
    }
    out
}

/// Values by their origins; `new` says what new ones are.
fn exchanged(origins: &[Origin], values: &[f32], new: impl Fn(&Known) -> f32) -> Vec<f32> {
    let of = |origin: &Origin| match origin {
        Origin::Kept(i) => values[*i],
        Origin::New(known) => new(known),
    };
    origins.iter().map(of).collect()
}

fn values(parts: &[Part]) -> usize {
    parts.iter().map(|p| p.range.len()).sum()
}

/// `√Σ g²`, summed in order in `f64`.
pub fn norm(grads: &[f32]) -> f64 {
    libm::sqrt(grads.iter().map(|g| *g as f64 * *g as f64).sum())
}

/// Scales gradients of norm `norm` by `min(1, max / (norm + 10⁻⁶))`, as PyTorch's `clip_grad_norm_` does.
pub fn clip(grads: &mut [f32], norm: f64, max: f32) {
    let factor = max as f64 / (norm + 1e-6);
    if factor < 1.0 {
        for g in grads {
            *g *= factor as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f32 = 0.02;

    fn part(range: core::ops::Range<usize>, cols: usize, group: Group) -> Part {
        Part { name: "w", range, cols, start: crate::adapter::Start::Zero, group }
    }

    /// A matrix of two rows, then a vector that is a B.
    fn parts() -> Vec<Part> {
        vec![part(0..6, 3, Group::Main), part(6..10, 4, Group::Fast)]
    }

    fn spec(kind: &str) -> Spec {
        Spec::new(kind).with("weight decay", 0.1).with("loraplus ratio", 3)
    }

    fn make(spec: &Spec, parts: Vec<Part>) -> Box<dyn Optimizer> {
        let (kind, values) = spec.row().unwrap();
        (kind.create)(&values, parts)
    }

    /// Gradients of step `t`, of several sizes, one of them 0 at first.
    fn grads(t: usize) -> Vec<f32> {
        let g = |i: usize| libm::sin((i * i + 3 * t + 1) as f64) * [1.0, 1e-3, 5.0][i % 3];
        (0..10).map(|i| if i == 4 && t < 2 { 0.0 } else { g(i) as f32 }).collect()
    }

    /// Seven steps in `f64`, straight from the papers.
    fn twin(kind: &str) -> Vec<f64> {
        let mut p: Vec<f64> = (0..10).map(|i| 0.5 - 0.1 * i as f64).collect();
        let (mut m, mut v) = (vec![0.0; 10], vec![0.0; 10]);
        let (mut rows, mut cols) = (vec![0.0; 2], vec![0.0; 3]);
        for t in 1..=7 {
            let g: Vec<f64> = grads(t - 1).iter().map(|g| *g as f64).collect();
            let n = t as f64;
            let mut u = [0.0; 10];
            match kind {
                "adamw" | "adamw_8bit" => {
                    for i in 0..10 {
                        m[i] = 0.9 * m[i] + 0.1 * g[i];
                        v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                        let (m, v) = (m[i] / (1.0 - 0.9f64.powf(n)), v[i] / (1.0 - 0.999f64.powf(n)));
                        u[i] = m / (v.sqrt() + 1e-8);
                    }
                }
                "lion" => {
                    for i in 0..10 {
                        let c = 0.9 * m[i] + 0.1 * g[i];
                        u[i] = if c > 0.0 {
                            1.0
                        } else if c < 0.0 {
                            -1.0
                        } else {
                            0.0
                        };
                        m[i] = 0.99 * m[i] + 0.01 * g[i];
                    }
                }
                "sgd" => {
                    for i in 0..10 {
                        m[i] = 0.9 * m[i] + g[i];
                        u[i] = m[i];
                    }
                }
                "adafactor" => {
                    let keep = 1.0 - n.powf(-0.8);
                    let q = |i: usize| g[i] * g[i] + 1e-30;
                    for r in 0..2 {
                        let mean = (0..3).map(|c| q(3 * r + c)).sum::<f64>() / 3.0;
                        rows[r] = keep * rows[r] + (1.0 - keep) * mean;
                    }
                    for c in 0..3 {
                        cols[c] = keep * cols[c] + (1.0 - keep) * (q(c) + q(3 + c)) / 2.0;
                    }
                    for i in 0..10 {
                        v[i] = keep * v[i] + (1.0 - keep) * q(i);
                        let mean = (rows[0] + rows[1]) / 2.0;
                        let square = if i < 6 { rows[i / 3] * cols[i % 3] / mean } else { v[i] };
                        u[i] = g[i] / square.sqrt();
                    }
                    for part in [0..6, 6..10] {
                        let rms = (u[part.clone()].iter().map(|u| u * u).sum::<f64>() / part.len() as f64).sqrt();
                        u[part].iter_mut().for_each(|u| *u /= rms.max(1.0));
                    }
                }
                other => panic!("no twin of {other}"),
            }
            for i in 0..10 {
                let lr = RATE as f64 * if i < 6 { 1.0 } else { 3.0 };
                p[i] = p[i] * (1.0 - lr * 0.1) - lr * u[i];
            }
        }
        p
    }

    #[test]
    fn every_row_does_what_its_paper_says() {
        for kind in OPTIMIZERS {
            let mut o = make(&spec(kind.name), parts());
            let mut p: Vec<f32> = (0..10).map(|i| 0.5 - 0.1 * i as f32).collect();
            for t in 0..7 {
                o.step(&mut p, &grads(t), RATE);
            }
            // 8-bit moments are off by up to a few hundredths, and so are steps.
            let (close, largest) = (if kind.name == "adamw_8bit" { 0.05 } else { 2e-6 }, 7.0 * 3.0 * RATE as f64);
            for (i, (got, want)) in p.iter().zip(twin(kind.name)).enumerate() {
                assert!((*got as f64 - want).abs() < close * largest, "{} value {i}: {got} for {want}", kind.name);
            }
        }
    }

    /// A valley a hundred times steeper in one direction than in the other.
    #[test]
    fn every_row_reduces_a_loss() {
        for kind in OPTIMIZERS {
            let mut o = make(&Spec::new(kind.name), parts());
            let steep = |i: usize| [10.0, 0.1][i % 2];
            let loss = |p: &[f32]| p.iter().enumerate().map(|(i, v)| 0.5 * steep(i) * v * v).sum::<f32>();
            let mut p = vec![1.0f32; 10];
            let before = loss(&p);
            for _ in 0..100 {
                let g: Vec<f32> = p.iter().enumerate().map(|(i, v)| steep(i) * v).collect();
                o.step(&mut p, &g, 0.02);
            }
            assert!(loss(&p) < 0.05 * before, "{}: {before} to {}", kind.name, loss(&p));
        }
    }

    #[test]
    fn restored_state_goes_on_in_every_bit_and_is_as_long_as_stated() {
        for kind in OPTIMIZERS {
            let spec = spec(kind.name);
            let (mut a, mut p) = (make(&spec, parts()), vec![0.3f32; 10]);
            (0..3).for_each(|t| a.step(&mut p, &grads(t), RATE));
            assert_eq!(
                a.state().iter().map(|(_, s)| s.bytes()).sum::<usize>(),
                (kind.bytes)(&parts()),
                "{}",
                kind.name
            );
            let (mut b, mut q) = (make(&spec, parts()), p.clone());
            b.restore(&a.state()).unwrap();
            (3..6).for_each(|t| a.step(&mut p, &grads(t), RATE));
            (3..6).for_each(|t| b.step(&mut q, &grads(t), RATE));
            assert_eq!(p, q, "{}", kind.name);
            assert_eq!(a.state(), b.state(), "{}", kind.name);

            let other = make(&spec, vec![part(0..11, 11, Group::Main)]);
            assert!(b.restore(&other.state()).is_err() && b.restore(&[]).is_err(), "{}", kind.name);
            assert_eq!(a.state(), b.state(), "{} changed on an error", kind.name);
        }
    }

    #[test]
    fn settings_that_an_optimiser_lacks_are_refused() {
        let why = |s: Spec| s.row().err().unwrap().to_string();
        assert!(why(Spec::new("sgd").with("beta2", 0.9)).contains("sgd has none"));
        assert!(why(Spec::new("lion").with("eps", 1e-8)).contains("lion has none"));
        assert!(why(Spec::new("adam")).contains("adam"));
        assert!(why(Spec::new("adamw").with("beta1", 1.0)).contains("beta1"));
        assert!(why(Spec::new("adamw").with("loraplus ratio", 0.0)).contains("ratio"));
    }

    /// As in the first version: old checkpoints can be resumed.
    #[test]
    fn facts_keep_their_names_and_texts() {
        let mut facts = Head::new();
        Spec::new("adamw").with("weight decay", 0.01f32).with("eps", 1e-8f32).facts(&mut facts);
        let all: Vec<(&str, String)> = facts.fields().map(|(key, field)| (key, field.to_string())).collect();
        let want =
            [("epsilon", "0.00000001"), ("optimizer", "adamw"), ("ratio of rates", "1"), ("weight decay", "0.01")];
        assert_eq!(all, want.map(|(key, text)| (key, text.to_string())));
    }

    /// Values that change their places continue as they would have, and new ones begin as if they had been there as long
    /// as what is known of them.
    #[test]
    fn exchanged_values_take_what_is_remembered_along() {
        for kind in OPTIMIZERS {
            let vector = || vec![part(0..6, 6, Group::Main)];
            let [mut a, mut b] = [0, 1].map(|_| make(&Spec::new(kind.name), vector()));
            a.keep_ages();
            let (mut p, mut q) = (vec![0.5f32; 6], vec![0.5f32; 6]);
            for t in 0..3 {
                a.step(&mut p, &grads(t)[..6], RATE);
                b.step(&mut q, &grads(t)[..6], RATE);
            }
            assert_eq!(p, q, "{}: ages alone change nothing", kind.name);
            // The last two go, one is new in the middle, and one at the end.
            let known = Known { mean: 0.25, square: 0.0625, samples: 2, corrected: true };
            let origins = [0, 1, 6, 2, 3, 6].map(|i| if i < 6 { Origin::Kept(i) } else { Origin::New(known) });
            a.exchange(&origins);
            let moved = |old: &[f32], new: f32| exchanged(&origins, old, |_| new);
            let mut now = moved(&p, 0.0);
            let mut state = make(&Spec::new(kind.name), vector());
            state.keep_ages();
            state.restore(&a.state()).unwrap();
            let g = grads(3);
            a.step(&mut now, &moved(&g[..6], 0.25), RATE);
            b.step(&mut q, &g[..6], RATE);
            let want = moved(&q, 0.0);
            // Values that share a scale or a bound with new ones are a little off.
            let bound = if ["adamw_8bit", "adafactor"].contains(&kind.name) { 0.7 * RATE } else { 0.0 };
            for i in [0, 1, 3, 4] {
                assert!((now[i] - want[i]).abs() <= bound, "{} {i}: {} {}", kind.name, now[i], want[i]);
            }
            // A gradient that was always the same is a step of the whole rate.
            if kind.name == "adamw" {
                assert!((now[2] + RATE).abs() < 1e-6 && now[2] == now[5], "{now:?}");
            }
        }
    }

    /// Old values continue as they would have, whatever new values are beside them.
    #[test]
    fn what_is_remembered_stays_with_its_values() {
        let wide = vec![part(0..12, 4, Group::Main), part(12..17, 5, Group::Fast)];
        // The index of each old value now.
        let places = [0, 1, 2, 4, 5, 6, 12, 13, 14, 15];
        for kind in OPTIMIZERS {
            let mut optimizer = make(&spec(kind.name), parts());
            let mut params = vec![0.5; 10];
            for t in 0..3 {
                optimizer.step(&mut params, &grads(t), RATE);
            }
            let bytes = |o: &dyn Optimizer| o.state().iter().map(|(_, s)| s.bytes()).sum::<usize>();
            optimizer.grow(wide.clone());
            assert_eq!(bytes(&*optimizer), (kind.bytes)(&wide), "{}", kind.name);
            let (mut now, mut g) = (vec![0.0; 17], vec![0.0; 17]);
            let old = grads(3);
            for (i, &place) in places.iter().enumerate() {
                (now[place], g[place]) = (params[i], old[i]);
            }
            let mut same = make(&spec(kind.name), parts());
            let mut before = vec![0.5; 10];
            for t in 0..4 {
                same.step(&mut before, &grads(t), RATE);
            }
            optimizer.step(&mut now, &g, RATE);
            // Values that share a scale or a mean with new ones are a little off.
            let bound = if ["adamw_8bit", "adafactor"].contains(&kind.name) { 0.7 * RATE } else { 0.0 };
            for (i, &place) in places.iter().enumerate() {
                assert!((now[place] - before[i]).abs() <= bound, "{} {i}: {} {}", kind.name, now[place], before[i]);
            }
        }
    }
}
