//! Places: where adapters attach to a model, and how files and command lines spell them.
//!
//! A [`Place`] has input rows `x` and rows `y` that an adapter may change:
//!
//! ```text
//! place             x                                   y
//! Rows              nothing                             its own rows before the text, [K, width]; it writes them
//! Embedding         nothing                             embedded tokens, [N, width]
//! Input(site)       nothing                             the input of one frozen product, for it alone, [N, in]
//! Site(site)        the input of a frozen product       its output, [N, out]; of a norm likewise, [N, width]
//! Attention(layer)  queries after rotation              what attention gathered, [N, H·D]
//! Stream(layer, _)  the sub-layer's normed input        its output before it is added to the stream, [N, width]
//! State(layer)      the block's output, [N, width]      a state that runs along the layers, [N, S]
//! Join              that state, [N, S]                  the last block's output, [N, width]
//! Final             the last block's output             the same after the last norm, [N, width]
//! ```

use super::Base;
use crate::error::{Error, Result, printable};
use crate::role::{Role, TensorKind};
use core::fmt;
use std::prelude::v1::*;

/// One frozen tensor of one block: a matrix or the gain of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The block, from 0.
    pub layer: usize,
    /// The tensor.
    pub role: Role,
}

/// A position in the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// The output of attention.
    Attention,
    /// The output of the feed-forward layer.
    FeedForward,
}

/// A place where an adapter may attach; the table at the top of this page defines its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Rows before the text.
    Rows,
    /// Embedded tokens.
    Embedding,
    /// The input of a frozen product, for it alone.
    Input(Site),
    /// A frozen product or norm.
    Site(Site),
    /// Attention of a block.
    Attention(usize),
    /// The residual stream of a block.
    Stream(usize, Spot),
    /// A state that runs along the layers.
    State(usize),
    /// Where that state joins the stream.
    Join,
    /// After the last norm.
    Final,
}

/// Places that are not inside a block, with their names.
const OUTSIDE: [(Place, &str); 4] =
    [(Place::Rows, "rows"), (Place::Embedding, "embedding"), (Place::Join, "join"), (Place::Final, "final")];

impl Place {
    /// Places of a block.
    pub const DOORS: usize = 2 * Role::COUNT + 4;
    /// Places outside.
    pub const OUTSIDE: usize = OUTSIDE.len();

    /// The block it is in.
    pub fn layer(self) -> Option<usize> {
        match self {
            Place::Input(site) | Place::Site(site) => Some(site.layer),
            Place::Attention(layer) | Place::Stream(layer, _) | Place::State(layer) => Some(layer),
            Place::Rows | Place::Embedding | Place::Join | Place::Final => None,
        }
    }

    /// Its index among the places of its block, below [`Place::DOORS`], or among those outside.
    pub fn door(self) -> usize {
        match self {
            Place::Site(site) => site.role as usize,
            Place::Input(site) => Role::COUNT + site.role as usize,
            Place::Attention(_) => 2 * Role::COUNT,
            Place::Stream(_, spot) => 2 * Role::COUNT + 1 + spot as usize,
            Place::State(_) => 2 * Role::COUNT + 3,
            outside => OUTSIDE.iter().position(|(place, _)| *place == outside).unwrap_or_default(),
        }
    }

    /// Its name without the block.
    fn name(self) -> String {
        match self {
            Place::Site(site) => site.role.gguf().into(),
            Place::Input(site) => format!("{}.input", site.role.gguf()),
            Place::Attention(_) => "attention".into(),
            Place::Stream(_, Spot::Attention) => "stream.attention".into(),
            Place::Stream(_, Spot::FeedForward) => "stream.ffn".into(),
            Place::State(_) => "state".into(),
            outside => OUTSIDE[outside.door()].1.into(),
        }
    }

    /// The place of that name in a block, or outside.
    fn by_name(name: &str, layer: usize) -> Option<Place> {
        let site = |name: &str| {
            let role = Role::all()
                .find(|r| r.gguf() == name && !matches!(r.row().kind, TensorKind::Bias(_) | TensorKind::Numbers(_)))?;
            Some(Site { layer, role })
        };
        match name {
            "attention" => Some(Place::Attention(layer)),
            "stream.attention" => Some(Place::Stream(layer, Spot::Attention)),
            "stream.ffn" => Some(Place::Stream(layer, Spot::FeedForward)),
            "state" => Some(Place::State(layer)),
            _ => OUTSIDE.iter().find(|(_, n)| *n == name).map(|(place, _)| *place).or_else(|| {
                match name.strip_suffix(".input") {
                    Some(name) => site(name).map(Place::Input),
                    None => site(name).map(Place::Site),
                }
            }),
        }
    }
}

impl From<Site> for Place {
    fn from(site: Site) -> Place {
        Place::Site(site)
    }
}

/// The canonical name; that of a site is the name of its weight in a GGUF file. Random streams use this name.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.layer()) {
            (Place::Site(site), _) => site.fmt(f),
            (_, Some(layer)) => write!(f, "blk.{layer}.{}", self.name()),
            (_, None) => f.write_str(&self.name()),
        }
    }
}

impl Site {
    /// The site with this weight name of GGUF files.
    pub fn by_gguf(name: &str) -> Option<Site> {
        let (layer, role) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
        Some(Site { layer: number(layer)?, role: Role::matrices().find(|r| r.gguf() == role)? })
    }

    /// The site at the end of a Hugging Face module path of this model: `….layers.3.mlp.up_proj`.
    pub fn by_hf(path: &str, base: &Base) -> Option<Site> {
        let before = |role: Role| path.strip_suffix(base.hf(role))?.strip_suffix('.');
        let (role, before) = Role::matrices().find_map(|role| Some((role, before(role)?)))?;
        let (before, layer) = before.rsplit_once('.')?;
        let [parent, list] = [before, base.hf_blocks].map(|path| path.rsplit('.').next());
        Some(Site { layer: number(layer).filter(|_| parent == list)?, role })
    }
}

/// The name of the weight in a GGUF file.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk.{}.{}.weight", self.layer, self.role.gguf())
    }
}

/// A decimal number in its canonical spelling.
pub(super) fn number(text: &str) -> Option<usize> {
    let n: u16 = text.parse().ok()?;
    (n.to_string() == text).then_some(n.into())
}

/// Names of groups of linear layers.
const GROUPS: [(&str, &[Role]); 4] = [
    ("all", &Role::LINEAR),
    ("all-linear", &Role::LINEAR),
    ("attn", &[Role::Q, Role::K, Role::V, Role::O]),
    ("mlp", &[Role::Gate, Role::Up, Role::Down]),
];

/// Reads a list such as `all`, `attn,gate`, `q_proj,v_proj` or `attn_q ffn_down`. The result is sorted and has no
/// duplicates.
///
/// # Errors
/// `Invalid` naming an unknown word and the known ones, or if the list is empty.
pub fn parse_targets(list: &str) -> Result<Vec<Role>> {
    let mut found = Vec::new();
    for word in list.split([',', ' ']).filter(|w| !w.is_empty()) {
        match GROUPS.iter().find(|(name, _)| *name == word) {
            Some((_, group)) => found.extend_from_slice(group),
            None => found.push(Role::by_name(word).ok_or_else(|| unknown(word))?),
        }
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(Error::invalid("targets", format!("none named; known are {}", known())));
    }
    Ok(found)
}

/// Reads a list of blocks such as `20-29`, `0,5,20-29` or `20-` (to the last) for a model of `blocks`. The result is
/// sorted and has no duplicates.
///
/// # Errors
/// `Invalid` naming a word that is neither a block nor a range of blocks, or if the list is empty.
pub fn parse_layers(list: &str, blocks: usize) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for word in list.split([',', ' ']).filter(|w| !w.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let last = if last.is_empty() { blocks.checked_sub(1) } else { number(last) };
        match (number(first), last) {
            (Some(first), Some(last)) if first <= last && last < blocks => found.extend(first..=last),
            _ => {
                let why = format!(
                    "`{}`; blocks 0 to {} can be named, as in 3 or 20-29",
                    printable(word),
                    blocks.saturating_sub(1)
                );
                return Err(Error::invalid("layers", why));
            }
        }
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(Error::invalid("layers", "none named"));
    }
    Ok(found)
}

fn unknown(word: &str) -> Error {
    Error::invalid("targets", format!("unknown `{}`; known are {}", printable(word), known()))
}

fn known() -> String {
    let groups = GROUPS.iter().map(|(name, _)| *name);
    let names = Role::matrices().map(|r| format!("{} ({}, {})", r.row().short, r.gguf(), r.hf()));
    groups.map(String::from).chain(names).collect::<Vec<_>>().join(", ")
}

/// A place with the widths of its input and output.
pub type Shaped = (Place, [usize; 2]);

/// The spelling of places in files: for each name and shape the blocks, `attn_q 576 576 0-29`, or `-` outside of
/// blocks, in the order of the places of a block.
pub(super) fn spell(places: &[Shaped]) -> Vec<String> {
    let key = |&(place, shape): &Shaped| (place.layer().is_none(), place.door(), shape);
    let mut groups: Vec<Shaped> = Vec::new();
    for one in places {
        if !groups.iter().any(|g| key(g) == key(one)) {
            groups.push(*one);
        }
    }
    groups.sort_by_key(key);
    let line = |group: &Shaped| {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for layer in places.iter().filter(|p| key(p) == key(group)).filter_map(|(place, _)| place.layer()) {
            match ranges.last_mut() {
                Some((_, end)) if *end + 1 == layer => *end = layer,
                _ => ranges.push((layer, layer)),
            }
        }
        let ranges: Vec<String> = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        let blocks = if ranges.is_empty() { "-".into() } else { ranges.join(",") };
        let (place, [n_in, n_out]) = group;
        format!("{} {n_in} {n_out} {blocks}", place.name())
    };
    groups.iter().map(line).collect()
}

/// The places of a file's list, sorted. All of them exist in `base` with these shapes.
///
/// # Errors
/// `Corrupt` for a malformed list; `Mismatch` if `base` lacks a place or has another shape there.
pub(super) fn read(list: &[String], base: &Base) -> Result<Vec<Shaped>> {
    let mut places: Vec<Shaped> = Vec::new();
    let mut add = |place: Place, shape: [usize; 2]| {
        let found = base.place(place)?;
        // How wide a state is is the adapter's to say.
        let known = match place {
            Place::State(_) => [shape[0], found[1]],
            Place::Join => [found[0], shape[1]],
            _ => shape,
        };
        if found != known {
            let spell = |[n_in, n_out]: [usize; 2]| format!("{n_in} to {n_out}");
            return Err(Error::mismatch(
                format!("this adapter was made for another model: {place}"),
                spell(shape),
                spell(found),
            ));
        }
        places.push((place, shape));
        Ok(places.len())
    };
    for text in list {
        let bad = || Error::corrupt(format!("target `{}`", printable(text)), 0);
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or_else(bad);
        let name = next()?;
        let place = Place::by_name(name, 0).ok_or_else(|| Error::unsupported("adapter target", name))?;
        let shape = [next()?.parse::<usize>().map_err(|_| bad())?, next()?.parse().map_err(|_| bad())?];
        let blocks = next()?;
        if words.next().is_some() {
            return Err(bad());
        }
        if place.layer().is_none() {
            if blocks != "-" {
                return Err(bad());
            }
            add(place, shape)?;
            continue;
        }
        for range in blocks.split(',') {
            let (first, last) = range.split_once('-').ok_or_else(bad)?;
            let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
            if last >= base.layers() {
                return Err(Error::mismatch(
                    "this adapter was made for another model: number of layers",
                    last + 1,
                    base.layers(),
                ));
            }
            for layer in first..=last {
                let Some(place) = Place::by_name(name, layer) else { unreachable!("the name was found before") };
                if add(place, shape)? > base.layers() * Place::DOORS + Place::OUTSIDE {
                    return Err(bad());
                }
            }
        }
    }
    places.sort();
    match places.windows(2).find(|w| w[0].0 == w[1].0) {
        Some(twice) => Err(Error::corrupt(format!("{} is a target twice", twice[0].0), 0)),
        None => Ok(places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_its_layer() {
        let base = Base {
            name: "any".into(),
            format: "F32".into(),
            architecture: "any".into(),
            width: 0,
            shapes: Vec::new(),
            hf: &[],
            hf_blocks: "model.layers",
            bind: &[],
            paired_rows: false,
            content: [0; 32],
            tokenizer: [0; 32],
            frozen: None,
        };
        for role in Role::matrices() {
            let site = Site { layer: 12, role };
            assert_eq!(Site::by_gguf(&site.to_string()), Some(site));
            let path = format!("base_model.model.model.layers.12.{}", role.hf());
            assert_eq!(Site::by_hf(&path, &base), Some(site));
            for name in [role.row().short, role.gguf(), role.hf()] {
                assert_eq!(parse_targets(name).unwrap(), [role]);
            }
        }
        for bad in
            ["blk.01.attn_q.weight", "blk.-1.attn_q.weight", "blk.1.attn_x.weight", "blk.1.attn_q.bias", "output"]
        {
            assert_eq!(Site::by_gguf(bad), None, "{bad}");
        }
        for bad in ["layers.1.xself_attn.q_proj", "layer.1.mlp.up_proj", "layers.a.mlp.up_proj", "mlp.up_proj"] {
            assert_eq!(Site::by_hf(bad, &base), None, "{bad}");
        }
    }

    #[test]
    fn every_place_has_a_number_and_a_name() {
        let sites = Role::all()
            .filter(|r| !matches!(r.row().kind, TensorKind::Bias(_) | TensorKind::Numbers(_)))
            .map(|role| Site { layer: 3, role });
        let spots = [Spot::Attention, Spot::FeedForward].map(|s| Place::Stream(3, s));
        let inside: Vec<Place> = sites.flat_map(|s| [Place::Site(s), Place::Input(s)]).collect();
        let inside = [inside, spots.to_vec(), vec![Place::Attention(3), Place::State(3)]].concat();
        for (i, place) in inside.iter().enumerate() {
            assert!(place.door() < Place::DOORS && inside[..i].iter().all(|p| p.door() != place.door()));
            assert_eq!(Place::by_name(&place.name(), 3), Some(*place));
        }
        for (i, (place, name)) in OUTSIDE.iter().enumerate() {
            assert_eq!((place.door(), Place::by_name(name, 3)), (i, Some(*place)));
        }
    }

    #[test]
    fn lists_of_targets() {
        assert_eq!(parse_targets("all").unwrap(), Role::LINEAR);
        assert_eq!(parse_targets("v,q q_proj").unwrap(), [Role::Q, Role::V]);
        assert_eq!(parse_targets("mlp,o").unwrap(), [Role::O, Role::Gate, Role::Up, Role::Down]);
        let e = parse_targets("q,output").unwrap_err().to_string();
        assert!(e.contains("unknown `output`") && e.contains("attn_output"), "{e}");
        assert!(parse_targets(" ,").is_err());
    }

    #[test]
    fn lists_of_layers() {
        assert_eq!(parse_layers("20-29", 30).unwrap(), (20..30).collect::<Vec<_>>());
        assert_eq!(parse_layers("5, 3-4 28-,5", 30).unwrap(), [3, 4, 5, 28, 29]);
        for bad in ["30", "3-30", "4-3", "-3", "x", "3-4-5", "", "03"] {
            let e = parse_layers(bad, 30).unwrap_err().to_string();
            assert!(e.starts_with("layers"), "{e}");
        }
    }
}
