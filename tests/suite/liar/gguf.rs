//! Section A: the container of models.

use super::{Entry, Fields, Parser, check, takes};
use crate::shared::{needs_shared, shared};
use mynah::bytes::{Limits, map};
use mynah::error::{Error, Result};
use mynah::gguf::{Gguf, Writer};
use mynah::quant::Format;

pub static GGUF: Parser = Parser { name: "gguf", read: |bytes| parse(bytes).map(drop) };

/// Parses, and touches everything that a caller would.
pub fn parse(bytes: Vec<u8>) -> Result<Gguf> {
    let g = Gguf::parse(bytes.into(), &Limits::default())?;
    for (key, value) in g.pairs() {
        let text = value.to_string();
        assert!(!text.chars().any(char::is_control) && text.chars().count() <= 201, "{key}");
        if let Some(array) = g.array(key).ok().flatten() {
            assert_eq!(array.values().count(), array.len());
            array.strings().map(|s| assert_eq!(s.count(), array.len())).ok();
            array.i32s().map(|v| v.count()).ok();
        }
    }
    for t in g.tensors() {
        assert_eq!(g.data(t).unwrap().len() as u64, t.bytes);
        assert_eq!(g.tensor(&t.name).unwrap().offset, t.offset);
        g.matrix(&t.name).ok();
        g.vector(&t.name).ok();
    }
    Ok(g)
}

/// A file piece by piece, with nothing checked.
#[derive(Clone)]
pub struct Liar(pub Fields);

impl Liar {
    pub fn new(tensors: u64, pairs: u64) -> Liar {
        let head = Fields::default().raw("magic", b"GGUF").u32("version", 3);
        Liar(head.u64("tensors", tensors).u64("pairs", pairs))
    }

    pub fn raw(self, bytes: &[u8]) -> Liar {
        Liar(self.0.raw("more", bytes))
    }

    pub fn u32(self, value: u32) -> Liar {
        Liar(self.0.u32("number", value))
    }

    pub fn u64(self, value: u64) -> Liar {
        Liar(self.0.u64("number", value))
    }

    pub fn text(self, name: &str, text: &[u8]) -> Liar {
        Liar(self.0.u64(format!("length of {name}"), text.len() as u64).raw(name, text))
    }

    pub fn pair(self, key: &str, kind: u32, value: &[u8]) -> Liar {
        let name = String::from_utf8_lossy(key.as_bytes()).into_owned();
        let keyed = self.text(&name, key.as_bytes()).0.u32(format!("type of {name}"), kind);
        Liar(keyed.raw(format!("value of {name}"), value))
    }

    /// A pair whose value is a list.
    pub fn list(self, key: &str, kind: u32, n: u64, data: &[u8]) -> Liar {
        let keyed = self.text(key, key.as_bytes()).0.u32(format!("type of {key}"), 9);
        let keyed = keyed.u32(format!("element type of {key}"), kind).u64(format!("count of {key}"), n);
        Liar(keyed.raw(format!("elements of {key}"), data))
    }

    pub fn tensor(self, name: &[u8], dims: &[u64], format: u32, offset: u64) -> Liar {
        let of = String::from_utf8_lossy(name).into_owned();
        let named = self.text(&of, name).0.u32(format!("dimensions of {of}"), dims.len() as u32);
        let dims = dims.iter().enumerate();
        let named = dims.fold(named, |f, (i, d)| f.u64(format!("dimension {i} of {of}"), *d));
        Liar(named.u32(format!("format of {of}"), format).u64(format!("offset of {of}"), offset))
    }

    /// Pads the tables to 32 and adds zeros as data.
    pub fn data(self, n: usize) -> Liar {
        let end = self.0.bytes.len();
        Liar(self.0.raw("padding", &vec![0; end.next_multiple_of(32) - end]).raw("data", &vec![0; n]))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.bytes.clone()
    }
}

/// Elements of a list of strings.
fn strings(list: &[&str]) -> Vec<u8> {
    list.iter().flat_map(|s| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()).collect()
}

/// Small, with every type of value, two block formats and an alignment of its own.
pub fn small() -> Fields {
    let scalars: [(&str, u32, &[u8]); 11] = [
        ("a.u8", 0, &[1]),
        ("a.i8", 1, &[255]),
        ("a.u16", 2, &[2, 0]),
        ("a.i16", 3, &[254, 255]),
        ("a.u32", 4, &[3, 0, 0, 0]),
        ("a.i32", 5, &[253, 255, 255, 255]),
        ("a.f32", 6, &0.5f32.to_le_bytes()),
        ("a.bool", 7, &[1]),
        ("a.u64", 10, &4u64.to_le_bytes()),
        ("a.i64", 11, &(-4i64).to_le_bytes()),
        ("a.f64", 12, &0.25f64.to_le_bytes()),
    ];
    let mut file = Liar::new(2, 16).text("arch", b"general.architecture");
    file = Liar(file.0.u32("type of arch", 8)).text("value of arch", b"llama");
    file = scalars.iter().fold(file, |file, (key, kind, value)| file.pair(key, *kind, value));
    file = file.pair("general.alignment", 4, &32u32.to_le_bytes());
    file = file.list("t.tokens", 8, 3, &strings(&["<s>", "a", "é"]));
    file = file.list("t.scores", 6, 2, &[0, 0, 0, 0, 0, 0, 128, 191]).list("t.types", 5, 2, &[1, 0, 0, 0, 3, 0, 0, 0]);
    file.tensor(b"norm", &[3], 0, 0).tensor(b"q", &[32, 2], 2, 32).data(32 + 36).0
}

fn entries() -> Vec<Entry> {
    let f = |n| Liar::new(n, 0);
    let p = |key: &str, kind, value: &[u8]| Liar::new(0, 1).pair(key, kind, value).bytes();
    let array = |kind: u32, n: u64, data: &[u8]| Liar::new(0, 1).list("k.a", kind, n, data).bytes();
    let version = |v: u32| f(0).0.with("version", &v.to_le_bytes());
    let one = |dims: &[u64], format, offset, n| f(1).tensor(b"tee", dims, format, offset).data(n).bytes();
    let two = |a, b, n| f(2).tensor(b"a", &[8], 0, a).tensor(b"b", &[8], 0, b).data(n).bytes();
    let align = |kind, value: &[u8]| p("general.alignment", kind, value);
    let name = |n: &[u8]| f(1).tensor(n, &[8], 0, 0).data(32).bytes();
    let magic = |magic: &[u8]| f(0).0.with("magic", magic);
    let nested = [9u32.to_le_bytes().as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    let long = |text: &[u8]| p("a.b", 8, text);
    let refused: Vec<(&str, Vec<u8>, &'static str, &str)> = vec![
        ("A1", vec![], "Invalid", "empty"),
        ("A3 ggml", magic(b"lmgg"), "Invalid", "older than GGUF"),
        ("A3 ggjt", magic(b"tjgg"), "Invalid", "GGJT"),
        ("A3 ggla", magic(b"ggla"), "Invalid", "GGLA"),
        ("A3 case", magic(b"gguf"), "Invalid", "not a GGUF file"),
        ("A3 big-endian", magic(b"FUGG"), "Invalid", "big-endian"),
        ("A3 zip", b"PK\x03\x04 and more".to_vec(), "Invalid", "zip"),
        ("A3 web page", b"<!DOCTYPE html>".to_vec(), "Invalid", "error page"),
        ("A3 lfs", b"version https://git-lfs.github.com/spec/v1".to_vec(), "Invalid", "Git LFS"),
        ("A3 safetensors", b"\x40\0\0\0\0\0\0\0{\"a\"".to_vec(), "Invalid", "safetensors"),
        ("A4 0", version(0), "Unsupported", "GGUF version: 0"),
        ("A4 1", version(1), "Unsupported", "GGUF version: 1"),
        ("A4 4", version(4), "Unsupported", "GGUF version: 4"),
        ("A4 max", version(u32::MAX), "Unsupported", "4294967295"),
        ("A4 swapped", version(3 << 24), "Unsupported", "big-endian"),
        ("A7", Liar::new(0, 2).pair("a.b", 4, &[0; 4]).raw(&[0; 12]).bytes(), "Corrupt", "pair 1 of 2"),
        ("A8", f(2).tensor(b"tee", &[8], 0, 0).data(96).bytes(), "Corrupt", "tensor 1 of 2"),
        ("A9 0", p("", 4, &[0; 4]), "Corrupt", "key is empty"),
        ("A9 65536", p(&"k".repeat(65_536), 4, &[0; 4]), "Limit", "at most 65535"),
        ("A9 2^63", Liar::new(0, 1).u64(1 << 63).raw(&[0; 9]).bytes(), "Corrupt", "key: string: 9223372036854775808"),
        ("A10 not UTF-8", Liar::new(0, 1).text("key", &[0xff, 0xfe]).u32(4).u32(0).bytes(), "Corrupt", "UTF-8"),
        ("A10 NUL", p("a\0b", 4, &[0; 4]), "Corrupt", "control"),
        ("A10 escape", p("a\x1b[31m\n", 4, &[0; 4]), "Corrupt", "\\u{1b}[31m\\n"),
        (
            "A11 same",
            Liar::new(0, 2).pair("a.b", 4, &[0; 4]).pair("a.b", 4, &[0; 4]).bytes(),
            "Corrupt",
            "a.b comes twice",
        ),
        (
            "A11 other type",
            Liar::new(0, 2).pair("a.b", 4, &[0; 4]).pair("a.b", 7, &[0]).bytes(),
            "Corrupt",
            "a.b comes twice",
        ),
        ("A12 13", p("a.b", 13, &[0; 4]), "Corrupt", "key a.b: value type 13"),
        ("A12 255", p("a.b", 255, &[0; 4]), "Corrupt", "value type 255"),
        ("A12 max", p("a.b", u32::MAX, &[0; 4]), "Corrupt", "value type 4294967295"),
        ("A13 2^63", long(&(1u64 << 63).to_le_bytes()), "Corrupt", "key a.b: string: 9223372036854775808"),
        ("A13 one too long", long(&[2, 0, 0, 0, 0, 0, 0, 0, b'x']), "Corrupt", "string: 2"),
        ("A13 1 GiB", long(&[&(1u64 << 30).to_le_bytes()[..], &[0; 120]].concat()), "Corrupt", "1073741824"),
        (
            "A13 over 16 MiB",
            long(&[&((16u64 << 20) + 1).to_le_bytes()[..], &vec![b' '; (16 << 20) + 1]].concat()),
            "Limit",
            "bytes of a string: 16777217; at most 16777216",
        ),
        ("A14", array(4, 1 << 63, &[]), "Corrupt", "array of u32: 9223372036854775808"),
        (
            "A14 over 4 Mi",
            array(0, (4 << 20) + 1, &vec![0; (4 << 20) + 1]),
            "Limit",
            "elements of an array: 4194305; at most 4194304",
        ),
        ("A15 once", array(9, 1, &[0; 64]), "Corrupt", "array of arrays"),
        ("A15 twice", array(9, 1, &nested.repeat(2)), "Corrupt", "array of arrays"),
        ("A15 10000 times", array(9, 1, &nested.repeat(10_000)), "Corrupt", "array of arrays"),
        (
            "A16",
            array(8, 2, &[[1, 0, 0, 0, 0, 0, 0, 0, b'x', 9].as_slice(), &[0; 8]].concat()),
            "Corrupt",
            "element 1: string: 9",
        ),
        ("A17", array(13, 1 << 40, &[0; 64]), "Corrupt", "value type 13"),
        ("A17 max", array(u32::MAX, 1 << 40, &[0; 64]), "Corrupt", "value type 4294967295"),
        ("A18 2", p("a.b", 7, &[2]), "Corrupt", "bool of value 2"),
        ("A18 255 in a list", array(7, 2, &[0, 255]), "Corrupt", "bool of value 255"),
        ("A19 i32", align(5, &32u32.to_le_bytes()), "Mismatch", "general.alignment"),
        ("A19 string", align(8, &[1, 0, 0, 0, 0, 0, 0, 0, b'8']), "Mismatch", "general.alignment"),
        ("A19 array", align(9, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "Mismatch", "general.alignment"),
        ("A21 0", one(&[], 0, 0, 32), "Corrupt", "`tee`: 0 dimensions"),
        ("A21 5", one(&[1; 5], 0, 0, 32), "Corrupt", "5 dimensions"),
        ("A21 8", one(&[1; 8], 0, 0, 32), "Corrupt", "8 dimensions"),
        ("A21 max", f(1).text("tee", b"tee").u32(u32::MAX).raw(&[0; 99]).bytes(), "Corrupt", "4294967295 dimensions"),
        ("A22 0", one(&[8, 0], 0, 0, 32), "Corrupt", "zero"),
        ("A22 negative", one(&[u64::MAX], 0, 0, 32), "Limit", "tensor `tee`: values of a tensor: "),
        ("A22 max", one(&[i64::MAX as u64], 0, 0, 32), "Limit", "tensor `tee`: values of a tensor: "),
        ("A23", one(&[(1 << 42) + 1, 1 << 20, 4, 1], 0, 0, 32), "Limit", "tensor `tee`: values of a tensor: "),
        ("A24", one(&[i64::MAX as u64, 2, 1, 1], 0, 0, 32), "Limit", "tensor `tee`: values of a tensor: "),
        ("A25", one(&[33], 2, 0, 64), "Corrupt", "no multiple of the 32 in a block of Q4_0"),
        ("A26 -1", one(&[32], u32::MAX, 0, 64), "Unsupported", "id 4294967295 of tensor `tee`"),
        ("A26 unknown", one(&[32], 999, 0, 64), "Unsupported", "id 999 of tensor `tee`"),
        ("A26 removed", one(&[32], 4, 0, 64), "Unsupported", "tensor format: "),
        ("A26 repacked", one(&[32], 31, 0, 64), "Unsupported", "tensor format: "),
        ("A27", f(2).tensor(b"a", &[8], 0, 0).tensor(b"a", &[8], 0, 32).data(64).bytes(), "Corrupt", "`a` comes twice"),
        ("A28 0", name(b""), "Corrupt", "name is empty"),
        ("A28 1025", name(&[b'n'; 1025]), "Limit", "at most 1024"),
        ("A28 not UTF-8", name(&[0xc0, 0x80]), "Corrupt", "UTF-8"),
        ("A28 control", name(b"a\x1b[2J"), "Corrupt", "control"),
        ("A29 unaligned", one(&[8], 0, 4, 64), "Corrupt", "multiple of the alignment"),
        ("A29 past the end", one(&[8], 0, 1 << 20, 32), "Corrupt", "hole"),
        ("A29 wraps", one(&[8], 0, u64::MAX - 31, 32), "Corrupt", "hole"),
        ("A30 same", two(0, 0, 64), "Corrupt", "inside the tensor before it"),
        (
            "A30 overlapping",
            f(2).tensor(b"a", &[16], 0, 0).tensor(b"b", &[8], 0, 32).data(96).bytes(),
            "Corrupt",
            "inside the tensor before it",
        ),
        ("A30 hole", two(0, 64, 128), "Corrupt", "`b`: offset 64, wanted 32: a hole"),
        ("A30 order", two(32, 0, 64), "Corrupt", "`a`: offset 32, wanted 0"),
        // Sizes that only together pass 2^64 need more tensors than elements are allowed; the largest allowed do not fit.
        (
            "A31",
            f(2).tensor(b"a", &[1 << 40], 0, 0).tensor(b"b", &[1 << 40], 0, 1 << 42).data(64).bytes(),
            "Corrupt",
            "incomplete",
        ),
        ("A32 by a byte", one(&[8], 0, 0, 31), "Corrupt", "incomplete"),
        ("A32 by a page", one(&[2048], 0, 0, 4096), "Corrupt", "4160 of 8256 bytes"),
        ("A32 at 0", one(&[8], 0, 0, 0), "Corrupt", "incomplete"),
        ("A34 no number", p("split.count", 2, &[5, 0]), "Mismatch", "key split.no"),
        ("A34 65536", p("split.count", 4, &65_536u32.to_le_bytes()), "Limit", "split.count: 65536; at most"),
        ("A34 type", p("split.count", 8, &[1, 0, 0, 0, 0, 0, 0, 0, b'2']), "Mismatch", "key split.count"),
        ("A34 alone", part(0, 2, "llama", b"a"), "Unsupported", "part 1 of 2"),
        ("A34 out of range", part(2, 2, "llama", b"a"), "Mismatch", "key split.no"),
    ];
    let mut all: Vec<Entry> =
        refused.into_iter().map(|(name, bytes, variant, word)| GGUF.refuses(name, bytes, variant, word)).collect();
    for n in 1..24 {
        let word = if n < 4 { "not a GGUF file" } else { "ends early" };
        let variant = if n < 4 { "Invalid" } else { "Corrupt" };
        all.push(GGUF.refuses(format!("A2 {n} bytes"), small().bytes[..n].to_vec(), variant, word));
    }
    for n in [1 << 63, u64::MAX, 1 << 32, 65_537] {
        all.push(GGUF.refuses(format!("A5 {n}"), Liar::new(n, 0).raw(&[0; 99]).bytes(), "Limit", "tensors: "));
        all.push(GGUF.refuses(format!("A6 {n}"), Liar::new(0, n).raw(&[0; 99]).bytes(), "Limit", "metadata pairs: "));
    }
    let [tensors, pairs] = [(65_536, 0), (0, 65_536)].map(|(t, p)| Liar::new(t, p).raw(&[0; 99]).bytes());
    all.push(GGUF.refuses("A5 more than fit", tensors, "Corrupt", "65536 tensors cannot"));
    all.push(GGUF.refuses("A6 more than fit", pairs, "Corrupt", "65536 metadata pairs cannot"));
    for a in [0u32, 1, 3, 7] {
        all.push(GGUF.refuses(format!("A19 {a}"), align(4, &a.to_le_bytes()), "Mismatch", "general.alignment"));
    }
    for a in [1u32 << 17, 1 << 30, 1 << 31] {
        all.push(GGUF.refuses(format!("A19 {a}"), align(4, &a.to_le_bytes()), "Limit", "general.alignment"));
    }

    // Odd, but true.
    let named = |n: &[u8]| f(1).tensor(n, &[8], 0, 0).data(32).bytes();
    all.push(GGUF.takes("A28 64", named(&[b'n'; 64])));
    all.push(GGUF.takes("A28 1024", named(&[b'n'; 1024])));
    all.push(GGUF.takes("A28 a path", named(b"../../x")));
    all.push(GGUF.takes("A4 2", version(2)));
    for joined in [0u16, 1] {
        all.push(GGUF.takes(format!("A34 {joined} parts"), p("split.count", 2, &joined.to_le_bytes())));
    }
    // As many pairs and tensors as fit in the smallest file.
    let pairs = (0..65_536).fold(Liar::new(0, 65_536), |l, i| l.pair(&format!("{i:x}"), 0, &[0]));
    all.push(GGUF.takes("A6 65536", pairs.bytes()));
    let aligned = Liar::new(65_536, 1).pair("general.alignment", 4, &8u32.to_le_bytes());
    let tensors = (0..65_536).fold(aligned, |l, i| l.tensor(format!("{i:x}").as_bytes(), &[1], 0, 8 * i));
    all.push(GGUF.takes("A5 65536", tensors.data(65_536 * 8).bytes()));
    all.push(takes("A33", || {
        let trailing = parse([small().bytes, vec![0; 28], vec![7; 100]].concat())?.trailing();
        assert_eq!(trailing, 100);
        Ok(())
    }));

    // Known keys of the wrong type.
    for (key, value, word) in [
        ("general.architecture", mynah::gguf::Value::U32(1), "expected string, found u32 1"),
        ("llama.block_count", 2f32.into(), "expected u64, found f32 2"),
        ("llama.rope.freq_base", "10000".into(), "expected finite f32, found string 10000"),
        ("llama.rope.freq_base", f32::NAN.into(), "NaN"),
        ("llama.rope.freq_base", f32::INFINITY.into(), "inf"),
        ("llama.block_count", (-2i32).into(), "expected u64, found i32 -2"),
        ("llama.attention.head_count", (&["4"][..]).into(), "llama.attention.head_count"),
    ] {
        let bytes = super::model::Whole::llama().set(key, value.clone()).bytes();
        all.push(super::model::MODEL.refuses(format!("A20 {key} {value}"), bytes, "Mismatch", word));
    }
    all.push(super::model::MODEL.refuses(
        "A20 a negative base",
        super::model::Whole::llama().set("llama.rope.freq_base", -1f32).bytes(),
        "Invalid",
        "llama.rope.freq_base: -1 cannot be used",
    ));

    // Sets of files.
    let sets: [(&str, Vec<Vec<u8>>, &str, &str); 5] = [
        ("A34 missing part", vec![part(0, 2, "llama", b"a")], "Mismatch", "split.count"),
        (
            "A34 of another model",
            vec![part(0, 2, "llama", b"a"), part(1, 2, "qwen2", b"b")],
            "Mismatch",
            "general.architecture",
        ),
        ("A34 twice", vec![part(0, 2, "llama", b"a"), part(0, 2, "llama", b"a")], "Mismatch", "split.no"),
        ("A34 tensor twice", vec![part(0, 2, "llama", b"a"), part(1, 2, "llama", b"a")], "Corrupt", "`a` comes twice"),
        ("A34 order", vec![part(1, 2, "llama", b"b"), part(0, 2, "llama", b"a")], "Mismatch", "split.no"),
    ];
    for (name, files, variant, word) in sets {
        all.push(super::refuses(name, variant, word, move || parts(files)));
    }
    all.push(takes("A34 both", || parts(vec![part(0, 2, "llama", b"a"), part(1, 2, "llama", b"b")])));
    all
}

fn parts(files: Vec<Vec<u8>>) -> Result<()> {
    Gguf::parse_parts(files.into_iter().map(Into::into).collect(), &Limits::default()).map(drop)
}

/// A file of a model of two tensors, with one of them.
fn part(no: u16, count: u16, arch: &str, tensor: &[u8]) -> Vec<u8> {
    let text = [&(arch.len() as u64).to_le_bytes()[..], arch.as_bytes()].concat();
    let pairs = Liar::new(1, 4).pair("general.architecture", 8, &text);
    let pairs = pairs.pair("split.no", 2, &no.to_le_bytes()).pair("split.count", 2, &count.to_le_bytes());
    pairs.pair("split.tensors.count", 5, &2i32.to_le_bytes()).tensor(tensor, &[8], 0, 0).data(32).bytes()
}

#[test]
fn section_a() {
    check('A', 34, entries(), &[]);
}

#[test]
fn wrong_types_name_key_wanted_and_found() {
    let g = parse(small().bytes).unwrap();
    let text = |e: Error| e.to_string();
    assert_eq!(
        text(g.u32("general.architecture").unwrap_err()),
        "key general.architecture: expected u32, found string llama"
    );
    assert_eq!(text(g.f32("a.u32").unwrap_err()), "key a.u32: expected finite f32, found u32 3");
    let nan = Liar::new(0, 1).pair("a.f", 6, &f32::NAN.to_le_bytes()).bytes();
    assert!(text(parse(nan).unwrap().f32("a.f").unwrap_err()).contains("NaN"));
    let adapter = Writer::new().set("general.type", "adapter").finish().unwrap();
    assert!(text(parse(adapter).unwrap().require_u32("llama.block_count").unwrap_err()).contains("an adapter"));
}

#[needs_shared]
#[test]
fn models_of_the_field_load() {
    let shared = shared();
    let mut seen = 0;
    for folder in ["models", "models/tiny256", "golden/llamacpp/lora"] {
        for entry in std::fs::read_dir(shared.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let bytes = map::open(&path).unwrap();
            let start = std::time::Instant::now();
            let g = match Gguf::parse(bytes, &Limits::default()) {
                Err(Error::Unsupported { what: "tensor format", .. }) => continue, // a row FORMATS has not
                other => other.unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            };
            eprintln!("{}: {g:?} in {:?}", path.display(), start.elapsed());
            assert_eq!(g.trailing(), 0, "{}", path.display());
            // Written again, it is the same model.
            let mut w = Writer::new();
            g.pairs().for_each(|(key, value)| _ = w.set(key, value.clone()));
            g.tensors().iter().for_each(|t| _ = w.tensor(&*t.name, t.dims(), t.format, g.data(t).unwrap()));
            let again = Gguf::parse(w.finish().unwrap().into(), &Limits::default()).unwrap();
            assert_eq!(again.pairs().count(), g.pairs().filter(|p| p.0 != "general.alignment").count());
            for (a, b) in again.tensors().iter().zip(g.tensors()) {
                assert!(
                    a.name == b.name && a.dims() == b.dims() && again.data(a).unwrap()[..] == g.data(b).unwrap()[..]
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "only {seen} models");
}

/// A format by its number.
pub fn format(id: u32) -> &'static Format {
    Format::by_id(id).unwrap()
}
