//! LoRA (arXiv:2106.09685): `ΔW = s·B·A`, both factors trained. The strength multiplies `s`.
//!
//! With another start than the usual one, factors begin at the frozen rows and the change is the difference from there:
//! [`super::shifted`].
//! A profile ([`crate::adapter::profile`]) shares the ranks of all blocks out over the depth; `s` is alpha over the rank of
//! the block.

use super::shifted::{START, Shifted, USUAL};
use crate::adapter::file::Stored;
use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot};
use crate::adapter::profile::PROFILE;
use crate::adapter::settled;
use crate::adapter::spec::{UNSTABILISED, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::{Base, Group, Kind, Part, Shape, Size, Spec, Start};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::Setting;
use crate::rng::GENERATOR;
use crate::role::Role;
use std::prelude::v1::*;

/// Its settings.
static KNOBS: [Setting; 5] =
    [USUAL_RANK, USUAL_ALPHA, UNSTABILISED, Setting::word(&START, USUAL), Setting::word(&PROFILE, "uniform").later()];

fn usual(spec: &Spec) -> Result<bool> {
    Ok(spec.values()?.word(START.name) == USUAL)
}

/// Its row.
pub static KIND: Kind = Kind {
    name: "lora",
    about: "low-rank changes of linear layers; kilobytes to megabytes, learns fast",
    rate: 5e-4,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: |spec, base| if usual(spec)? { shape(spec, base) } else { settled::shape::<Shifted>(spec, base) },
    create: |spec, base| {
        if usual(spec)? { Ok(Box::new(Lora::create(spec, base)?)) } else { settled::create::<Shifted>(spec, base) }
    },
    // Files of the usual start do not name it.
    read: |stored| match stored.head.get(START.name) {
        None => Ok(Box::new(Lora::read(stored)?)),
        Some(_) => settled::read::<Shifted>(stored),
    },
    sections: &lowrank::SECTIONS,
    grown: &[],
    codec: None,
    size: Some(&crate::adapter::spec::RANK),
};

/// Parameters: A `[rank, in]`, Bᵀ `[rank, out]`, and with PEFT's `lora_bias` a bias `[out]` of each site.
pub type Lora = LowRank<Own>;

/// The factors are the parameters themselves. The seed of A, if it is known.
#[derive(Clone)]
pub struct Own(Option<u64>);

impl Lora {
    /// A new adapter: A uniform in ±1/√in from the seed, one stream a site; B zero.
    ///
    /// # Errors
    /// Those of [`Spec::layout`].
    pub fn create(spec: &Spec, base: &Base) -> Result<Lora> {
        let layout = spec.layout(base)?;
        let mut params = vec![0.0; layout.len()];
        for slot in layout.slots() {
            lowrank::start_of_a(spec.seed, slot.site, slot.shape[0], &mut params[slot.a()]);
        }
        Ok(LowRank::new(layout, params, Own(Some(spec.seed))))
    }

    /// From trained factors in the order of `layout`, with the seed that A was drawn from if it is known.
    ///
    /// # Panics
    /// If their number is not that of the layout.
    pub fn from_params(layout: Layout, params: Vec<f32>, seed: Option<u64>) -> Lora {
        LowRank::new(layout, params, Own(seed))
    }

    fn read(stored: Stored) -> Result<Lora> {
        let seed = stored.head.get("seed").map(|_| stored.head.integer("seed")).transpose()?;
        let layout = Layout::read(&stored)?;
        let of = Own(seed);
        let params = stored.params(&of.parts(&layout).0, |part, out| of.start(&layout, part, out))?;
        Ok(LowRank::new(layout, params, of))
    }

    /// The seed of A, if it is known.
    pub fn seed(&self) -> Option<u64> {
        self.of.0
    }
}

/// Parts of a site.
fn each(layout: &Layout) -> usize {
    2 + usize::from(layout.biased())
}

/// The description of a new adapter.
fn shape(spec: &Spec, base: &Base) -> Result<Shape> {
    let layout = spec.layout(base)?;
    Ok(lowrank::shape(&layout, &Own(None)))
}

impl Factors for Own {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let of = |s: &Slot| {
            let [cols_a, cols_b] = s.shape;
            let (main, fast) = (Group::Main, Group::Fast);
            let all = [
                Part { name: "a", range: s.a(), cols: cols_a, start: Start::Given, group: main },
                Part { name: "b", range: s.b(), cols: cols_b, start: Start::Zero, group: fast },
                Part { name: "bias", range: s.bias(), cols: cols_b, start: Start::Zero, group: main },
            ];
            all.into_iter().take(each(layout))
        };
        let parts = layout.slots().iter().flat_map(of).collect();
        (parts, Size { params: layout.len(), ..Size::default() })
    }

    fn own(&self, layout: &Layout, slot: usize) -> core::ops::Range<usize> {
        let n = each(layout);
        n * slot..n * slot + n
    }

    fn expand(&self, _cx: &Compute, _layout: &Layout, params: &[f32], factors: &mut [f32]) {
        factors.copy_from_slice(params);
    }

    fn project(&self, _cx: &Compute, _layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(acc);
    }

    /// The random start of A; zeros if the seed is not known.
    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        out.fill(0.0);
        let n = each(layout);
        if let (Some(seed), true) = (self.0, part.is_multiple_of(n)) {
            let slot = &layout.slots()[part / n];
            lowrank::start_of_a(seed, slot.site, slot.shape[0], out);
        }
    }

    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        layout.changes_something(params)
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        if let Some(seed) = self.0 {
            head.set("seed", seed).set("generator", GENERATOR);
        }
        layout.record(head)
    }
}
