//! A model in double precision, written plainly from the definitions: it goes by the same row of architectures, layers and
//! tensors as the library does, and shares none of its loops.

use mynah::adapter::{Place, Site, Spot};
use mynah::model::hparams::{Form, HeadNorm, Layer, Mixer, Mixture, RopeParams};
use mynah::model::weights::{Key, Offsets};
use mynah::model::{HParams, Model, Pooling};
use mynah::nn::attention::{Heads, Sees};
use mynah::nn::delta;
use mynah::nn::norm::Kind;
use mynah::nn::rope::Pairing;
use mynah::quant::Matrix;
use mynah::role::Role;
use mynah::train::Example;
use std::ops::Range;

type Row = Vec<f64>;

/// What adapters see of one sequence at a place.
pub struct Seen<'a> {
    pub place: Place,
    /// The number of the first row among those of the step.
    pub first: usize,
    pub heads: Heads,
    /// Rows that came in; none where the place has none.
    pub x: &'a [Row],
    /// Rows that may be changed.
    pub y: &'a mut [Row],
    /// The log-sum-exp of attention's scores, for every head of every row.
    pub lse: &'a [Row],
}

/// What adapters do.
pub type Change<'a> = dyn Fn(Seen) + 'a;

/// What a loss is a function of, beside examples.
pub struct Twin<'a> {
    pub model: &'a Model,
    pub offsets: Offsets,
    /// Rows that adapters put before the text.
    pub lead: usize,
    /// Width of the state along the layers.
    pub state: usize,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn gelu(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / 2.0 * (1.0 + u.tanh())
}

/// By how much a position turns pair `i` of a head.
pub fn turn(model: &Model, rope: &RopeParams, i: usize) -> f64 {
    let own = f64::from(rope.base).powf(-2.0 * i as f64 / rope.dims as f64);
    let scaled = own * f64::from(rope.scaling.scale);
    let turn = rope.scaling.yarn.map_or(scaled, |yarn| {
        // Pairs are numbered by how often they turn within the original context; the numbers of the two bounds are
        // rounded outwards.
        let number = |turns: f32| {
            let length = f64::from(yarn.original) / (f64::from(turns) * std::f64::consts::TAU);
            rope.dims as f64 * length.ln() / (2.0 * f64::from(rope.base).ln())
        };
        let first = number(yarn.fast).floor().max(0.0);
        let last = number(yarn.slow).ceil().min(rope.dims as f64 - 1.0);
        let past = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
        let share = f64::from(yarn.share) * (1.0 - past);
        own * share + scaled * (1.0 - share)
    });
    let factors = model.weights.rope_factors.of(false).filter(|_| rope.factors);
    turn / factors.map_or(1.0, |f| f64::from(f[i]))
}

/// One pass over one sequence.
struct Pass<'a, 'b> {
    twin: &'a Twin<'a>,
    w: &'a [f64],
    change: &'a Change<'b>,
    first: usize,
}

impl<'a> Twin<'a> {
    /// Without adapters that need more than rows.
    pub fn new(model: &'a Model) -> Twin<'a> {
        Twin { model, offsets: Offsets::of(&model.weights), lead: 0, state: 0 }
    }

    fn h(&self) -> &HParams {
        &self.model.hparams
    }

    /// The weights as they are.
    pub fn weights(&self) -> Vec<f64> {
        self.model.weights.flatten(&self.offsets).unwrap().iter().map(|v| f64::from(*v)).collect()
    }

    /// The logits after the last of `tokens`.
    pub fn logits(&self, w: &[f64], tokens: &[u32], change: &Change) -> Vec<f64> {
        let pass = Pass { twin: self, w, change, first: 0 };
        pass.logits(pass.rows(tokens).last().unwrap())
    }

    /// The embeddings of texts, one after another, through the projections.
    pub fn vectors(&self, w: &[f64], texts: &[&[u32]], pooling: Pooling, change: &Change) -> Vec<Vec<f64>> {
        let mut first = 0;
        let one = |tokens: &&[u32]| {
            let pass = Pass { twin: self, w, change, first };
            let rows = pass.rows(tokens);
            first += rows.len();
            let rows: Vec<Row> = rows[self.lead..].iter().map(|row| pass.finish(row)).collect();
            let mut vector = match pooling {
                Pooling::Cls => rows[0].clone(),
                Pooling::Last => rows.last().unwrap().clone(),
                Pooling::Mean => {
                    let mut sum = vec![0.0; rows[0].len()];
                    rows.iter().for_each(|row| add(&mut sum, row));
                    sum.iter().map(|v| v / rows.len() as f64).collect()
                }
            };
            for matrix in &self.model.weights.projections {
                let mut values = vec![0.0; matrix.cols];
                vector = (0..matrix.rows)
                    .map(|i| {
                        matrix.decode(i, 0..matrix.cols, &mut values);
                        values.iter().zip(&vector).map(|(w, v)| f64::from(*w) * v).sum()
                    })
                    .collect();
            }
            vector
        };
        texts.iter().map(one).collect()
    }

    /// The mean loss of `examples` with the base alone.
    pub fn base_loss(&self, w: &[f64], examples: &[Example]) -> f64 {
        self.loss(w, examples, &|_| ())
    }

    /// The mean loss of `examples` under the flat weights `w` with what `change` does.
    pub fn loss(&self, w: &[f64], examples: &[Example], change: &Change) -> f64 {
        let (mut total, mut targets, mut first) = (0.0, 0, 0);
        for e in examples {
            let Some(last) = (1..e.tokens.len()).rev().find(|t| e.mask[*t]) else { continue };
            let pass = Pass { twin: self, w, change, first };
            let rows = pass.rows(&e.tokens[..last]);
            first += rows.len();
            for t in (1..=last).filter(|t| e.mask[*t]) {
                let logits = pass.logits(&rows[self.lead + t - 1]);
                total += logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[e.tokens[t] as usize];
                targets += 1;
            }
        }
        total / f64::from(targets)
    }
}

impl Pass<'_, '_> {
    fn at(&self, key: Key) -> Option<&[f64]> {
        Some(&self.w[self.twin.offsets.find(key)?])
    }

    fn vector(&self, layer: usize, role: Role) -> Option<&[f64]> {
        Some(&self.w[self.twin.offsets.block(layer, role)?])
    }

    fn change(&self, place: Place, x: &[Row], y: &mut [Row]) {
        self.change_with(place, x, y, &[]);
    }

    fn change_with(&self, place: Place, x: &[Row], y: &mut [Row], lse: &[Row]) {
        let heads = self.twin.h().blocks[place.layer().unwrap_or(0)].heads;
        (self.change)(Seen { place, first: self.first, heads, x, y, lse });
    }

    fn norm(&self, x: &[f64], gain: &[f64], bias: Option<&[f64]>) -> Row {
        let (norm, n) = (self.twin.h().norm, x.len() as f64);
        let mean = if norm.kind == Kind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let r = (variance + f64::from(norm.eps)).sqrt().recip();
        let mut y: Row = x.iter().zip(gain).map(|(x, g)| (x - mean) * r * g).collect();
        bias.into_iter().for_each(|bias| add(&mut y, bias));
        y
    }

    /// A norm of a block, of rows or of heads, and its adapters. Heads may have a gain each, in turn.
    fn norms(&self, layer: usize, role: Role, x: &[Row]) -> Vec<Row> {
        let bias = role.bias().and_then(|bias| self.vector(layer, bias));
        let gain = self.vector(layer, role).unwrap();
        let gains: Vec<&[f64]> = gain.chunks_exact(x[0].len()).collect();
        let each = x.iter().enumerate().map(|(i, x)| self.norm(x, gains[i % gains.len()], bias));
        let mut y: Vec<Row> = each.collect();
        self.change(Place::Site(Site { layer, role }), x, &mut y);
        y
    }

    fn product(&self, layer: usize, role: Role, x: &[Row]) -> Vec<Row> {
        let (site, w) = (Site { layer, role }, self.vector(layer, role).unwrap());
        let bias = role.bias().and_then(|bias| self.vector(layer, bias));
        let mut own = x.to_vec();
        self.change(Place::Input(site), &[], &mut own);
        let one = |x: &Row| {
            let mut y: Row = w.chunks_exact(x.len()).map(|w| dot(w, x)).collect();
            bias.into_iter().for_each(|bias| add(&mut y, bias));
            y
        };
        let mut y: Vec<Row> = own.iter().map(one).collect();
        self.change(Place::Site(site), &own, &mut y);
        y
    }

    /// Products of one input; one tensor may hold them all.
    fn products<const K: usize>(&self, layer: usize, roles: [Role; K], x: &[Row]) -> [Vec<Row>; K] {
        if self.vector(layer, roles[0]).is_some() {
            return roles.map(|role| self.product(layer, role, x));
        }
        let (fused, _) = roles[0].fused().unwrap();
        let whole = self.product(layer, fused, x);
        let sizes = self.twin.h().blocks[layer].sizes(self.twin.h().width);
        let mut first = 0;
        roles.map(|role| {
            let [_, width] = (role.row().shape)(&sizes);
            let mut y: Vec<Row> = whole.iter().map(|row| row[first..first + width].to_vec()).collect();
            first += width;
            self.change(Place::Site(Site { layer, role }), x, &mut y);
            y
        })
    }

    /// Queries or keys, by heads, normed and rotated.
    fn rotated(&self, layer: usize, norm: Role, rows: Vec<Row>) -> Vec<Row> {
        let (h, l) = (self.twin.h(), &self.twin.h().blocks[layer]);
        let each = rows[0].len() / l.heads.dim;
        let mut heads: Vec<Row> =
            rows.iter().flat_map(|row| row.chunks_exact(l.heads.dim).map(|head| head.to_vec())).collect();
        if self.vector(layer, norm).is_some() {
            heads = match l.head_norm {
                HeadNorm::Row => {
                    let whole = self.norms(layer, norm, &rows);
                    whole.iter().flat_map(|row| row.chunks_exact(l.heads.dim).map(|head| head.to_vec())).collect()
                }
                _ => self.norms(layer, norm, &heads),
            };
        }
        if let Some(rope) = l.rope {
            let rope = &h.ropes[rope];
            let magnitude = f64::from(rope.scaling.magnitude);
            for (at, head) in heads.iter_mut().enumerate() {
                for i in 0..rope.dims / 2 {
                    let (sin, cos) = ((at / each) as f64 * turn(self.twin.model, rope, i)).sin_cos();
                    let (sin, cos) = (sin * magnitude, cos * magnitude);
                    let (a, b) = match h.arch.pairing {
                        Pairing::Neighbours => (2 * i, 2 * i + 1),
                        Pairing::Halves => (i, i + rope.dims / 2),
                    };
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        }
        heads.chunks_exact(each).map(|heads| heads.concat()).collect()
    }

    /// `c ∘ v`, `v` the sum of the taps and the last rows of `b ∘ z`, for rows `b`, `c`, `z`.
    fn convolution(&self, layer: usize, len: usize, x: &[Row]) -> Vec<Row> {
        let (rows, taps) = (self.product(layer, Role::ConvIn, x), self.vector(layer, Role::Taps).unwrap());
        let d = rows[0].len() / 3;
        let u = |t: usize, i: usize| rows[t][i] * rows[t][2 * d + i];
        let v = |t: usize, i: usize| -> f64 {
            (0..len).filter(|back| *back <= t).map(|back| taps[i * len + len - 1 - back] * u(t - back, i)).sum()
        };
        (0..rows.len()).map(|t| (0..d).map(|i| rows[t][d + i] * v(t, i)).collect()).collect()
    }

    /// What a gated delta rule reads, normed and through its gate: every head of every row by the state that the rows up to
    /// it have made.
    fn delta(&self, layer: usize, len: usize, heads: delta::Heads, x: &[Row]) -> Vec<Row> {
        let delta::Heads { keys, values, dim, eps } = heads;
        let vector = |role| self.vector(layer, role).unwrap();
        let (rows, z) = (self.product(layer, Role::DeltaIn, x), self.product(layer, Role::DeltaGate, x));
        let (alpha, beta) = (self.product(layer, Role::Alpha, x), self.product(layer, Role::Beta, x));
        let silu = |v: f64| v / (1.0 + (-v).exp());
        let taps = vector(Role::Taps);
        let convolved = |t: usize, i: usize| -> f64 {
            silu(
                (0..len).filter(|back| *back <= t).map(|back| taps[i * len + len - 1 - back] * rows[t - back][i]).sum(),
            )
        };
        let c: Vec<Row> = (0..rows.len()).map(|t| (0..rows[0].len()).map(|i| convolved(t, i)).collect()).collect();
        let mut read = vec![];
        let mut states = vec![vec![vec![0.0; dim]; dim]; values];
        for (t, row) in c.iter().enumerate() {
            for (h, state) in states.iter_mut().enumerate() {
                let part = |head: usize| &row[head * dim..(head + 1) * dim];
                let unit = |x: &[f64]| -> Row {
                    let length = (dot(x, x) + f64::from(eps)).sqrt();
                    x.iter().map(|v| v / length).collect()
                };
                let (q, k, v) = (unit(part(h % keys)), unit(part(keys + h % keys)), part(2 * keys + h));
                let rate = vector(Role::DecayRate)[h] * (alpha[t][h] + vector(Role::DecayBias)[h]).exp().ln_1p();
                let open = 1.0 / (1.0 + (-beta[t][h]).exp());
                state.iter_mut().flatten().for_each(|s| *s *= rate.exp());
                for (state, v) in state.iter_mut().zip(v) {
                    let by = open * (v - dot(state, &k));
                    state.iter_mut().zip(&k).for_each(|(s, k)| *s += by * k);
                }
                read.push(state.iter().map(|s| dot(s, &q) / (dim as f64).sqrt()).collect::<Row>());
            }
        }
        let normed = self.norms(layer, Role::DeltaNorm, &read).concat();
        let gated: Vec<f64> = normed.iter().zip(z.iter().flatten()).map(|(y, z)| y * silu(*z)).collect();
        gated.chunks_exact(values * dim).map(|row| row.to_vec()).collect()
    }

    /// What the experts make of each row, and `all`, what one makes of all rows, behind its gate.
    fn mixture(&self, layer: usize, Mixture { router, .. }: Mixture, x: &[Row], all: Vec<Row>) -> Vec<Row> {
        let logits = self.product(layer, Role::Router, x);
        let open = self.vector(layer, Role::SharedGate).map(|_| self.product(layer, Role::SharedGate, x));
        let experts = self.twin.model.weights.blocks[layer].experts.as_ref().unwrap();
        let product = |w: &Matrix, x: &[f64]| -> Row {
            let mut row = vec![0.0; w.cols];
            let one = |i| {
                w.decode(i, 0..w.cols, &mut row);
                row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
            };
            (0..w.rows).map(one).collect()
        };
        let one = |(i, x): (usize, &Row)| {
            let z = &logits[i];
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            let mut order: Vec<usize> = (0..z.len()).collect();
            order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
            let own = &order[..router.used];
            let whole = if router.normalised { own.iter().map(|e| z[*e].exp()).sum() } else { sum };
            let mut out = vec![0.0; x.len()];
            for &e in own {
                let (gate, up) = (product(&experts.gate[e], x), product(&experts.up[e], x));
                let hidden: Row = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let share = z[e].exp() / whole;
                out.iter_mut().zip(product(&experts.down[e], &hidden)).for_each(|(o, v)| *o += share * v);
            }
            if let Some(all) = all.get(i) {
                let open = open.as_ref().map_or(1.0, |open| 1.0 / (1.0 + (-open[i][0]).exp()));
                out.iter_mut().zip(all).for_each(|(o, v)| *o += open * v);
            }
            out
        };
        x.iter().enumerate().map(one).collect()
    }

    /// What every row gathers, and the log-sum-exp of its scores, a head each.
    fn attention(&self, l: &Layer, q: &[Row], k: &[Row], v: &[Row]) -> (Vec<Row>, Vec<Row>) {
        let (Heads { q: heads, kv, dim, scale, cap }, n) = (l.heads, q.len());
        let (mut out, mut sums) = (vec![vec![0.0; heads * dim]; n], vec![vec![0.0; heads]; n]);
        for p in 0..n {
            let seen: Range<usize> = match l.sees {
                Sees::Causal => 0..p + 1,
                Sees::Window(w) => (p + 1).max(w) - w..p + 1,
                Sees::Around(w) => p.max(w / 2) - w / 2..(p + w / 2 + 1).min(n),
                Sees::All => 0..n,
            };
            for head in 0..heads {
                let (at, from) = (head * dim..(head + 1) * dim, head / (heads / kv) * dim);
                let score = |j: usize| {
                    let s = dot(&q[p][at.clone()], &k[j][from..from + dim]) * f64::from(scale);
                    cap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
                };
                let sum: f64 = seen.clone().map(|j| score(j).exp()).sum();
                sums[p][head] = sum.ln();
                for j in seen.clone() {
                    let share = score(j).exp() / sum;
                    let v = &v[j][from..from + dim];
                    out[p][at.clone()].iter_mut().zip(v).for_each(|(o, v)| *o += share * v);
                }
            }
        }
        (out, sums)
    }

    /// What a sub-layer adds to the stream, from its product.
    fn branch(&self, layer: usize, spot: Spot, input: &[Row], mut y: Vec<Row>) -> Vec<Row> {
        let norm = match spot {
            Spot::Attention => Role::PostAttnNorm,
            Spot::FeedForward => Role::PostFfnNorm,
        };
        if self.vector(layer, norm).is_some() {
            y = self.norms(layer, norm, &y);
        }
        let factor = f64::from(self.twin.h().blocks[layer].residual);
        y.iter_mut().flatten().for_each(|v| *v *= factor);
        self.change(Place::Stream(layer, spot), input, &mut y);
        y
    }

    /// What the last block puts out.
    fn rows(&self, tokens: &[u32]) -> Vec<Row> {
        let (twin, h) = (self.twin, self.twin.h());
        let embedded = |t: &u32| {
            let row = &self.at(Key::Embed).unwrap()[*t as usize * h.width..][..h.width];
            row.iter().map(|v| v * f64::from(h.embed_scale)).collect()
        };
        let mut rows: Vec<Row> = vec![0; twin.lead].iter().chain(tokens).map(embedded).collect();
        if twin.lead > 0 {
            self.change(Place::Rows, &[], &mut rows[..twin.lead]);
        }
        for (i, row) in rows.iter_mut().enumerate() {
            let tables = [(Key::Positions, i), (Key::Types, 0)];
            for (table, i) in tables.into_iter().filter_map(|(key, i)| Some((self.at(key)?, i))) {
                add(row, &table[i * h.width..][..h.width]);
            }
            if let Some(gain) = self.at(Key::EmbedNorm) {
                *row = self.norm(row, gain, self.at(Key::EmbedNormBias));
            }
        }
        self.change(Place::Embedding, &[], &mut rows);
        let mut states = vec![vec![0.0; twin.state]; rows.len()];
        for (layer, l) in h.blocks.iter().enumerate() {
            let normed = |role: Role, rows: &[Row]| match self.vector(layer, role) {
                Some(_) => self.norms(layer, role, rows),
                None => rows.to_vec(),
            };
            let x = normed(Role::AttnNorm, &rows);
            let att = match l.mixer {
                Mixer::Convolution { taps } => self.convolution(layer, taps, &x),
                Mixer::Delta { taps, heads } => self.delta(layer, taps, heads, &x),
                Mixer::Attention => {
                    let [q, k, v] = self.products(layer, [Role::Q, Role::K, Role::V], &x);
                    // Of each head first the query and then its gate.
                    let half = |rows: &[Row], which: usize| -> Vec<Row> {
                        let half = |row: &Row| {
                            row.chunks_exact(2 * l.heads.dim)
                                .flat_map(|both| both[which * l.heads.dim..][..l.heads.dim].to_vec())
                                .collect()
                        };
                        rows.iter().map(half).collect()
                    };
                    let gates = if l.gated { half(&q, 1) } else { vec![] };
                    let q = if l.gated { half(&q, 0) } else { q };
                    let (q, k) = (self.rotated(layer, Role::QNorm, q), self.rotated(layer, Role::KNorm, k));
                    let (mut att, lse) = self.attention(l, &q, &k, &v);
                    self.change_with(Place::Attention(layer), &q, &mut att, &lse);
                    for (att, gate) in att.iter_mut().flatten().zip(gates.iter().flatten()) {
                        *att /= 1.0 + (-gate).exp();
                    }
                    att
                }
            };
            let out = self.branch(layer, Spot::Attention, &x, self.product(layer, l.mixer.out(), &att));
            rows.iter_mut().zip(&out).for_each(|(row, out)| add(row, out));
            let x = match l.form() {
                Form::Parallel => x,
                _ => normed(Role::FfnNorm, &rows),
            };
            if l.form() == Form::Post {
                rows = x.clone();
            }
            let each = |f: fn(f64) -> f64, rows: &[Row]| -> Vec<Row> {
                rows.iter().map(|row| row.iter().map(|v| f(*v)).collect()).collect()
            };
            let gated = |f: fn(f64) -> f64| {
                let [gate, up] = self.products(layer, [Role::Gate, Role::Up], &x);
                let mut out = each(f, &gate);
                out.iter_mut().flatten().zip(up.iter().flatten()).for_each(|(out, up)| *out *= up);
                out
            };
            let hidden = match l.act.name {
                _ if l.ff == 0 => vec![],
                "silu" => gated(|v| v / (1.0 + (-v).exp())),
                "gelu_tanh" => gated(gelu),
                "gelu_tanh_plain" => each(gelu, &self.products(layer, [Role::Up], &x)[0]),
                other => panic!("the twin has no {other}"),
            };
            let out = match l.mixture {
                None => self.product(layer, Role::Down, &hidden),
                Some(mixture) => {
                    let all = if l.ff > 0 { self.product(layer, Role::Down, &hidden) } else { vec![] };
                    self.mixture(layer, mixture, &x, all)
                }
            };
            let out = self.branch(layer, Spot::FeedForward, &x, out);
            rows.iter_mut().zip(&out).for_each(|(row, out)| add(row, out));
            rows = normed(Role::OutNorm, &rows);
            if twin.state > 0 {
                self.change(Place::State(layer), &rows, &mut states);
            }
        }
        if twin.state > 0 {
            self.change(Place::Join, &states, &mut rows);
        }
        rows
    }

    /// The last norm.
    fn finish(&self, row: &Row) -> Row {
        let normed = self.at(Key::Norm).map(|gain| self.norm(row, gain, self.at(Key::NormBias)));
        let mut y = [normed.unwrap_or_else(|| row.clone())];
        self.change(Place::Final, std::slice::from_ref(row), &mut y);
        let [y] = y;
        y
    }

    fn logits(&self, row: &Row) -> Row {
        let (y, finish) = (self.finish(row), self.twin.h().finish);
        let head = self.at(Key::Output).or_else(|| self.at(Key::Embed)).unwrap();
        let logit = |w: &[f64]| {
            let z = dot(w, &y) * f64::from(finish.scale);
            finish.cap.map_or(z, |c| f64::from(c) * (z / f64::from(c)).tanh())
        };
        head.chunks_exact(row.len()).map(logit).collect()
    }
}

/// The slope of `f` at 0 by a central difference.
pub fn slope(f: impl Fn(f64) -> f64, step: f64) -> f64 {
    (f(step) - f(-step)) / (2.0 * step)
}
