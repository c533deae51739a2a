//! Where adapters attach: the seven linear layers of each block, and how files and people spell them.

use super::Base;
use crate::error::{Error, Result, printable};
use core::fmt;
use std::prelude::v1::*;

/// A linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Linear {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// From the heads back to the stream.
    O,
    /// The gate of the feed-forward layer.
    Gate,
    /// Its other half.
    Up,
    /// Back to the stream.
    Down,
}

/// The spellings of a linear layer.
struct Names {
    linear: Linear,
    short: &'static str,
    gguf: &'static str,
    peft: &'static str,
}

const fn names(linear: Linear, short: &'static str, gguf: &'static str, peft: &'static str) -> Names {
    Names { linear, short, gguf, peft }
}

/// In the order of [`Linear`].
const NAMES: [Names; Linear::COUNT] = [
    names(Linear::Q, "q", "attn_q", "self_attn.q_proj"),
    names(Linear::K, "k", "attn_k", "self_attn.k_proj"),
    names(Linear::V, "v", "attn_v", "self_attn.v_proj"),
    names(Linear::O, "o", "attn_output", "self_attn.o_proj"),
    names(Linear::Gate, "gate", "ffn_gate", "mlp.gate_proj"),
    names(Linear::Up, "up", "ffn_up", "mlp.up_proj"),
    names(Linear::Down, "down", "ffn_down", "mlp.down_proj"),
];

/// Words for several.
const GROUPS: [(&str, &[Linear]); 4] = [
    ("all", &Linear::ALL),
    ("all-linear", &Linear::ALL),
    ("attn", &[Linear::Q, Linear::K, Linear::V, Linear::O]),
    ("mlp", &[Linear::Gate, Linear::Up, Linear::Down]),
];

impl Linear {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All of them, in the order of files.
    pub const ALL: [Linear; Self::COUNT] =
        [Linear::Q, Linear::K, Linear::V, Linear::O, Linear::Gate, Linear::Up, Linear::Down];

    /// Its name in GGUF files, without block and suffix: `attn_q`.
    pub fn gguf(self) -> &'static str {
        NAMES[self as usize].gguf
    }

    /// Its path in a Hugging Face block: `self_attn.q_proj`.
    pub fn peft(self) -> &'static str {
        NAMES[self as usize].peft
    }

    /// From one exact name of any spelling: `q`, `attn_q`, `q_proj` or `self_attn.q_proj`.
    pub fn by_name(name: &str) -> Option<Linear> {
        let last = |path: &'static str| path.rsplit('.').next();
        let row = NAMES.iter().find(|n| [n.short, n.gguf, n.peft].contains(&name) || last(n.peft) == Some(name))?;
        Some(row.linear)
    }
}

/// One linear layer of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The block, from 0.
    pub layer: usize,
    /// Which of its linear layers.
    pub linear: Linear,
}

impl Site {
    /// Its place among all sites.
    pub fn index(self) -> usize {
        self.layer * Linear::COUNT + self.linear as usize
    }

    /// The inverse of [`Site::index`].
    pub fn at(index: usize) -> Site {
        Site { layer: index / Linear::COUNT, linear: Linear::ALL[index % Linear::COUNT] }
    }

    /// From the name of its weight in a GGUF file.
    pub fn by_gguf(name: &str) -> Option<Site> {
        let (layer, linear) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
        Some(Site { layer: number(layer)?, linear: NAMES.iter().find(|n| n.gguf == linear)?.linear })
    }

    /// From the end of a Hugging Face module path: `….layers.3.mlp.up_proj`.
    pub fn by_peft(path: &str) -> Option<Site> {
        let row = NAMES.iter().find(|n| path.strip_suffix(n.peft).is_some_and(|rest| rest.ends_with('.')))?;
        let (before, layer) = path.strip_suffix(row.peft)?.strip_suffix('.')?.rsplit_once('.')?;
        let parent = before.rsplit('.').next()?;
        Some(Site { layer: number(layer).filter(|_| parent == "layers")?, linear: row.linear })
    }
}

/// A decimal number in its only spelling.
fn number(text: &str) -> Option<usize> {
    let n: u16 = text.parse().ok()?;
    (n.to_string() == text).then_some(n.into())
}

/// The canonical name: that of the weight in a GGUF file.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk.{}.{}.weight", self.layer, self.linear.gguf())
    }
}

/// Reads a list such as `all`, `attn,gate`, `q_proj,v_proj` or `attn_q ffn_down`. Sorted, each once.
///
/// # Errors
/// `Invalid` naming an unknown word and the known ones, or if the list is empty.
pub fn parse_targets(list: &str) -> Result<Vec<Linear>> {
    let mut found = Vec::new();
    for word in list.split([',', ' ']).filter(|w| !w.is_empty()) {
        match GROUPS.iter().find(|(name, _)| *name == word) {
            Some((_, group)) => found.extend_from_slice(group),
            None => found.push(Linear::by_name(word).ok_or_else(|| unknown(word))?),
        }
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(Error::invalid("targets", format!("none named; known are {}", known())));
    }
    Ok(found)
}

/// Reads a list of blocks such as `20-29`, `0,5,20-29` or `20-` (to the last) for a model of `blocks`. Sorted, each once.
///
/// # Errors
/// `Invalid` naming a word that is no block or range of blocks, or if the list is empty.
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
    let names = NAMES.iter().map(|n| format!("{} ({}, {})", n.short, n.gguf, n.peft));
    groups.map(String::from).chain(names).collect::<Vec<_>>().join(", ")
}

/// How a file spells which sites it covers: for each linear layer and shape, the blocks, `attn_q 576 576 0-29`.
pub(super) fn spell_targets(sites: &[(Site, [usize; 2])]) -> Vec<String> {
    let mut groups: Vec<(Linear, [usize; 2])> = sites.iter().map(|(s, shape)| (s.linear, *shape)).collect();
    groups.sort();
    groups.dedup();
    let spell = |&(linear, shape): &(Linear, [usize; 2])| {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for layer in sites.iter().filter(|(s, sh)| s.linear == linear && *sh == shape).map(|(s, _)| s.layer) {
            match ranges.last_mut() {
                Some((_, end)) if *end + 1 == layer => *end = layer,
                _ => ranges.push((layer, layer)),
            }
        }
        let ranges: Vec<String> = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        format!("{} {} {} {}", linear.gguf(), shape[0], shape[1], ranges.join(","))
    };
    groups.iter().map(spell).collect()
}

/// The sites of a file's list, sorted. All of them exist in `base` with these shapes.
///
/// # Errors
/// `Corrupt` for what is no such list; `Mismatch` if `base` has no such layer or another shape.
pub(super) fn read_targets(list: &[String], base: &Base) -> Result<Vec<Site>> {
    let mut sites = Vec::new();
    for text in list {
        let bad = || Error::corrupt(format!("target `{}`", printable(text)), 0);
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or_else(bad);
        let name = next()?;
        let row = NAMES.iter().find(|n| n.gguf == name);
        let linear = row.ok_or_else(|| Error::unsupported("adapter target", name))?.linear;
        let shape = [next()?.parse::<usize>().map_err(|_| bad())?, next()?.parse().map_err(|_| bad())?];
        for range in next()?.split(',') {
            let (first, last) = range.split_once('-').ok_or_else(bad)?;
            let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
            if last >= base.layers() {
                return Err(Error::mismatch("layers", format!("{} of the base", base.layers()), last + 1));
            }
            for layer in first..=last {
                let site = Site { layer, linear };
                let found = base.shape(site)?;
                if found != shape {
                    let spell = |[n_in, n_out]: [usize; 2]| format!("{n_in} to {n_out}");
                    return Err(Error::mismatch(format!("shape of {site}"), spell(shape), spell(found)));
                }
                sites.push(site);
            }
            if sites.len() > base.layers() * Linear::COUNT {
                return Err(bad());
            }
        }
        if words.next().is_some() {
            return Err(bad());
        }
    }
    sites.sort();
    match sites.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(Error::corrupt(format!("{} is a target twice", twice[0]), 0)),
        None => Ok(sites),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_its_layer() {
        for (i, linear) in Linear::ALL.into_iter().enumerate() {
            assert_eq!((linear as usize, NAMES[i].linear), (i, linear));
            let site = Site { layer: 12, linear };
            assert_eq!(Site::by_gguf(&site.to_string()), Some(site));
            assert_eq!(Site::at(site.index()), site);
            let path = format!("base_model.model.model.layers.12.{}", linear.peft());
            assert_eq!(Site::by_peft(&path), Some(site));
            for name in [NAMES[i].short, linear.gguf(), linear.peft()] {
                assert_eq!(parse_targets(name).unwrap(), [linear]);
            }
        }
        for bad in
            ["blk.01.attn_q.weight", "blk.-1.attn_q.weight", "blk.1.attn_x.weight", "blk.1.attn_q.bias", "output"]
        {
            assert_eq!(Site::by_gguf(bad), None, "{bad}");
        }
        for bad in ["layers.1.xself_attn.q_proj", "layer.1.mlp.up_proj", "layers.a.mlp.up_proj", "mlp.up_proj"] {
            assert_eq!(Site::by_peft(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_of_targets() {
        assert_eq!(parse_targets("all").unwrap(), Linear::ALL);
        assert_eq!(parse_targets("v,q q_proj").unwrap(), [Linear::Q, Linear::V]);
        assert_eq!(parse_targets("mlp,o").unwrap(), [Linear::O, Linear::Gate, Linear::Up, Linear::Down]);
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
