//! The packed spelling of a container, for small files that are sent: the same kinds, names, sections and facts as in
//! the wide one, in the fewest bytes that are still simple to read. The page of [`super`] specifies it.

use super::codec::{put_number, take_number};
use super::head::{Field, Head};
use super::{Container, KIND, NAME, Pieces, Section, spell};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::prelude::v1::*;

pub(super) const START: [u8; 4] = [0x8d, b'm', b'\r', b'\n'];
const VERSION: u8 = 1;
const CHECK: usize = 8;

/// Texts with a number. Frozen: rows are only added at the end.
#[rustfmt::skip]
pub static WORDS: [&str; 141] = [
    "head", "params", "provenance", "probe", "adapter", "ranks", "alphas", "seeds", "start", "lora", "nola", "uni",
    "dora", "ia3", "bottleneck", "parallel", "prefix", "prompt", "llama-adapter", "unlock", "rank", "root", "uniform",
    "rademacher", "torch-uniform", "blake3-chacha8/1", "f32", "f16", "bf16", "q8", "q4", "levels", "ternary", "masks",
    "sparse", "sparse-q8", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_qkv",
    "ffn_gate_up", "attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "attention", "stream.attention",
    "stream.ffn", "state", "rows", "embedding", "join", "final", "attn_q.input", "attn_k.input", "attn_v.input",
    "attn_output.input", "ffn_gate.input", "ffn_up.input", "ffn_down.input", "ffn_gate_inp", "attn_gate", "llama",
    "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma-embedding", "phi3", "smollm3", "granite", "olmo2",
    "stablelm", "starcoder2", "gpt2", "lfm2", "qwen35", "qwen3moe", "qwen2moe", "olmoe", "bert", "next token", "sft",
    "dpo", "kto", "bco", "orpo", "marks", "long", "short", "kind", "targets", "codec", "base.architecture",
    "base.content", "base.fingerprint", "base.tokenizer", "alpha", "scaling", "seed", "generator", "canary", "bases.a",
    "bases.b", "basis", "vector", "share", "objective", "data", "steps", "loss.first", "loss.last", "rope",
    "base.name", "base.format", "all", "loha", "lokr", "oft", "fourierft", "lora-fa", "adalora", "increlora",
    "vera", "lora-xs", "tinylora", "mos", "randlora", "vblora", "lora-shared",
    "gated-bottleneck", "invertible", "prefix-mlp", "mam", "p-tuning", "side",
];

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Integer,
    Real,
    List,
    Digest,
    Single,
    Whole,
    Places,
}

/// All forms, by number.
const FORMS: [Form; 8] =
    [Form::Text, Form::Integer, Form::Real, Form::List, Form::Digest, Form::Single, Form::Whole, Form::Places];

/// Keys whose values usually have one form. Frozen likewise.
static KEYS: [(&str, Form); 40] = [
    ("kind", Form::Text),
    ("targets", Form::Places),
    ("codec", Form::Text),
    ("base.architecture", Form::Text),
    ("base.content", Form::Digest),
    ("base.fingerprint", Form::Digest),
    ("base.tokenizer", Form::Digest),
    ("rank", Form::Integer),
    ("alpha", Form::Whole),
    ("alpha", Form::Single),
    ("scaling", Form::Text),
    ("seed", Form::Integer),
    ("generator", Form::Text),
    ("canary", Form::Digest),
    ("bases.a", Form::Integer),
    ("bases.b", Form::Integer),
    ("basis", Form::Text),
    ("vector", Form::Integer),
    ("share", Form::Integer),
    ("objective", Form::Text),
    ("data", Form::Digest),
    ("data", Form::Text),
    ("steps", Form::Integer),
    ("loss.first", Form::Single),
    ("loss.last", Form::Single),
    ("rope", Form::Text),
    ("base.name", Form::Text),
    ("base.format", Form::Text),
    ("length", Form::Integer),
    ("size", Form::Integer),
    ("factor", Form::Whole),
    ("factor", Form::Single),
    ("offset", Form::Integer),
    ("start", Form::Text),
    ("part", Form::Text),
    ("rank stabilised", Form::Integer),
    ("start", Form::Integer),
    ("part", Form::Integer),
    ("state", Form::Integer),
    ("layers", Form::Integer),
];

/// Appends a text.
fn put_text(text: &str, out: &mut Vec<u8>) {
    match WORDS.iter().position(|w| *w == text) {
        Some(i) => put_number((i as u64).saturating_add(1), out),
        None => {
            put_number(0, out);
            put_bytes(text.as_bytes(), out);
        }
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let n = take_number(rest)?;
    let split = usize::try_from(n).ok().and_then(|n| rest.split_at_checked(n));
    let (bytes, after) = split.ok_or_else(|| Error::corrupt(format!("{n} bytes where {} are left", rest.len()), 0))?;
    *rest = after;
    Ok(bytes)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str> {
    match take_number(rest)?.checked_sub(1) {
        Some(i) => {
            let word = usize::try_from(i).ok().and_then(|i| WORDS.get(i));
            word.copied().ok_or_else(|| Error::unsupported("word of a packed file", format!("number {i}")))
        }
        None => {
            let bytes = take_bytes(rest)?;
            let text = core::str::from_utf8(bytes).map_err(|e| Error::corrupt(format!("a text is not UTF-8: {e}"), 0))?;
            match WORDS.contains(&text) {
                true => Err(Error::corrupt(format!("`{}` is spelt although it has a number", printable(text)), 0)),
                false => Ok(text),
            }
        }
    }
}

/// Appends a value in this form, if it has it.
fn put_value(form: Form, field: &Field, out: &mut Vec<u8>) -> Option<()> {
    match (form, field) {
        (Form::Text, Field::Text(v)) => put_text(v, out),
        (Form::Integer, Field::Integer(v)) => put_number(*v, out),
        (Form::Real, Field::Real(v)) => out.extend(v.to_le_bytes()),
        (Form::List, Field::List(v)) => {
            put_number(v.len() as u64, out);
            v.iter().for_each(|text| put_text(text, out));
        }
        (Form::Digest, Field::Text(v)) => put_bytes(&from_hex(v)?, out),
        (Form::Single, Field::Real(v)) if f64::from(*v as f32).to_bits() == v.to_bits() => {
            out.extend((*v as f32).to_le_bytes());
        }
        (Form::Whole, Field::Real(v)) if f64::from(*v as u32).to_bits() == v.to_bits() => {
            put_number((*v as u32).into(), out);
        }
        (Form::Places, Field::List(v)) => put_places(v, out)?,
        _ => return None,
    }
    Some(())
}

fn take_value(form: Form, rest: &mut &[u8], limits: &Limits) -> Result<Field> {
    Ok(match form {
        Form::Text => take_text(rest)?.into(),
        Form::Integer => take_number(rest)?.into(),
        Form::Real => match f64::from_le_bytes(super::codec::take(rest)?) {
            v if v.is_finite() => v.into(),
            v => return Err(Error::corrupt(format!("a fact is {v}"), 0)),
        },
        Form::List => {
            let count = take_number(rest)?;
            Limits::check("texts of a list", count, limits.list)?;
            Field::List((0..count).map(|_| take_text(rest).map(String::from)).collect::<Result<_>>()?)
        }
        Form::Digest => Field::Text(hex(take_bytes(rest)?)),
        Form::Single => match f32::from_le_bytes(super::codec::take(rest)?) {
            v if v.is_finite() => f64::from(v).into(),
            v => return Err(Error::corrupt(format!("a fact is {v}"), 0)),
        },
        Form::Whole => (take_number(rest)? as f64).into(),
        Form::Places => Field::List(take_places(rest, limits)?),
    })
}

fn hex(bytes: &[u8]) -> String {
    let digit = |d: u8| char::from_digit(d.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// The bytes of at least eight hexadecimal digits in lower case.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16).filter(|_| !b.is_ascii_uppercase());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let byte = |[a, b]: &[u8; 2]| Some((digit(a)? << 4 | digit(b)?) as u8);
    if pairs.len() < 4 { None } else { pairs.iter().map(byte).collect() }
}

/// A place of the list `targets`, read from its text.
struct Spot<'a> {
    name: &'a str,
    widths: [u64; 2],
    ranges: Vec<(u64, u64)>,
}

/// The place, if the text is spelt as a place.
fn parse(text: &str) -> Option<Spot<'_>> {
    let mut words = text.split(' ');
    let (name, n_in, n_out, blocks) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let range = |r: &str| {
        let (a, b) = r.split_once('-')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    let ranges = match blocks {
        "-" => Vec::new(),
        blocks => blocks.split(',').map(range).collect::<Option<Vec<_>>>()?,
    };
    let spot = Spot { name, widths: [n_in.parse().ok()?, n_out.parse().ok()?], ranges };
    (spell_place(&spot) == text).then_some(spot)
}

fn spell_place(spot: &Spot) -> String {
    let ranges: Vec<String> = spot.ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
    let blocks = if ranges.is_empty() { "-".into() } else { ranges.join(",") };
    let [n_in, n_out] = spot.widths;
    format!("{} {n_in} {n_out} {blocks}", spot.name)
}

fn put_places(texts: &[String], out: &mut Vec<u8>) -> Option<()> {
    let places = texts.iter().map(|text| parse(text)).collect::<Option<Vec<_>>>()?;
    let mut widths: Vec<u64> = Vec::new();
    for width in places.iter().flat_map(|p| p.widths) {
        if !widths.contains(&width) {
            widths.push(width);
        }
    }
    put_number(widths.len() as u64, out);
    widths.iter().for_each(|w| put_number(*w, out));
    put_number(places.len() as u64, out);
    let mut before: Option<&[(u64, u64)]> = None;
    for place in &places {
        put_text(place.name, out);
        let at = |width: u64| widths.iter().position(|w| *w == width).map(|i| i as u64);
        let [a, b] = place.widths;
        let pair = at(a)?.checked_mul(widths.len() as u64)?.checked_add(at(b)?)?;
        let same = before == Some(&place.ranges);
        put_number(pair.checked_mul(2)?.checked_add(same.into())?, out);
        if same {
            continue;
        }
        put_number(place.ranges.len() as u64, out);
        let mut next = 0u64;
        for (first, last) in &place.ranges {
            put_number(first.checked_sub(next)?, out);
            put_number(last.checked_sub(*first)?, out);
            next = last.checked_add(1)?;
        }
        before = Some(&place.ranges);
    }
    Some(())
}

fn take_places(rest: &mut &[u8], limits: &Limits) -> Result<Vec<String>> {
    let count = |rest: &mut &[u8], what| {
        let n = take_number(rest)?;
        Limits::check(what, n, limits.list)?;
        // At least a byte each.
        match n > rest.len() as u64 {
            true => Err(Error::corrupt(format!("{n} {what} in {} bytes", rest.len()), 0)),
            false => Ok(n),
        }
    };
    let n = count(rest, "widths")?;
    let widths = (0..n).map(|_| take_number(rest)).collect::<Result<Vec<u64>>>()?;
    let bad = |what: &str| Error::corrupt(format!("a place with {what}"), 0);
    let mut texts = Vec::new();
    let (mut ranges, mut spelt): (Option<Vec<(u64, u64)>>, u64) = (None, 0);
    for _ in 0..count(rest, "places")? {
        let name = take_text(rest)?;
        let both = take_number(rest)?;
        let (both, same) = (both >> 1, both & 1 == 1);
        let of = |i: Option<u64>| {
            let width = i.and_then(|i| usize::try_from(i).ok()).and_then(|i| widths.get(i));
            width.copied().ok_or_else(|| bad("a width that was not named"))
        };
        let pair = [of(both.checked_div(n))?, of(both.checked_rem(n))?];
        if !same {
            let given = take_number(rest)?;
            // At least two bytes each.
            Limits::check("ranges of blocks", given, rest.len() as u64)?;
            let (mut own, mut next) = (Vec::new(), 0u64);
            for _ in 0..given {
                let first = next.checked_add(take_number(rest)?).ok_or_else(|| bad("blocks over 64 bits"))?;
                let last = first.checked_add(take_number(rest)?).ok_or_else(|| bad("blocks over 64 bits"))?;
                own.push((first, last));
                next = last.checked_add(1).ok_or_else(|| bad("blocks over 64 bits"))?;
            }
            ranges = Some(own);
        }
        let ranges = ranges.clone().ok_or_else(|| bad("the blocks of none before it"))?;
        let text = spell_place(&Spot { name, widths: pair, ranges });
        // Ranges that are named once are spelt in many texts.
        spelt = spelt.saturating_add(text.len() as u64);
        Limits::check("bytes of places", spelt, limits.head)?;
        texts.push(text);
    }
    Ok(texts)
}

/// Forms in the order in which they are tried.
const ORDER: [Form; 8] =
    [Form::Places, Form::Digest, Form::Whole, Form::Single, Form::List, Form::Real, Form::Integer, Form::Text];

/// The form that a value has.
fn form(field: &Field) -> Form {
    let fits = |form: &&Form| put_value(**form, field, &mut Vec::new()).is_some();
    ORDER.iter().find(fits).copied().unwrap_or(Form::Text)
}

/// The bytes of a section of facts.
pub(super) fn write_facts(head: &Head) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(head.fields().count() as u64, &mut out);
    for (key, field) in head.fields() {
        let form = form(field);
        match KEYS.iter().position(|row| *row == (key, form)) {
            Some(i) => put_number((i as u64).saturating_add(1), &mut out),
            None => {
                put_number(0, &mut out);
                put_text(key, &mut out);
                put_number(FORMS.iter().position(|f| *f == form).unwrap_or_default() as u64, &mut out);
            }
        }
        // Every field has at least the form of its own type.
        _ = put_value(form, field, &mut out);
    }
    out
}

/// The facts of a section.
///
/// # Errors
/// `Corrupt` for bytes that violate the specification; `Limit` for too many; `Unsupported` for a word, key or form of a
/// later version.
pub(super) fn read_facts(bytes: &[u8], limits: &Limits) -> Result<Head> {
    Limits::check("bytes of a head", bytes.len() as u64, limits.head)?;
    let mut rest = bytes;
    let mut head = Head::new();
    for _ in 0..take_number(&mut rest)? {
        let (key, form) = match take_number(&mut rest)?.checked_sub(1) {
            Some(i) => {
                let row = usize::try_from(i).ok().and_then(|i| KEYS.get(i));
                *row.ok_or_else(|| Error::unsupported("key of a packed file", format!("number {i}")))?
            }
            None => {
                let key = take_text(&mut rest)?;
                let form = take_number(&mut rest)?;
                let known = usize::try_from(form).ok().and_then(|i| FORMS.get(i));
                let known = known.ok_or_else(|| Error::unsupported("form of a fact", format!("number {form}")))?;
                (key, *known)
            }
        };
        if key.is_empty() || key.len() > 255 {
            return Err(Error::corrupt(format!("head: a key of {} bytes", key.len()), 0));
        }
        head.set(key, take_value(form, &mut rest, limits)?);
    }
    match write_facts(&head) == bytes {
        true => Ok(head),
        false => Err(Error::corrupt("head: keys out of order or twice, or a value in another form than its first", 0)),
    }
}

/// What stands before a section, and its bytes.
type Spelt<'a> = (Vec<u8>, &'a [Cow<'a, [u8]>]);

/// The bytes of a packed file. `sections` are sorted by name.
pub(super) fn write<'a>(kind: &str, sections: impl Iterator<Item = (&'a str, bool, &'a Pieces<'a>)>) -> Vec<u8> {
    let mut all: Vec<Spelt> = Vec::new();
    for (name, required, pieces) in sections {
        let mut before = Vec::new();
        put_text(name, &mut before);
        put_number((super::len(pieces) as u64).saturating_mul(2).saturating_add(required.into()), &mut before);
        all.push((before, pieces));
    }
    let mut first = Vec::new();
    put_text(kind, &mut first);
    put_number(all.len() as u64, &mut first);
    let own = |(before, pieces): &Spelt| before.len().saturating_add(super::len(pieces));
    let sections = all.iter().map(own).fold(0usize, usize::saturating_add);
    let fixed = [START.len(), 1, first.len(), sections, CHECK].into_iter().fold(0usize, usize::saturating_add);
    // The length counts its own bytes.
    let length = |digits: usize| {
        let mut out = Vec::new();
        put_number(fixed.saturating_add(digits) as u64, &mut out);
        (out.len() == digits).then_some(out)
    };
    let length = (1..=10).find_map(length).unwrap_or_default();
    let mut out = Vec::with_capacity(fixed.saturating_add(length.len()));
    for bytes in [&START[..], &[VERSION], &length, &first] {
        out.extend_from_slice(bytes);
    }
    for (before, pieces) in all {
        out.extend(before);
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    }
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes().iter().take(CHECK));
    out
}

/// Reads a packed file.
///
/// # Errors
/// Those of [`Container::read`].
pub(super) fn read(bytes: Bytes, limits: &Limits) -> Result<Container> {
    let mut rest = bytes.get(START.len()..).unwrap_or_default();
    let [version] = super::codec::take(&mut rest)?;
    if version != VERSION {
        return Err(Error::unsupported("version of a packed file", format!("{version}; this build reads {VERSION}")));
    }
    let length = take_number(&mut rest)?;
    super::check_length(length, bytes.len())?;
    let body = bytes.len().saturating_sub(CHECK);
    let (whole, check) = bytes.split_at_checked(body).unwrap_or_default();
    if !blake3::hash(whole).as_bytes().starts_with(check) || check.len() != CHECK {
        return Err(Error::corrupt("the checksum of the file differs, it is damaged", body));
    }
    let mut rest = rest.get(..rest.len().saturating_sub(CHECK)).unwrap_or_default();
    let kind = spell::<KIND>(take_text(&mut rest)?).ok_or_else(|| Error::corrupt("kind is not a valid name", 0))?;
    let count = take_number(&mut rest)?;
    Limits::check("sections", count, limits.sections)?;
    let mut sections: Vec<Section> = Vec::new();
    for _ in 0..count {
        let text = take_text(&mut rest)?;
        let name = spell::<NAME>(text).ok_or_else(|| Error::corrupt("section name is not valid", 0))?;
        if sections.last().is_some_and(|before| before.name() >= text) {
            return Err(Error::corrupt(format!("section `{text}`: out of order or twice"), 0));
        }
        let size = take_number(&mut rest)?;
        let split = usize::try_from(size >> 1).ok().and_then(|n| rest.split_at_checked(n));
        let Some((own, after)) = split else {
            let left = rest.len();
            return Err(Error::corrupt(format!("section `{text}`: {} bytes where {left} are left", size >> 1), 0));
        };
        let start = body.saturating_sub(rest.len());
        sections.push(Section { name, start, end: start.saturating_add(own.len()), required: size & 1 == 1 });
        rest = after;
    }
    match rest.len() {
        0 => Ok(Container { kind, minor: 0, sections, bytes, packed: true }),
        more => Err(Error::corrupt(format!("{more} bytes behind the last section"), body.saturating_sub(more))),
    }
}

/// What a file that begins like neither spelling was, if a transfer changed it.
pub(super) fn was_text(bytes: &[u8]) -> bool {
    let begins = |start: &[u8]| bytes.starts_with(start);
    // The high byte is cut to 0D or spelt in UTF-8, or line ends were rewritten.
    begins(b"\x0dm") || begins(b"\xc2\x8dm") || begins(b"\xef\xbf\xbdm") || begins(b"\x8dm\n") || begins(b"\x8dm\r\r")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Builder;

    fn facts() -> Head {
        let mut head = Head::new();
        head.set("kind", "uni").set("rank", 8u64).set("alpha", 16.0).set("base.tokenizer", "0123456789abcdef");
        head.set("steps", u64::MAX).set("loss.first", 1.1).set("factor", 0.5).set("offset", 7u64).set("strange", "Ünsinn");
        let places = ["attn_v 576 192 0-29", "ffn_down 1536 576 0-29", "blk 1 2 3-3,5-9", "rows 4 4 -"];
        head.set("targets", Field::List(places.map(String::from).to_vec()));
        head.set("data", "0011zz").set("list", Field::List(vec!["f16".into(), "a b".into()])).set("minus", -0.0);
        head.set("number as text", "00ff");
        head
    }

    #[test]
    fn facts_survive_in_one_spelling() {
        let (head, limits) = (facts(), Limits::default());
        let bytes = write_facts(&head);
        assert_eq!(read_facts(&bytes, &limits).unwrap(), head);
        assert!(bytes.len() < head.encode().len() / 2, "{} of {}", bytes.len(), head.encode().len());
        for cut in 0..bytes.len() {
            assert!(read_facts(&bytes[..cut], &limits).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut bad = bytes.clone();
                bad[at] = value;
                if let Ok(head) = read_facts(&bad, &limits) {
                    assert_eq!(write_facts(&head), bad, "byte {at} = {value}");
                }
            }
        }
        assert!(read_facts(&[&bytes[..], &[0]].concat(), &limits).is_err());
        assert!(matches!(read_facts(&vec![0; (1 << 20) + 1], &limits), Err(Error::Limit { .. })));
    }

    #[test]
    fn what_is_damaged_or_strange_is_refused() {
        let limits = Limits::default();
        let file = |kind: &str| {
            let file = Builder::new(kind).section("params", true, vec![1, 2, 3]).section("x-extra", false, vec![4; 200]);
            file.packed_facts("head", true, &facts()).finish_packed()
        };
        let bytes = file("adapter");
        let read = |bytes: Vec<u8>| Container::read(Bytes::from(bytes), &limits);
        let good = read(bytes.clone()).unwrap();
        assert_eq!((good.kind(), &good.require("params").unwrap()[..]), ("adapter", &[1, 2, 3][..]));
        assert_eq!(good.facts("head", &limits).unwrap(), facts());
        good.refuse_unknown(&["head", "params"]).unwrap();
        assert!(good.refuse_unknown(&["head"]).is_err());
        assert_eq!(read(file("other")).unwrap().kind(), "other");
        for cut in 0..bytes.len() {
            assert!(read(bytes[..cut].to_vec()).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(read(bad.clone()).is_err(), "{at}");
            // With a checksum that fits, too, nothing panics.
            let body = bad.len() - CHECK;
            let sum = *blake3::hash(&bad[..body]).as_bytes();
            bad[body..].copy_from_slice(&sum[..CHECK]);
            _ = read(bad).map(|c| c.facts("head", &limits));
        }
        let why = |bytes: Vec<u8>| read(bytes).err().unwrap().to_string();
        assert!(why([&bytes[..], &[0]].concat()).contains("belong to it"));
        assert!(why(bytes[..bytes.len() - 1].to_vec()).contains("incomplete"));
        assert!(why([b"\x8dm\n", &bytes[4..]].concat()).contains("took it for text"));
        assert!(why([b"\xc2\x8dm\r\n", &bytes[4..]].concat()).contains("took it for text"));
    }

    /// The page of the format lists them.
    #[test]
    fn rows_are_those_of_the_page() {
        let page = include_str!("../../docs/format.md").split_whitespace().collect::<Vec<_>>().join(" ");
        let words = WORDS.iter().enumerate().map(|(i, word)| format!("{} {word}", i + 1)).collect::<Vec<_>>();
        assert!(page.contains(&format!("text {} ```", words.join(", "))), "{}", words.join(", "));
        let form = |form: &Form| format!("{form:?}").to_lowercase();
        let keys = KEYS.iter().enumerate().map(|(i, (key, of))| format!("{} {key} ({})", i + 1, form(of)));
        let keys = keys.collect::<Vec<_>>().join(", ");
        assert!(page.contains(&format!("text {keys} ```")), "{keys}");
    }

    #[test]
    fn rows_are_distinct() {
        assert!(WORDS.iter().enumerate().all(|(i, w)| !WORDS[..i].contains(w)));
        assert!(KEYS.iter().enumerate().all(|(i, row)| !KEYS[..i].contains(row)));
    }
}
