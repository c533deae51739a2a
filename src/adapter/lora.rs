//! LoRA (arXiv:2106.09685): `ΔW = s·B·A`, both factors trained.

use super::file::Stored;
use super::lowrank::{Layout, Slot};
use super::{Adapter, Base, Part, Site, Size, Spec};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::rng::{GENERATOR, Stream};
use std::prelude::v1::*;

/// Parameters: A `[rank, in]` and Bᵀ `[rank, out]` of each site in turn.
#[derive(Clone)]
pub struct Lora {
    layout: Layout,
    params: Vec<f32>,
    seed: Option<u64>,
}

impl Lora {
    /// A fresh one: A uniform in ±1/√in from the seed, a stream a site; B zero.
    ///
    /// # Errors
    /// Those of [`Spec::layout`].
    pub fn create(spec: &Spec, base: &Base) -> Result<Lora> {
        let layout = spec.layout(base)?;
        let mut params = vec![0.0; layout.len()];
        for slot in layout.slots() {
            start(spec.seed, slot.site, slot.shape[0], &mut params[slot.a()]);
        }
        Ok(Lora { layout, params, seed: Some(spec.seed) })
    }

    /// From trained factors in the order of `layout`, with the seed that A was drawn from if it is known.
    ///
    /// # Panics
    /// If their number is not that of the layout.
    pub fn from_params(layout: Layout, params: Vec<f32>, seed: Option<u64>) -> Lora {
        assert_eq!(params.len(), layout.len(), "parameters of a LoRA");
        Lora { layout, params, seed }
    }

    /// From factors that `fill(slot, A, Bᵀ)` writes for each site: what readers of other formats end with.
    pub(super) fn assemble(
        slots: Vec<Slot>,
        stabilised: bool,
        mut fill: impl FnMut(&Slot, &mut [f32], &mut [f32]) -> Result<()>,
    ) -> Result<Lora> {
        if slots.is_empty() {
            return Err(Error::invalid("adapter", "it changes nothing: it has no tensors"));
        }
        let layout = Layout::new(slots, stabilised);
        let mut params = vec![0.0; layout.len()];
        for slot in layout.slots() {
            let (a, b) = params[slot.a().start..slot.b().end].split_at_mut(slot.a().len());
            fill(slot, a, b)?;
            if a.iter().chain(&*b).any(|v| !v.is_finite()) {
                return Err(Error::corrupt(format!("a value for {} is not finite", slot.site), 0));
            }
        }
        if !layout.changes_something(&params) {
            return Err(Error::invalid("adapter", "it changes nothing: every B is zero"));
        }
        Ok(Lora { layout, params, seed: None })
    }

    pub(super) fn read(stored: Stored) -> Result<Lora> {
        let seed = stored.head.get("seed").map(|_| stored.head.integer("seed")).transpose()?;
        let params = stored.params(stored.layout.len())?;
        Ok(Lora { layout: stored.layout, params, seed })
    }

    /// What A was drawn from, if it is known.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }
}

/// What one of that layout holds.
pub(super) fn size(layout: &Layout) -> Size {
    Size { params: layout.len(), derived: 0, gathered: 0, scratch: 0 }
}

/// Its parameters, site by site.
pub(super) fn parts(layout: &Layout) -> Vec<Part> {
    let of = |s: &Slot| {
        let [a, b] = s.shape;
        [Part { range: s.a(), cols: a, of_b: false }, Part { range: s.b(), cols: b, of_b: true }]
    };
    layout.slots().iter().flat_map(of).collect()
}

/// Kaiming's bound of a uniform distribution with a = √5, the usual start of A.
pub(super) fn bound(n_in: usize) -> f32 {
    1.0 / libm::sqrtf(n_in as f32)
}

fn start(seed: u64, site: Site, n_in: usize, a: &mut [f32]) {
    Stream::new(seed, &site.to_string(), "lora_a").fill_uniform(0, a);
    let bound = bound(n_in);
    a.iter_mut().for_each(|v| *v *= bound);
}

impl Adapter for Lora {
    fn kind(&self) -> &'static str {
        "lora"
    }

    fn params(&self) -> &[f32] {
        &self.params
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    fn parts(&self) -> Vec<Part> {
        parts(&self.layout)
    }

    fn prepare(&mut self, _cx: &Compute) {}

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn layout_mut(&mut self) -> &mut Layout {
        &mut self.layout
    }

    fn factors(&self, site: Site) -> Option<(View<'_>, View<'_>, f32)> {
        self.layout.factors(site, &self.params)
    }

    fn forward(&self, cx: &Compute, site: Site, x: View, y: &mut Tile, scratch: &mut Buffer) {
        self.layout.forward(cx, &self.params, site, x, y, scratch);
    }

    fn grad_len(&self) -> usize {
        self.params.len()
    }

    fn size(&self) -> Size {
        size(&self.layout)
    }

    fn backward(
        &self,
        cx: &Compute,
        site: Site,
        x: View,
        dy: View,
        dx: Option<&mut Tile>,
        acc: &mut [f32],
        scratch: &mut Buffer,
    ) {
        self.layout.backward(cx, &self.params, site, x, dy, dx, acc, scratch);
    }

    fn reduce(&self, _cx: &Compute, acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(acc);
    }

    fn bake_row(&self, site: Site, row: usize, w: &mut [f32]) {
        self.layout.bake_row(&self.params, site, row, w);
    }

    fn changes_something(&self) -> bool {
        self.layout.changes_something(&self.params)
    }

    fn describe(&self, head: &mut Head) {
        if let Some(seed) = self.seed {
            head.set("seed", seed).set("generator", GENERATOR);
        }
    }

    fn sections(&self) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }
}
