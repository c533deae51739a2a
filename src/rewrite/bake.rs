//! Baking: a model file of a model and its adapters.
//!
//! Each row of a matrix is decoded, changed as the adapters at its site would change its product, and encoded again. What a
//! format rounds away is lost: a small adapter may lie below half a step of the codes. [`rounding`] says how large
//! the error is beside the change; the losses on a text say what that means.

use super::{Change, Mix, Progress, Step, check, pairs_of, sorted, write};
use crate::adapter::{At, Attached, Base, Place, Site, Stack};
use crate::bytes::{Sink, zeros};
use crate::error::{Error, Result, printable};
use crate::gguf::{Gguf, Tensor, Value};
use crate::kernel::{Compute, Tile};
use crate::nn::attention::Heads;
use core::ops::Range;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// How adapters are baked in.
pub struct Bake<'a> {
    /// The adapters, first to last.
    pub stack: &'a Stack,
    /// What each of them is called, for the record in the file.
    pub names: &'a [String],
    /// The type of the new file; without one each tensor keeps its format.
    pub to: Option<&'static Mix>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baked {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors that the adapters change.
    pub changed: usize,
    /// Tensors of each format.
    pub formats: BTreeMap<&'static str, usize>,
}

/// One adapter at a part of a tensor.
struct Effect<'a> {
    attached: &'a Attached,
    slot: usize,
    place: Place,
    /// The rows of the tensor that it stands on.
    rows: Range<usize>,
    heads: Heads,
}

impl Effect<'_> {
    fn at<'a>(&self, cx: &'a Compute) -> At<'a> {
        At { cx, place: self.place, slot: self.slot, strength: self.attached.strength, heads: self.heads, lse: None }
    }

    /// Those of `rows` that it stands on.
    fn of(&self, rows: &Range<usize>) -> Range<usize> {
        self.rows.start.max(rows.start)..self.rows.end.min(rows.end)
    }

    /// Its turn among others at the same tensor, as in a pass: what a product makes of an input is changed before the input
    /// is, and the whole tensor before its parts, which do not see that.
    fn turn(&self, whole: usize) -> (bool, bool) {
        (self.rows.len() < whole, matches!(self.place, Place::Input(_)))
    }
}

/// Writes the model of `gguf`, of which `base` is the description, with adapters made part of its weights. Metadata are kept, and
/// `mynah.baked` says what was done.
///
/// # Errors
/// `Unsupported` for an adapter whose change is none of weights, naming its kind and place, for a tensor that is stored in
/// another form than it is used in, and for a format that cannot be written; those of [`super::quantise()`].
pub fn bake(
    gguf: &Gguf,
    base: &Base,
    how: &Bake,
    cx: &Compute,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Progress),
) -> Result<Baked> {
    let (effects, biases) = effects(gguf, base, how.stack)?;
    let tensors = sorted(gguf);
    let formats = how.to.map(|mix| mix.formats(gguf, &tensors, false)).transpose()?;
    let mut report = Baked::default();
    let mut steps = Vec::new();
    for (i, tensor) in tensors.into_iter().enumerate() {
        let to = formats.as_ref().and_then(|all| all.get(i)).copied().unwrap_or(tensor.format);
        let own = effects.get(&*tensor.name).map(|all| &all[..]);
        let bias = biases.get(&*tensor.name).map(|all| &all[..]);
        if (own.is_some() || bias.is_some() || !core::ptr::eq(to, tensor.format)) && to.encode.is_none() {
            let name =
                format!("{} of tensor `{}`; choose a type that can be written", to.name, printable(&tensor.name));
            return Err(Error::unsupported("tensor format to write", name));
        }
        let change = match (own, bias) {
            (Some(own), _) => Some(weights(own, cx)),
            (None, Some(bias)) => Some(vector(bias, cx)),
            (None, None) => None,
        };
        report.changed += usize::from(change.is_some());
        *report.formats.entry(to.name).or_default() += 1;
        let step = Step { change, ..Step::new(gguf, tensor, to)? };
        report.bytes += step.bytes();
        steps.push(step);
    }
    write(head(gguf, how)?, &steps, cx, &|| check(gguf), sink, progress)?;
    Ok(report)
}

/// By the name of a tensor what stands on it: on weights, and on biases.
type Effects<'a> = BTreeMap<String, Vec<Effect<'a>>>;

fn effects<'a>(gguf: &Gguf, base: &Base, stack: &'a Stack) -> Result<(Effects<'a>, Effects<'a>)> {
    let (mut weights, mut biases) = (Effects::new(), Effects::new());
    for attached in stack.all().iter().filter(|a| a.strength != 0.0) {
        let adapter = &attached.adapter;
        for (slot, at) in adapter.shape().slots.iter().enumerate() {
            let place = at.place;
            let (Place::Site(site) | Place::Input(site)) = place else { return Err(unmergeable(attached, place)) };
            if !adapter.bakes(place) {
                return Err(unmergeable(attached, place));
            }
            let matrix = base.matrix(site)?;
            let Some((tensor, start)) = gguf.holder(matrix.data()) else {
                let name = format!("{site}, which the file stores in another form; attach the adapter instead (-a)");
                return Err(Error::unsupported("tensor to bake into", name));
            };
            let first = start / matrix.row_bytes().max(1);
            let heads = base.shapes.get(site.layer).map(|shapes| shapes.heads);
            let Some(heads) = heads else { return Err(unmergeable(attached, place)) };
            let effect = || Effect { attached, slot, place, rows: first..first + matrix.rows, heads };
            if matches!(place, Place::Site(_))
                && let Some(bias) = bias_of(gguf, base, site, tensor)
            {
                biases.entry(bias).or_default().push(effect());
            }
            weights.entry(tensor.name.to_string()).or_default().push(effect());
        }
    }
    for (name, all) in weights.iter_mut().chain(&mut biases) {
        let whole = gguf.tensor(name).map_or(0, |t| {
            let rows = t.elements() / t.dims().first().copied().unwrap_or(1).max(1);
            if t.dims().len() == 1 { t.elements() } else { rows }
        });
        all.sort_by_key(|effect| effect.turn(whole as usize));
    }
    Ok((weights, biases))
}

/// The name of the bias that is added to the product of a tensor.
fn bias_of(gguf: &Gguf, base: &Base, site: Site, tensor: &Tensor) -> Option<String> {
    base.frozen.as_ref()?.bias(site)?;
    let name = format!("{}.bias", tensor.name.strip_suffix(".weight")?);
    gguf.tensor(&name).map(|bias| bias.name.to_string())
}

fn unmergeable(attached: &Attached, place: Place) -> Error {
    let kind = attached.adapter.kind().name;
    let why = format!("a {kind} adapter, which acts at {place} and not on weights; attach it instead (-a)");
    Error::unsupported("adapter to bake", why)
}

/// The change of the rows of a matrix.
fn weights<'a>(effects: &'a [Effect<'a>], cx: &'a Compute) -> Change<'a> {
    Box::new(move |rows, w| {
        let cols = w.c();
        for effect in effects {
            let own = effect.of(&rows);
            if !own.is_empty() {
                let mut part = w.part(own.start - rows.start..own.end - rows.start, 0..cols);
                let own = own.start - effect.rows.start..own.end - effect.rows.start;
                effect.attached.adapter.bake(&effect.at(cx), own, &mut part);
            }
        }
    })
}

/// The change of a bias, whose tensor is one row.
fn vector<'a>(effects: &'a [Effect<'a>], cx: &'a Compute) -> Change<'a> {
    Box::new(move |_, bias| {
        for effect in effects {
            let own = effect.of(&(0..bias.c()));
            effect.attached.adapter.bake_bias(&effect.at(cx), &mut bias.row(0)[own]);
        }
    })
}

/// The key that says what was baked in.
pub const BAKED: &str = "mynah.baked";

/// The metadata, with what was done.
fn head(gguf: &Gguf, how: &Bake) -> Result<crate::gguf::Writer> {
    let count = gguf.u32("general.base_model.count")?.unwrap_or(0);
    let base = |key: &str| format!("general.base_model.{count}.{key}");
    let [name, version] = [base("name"), base("version")];
    let mut left_out = vec!["general.base_model.count", BAKED, &name, &version];
    if how.to.is_some() {
        left_out.extend(["general.quantization_version", "general.file_type"]);
    }
    let mut head = pairs_of(gguf, &left_out);
    if let Some(mix) = how.to {
        head.set("general.quantization_version", super::quantise::FORMATS_VERSION);
        head.set("general.file_type", mix.file_type);
    }
    head.set("general.base_model.count", count.saturating_add(1));
    head.set(name.clone(), gguf.string("general.name")?.unwrap_or("a model without a name"));
    if let Some(said) = gguf.string("general.version")? {
        head.set(version.clone(), said);
    }
    let mut baked: Vec<String> = match gguf.get(BAKED) {
        Some(Value::Array(_)) => gguf.strings(BAKED)?.map(|all| all.map(String::from).collect()).unwrap_or_default(),
        _ => Vec::new(),
    };
    for (attached, name) in how.stack.all().iter().zip(how.names) {
        baked.push(format!("{} {name}, strength {}", attached.adapter.kind().name, attached.strength));
    }
    head.set(BAKED, &baked[..]);
    Ok(head)
}

/// The error that rounding to the format of the new file makes, beside the adapters' change of the weights: the sum of its
/// squares over that of the change. 0 where nothing is rounded. Errors that are larger than the change need not erase it,
/// since they are spread evenly where steps are small.
///
/// # Errors
/// Those of [`bake`].
pub fn rounding(before: &Gguf, after: &Gguf, base: &Base, stack: &Stack, cx: &Compute) -> Result<f64> {
    let (effects, _) = effects(before, base, stack)?;
    let (mut lost, mut all) = (0.0, 0.0);
    for (name, own) in &effects {
        let (Some(was), Some(is)) = (before.tensor(name), after.tensor(name)) else { continue };
        let (was, is) = (before.rows(was)?, after.rows(is)?);
        let change = weights(own, cx);
        let mut rows = [zeros("a row", was.cols)?, zeros("a row", was.cols)?, zeros("a row", was.cols)?];
        for i in 0..was.rows {
            let [old, wanted, new] = &mut rows;
            was.decode(i, 0..was.cols, old);
            wanted.copy_from_slice(old);
            change(i..i + 1, &mut Tile::new(wanted, 1, was.cols));
            is.decode(i, 0..was.cols, new);
            for ((old, wanted), new) in old.iter().zip(&*wanted).zip(&*new) {
                lost += f64::from(new - wanted).powi(2);
                all += f64::from(wanted - old).powi(2);
            }
        }
    }
    Ok(if lost == 0.0 { 0.0 } else { lost / all })
}
