//! Every place where an adapter may stand, with adapters of the test's own: alone and in a stack, against the twin in
//! double precision; one that grows; dropout.

use crate::alloc;
use crate::doubles::double;
use crate::gradients::{config, examples, sketches, spec_of};
use crate::tiny::{self, Rng};
use crate::twin::{Change, Seen as Row, Twin, slope};
use mynah::adapter::file::Stored;
use mynah::adapter::{
    self, Adapter, At, Base, Into, KINDS, Kind, Needs, NewPart, Place, Seen, Shape, Site, Spec, Spot, Stack, Start,
};
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::error::{Error, Result};
use mynah::kernel::{Buffer, Tile, View};
use mynah::model::{ActType, CacheType, Model, Session, SessionConfig};
use mynah::nn::attention::Heads;
use mynah::nn::linear::Precision;
use mynah::rng::Stream;
use mynah::role::Role;
use mynah::train::activation_cache::Memory;
use mynah::train::data::Order;
use mynah::train::objective;
use mynah::train::optim::{self, OPTIMIZERS};
use mynah::train::plan::{self, Run, Subject};
use mynah::train::{Checkpoint, Config, Dropout, Example, Gradient, Recompute, Trainer, Zeroth};

/// What an adapter of the test does to one row; `s` is the strength.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Law {
    /// `y *= 1 + s·(g − 1)`.
    Scale,
    /// `y += s·b·tanh(x·a)`.
    Parallel,
    /// `y += s·b·tanh(y·a)`.
    Serial,
    /// Attention to one more key `k` and its value `v`, joined by the log-sum-exp: with `c = s·σ(q·k·scale − lse)`
    /// `y = (1 − c)·y + c·v`.
    Joined,
    /// `y += s·tanh(g)·w∘q`, a gate for each head.
    Gated,
    /// `y += s·b`.
    Shift,
    /// `y = (1 − s)·y + s·p`, a row each.
    Rows,
    /// `y_i += s·tanh(x·a_i)`.
    State,
    /// `y += s·Σ x_i·b_i`.
    Join,
}

use Law::*;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Law {
    fn rescales(self) -> bool {
        matches!(self, Scale | Serial | Joined | Rows)
    }

    /// Parameters for rows of these widths.
    fn params(self, [n_in, n_out]: [usize; 2], heads: Heads, lead: usize) -> usize {
        match self {
            Scale | Shift => n_out,
            Parallel => n_in + n_out,
            Serial | Joined => 2 * n_out,
            Gated => heads.q + n_out,
            Rows => lead * n_out,
            State | Join => n_in * n_out,
        }
    }

    /// Changes row `i`.
    fn forward(self, p: &[f64], s: f64, heads: Heads, i: usize, x: &[f64], y: &mut [f64], lse: &[f64]) {
        let (n, d) = (y.len(), heads.dim);
        match self {
            Scale => y.iter_mut().zip(p).for_each(|(y, g)| *y *= 1.0 + s * (g - 1.0)),
            Parallel | Serial => {
                let (a, b) = p.split_at(p.len() - n);
                let t = s * dot(if self == Serial { y } else { x }, a).tanh();
                y.iter_mut().zip(b).for_each(|(y, b)| *y += t * b);
            }
            Joined => {
                for h in 0..heads.q {
                    let at = h * d..(h + 1) * d;
                    let (c, v) = (s * share(p, heads, h, x, lse), &p[n..][at.clone()]);
                    y[at].iter_mut().zip(v).for_each(|(y, v)| *y += c * (v - *y));
                }
            }
            Gated => {
                let (g, w) = p.split_at(heads.q);
                (0..n).for_each(|j| y[j] += s * g[j / d].tanh() * w[j] * x[j]);
            }
            Shift => y.iter_mut().zip(p).for_each(|(y, b)| *y += s * b),
            Rows => y.iter_mut().zip(&p[i * n..]).for_each(|(y, p)| *y += s * (p - *y)),
            State => y.iter_mut().zip(p.chunks_exact(x.len())).for_each(|(y, a)| *y += s * dot(x, a).tanh()),
            Join => x
                .iter()
                .zip(p.chunks_exact(n))
                .for_each(|(x, b)| y.iter_mut().zip(b).for_each(|(y, b)| *y += s * x * b)),
        }
    }

    /// From the gradient `dy` of what came out, that of what came in, and what is added to the others.
    fn backward(
        self,
        p: &[f64],
        s: f64,
        heads: Heads,
        i: usize,
        [x, y, lse]: [&[f64]; 3],
        dy: &mut [f64],
        [dx, dlse, dp]: [&mut [f64]; 3],
    ) {
        let (n, d) = (dy.len(), heads.dim);
        match self {
            Scale => {
                for j in 0..n {
                    dp[j] += s * dy[j] * y[j];
                    dy[j] *= 1.0 + s * (p[j] - 1.0);
                }
            }
            Parallel | Serial => {
                let (a, b) = p.split_at(p.len() - n);
                let input = if self == Serial { y } else { x };
                let t = dot(input, a).tanh();
                let du = s * dot(dy, b) * (1.0 - t * t);
                let (da, db) = dp.split_at_mut(p.len() - n);
                db.iter_mut().zip(&*dy).for_each(|(db, dy)| *db += s * t * dy);
                da.iter_mut().zip(input).for_each(|(da, x)| *da += du * x);
                if self == Serial { dy } else { dx }.iter_mut().zip(a).for_each(|(d, a)| *d += du * a);
            }
            Joined => {
                for h in 0..heads.q {
                    let at = h * d..(h + 1) * d;
                    let a = share(p, heads, h, x, lse);
                    let (c, mut slope) = (s * a, 0.0);
                    for j in at.clone() {
                        slope += dy[j] * (p[n + j] - y[j]);
                        dp[n + j] += c * dy[j];
                        dy[j] *= 1.0 - c;
                    }
                    slope *= s * a * (1.0 - a);
                    dlse[h] -= slope;
                    for j in at {
                        dp[j] += slope * f64::from(heads.scale) * x[j];
                        dx[j] += slope * f64::from(heads.scale) * p[j];
                    }
                }
            }
            Gated => {
                for j in 0..n {
                    let (g, w) = (p[j / d].tanh(), p[heads.q + j]);
                    dp[j / d] += s * dy[j] * (1.0 - g * g) * w * x[j];
                    dp[heads.q + j] += s * dy[j] * g * x[j];
                    dx[j] += s * dy[j] * g * w;
                }
            }
            Shift => dp.iter_mut().zip(&*dy).for_each(|(dp, dy)| *dp += s * dy),
            Rows => {
                for j in 0..n {
                    dp[i * n + j] += s * dy[j];
                    dy[j] *= 1.0 - s;
                }
            }
            State => {
                for (k, dy) in dy.iter().enumerate() {
                    let at = k * x.len()..(k + 1) * x.len();
                    let t = dot(x, &p[at.clone()]).tanh();
                    let du = s * dy * (1.0 - t * t);
                    dp[at.clone()].iter_mut().zip(x).for_each(|(dp, x)| *dp += du * x);
                    dx.iter_mut().zip(&p[at]).for_each(|(dx, a)| *dx += du * a);
                }
            }
            Join => {
                for (k, x) in x.iter().enumerate() {
                    dp[k * n..][..n].iter_mut().zip(&*dy).for_each(|(dp, dy)| *dp += s * x * dy);
                    dx[k] += s * dot(&p[k * n..][..n], dy);
                }
            }
        }
    }
}

/// The share of the key that is joined to a head's.
fn share(p: &[f64], heads: Heads, h: usize, x: &[f64], lse: &[f64]) -> f64 {
    let at = h * heads.dim..(h + 1) * heads.dim;
    1.0 / (1.0 + (lse[h] - f64::from(heads.scale) * dot(&x[at.clone()], &p[at])).exp())
}

/// An adapter that does what its laws say, a place each.
struct Toy {
    shape: Shape,
    laws: Vec<Law>,
    params: Vec<f32>,
}

static TOY: Kind = Kind {
    name: "toy",
    about: "",
    rate: 1e-3,
    knobs: &[],
    targets: &[],
    shape: |_, _| Err(Error::unsupported("spec", "toy")),
    create: |_, _| Err(Error::unsupported("spec", "toy")),
    read: |_| Err(Error::unsupported("file", "toy")),
    sections: &[],
    grown: &[],
    codec: None,
    size: None,
};

/// Rows before the text, and the width of the state.
const LEAD: usize = 3;
const WIDE: usize = 2;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

impl Toy {
    fn new(base: &Base, seed: u64, at: &[(Place, Law)]) -> Toy {
        let mut at = at.to_vec();
        at.sort_by_key(|a| a.0);
        let widths = |place: Place| match (place, base.place(place).unwrap()) {
            (Place::State(_), [n_in, _]) => [n_in, WIDE],
            (Place::Join, [_, n_out]) => [WIDE, n_out],
            // Norms of heads and embedded tokens have the rows of `y` alone to say.
            (_, widths) => widths,
        };
        let laws: Vec<Law> = at.iter().map(|a| a.1).collect();
        let places = at.iter().map(|a| (a.0, widths(a.0))).collect();
        let law = |place: Place| at.iter().find(|a| a.0 == place).unwrap().1;
        let needs = |place: Place| {
            let law = law(place);
            Needs {
                output: [Scale, Serial, Joined].contains(&law),
                lse: law == Joined,
                rescales: law.rescales(),
                input: [Parallel, Joined, Gated, State].contains(&law),
                rows: if law == Rows { LEAD } else { 0 },
                aside: false,
                state: if law == State { WIDE } else { 0 },
                positive: false,
            }
        };
        let shape = Shape::build(places, needs, |place, widths| {
            let heads = base.shapes[place.layer().unwrap_or(0)].heads;
            let start = if law(place) == Scale { Start::One } else { Start::Zero };
            vec![NewPart::new("p", 1, law(place).params(widths, heads, LEAD), start)]
        });
        let mut rng = Rng(seed);
        let params = (0..shape.size.params).map(|_| 0.3 + 0.4 * rng.unit()).collect();
        Toy { shape, laws, params }
    }

    fn copy(&self) -> Box<dyn Adapter> {
        Box::new(Toy { shape: self.shape.clone(), laws: self.laws.clone(), params: self.params.clone() })
    }

    /// The law and the parameters of a slot.
    fn part(&self, slot: usize) -> (Law, std::ops::Range<usize>) {
        (self.laws[slot], self.shape.parts[slot].range.clone())
    }

    /// What it does, in double precision, with these parameters.
    fn double(&self, s: f64, params: Vec<f64>) -> Box<Change<'static>> {
        let (laws, shape) = (self.laws.clone(), self.shape.clone());
        Box::new(move |seen: Row| {
            let Some(slot) = shape.slot(seen.place) else { return };
            let (p, none) = (&params[shape.parts[slot].range.clone()], Vec::new());
            for (i, y) in seen.y.iter_mut().enumerate() {
                let (x, lse) = (seen.x.get(i).unwrap_or(&none), seen.lse.get(i).unwrap_or(&none));
                laws[slot].forward(p, s, seen.heads, i, x, y, lse);
            }
        })
    }

    /// The backward pass of one row. `dy` becomes the gradient of `y` before the adapter.
    fn back(&self, at: &At, seen: &Seen, i: usize, dy: &mut [f64], dx: &mut [f64], dlse: &mut [f64], dp: &mut [f64]) {
        let (law, range) = self.part(at.slot);
        let x = if seen.x.c == 0 { Vec::new() } else { wide(seen.x.row(i)) };
        let y = seen.y0.map_or(Vec::new(), |y| wide(y.row(i)));
        let lse = at.lse.map_or(Vec::new(), |lse| wide(lse.row(i)));
        let (p, s) = (wide(&self.params[range]), f64::from(at.strength));
        law.backward(&p, s, at.heads, i, [&x, &y, &lse], dy, [dx, dlse, dp]);
    }
}

fn add(to: &mut [f32], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += *from as f32);
}

impl Adapter for Toy {
    fn kind(&self) -> &'static Kind {
        &TOY
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn params(&self) -> &[f32] {
        &self.params
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    fn forward(&self, at: &At, x: View, y: &mut Tile, _scratch: &mut Buffer) {
        let (law, range) = self.part(at.slot);
        let p = wide(&self.params[range]);
        for i in 0..y.n() {
            let row = if x.c == 0 { Vec::new() } else { wide(x.row(i)) };
            let lse = at.lse.map_or(Vec::new(), |lse| wide(lse.row(i)));
            let mut out = wide(y.row(i));
            law.forward(&p, f64::from(at.strength), at.heads, i, &row, &mut out, &lse);
            y.row(i).iter_mut().zip(out).for_each(|(y, out)| *y = out as f32);
        }
    }

    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, _scratch: &mut Buffer) {
        let (_, range) = self.part(at.slot);
        let (mut dp, Into { mut dx, mut dlse, acc }) = (vec![0.0; range.len()], into);
        let n = if at.place == Place::Rows { self.shape.needs.rows } else { seen.x.n };
        let c = dy.len() / n;
        for (i, dy) in dy.chunks_exact_mut(c).enumerate() {
            let (mut row, mut dx_row, mut dlse_row) = (wide(dy), vec![0.0; seen.x.c], vec![0.0; at.heads.q]);
            self.back(at, seen, i, &mut row, &mut dx_row, &mut dlse_row, &mut dp);
            if self.shape.slots[at.slot].needs.rescales {
                dy.iter_mut().zip(row).for_each(|(dy, row)| *dy = row as f32);
            }
            dx.iter_mut().filter(|dx| dx.c() > 0).for_each(|dx| add(dx.row(i), &dx_row));
            dlse.iter_mut().for_each(|dlse| add(dlse.row(i), &dlse_row));
        }
        acc.into_iter().for_each(|acc| add(&mut acc[range.clone()], &dp));
    }

    fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("laws", format!("{:?}", self.laws));
        Vec::new()
    }
}

/// Nothing beneath.
static NONE: Stack = Stack::new();

fn site(layer: usize, role: Role) -> Place {
    Place::Site(Site { layer, role })
}

fn input(layer: usize, role: Role) -> Place {
    Place::Input(Site { layer, role })
}

/// Adapters that between them stand at every place a model has.
fn toys(model: &Model, base: &Base) -> Vec<(&'static str, Toy)> {
    let h = &model.hparams;
    let here = |at: Vec<(Place, Law)>| -> Vec<(Place, Law)> {
        at.into_iter().filter(|(place, _)| base.place(*place).is_ok()).collect()
    };
    let roles =
        |layer: usize, of: &[Role], law: Law| of.iter().map(|role| (site(layer, *role), law)).collect::<Vec<_>>();
    let inputs = |layer: usize, of: &[Role]| of.iter().map(|role| (input(layer, *role), Scale)).collect::<Vec<_>>();
    let all: Vec<Role> = Role::LINEAR.into_iter().chain([Role::Qkv, Role::GateUp]).collect();
    let norms = [Role::AttnNorm, Role::FfnNorm, Role::QNorm, Role::KNorm, Role::PostAttnNorm, Role::PostFfnNorm];
    let (attention, ffn) = (Spot::Attention, Spot::FeedForward);
    let last = h.layers - 1;
    let sites = [roles(0, &all, Scale), roles(last, &[Role::K, Role::O, Role::Down], Serial)].concat();
    let list: Vec<(&'static str, Vec<(Place, Law)>)> = vec![
        ("outputs of products", sites),
        ("inputs of products", [inputs(0, &all), inputs(last, &[Role::O, Role::Down])].concat()),
        ("norms", [roles(0, &norms, Scale), roles(last, &norms, Parallel)].concat()),
        ("beside sub-layers", vec![(Place::Stream(0, attention), Parallel), (Place::Stream(last, ffn), Parallel)]),
        (
            "behind sub-layers",
            vec![
                (Place::Stream(0, ffn), Serial),
                (Place::Stream(last, attention), Serial),
                (Place::Stream(last, ffn), Scale),
            ],
        ),
        ("more keys", vec![(Place::Attention(0), Joined), (Place::Attention(last), Joined)]),
        ("gated keys", vec![(Place::Attention(last), Gated)]),
        ("embedding and end", vec![(Place::Embedding, Shift), (Place::Final, Parallel)]),
        ("end", vec![(Place::Final, Scale)]),
        ("rows", vec![(Place::Rows, Rows)]),
        ("a state", vec![(Place::State(0), State), (Place::State(last), State), (Place::Join, Join)]),
    ];
    list.into_iter().enumerate().map(|(i, (name, at))| (name, Toy::new(base, 20 + i as u64, &here(at)))).collect()
}

/// All of them in turn.
fn in_turn<'a>(changes: &'a [Box<Change<'static>>]) -> impl Fn(Row) + 'a {
    move |seen: Row| {
        for change in changes {
            let Row { place, first, heads, x, lse, .. } = seen;
            change(Row { place, first, heads, x, y: &mut *seen.y, lse });
        }
    }
}

/// Whether the gradients of a trainer are those of `loss`, a function of one parameter's change.
fn agree(what: &str, trainer: &Trainer, n: usize, loss: &dyn Fn(usize, f64) -> f64) {
    let (grads, mut rng) = (trainer.grads(), Rng(17));
    let largest = grads.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    assert!(largest > 0.0, "{what} learns nothing");
    let parts = trainer.adapter_ref().unwrap().shape().parts.clone();
    for part in parts.iter().filter(|p| !p.range.is_empty()) {
        for _ in 0..n {
            let i = part.range.start + rng.below(part.range.len());
            let (want, got) = (slope(|by| loss(i, by), 1e-6), f64::from(grads[i]));
            let bound = 2e-4 * f64::from(largest) + 1e-7;
            assert!((want - got).abs() <= bound, "{what}, {i}: {got} for {want}");
        }
    }
}

#[test]
fn every_place_has_its_gradients() {
    let examples = examples();
    for sketch in sketches() {
        let model = sketch.model(2);
        let base = model.base([0; 32]);
        for (i, (name, toy)) in toys(&model, &base).into_iter().enumerate() {
            let what = format!("{name} of {}", sketch.arch.name);
            let needs = toy.shape.needs;
            let twin = Twin { lead: needs.rows, state: needs.state, ..Twin::new(&model) };
            let (w, params) = (twin.weights(), wide(&toy.params));
            let loss = |i: usize, by: f64| {
                let mut params = params.clone();
                params[i] += by;
                twin.loss(&w, &examples, &*toy.double(1.0, params))
            };
            for recompute in [Recompute::None, Recompute::All] {
                let mut trainer = Trainer::adapter(&model, toy.copy(), config(recompute)).unwrap();
                let report = trainer.step(&[&examples]).unwrap();
                let want = loss(0, 0.0);
                assert!((report.loss - want).abs() < 2e-5, "{what}: loss {} for {want}", report.loss);
                if recompute == Recompute::None || i % 2 == 0 {
                    agree(&what, &trainer, 3, &loss);
                }
            }
        }
    }
}

/// The others beneath, at half of their strength, and each in turn on top.
#[test]
fn a_stack_of_all_teaches_the_one_on_top() {
    let examples = &examples()[1..];
    for sketch in sketches().into_iter().skip(1) {
        let model = sketch.model(2);
        let base = model.base([0; 32]);
        let toys = toys(&model, &base);
        let spec = Spec { seed: 4, ..Spec::new("lora").with("rank", 2) };
        let spec =
            Spec { targets: spec.targets.into_iter().filter(|r| base.shapes[0][*r].is_some()).collect(), ..spec };
        let lora = || {
            let mut lora = adapter::create(&spec, &base).unwrap();
            let mut rng = Rng(8);
            lora.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.2);
            lora
        };
        let low = double("lora")(&spec, &base, &model);
        let needs = toys.iter().fold(Needs::default(), |all, (_, toy)| Needs {
            rows: all.rows + toy.shape.needs.rows,
            state: all.state + toy.shape.needs.state,
            ..all
        });
        let twin = Twin { lead: needs.rows, state: needs.state, ..Twin::new(&model) };
        let w = twin.weights();
        // The low-rank one is the last of the list.
        let count = toys.len() + 1;
        let make = |i: usize| toys.get(i).map_or_else(lora, |(_, toy)| toy.copy());
        for top in 0..count {
            let order: Vec<usize> = (0..count).map(|i| (top + 1 + i) % count).collect();
            let mut beneath = Stack::new();
            for &i in &order[..count - 1] {
                // Half of a low-rank change is another one's strength.
                let strength = if i < toys.len() { 0.5 } else { 1.0 };
                beneath.push(model.ready(make(i)).unwrap(), strength).unwrap();
            }
            let mut trainer = Trainer::on(&model, beneath, make(top), config(Recompute::AllBut(2))).unwrap();
            let report = trainer.step(&[examples]).unwrap();
            let loss = |moved: usize, by: f64| {
                let change = |&i: &usize| {
                    let on_top = i == top;
                    let mut params = wide(make(i).params());
                    params[moved * usize::from(on_top)] += if on_top { by } else { 0.0 };
                    match toys.get(i) {
                        Some((_, toy)) => toy.double(if on_top { 1.0 } else { 0.5 }, params),
                        None => low(&params),
                    }
                };
                let changes: Vec<Box<Change>> = order.iter().map(change).collect();
                twin.loss(&w, examples, &in_turn(&changes))
            };
            let name = toys.get(top).map_or("lora", |(name, _)| name);
            let what = format!("{name} on all others, {}", sketch.arch.name);
            let want = loss(0, 0.0);
            assert!((report.loss - want).abs() < 5e-5, "{what}: loss {} for {want}", report.loss);
            agree(&what, &trainer, 1, &loss);
        }
    }
}

#[test]
fn threads_change_no_bit_at_any_place() {
    let examples = examples();
    for sketch in sketches().into_iter().skip(1) {
        let run = |threads: usize, config: Config| -> Vec<Vec<u32>> {
            let model = sketch.model(threads);
            let base = model.base([0; 32]);
            let bits = |toy: &Toy| {
                let mut trainer = Trainer::adapter(&model, toy.copy(), config.clone()).unwrap();
                let loss = trainer.step(&[&examples]).unwrap().loss as f32;
                trainer.grads().iter().chain([&loss]).map(|v| v.to_bits()).collect()
            };
            toys(&model, &base).iter().map(|(_, toy)| bits(toy)).collect()
        };
        let name = sketch.arch.name;
        let want = run(1, config(Recompute::None));
        assert!(run(3, config(Recompute::All)) == want && run(2, config(Recompute::AllBut(2))) == want, "{name}");
        let rounded = |recompute| Config { precision: Precision::Int8, act_type: ActType::F16, ..config(recompute) };
        let (one, three) = (run(1, rounded(Recompute::AllBut(2))), run(3, rounded(Recompute::AllBut(2))));
        assert!(one == three && one != want, "{name}, rounded");
        // What is rounded is near: losses, the last of each list.
        for (rounded, want) in one.iter().zip(&want) {
            let [rounded, want] = [rounded, want].map(|v| f32::from_bits(v[v.len() - 1]));
            assert!((rounded - want).abs() < 0.05, "{name}: loss {rounded} for {want}");
        }
    }
}

#[test]
fn sessions_wear_what_was_trained() {
    let tokens: Vec<u32> = (0..11).map(|t| t * 7 % tiny::VOCAB as u32).collect();
    for sketch in sketches() {
        let model = sketch.model(2);
        // Rows that see what follows cannot be read one after the other.
        if model
            .hparams
            .blocks
            .iter()
            .any(|l| !matches!(l.sees, mynah::nn::attention::Sees::Causal | mynah::nn::attention::Sees::Window(_)))
        {
            continue;
        }
        let base = model.base([0; 32]);
        let session = |chunk| {
            let config = SessionConfig { context: 32, precision: Precision::F32, cache: CacheType::F32, chunk };
            Session::new(&model, config).unwrap()
        };
        let plain = session(4).feed(&tokens).unwrap().to_vec();
        for (name, toy) in toys(&model, &base) {
            let what = format!("{name} of {}", sketch.arch.name);
            let needs = toy.shape.needs;
            let ready = model.ready(toy.copy()).unwrap();
            for (strength, chunk) in [(1.0, 16), (1.0, 4), (0.25, 3)] {
                let twin = Twin { lead: needs.rows, state: needs.state, ..Twin::new(&model) };
                let change = toy.double(f64::from(strength), wide(&toy.params));
                let want = twin.logits(&twin.weights(), &tokens, &*change);
                let mut session = session(chunk);
                session.attach(ready.clone(), strength).unwrap();
                let got = session.feed(&tokens).unwrap().to_vec();
                let most = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                let apart = want.iter().zip(&got).map(|(w, g)| (w - f64::from(*g)).abs()).fold(0.0, f64::max);
                assert!(apart < 1e-4 * most.max(1.0), "{what}, strength {strength}: {apart} apart");
                assert!(got != plain, "{what} changes nothing");
                session.detach().unwrap();
                assert!(session.feed(&tokens).unwrap() == plain, "{what} is gone");
            }
            let mut session = session(4);
            session.attach(ready, 0.0).unwrap();
            assert!(session.feed(&tokens).unwrap() == plain, "{what} with strength 0");
        }
    }
}

/// A low-rank change whose rank grows by one after a step.
struct Grow {
    shape: Shape,
    places: Vec<(Place, [usize; 2])>,
    rank: usize,
    params: Vec<f32>,
    /// The step after which it grows.
    at: u64,
}

/// The step after which it grows, and the ranks before and after it.
const GROWS: u64 = 3;
const RANKS: [usize; 2] = [2, 3];

static GROW: Kind = Kind {
    name: "grow",
    about: "",
    rate: 1e-3,
    knobs: &[],
    targets: &[],
    shape: |_, _| Err(Error::unsupported("spec", "grow")),
    create: |_, _| Err(Error::unsupported("spec", "grow")),
    read: |stored| Ok(Box::new(Grow::read(stored)?)),
    sections: &["rank"],
    grown: &["rank"],
    codec: None,
    size: None,
};

impl Grow {
    fn with_rank(places: Vec<(Place, [usize; 2])>, rank: usize) -> Grow {
        let needs = Needs { input: true, ..Needs::default() };
        let mut shape = Shape::build(
            places.clone(),
            |_| needs,
            |_, [n_in, n_out]| {
                vec![NewPart::new("a", rank, n_in, Start::Given), NewPart::new("b", rank, n_out, Start::Zero)]
            },
        );
        let each: usize = places.iter().map(|(_, [n_in, n_out])| n_in + n_out).sum();
        shape.size.params = RANKS[1] * each;
        shape.size.row = RANKS[1];
        let mut grow = Grow { params: vec![0.0; rank * each], shape, places, rank, at: GROWS };
        for part in 0..grow.shape.parts.len() {
            let range = grow.shape.parts[part].range.clone();
            let mut start = vec![0.0; range.len()];
            grow.start(part, &mut start);
            grow.params[range].copy_from_slice(&start);
        }
        grow
    }

    fn new(base: &Base) -> Grow {
        let places = [site(0, Role::Q), site(1, Role::Down)].map(|p| (p, base.place(p).unwrap()));
        Grow::with_rank(places.to_vec(), RANKS[0])
    }

    fn read(stored: Stored) -> Result<Grow> {
        let bytes = stored.container.require("rank")?;
        let rank = usize::from(*bytes.first().ok_or_else(|| Error::corrupt("no rank", 0))?);
        let mut grow = Grow::with_rank(stored.places.clone(), rank);
        grow.params = stored.params(&grow.shape.parts, |_, out| out.fill(0.0))?;
        Ok(grow)
    }

    /// A and Bᵀ of a slot, by ranges.
    fn factors(&self, slot: usize) -> [std::ops::Range<usize>; 2] {
        [0, 1].map(|i| self.shape.parts[2 * slot + i].range.clone())
    }
}

fn product(x: &[f32], w: &[f32]) -> f32 {
    x.iter().zip(w).map(|(x, w)| x * w).sum()
}

impl Adapter for Grow {
    fn kind(&self) -> &'static Kind {
        &GROW
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn params(&self) -> &[f32] {
        &self.params
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    fn forward(&self, at: &At, x: View, y: &mut Tile, _scratch: &mut Buffer) {
        let [a, b] = self.factors(at.slot).map(|range| &self.params[range]);
        for i in 0..y.n() {
            for (a, b) in a.chunks_exact(x.c).zip(b.chunks_exact(y.c())) {
                let u = at.strength * product(x.row(i), a);
                y.row(i).iter_mut().zip(b).for_each(|(y, b)| *y += u * b);
            }
        }
    }

    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, _scratch: &mut Buffer) {
        let (Into { mut dx, acc, .. }, x) = (into, seen.x);
        let dy = View::new(dy, x.n, dy.len() / x.n);
        let [ra, rb] = self.factors(at.slot);
        let (mut da, mut db) = (vec![0.0; ra.len()], vec![0.0; rb.len()]);
        for i in 0..x.n {
            for r in 0..self.rank {
                let (a, b) = (&self.params[ra.clone()][r * x.c..][..x.c], &self.params[rb.clone()][r * dy.c..][..dy.c]);
                let (u, du) = (at.strength * product(x.row(i), a), at.strength * product(dy.row(i), b));
                db[r * dy.c..][..dy.c].iter_mut().zip(dy.row(i)).for_each(|(db, dy)| *db += u * dy);
                da[r * x.c..][..x.c].iter_mut().zip(x.row(i)).for_each(|(da, x)| *da += du * x);
                dx.iter_mut().for_each(|dx| dx.row(i).iter_mut().zip(a).for_each(|(dx, a)| *dx += du * a));
            }
        }
        if let Some(acc) = acc {
            acc[ra].iter_mut().zip(da).for_each(|(acc, da)| *acc += da);
            acc[rb].iter_mut().zip(db).for_each(|(acc, db)| *acc += db);
        }
    }

    fn start(&self, part: usize, out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(i, v)| {
            *v = if part.is_multiple_of(2) { ((i * 7 + part) % 11) as f32 / 11.0 - 0.4 } else { 0.0 }
        });
    }

    fn record(&self, _head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        vec![("rank", vec![self.rank as u8])]
    }

    fn grow(&mut self, step: u64, grads: &[f32]) -> bool {
        assert_eq!(grads.len(), self.params.len());
        if step != self.at {
            return false;
        }
        let mut next = Grow::with_rank(self.places.clone(), RANKS[1]);
        for (old, new) in self.shape.parts.iter().zip(&next.shape.parts) {
            // Rows are whole, so that the old values are the first.
            next.params[new.range.start..][..old.range.len()].copy_from_slice(&self.params[old.range.clone()]);
        }
        *self = next;
        true
    }
}

/// A run of six steps.
struct Whole {
    trainer: Trainer,
    order: Order,
    rows: Vec<Example>,
    base: Base,
}

const STEPS: u64 = 6;

impl Whole {
    fn new(adapter: impl Fn(&Base) -> Box<dyn Adapter>, config: Config, threads: usize) -> Whole {
        let model = tiny::model("llama", 7, true, threads);
        let base = model.base([9; 32]);
        let trainer = Trainer::adapter(&model, adapter(&base), Config { steps: STEPS, ..config }).unwrap();
        let row = |i: u32| Example::all((0..9).map(|t| (i * 5 + t * 3) % tiny::VOCAB as u32).collect());
        Whole { trainer, order: Order::new(7, 2, 1, Some(5)).unwrap(), rows: (0..7).map(row).collect(), base }
    }

    fn step(&mut self) {
        let batches: Vec<Vec<Example>> =
            self.order.next_step().iter().map(|rows| rows.iter().map(|&i| self.rows[i].clone()).collect()).collect();
        self.trainer.step(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    }

    fn save(&self) -> Vec<u8> {
        self.trainer.checkpoint(&self.base, &self.order, &Head::new(), &[]).unwrap()
    }

    fn go_on(&mut self, bytes: Vec<u8>) {
        let saved = Checkpoint::read(bytes.into(), &Limits::default()).unwrap();
        self.trainer.resume(&saved, &self.base, &mut self.order, &Head::new()).unwrap();
    }
}

/// From every step of a run, whatever the one that goes on has done before, the rest is the same to the last bit.
fn goes_on(what: &str, new: &dyn Fn(usize) -> Whole) {
    let mut whole = new(1);
    let mut saved = vec![whole.save()];
    for _ in 0..STEPS {
        whole.step();
        saved.push(whole.save());
    }
    for (step, bytes) in saved.iter().enumerate() {
        let mut run = new(3);
        (0..(step + 4) % STEPS as usize).for_each(|_| run.step());
        run.go_on(bytes.clone());
        assert!(run.save() == *bytes, "{what}: saved again after step {step}");
        (step as u64..STEPS).for_each(|_| run.step());
        assert!(run.save() == saved[STEPS as usize], "{what}: from step {step}");
    }
}

#[test]
fn what_grows_goes_on_from_before_and_after() {
    for optimizer in OPTIMIZERS {
        let config = || Config { lr: 1e-2, optimizer: optim::Spec::new(optimizer.name), ..Config::default() };
        goes_on(optimizer.name, &|threads| Whole::new(|base| Box::new(Grow::new(base)), config(), threads));
    }
}

#[test]
fn rows_of_several_stand_one_behind_the_other() {
    let examples = examples();
    let model = tiny::model("llama", 7, true, 2);
    let base = model.base([9; 32]);
    let rows = |seed: u64| Toy::new(&base, seed, &[(Place::Rows, Rows)]);
    let mut beneath = Stack::new();
    beneath.push(model.ready(Box::new(rows(1))).unwrap(), 0.5).unwrap();
    beneath.push(model.ready(Box::new(rows(2))).unwrap(), 1.0).unwrap();
    let mut trainer = Trainer::on(&model, beneath, Box::new(rows(3)), config(Recompute::None)).unwrap();
    let report = trainer.step(&[&examples]).unwrap();
    let twin = Twin { lead: 3 * LEAD, ..Twin::new(&model) };
    let w = twin.weights();
    let loss = |i: usize, by: f64| {
        let all = [(1, 0.5), (2, 1.0), (3, 1.0)].map(|(seed, strength)| {
            let toy = rows(seed);
            let mut params = wide(&toy.params);
            params[i] += if seed == 3 { by } else { 0.0 };
            toy.double(strength, params)
        });
        twin.loss(&w, &examples, &|seen: Row| {
            if seen.place != Place::Rows {
                return;
            }
            let Row { place, first, heads, x, y, lse } = seen;
            for (y, change) in y.chunks_exact_mut(LEAD).zip(&all) {
                change(Row { place, first, heads, x, y, lse });
            }
        })
    };
    assert!((report.loss - loss(0, 0.0)).abs() < 1e-5, "{}", report.loss);
    agree("rows on rows", &trainer, 30, &loss);
    let states = || Toy::new(&base, 4, &[(Place::State(0), State), (Place::Join, Join)]);
    let mut stack = Stack::new();
    stack.push(model.ready(Box::new(states())).unwrap(), 1.0).unwrap();
    let e = stack.push(model.ready(Box::new(states())).unwrap(), 1.0).unwrap_err().to_string();
    assert!(e.contains("state"), "{e}");
}

/// A small file may say much of what is to be derived from it.
#[test]
fn what_there_is_no_room_for_is_not_derived() {
    let model = sketches().pop().unwrap().model(1);
    let base = model.base([0; 32]);
    let mut toy = Toy::new(&base, 1, &[(Place::Final, Parallel)]);
    toy.shape.size.derived = 1 << 60;
    let e = model.ready(Box::new(toy)).err().unwrap();
    assert!(matches!(e, Error::Memory { .. }) && e.to_string().contains("derived from an adapter"), "{e}");
}

/// A product that is a part of another has no input of its own.
#[test]
fn parts_of_a_product_have_no_input_alone() {
    let model = sketches().pop().unwrap().model(1);
    let base = model.base([0; 32]);
    for role in [Role::Qkv, Role::GateUp] {
        assert!(base.place(input(0, role)).is_ok());
        for held in role.row().holds {
            let e = base.place(input(0, *held)).unwrap_err().to_string();
            assert!(e.contains(role.gguf()) && base.place(site(0, *held)).is_ok(), "{e}");
        }
    }
}

/// Outputs of blocks below the lowest adapted one, from a store.
#[test]
fn blocks_below_every_place_may_be_kept() {
    let examples = examples();
    let mut kept = 0;
    for sketch in sketches().into_iter().skip(1) {
        let model = sketch.model(2);
        let base = model.base([0; 32]);
        for (name, toy) in toys(&model, &base) {
            let what = format!("{name} of {}", sketch.arch.name);
            let make = || Trainer::adapter(&model, toy.copy(), Config { steps: 2, ..config(Recompute::None) }).unwrap();
            let (mut plain, mut stored) = (make(), make());
            stored.cache_activations(Box::new(Memory::new(1 << 20)));
            for _ in 0..2 {
                let [plain, stored] = [&mut plain, &mut stored].map(|t| t.step(&[&examples]).unwrap().loss);
                assert!((stored / plain - 1.0).abs() < 1e-2, "{what}: {stored} for {plain}");
            }
            kept += usize::from(stored.frozen_blocks() > 0);
        }
    }
    assert!(kept > 3, "{kept} have frozen blocks below them");
}

/// The reference of an adapter on top is what is attached beneath.
#[test]
fn the_reference_is_what_is_beneath() {
    let model = tiny::model("llama", 7, true, 2);
    let base = model.base([9; 32]);
    let toys = toys(&model, &base);
    let mut beneath = Stack::new();
    for (_, toy) in &toys {
        beneath.push(model.ready(toy.copy()).unwrap(), 0.5).unwrap();
    }
    let all = examples();
    let pair = |a: usize, b: usize| all[a].clone().over(all[b].clone());
    let mut pairs = [pair(0, 1), pair(2, 0)];
    let lora = || adapter::create(&Spec::new("lora").with("rank", 2), &base).unwrap();
    let config = || Config { objective: objective::Spec::new("dpo"), ..config(Recompute::None) };
    let mut on = Trainer::on(&model, beneath, lora(), config()).unwrap();
    on.fill_reference_logps(&mut pairs).unwrap();
    let known: Vec<f64> = pairs.iter().flat_map(Example::sequences).map(|e| e.reference.unwrap()).collect();
    // A fresh one adds nothing yet.
    assert_eq!(on.log_probs(&pairs).unwrap(), known);
    let report = on.step(&[&pairs]).unwrap();
    assert!((report.loss - 2f64.ln()).abs() < 1e-6, "{}", report.loss);
    let alone = Trainer::adapter(&model, lora(), config()).unwrap().log_probs(&pairs).unwrap();
    assert!(alone.iter().zip(&known).all(|(a, b)| (a - b).abs() > 1e-3), "{alone:?} {known:?}");
    // It moves: what is beneath does not.
    let mut again = pairs.clone();
    again.iter_mut().for_each(|e| (e.reference, e.other.as_mut().unwrap().reference) = (None, None));
    on.fill_reference_logps(&mut again).unwrap();
    assert_eq!(again, pairs);
    assert!(on.log_probs(&pairs).unwrap() != known);
}

/// What is attached beneath is part of what a run computes.
#[test]
fn a_run_goes_on_above_the_same_stack_alone() {
    let model = tiny::model("llama", 7, true, 1);
    let base = model.base([9; 32]);
    let config = || Config { steps: 2, ..config(Recompute::None) };
    let order = || Order::new(7, 2, 1, Some(5)).unwrap();
    let above = |toy: Toy, strength: f32| {
        let mut beneath = Stack::new();
        beneath.push(model.ready(Box::new(toy)).unwrap(), strength).unwrap();
        let lora = adapter::create(&Spec::new("lora").with("rank", 2), &base).unwrap();
        Trainer::on(&model, beneath, lora, config()).unwrap()
    };
    let toy = |seed: u64| Toy::new(&base, seed, &[(site(0, Role::Q), Scale), (Place::Final, Parallel)]);
    let mut first = above(toy(1), 0.5);
    let save = |trainer: &Trainer| trainer.checkpoint(&base, &order(), &Head::new(), &[]).unwrap();
    first.step(&[&examples()]).unwrap();
    let saved = Checkpoint::read(save(&first).into(), &Limits::default()).unwrap();
    first.step(&[&examples()]).unwrap();
    let mut same = above(toy(1), 0.5);
    same.resume(&saved, &base, &mut order(), &Head::new()).unwrap();
    same.step(&[&examples()]).unwrap();
    assert!(save(&same) == save(&first));
    let others = [above(toy(2), 0.5), above(toy(1), 0.6)];
    let bare = Trainer::adapter(&model, adapter::create(&Spec::new("lora").with("rank", 2), &base).unwrap(), config());
    for mut other in others.into_iter().chain([bare.unwrap()]) {
        let e = other.resume(&saved, &base, &mut order(), &Head::new()).unwrap_err();
        assert!(matches!(e, Error::Changed(_)) && e.to_string().contains("attached beneath"), "{e}");
    }
}

/// What a run reserves, and what was planned, for every adapter of the test and with dropout.
#[test]
#[ignore = "counts the whole process's memory; the next test runs it alone"]
fn reserved_is_planned_alone() {
    let examples: Vec<Example> =
        (0..8).map(|i| Example::all((0..60).map(|t| (i * 5 + t * 3) % tiny::VOCAB as u32).collect())).collect();
    for sketch in sketches().into_iter().skip(1) {
        let model = sketch.model(1);
        let base = model.base([0; 32]);
        for (name, toy) in toys(&model, &base) {
            let input = toy.shape.drops();
            for dropout in [None, Some(Dropout { rate: 0.1, seed: 1 })].into_iter().filter(|d| d.is_none() || input) {
                let config = Config { dropout, ..config(Recompute::None) };
                let run = Run {
                    beneath: &NONE,
                    model: &model,
                    subject: Subject::Adapter(&toy),
                    config: config.clone(),
                    rows: plan::Rows::of(&[(0..8).collect()], &examples),
                    batch: 1,
                    step: 1,
                    checkpoints: false,
                    activation_cache: false,
                    best: false,
                    held: 0,
                };
                let plan = run.plan().unwrap();
                let ((), peak) = alloc::peak(|| {
                    let mut trainer = Trainer::adapter(&model, toy.copy(), config).unwrap();
                    trainer.step(&[&examples]).unwrap();
                });
                let planned = plan.reserved();
                let dropped = if dropout.is_some() { " dropped" } else { "" };
                eprintln!("{name}{dropped}, {}: {planned} planned, {peak} held", sketch.arch.name);
                let near = peak <= planned * 11 / 10 && peak >= planned * 3 / 4;
                assert!(near, "{name}{dropped}, {}: {planned} planned for {peak}", sketch.arch.name);
            }
        }
    }
}

#[test]
fn reserved_is_planned() {
    let test = std::env::current_exe().unwrap();
    let out = std::process::Command::new(test)
        .args(["doors::reserved_is_planned_alone", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("planned,"), "{text}");
}

/// What is new changes nothing at first: so the old values move on as they would have without it, if the optimiser has
/// kept what it knew of them.
#[test]
fn what_grows_moves_on_as_it_did() {
    for optimizer in ["adamw", "lion", "sgd"] {
        let momentum = optim::Spec::new(optimizer).with("beta1", 0.9f32);
        let config = Config { lr: 1e-2, clip: 0.0, optimizer: momentum, ..Config::default() };
        let run = |at: u64| {
            let mut run = Whole::new(|base| Box::new(Grow { at, ..Grow::new(base) }), config.clone(), 1);
            (0..=GROWS).for_each(|_| run.step());
            let adapter = run.trainer.adapter_ref().unwrap();
            let parts = adapter.shape().parts.iter().map(|p| adapter.params()[p.range.clone()].to_vec());
            parts.collect::<Vec<_>>()
        };
        let (grown, same) = (run(GROWS), run(u64::MAX));
        for (grown, same) in grown.iter().zip(&same) {
            assert_eq!(grown.len() * RANKS[0], same.len() * RANKS[1]);
            assert!(grown[..same.len()] == same[..], "{optimizer}");
        }
    }
}

#[test]
fn what_grows_is_planned_at_its_largest() {
    for optimizer in OPTIMIZERS {
        let config = Config { lr: 1e-2, optimizer: optim::Spec::new(optimizer.name), ..Config::default() };
        let mut run = Whole::new(|base| Box::new(Grow::new(base)), config.clone(), 1);
        let small = Grow::new(&run.base);
        let plan = Run {
            beneath: &NONE,
            model: run.trainer.model(),
            subject: Subject::Adapter(&small),
            config,
            rows: plan::Rows::full(9, 7),
            batch: 2,
            step: 2,
            checkpoints: true,
            activation_cache: false,
            best: false,
            held: 0,
        };
        let plan = plan.plan().unwrap();
        (0..STEPS).for_each(|_| run.step());
        let params = run.trainer.adapter_ref().unwrap().params().len();
        assert_eq!((params * RANKS[0], run.trainer.parameters()), (small.params.len() * RANKS[1], params));
        let moments = (optimizer.bytes)(&run.trainer.adapter_ref().unwrap().shape().parts);
        assert!(plan.moments >= moments, "{}: {} for {moments}", optimizer.name, plan.moments);
        assert_eq!((plan.gradients, plan.adapter), (4 * params, 4 * params));
    }
}

fn dropping(rate: f32, recompute: Recompute) -> Config {
    Config { dropout: Some(Dropout { rate, seed: 21 }), ..config(recompute) }
}

/// The draws as the page of dropout says them: a stream a place and step, a word a value.
fn masked(inner: Box<Change<'static>>, rate: f64, step: u64) -> Box<Change<'static>> {
    Box::new(move |seen: Row| {
        if !matches!(seen.place, Place::Site(_) | Place::Stream(..)) {
            return inner(seen);
        }
        // Norms of heads have a row for each, unless they go over all of them together.
        let alone = seen.x.first().is_some_and(|x| x.len() == seen.heads.dim);
        let each = match seen.place {
            Place::Site(Site { role: Role::QNorm, .. }) if alone => seen.heads.q,
            Place::Site(Site { role: Role::KNorm, .. }) if alone => seen.heads.kv,
            _ => 1,
        };
        let stream = Stream::new(21, &format!("step {step}"), &format!("dropout {}", seen.place));
        let left: Vec<Vec<f64>> = seen
            .x
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let mut out = x.clone();
                stream.words((seen.first * each + i) as u64 * x.len() as u64, x.len(), |at, words| {
                    for (v, word) in out[at..].iter_mut().zip(words) {
                        *v *= if f64::from(*word) >= rate * 4294967296.0 { 1.0 / (1.0 - rate) } else { 0.0 };
                    }
                });
                out
            })
            .collect();
        inner(Row { x: &left, ..seen });
    })
}

#[test]
fn dropout_has_the_gradients_of_the_dropped_pass() {
    let examples = examples();
    for (s, sketch) in sketches().into_iter().skip(1).enumerate() {
        let model = sketch.model(2);
        let base = model.base([0; 32]);
        let (twin, rate) = (Twin::new(&model), 0.25);
        let w = twin.weights();
        // Each kind on every fifth of them.
        for (_, kind) in KINDS.iter().enumerate().filter(|(k, _)| (s + k) % 5 == 0) {
            let Some(spec) = spec_of(kind, &base) else { continue };
            let ranked = kind.knobs.iter().any(|usual| usual.knob.name == "rank");
            let spec = if ranked { spec.with("rank", 3) } else { spec };
            let fresh = || {
                let mut a = adapter::create(&spec, &base).unwrap();
                let mut rng = Rng(7);
                a.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.1);
                a
            };
            if !fresh().shape().drops() {
                let refused =
                    Trainer::adapter(&model, fresh(), dropping(rate, Recompute::None)).err().unwrap().to_string();
                assert!(refused.contains(kind.name) && refused.contains("no input"), "{refused}");
                continue;
            }
            let (params, does) = (wide(fresh().params()), double(kind.name)(&spec, &base, &model));
            for recompute in [Recompute::None, Recompute::All] {
                let mut trainer = Trainer::adapter(&model, fresh(), dropping(rate, recompute)).unwrap();
                // What micro-batches there are changes no draw.
                let report = trainer.step(&[&examples[..1], &examples[1..]]).unwrap();
                let loss = |i: usize, by: f64| {
                    let mut params = params.clone();
                    params[i] += by;
                    twin.loss(&w, &examples, &*masked(does(&params), f64::from(rate), 0))
                };
                let what = format!("{} dropped on {}", kind.name, sketch.arch.name);
                let want = loss(0, 0.0);
                assert!((report.loss - want).abs() < 2e-5, "{what}: loss {} for {want}", report.loss);
                // In double precision; some kinds do little with parameters this small.
                assert!((twin.loss(&w, &examples, &*does(&params)) - want).abs() > 1e-8, "{what} drops nothing");
                agree(&what, &trainer, 1, &loss);
                // What is measured has none.
                let plain = Trainer::adapter(&model, fresh(), config(recompute)).unwrap().assess(&examples).unwrap();
                let measured =
                    Trainer::adapter(&model, fresh(), dropping(rate, recompute)).unwrap().assess(&examples).unwrap();
                assert_eq!(plain, measured);
            }
        }
        for (name, toy) in toys(&model, &base).iter().filter(|(_, toy)| toy.shape.drops()) {
            let mut trainer = Trainer::adapter(&model, toy.copy(), dropping(rate, Recompute::None)).unwrap();
            trainer.step(&[&examples[..1], &examples[1..]]).unwrap();
            let loss = |i: usize, by: f64| {
                let mut params = wide(&toy.params);
                params[i] += by;
                twin.loss(&w, &examples, &*masked(toy.double(1.0, params), f64::from(rate), 0))
            };
            agree(&format!("{name} dropped, {}", sketch.arch.name), &trainer, 3, &loss);
        }
    }
}

#[test]
fn dropout_is_the_same_for_threads_micro_batches_and_resumed_runs() {
    let examples = examples();
    let run = |threads: usize, micro: &[&[Example]]| -> Vec<u32> {
        let model = tiny::model("llama", 13, true, threads);
        let base = model.base([0; 32]);
        let mut adapter = adapter::create(&Spec::new("lora"), &base).unwrap();
        let mut rng = Rng(7);
        adapter.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.1);
        let mut trainer =
            Trainer::adapter(&model, adapter, Config { steps: 2, ..dropping(0.3, Recompute::Auto) }).unwrap();
        (0..2).for_each(|_| _ = trainer.step(micro).unwrap());
        trainer.adapter_ref().unwrap().params().iter().map(|v| v.to_bits()).collect()
    };
    let want = run(1, &[&examples]);
    assert!(run(3, &[&examples]) == want);
    let split = run(1, &[&examples[..1], &examples[1..]]);
    assert!(run(3, &[&examples[..1], &examples[1..]]) == split);
    assert!(split == want, "micro-batches draw as the whole does");
    for rate in [0.2, 0.5] {
        let config = || Config { lr: 1e-2, ..dropping(rate, Recompute::Auto) };
        let lora = |base: &Base| adapter::create(&Spec::new("lora"), base).unwrap();
        goes_on("dropout", &|threads| Whole::new(lora, config(), threads));
    }
}

#[test]
fn dropout_that_cannot_be_is_refused() {
    let model = tiny::model("llama", 13, true, 1);
    let base = model.base([0; 32]);
    let refused = |adapter: Box<dyn Adapter>, config: Config| {
        let e = Trainer::adapter(&model, adapter, config).err().expect("refused").to_string();
        assert!(e.contains("dropout"), "{e}");
    };
    let lora = || adapter::create(&Spec::new("lora"), &base).unwrap();
    for rate in [0.0, 1.0, -0.1, f32::NAN] {
        refused(lora(), dropping(rate, Recompute::Auto));
    }
    let zeroth = Gradient::Zeroth(Zeroth::default());
    refused(lora(), Config { gradient: zeroth, ..dropping(0.1, Recompute::Auto) });
    refused(toys(&model, &base)[0].1.copy(), Config { ..dropping(0.1, Recompute::Auto) });
    let e = Trainer::full(&model, dropping(0.1, Recompute::Auto)).err().unwrap().to_string();
    assert!(e.contains("dropout"), "{e}");
}
