//! AdamW with 8-bit moments, by the block-wise dynamic quantisation of arXiv:2110.02861 (the code of bitsandbytes):
//! each block of [`BLOCK`] values is divided by its largest magnitude and rounded to a table of 256 values whose steps
//! are fine near 0.
//!
//! There is one difference. The square root of the second moment is stored, rounded to the nearest code but never to 0.
//! If `v` itself were stored, a value seven decades below the largest of its block would become 0 while its `m` is
//! kept, and the next step would divide by almost 0.

use super::adamw::{Decays, Rule};
use super::{Common, Optimizer, Origin, Part, State, StateMut, exchanged, grown, values};
use crate::knob::Values;
use crate::math;
use std::prelude::v1::*;

/// Values of a block, which share a scale. The last block of a part may be shorter, so that no scale extends over two
/// parts.
const BLOCK: usize = 256;

/// Blocks of all parts.
pub(super) fn blocks(parts: &[Part]) -> usize {
    parts.iter().map(|p| p.range.len().div_ceil(BLOCK)).sum()
}

/// Codes and scales of the two moments.
pub struct AdamW8 {
    common: Common,
    decays: Decays,
    parts: Vec<Part>,
    signed: [f32; 256],
    unsigned: [f32; 256],
    m: Vec<u8>,
    m_scale: Vec<f32>,
    root: Vec<u8>,
    root_scale: Vec<f32>,
    steps: u64,
}

impl AdamW8 {
    /// The initial state: all moments 0.
    pub fn new(settings: &Values, parts: Vec<Part>) -> Self {
        let (n, blocks) = (values(&parts), blocks(&parts));
        let (signed, unsigned) = (codes(true), codes(false));
        AdamW8 {
            m: vec![nearest(&signed, 0.0); n],
            root: vec![nearest(&unsigned, 0.0); n],
            m_scale: vec![0.0; blocks],
            root_scale: vec![0.0; blocks],
            common: Common::of(settings),
            decays: Decays::of(settings),
            parts,
            signed,
            unsigned,
            steps: 0,
        }
    }
}

impl AdamW8 {
    /// Makes of each moment of the parts `old` what `f(parts, which, values)` makes of it for those that there are now.
    fn repack(&mut self, old: &[Part], f: impl Fn(&[Part], usize, &[f32]) -> Vec<f32>) {
        let least = nearest(&self.unsigned, 0.0) + 1;
        let pieces = [
            (&self.signed, 0, &mut self.m, &mut self.m_scale),
            (&self.unsigned, least, &mut self.root, &mut self.root_scale),
        ];
        for (which, (codes, floor, packed, scales)) in pieces.into_iter().enumerate() {
            let mut block = 0;
            let mut known = Vec::with_capacity(packed.len());
            for part in old {
                for some in packed[part.range.clone()].chunks(BLOCK) {
                    known.extend(some.iter().map(|code| codes[*code as usize] * scales[block]));
                    block += 1;
                }
            }
            let values = f(&self.parts, which, &known);
            (*packed, *scales) = (vec![0; values.len()], vec![0.0; blocks(&self.parts)]);
            block = 0;
            for part in &self.parts {
                for start in part.range.clone().step_by(BLOCK) {
                    let at = start..(start + BLOCK).min(part.range.end);
                    pack(codes, floor, &values[at.clone()], &mut packed[at], &mut scales[block]);
                    block += 1;
                }
            }
        }
    }
}

/// The dynamic map, ascending: 0, 1 and for each of seven decades below 1 the middles of 2ⁱ equal steps (2ⁱ⁺¹ if there
/// is no sign) between a tenth of the decade and the decade.
fn codes(signed: bool) -> [f32; 256] {
    const TOPS: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    // The `k`-th above 0: decade `i` begins at `k = 2ⁱ`, without a sign at `k = 2ⁱ⁺¹ − 1`.
    let code = |k: usize| {
        let k = if signed { k } else { k + 1 };
        let steps = 1 << k.ilog2();
        let decade = k.ilog2() as usize - usize::from(!signed);
        (TOPS[decade] * (0.1 + 0.9 * ((k - steps) as f64 + 0.5) / steps as f64)) as f32
    };
    let zero = if signed { 127 } else { 0 };
    core::array::from_fn(|i| match i {
        255 => 1.0,
        i if i > zero => code(i - zero),
        i if i < zero => -code(zero - i),
        _ => 0.0,
    })
}

/// The code nearest to `x`, the lower of two.
fn nearest(codes: &[f32; 256], x: f32) -> u8 {
    let above = codes.partition_point(|c| *c < x).clamp(1, 255);
    (if x - codes[above - 1] <= codes[above] - x { above - 1 } else { above }) as u8
}

/// Rounds `values` of a block; `floor`: the lowest code of a value other than 0.
fn pack(codes: &[f32; 256], floor: u8, values: &[f32], out: &mut [u8], scale: &mut f32) {
    *scale = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
    // If the inverse of the scale overflows, the block is treated as 0.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    for (o, v) in out.iter_mut().zip(values) {
        let code = nearest(codes, v * inverse);
        *o = if *v == 0.0 { code } else { code.max(floor) };
    }
}

impl Optimizer for AdamW8 {
    /// As [`super::adamw::AdamW`]; the step itself uses the moments before they are rounded.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        self.steps += 1;
        let rule = Rule::new(&self.decays, self.steps);
        let least = nearest(&self.unsigned, 0.0) + 1;
        let (mut ms, mut vs) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        let mut block = 0;
        for part in &self.parts {
            let (lr, shrink) = self.common.rate(lr, part);
            let rate = rule.rate(lr);
            for start in part.range.clone().step_by(BLOCK) {
                let at = start..(start + BLOCK).min(part.range.end);
                let (ms, vs) = (&mut ms[..at.len()], &mut vs[..at.len()]);
                for ((m, code), (v, root)) in
                    ms.iter_mut().zip(&self.m[at.clone()]).zip(vs.iter_mut().zip(&self.root[at.clone()]))
                {
                    *m = self.signed[*code as usize] * self.m_scale[block];
                    let root = self.unsigned[*root as usize] * self.root_scale[block];
                    *v = root * root;
                }
                let moments = ms.iter_mut().zip(vs.iter_mut());
                for ((p, g), (m, v)) in params[at.clone()].iter_mut().zip(&grads[at.clone()]).zip(moments) {
                    rule.apply(p, *g, m, v, rate, shrink);
                    *v = math::sqrt(*v);
                }
                pack(&self.signed, 0, ms, &mut self.m[at.clone()], &mut self.m_scale[block]);
                pack(&self.unsigned, least, vs, &mut self.root[at], &mut self.root_scale[block]);
                block += 1;
            }
        }
    }

    fn grow(&mut self, parts: Vec<Part>) {
        let old = core::mem::replace(&mut self.parts, parts);
        self.repack(&old, |parts, _, known| grown(&old, parts, known));
    }

    /// Values have no ages of their own: their moments are corrected by that of the run.
    fn exchange(&mut self, origins: &[Origin]) {
        let old = self.parts.clone();
        let decays = self.decays;
        self.repack(&old, |_, which, values| {
            exchanged(origins, values, |known| {
                let [m, v] = decays.moments(known);
                [m, math::sqrt(v)][which]
            })
        });
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![
            ("m", State::U8(&self.m)),
            ("m_scale", State::F32(&self.m_scale)),
            ("root", State::U8(&self.root)),
            ("root_scale", State::F32(&self.root_scale)),
            ("steps", State::U64(self.steps)),
        ]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![
            ("m", StateMut::U8(&mut self.m)),
            ("m_scale", StateMut::F32(&mut self.m_scale)),
            ("root", StateMut::U8(&mut self.root)),
            ("root_scale", StateMut::F32(&mut self.root_scale)),
            ("steps", StateMut::U64(&mut self.steps)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ends and a middle of the tables that `create_dynamic_map` of bitsandbytes makes.
    #[test]
    fn the_table_is_the_published_one() {
        let (s, u) = (codes(true), codes(false));
        assert!(s.windows(2).all(|w| w[0] < w[1]) && u.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((s[255], u[255], s[127], u[0]), (1.0, 1.0, 0.0, 0.0));
        assert_eq!((s[128], s[126], s[0]), (5.5e-7, -5.5e-7, -0.992_968_75));
        assert_eq!((u[1], u[2], u[254]), (3.25e-7, 7.75e-7, 0.996_484_4));
    }

    #[test]
    fn codes_are_nearest_and_no_root_becomes_zero() {
        let u = codes(false);
        for (i, c) in u.iter().enumerate() {
            assert_eq!(nearest(&u, *c) as usize, i);
        }
        assert_eq!((nearest(&u, 7.0), nearest(&u, -7.0)), (255, 0));
        let (mut out, mut scale) = ([9u8; 3], 0.0);
        pack(&u, 1, &[0.0, 1e-20, 2.0], &mut out, &mut scale);
        assert_eq!((out, scale), ([0, 1, 255], 2.0));
        pack(&u, 1, &[0.0; 3], &mut out, &mut scale);
        assert_eq!((out, scale), ([0; 3], 0.0));
    }
}
