//! Files that lie: an error that names the thing, or a correct load. Never a panic, never an allocation larger than
//! the larger of 1 MiB and twice the file.

use crate::alloc::largest;
use crate::shared::{needs_shared, shared};
use mynah::bytes::{Limits, map};
use mynah::container::{Builder, Container, head::Head};
use mynah::error::{Error, Result};
use mynah::gguf::{Gguf, Writer};
use mynah::quant::Format;

/// Runs `read` on a file and holds it to the bound on memory.
fn bounded<T>(bytes: &[u8], read: impl FnOnce(Vec<u8>) -> Result<T>) -> Result<T> {
    let copy = bytes.to_vec();
    let (out, most) = largest(|| read(copy));
    let allowed = (1 << 20).max(2 * bytes.len());
    assert!(most <= allowed, "{most} bytes reserved at once for a file of {}", bytes.len());
    out
}

/// Parses, and touches everything a caller would.
fn load(bytes: &[u8]) -> Result<Gguf> {
    bounded(bytes, |bytes| {
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
    })
}

/// A GGUF file piece by piece, with nothing checked.
struct Liar {
    version: u32,
    tensors: u64,
    pairs: u64,
    body: Vec<u8>,
}

impl Liar {
    fn new(tensors: u64, pairs: u64) -> Liar {
        Liar { version: 3, tensors, pairs, body: vec![] }
    }

    fn u32(mut self, v: u32) -> Liar {
        self.body.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Liar {
        self.body.extend(v.to_le_bytes());
        self
    }

    fn raw(mut self, v: &[u8]) -> Liar {
        self.body.extend(v);
        self
    }

    fn text(self, v: &[u8]) -> Liar {
        self.u64(v.len() as u64).raw(v)
    }

    fn pair(self, key: &str, kind: u32, value: &[u8]) -> Liar {
        self.text(key.as_bytes()).u32(kind).raw(value)
    }

    fn tensor(self, name: &[u8], dims: &[u64], format: u32, offset: u64) -> Liar {
        let l = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(l, |l, &d| l.u64(d)).u32(format).u64(offset)
    }

    /// Pads the tables to 32 and adds zeros as data.
    fn data(mut self, n: usize) -> Liar {
        self.body.resize((self.body.len() + 24).next_multiple_of(32) - 24 + n, 0);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensors.to_le_bytes());
        out.extend(self.pairs.to_le_bytes());
        out.extend(&self.body);
        out
    }
}

/// Small, with every type of value, two block formats and an alignment of its own.
fn small() -> Vec<u8> {
    let format = |id| Format::by_id(id).unwrap();
    let mut w = Writer::new();
    w.set("general.architecture", "llama").set("a.u8", 1u8).set("a.i8", -1i8).set("a.u16", 2u16).set("a.i16", -2i16);
    w.set("a.u32", 3u32).set("a.i32", -3i32).set("a.f32", 0.5f32).set("a.bool", true).set("a.u64", 4u64);
    w.set("a.i64", -4i64)
        .set("a.f64", 0.25f64)
        .set("t.tokens", &["<s>", "a", "é"][..])
        .set("t.scores", &[0f32, -1.0][..]);
    w.set("t.types", &[1i32, 3][..]);
    w.tensor("norm", &[3], format(0), vec![0; 12]).tensor("q", &[32, 2], format(2), vec![1; 36]);
    w.finish().unwrap()
}

#[test]
fn every_truncation_and_every_changed_byte() {
    let good = small();
    let whole = load(&good).unwrap();
    let last = whole.tensor("q").unwrap();
    let data_end = (last.offset + last.bytes) as usize;
    for n in 0..good.len() {
        assert_eq!(load(&good[..n]).is_ok(), n >= data_end, "cut to {n}");
    }
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut bad = good.clone();
            bad[at] = value;
            load(&bad).ok();
        }
    }
    // Two bytes at once, and whole fields of extreme values.
    for at in 0..good.len().saturating_sub(8) {
        for value in [0, 1, 0xffff_ffff, 1 << 31, 1 << 32, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX - 31, u64::MAX] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&value.to_le_bytes());
            load(&bad).ok();
        }
    }
}

/// What is refused, and a word its message must have.
fn lies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let f = |n| Liar::new(n, 0);
    let p = |key: &str, kind, value: &[u8]| Liar::new(0, 1).pair(key, kind, value).bytes();
    let array =
        |kind: u32, n: u64, data: &[u8]| p("k.a", 9, &[kind.to_le_bytes().as_slice(), &n.to_le_bytes(), data].concat());
    let version = |v| Liar { version: v, ..f(0) }.bytes();
    let one = |dims: &[u64], format, offset, n| f(1).tensor(b"tee", dims, format, offset).data(n).bytes();
    let two = |a, b, n| f(2).tensor(b"a", &[8], 0, a).tensor(b"b", &[8], 0, b).data(n).bytes();
    let align = |kind, value: &[u8]| p("general.alignment", kind, value);
    let name = |n: &[u8]| f(1).tensor(n, &[8], 0, 0).data(32).bytes();
    let with = |magic: &[u8]| [magic, &version(3)[4..]].concat();
    let mut all = vec![
        ("A1", vec![], "empty"),
        ("A3 ggml", with(b"lmgg"), "older than GGUF"),
        ("A3 ggjt", with(b"tjgg"), "GGJT"),
        ("A3 ggla", with(b"ggla"), "GGLA"),
        ("A3 case", with(b"gguf"), "not a GGUF file"),
        ("A3 big-endian", with(b"FUGG"), "big-endian"),
        ("A4 0", version(0), "GGUF version: 0"),
        ("A4 1", version(1), "GGUF version: 1"),
        ("A4 4", version(4), "GGUF version: 4"),
        ("A4 max", version(u32::MAX), "4294967295"),
        ("A4 swapped", version(3 << 24), "big-endian"),
        ("A7", Liar::new(0, 2).pair("a.b", 4, &[0; 4]).raw(&[0; 12]).bytes(), "pair 1 of 2"),
        ("A8", f(2).tensor(b"tee", &[8], 0, 0).data(96).bytes(), "tensor 1 of 2"),
        ("A9 0", p("", 4, &[0; 4]), "key is empty"),
        ("A9 65536", p(&"k".repeat(65_536), 4, &[0; 4]), "at most 65535"),
        ("A9 2^63", Liar::new(0, 1).u64(1 << 63).raw(&[0; 9]).bytes(), "key: string: 9223372036854775808"),
        ("A10 not UTF-8", Liar::new(0, 1).text(&[0xff, 0xfe]).u32(4).u32(0).bytes(), "UTF-8"),
        ("A10 NUL", p("a\0b", 4, &[0; 4]), "control"),
        ("A10 escape", p("a\x1b[31m\n", 4, &[0; 4]), "\\u{1b}[31m\\n"),
        ("A11 same", Liar::new(0, 2).pair("a.b", 4, &[0; 4]).pair("a.b", 4, &[0; 4]).bytes(), "a.b comes twice"),
        ("A11 other", Liar::new(0, 2).pair("a.b", 4, &[0; 4]).pair("a.b", 7, &[0]).bytes(), "a.b comes twice"),
        ("A12 13", p("a.b", 13, &[0; 4]), "key a.b: value type 13"),
        ("A12 255", p("a.b", 255, &[0; 4]), "value type 255"),
        ("A12 max", p("a.b", u32::MAX, &[0; 4]), "value type 4294967295"),
        ("A13 2^63", p("a.b", 8, &(1u64 << 63).to_le_bytes()), "key a.b: string: 9223372036854775808"),
        ("A13 one too long", p("a.b", 8, &[2, 0, 0, 0, 0, 0, 0, 0, b'x']), "string: 2"),
        ("A13 1 GiB", p("a.b", 8, &[(1u64 << 30).to_le_bytes().as_slice(), &[0; 120]].concat()), "1073741824"),
        ("A14", array(4, 1 << 63, &[]), "array of u32: 9223372036854775808"),
        ("A15", array(9, 1, &[0; 64]), "array of arrays"),
        (
            "A15 deep",
            array(9, 1, &[9u32.to_le_bytes().as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat().repeat(10_000)),
            "array of arrays",
        ),
        ("A16", array(8, 2, &[[1, 0, 0, 0, 0, 0, 0, 0, b'x', 9].as_slice(), &[0; 8]].concat()), "element 1: string: 9"),
        ("A17", array(13, 1 << 40, &[0; 64]), "value type 13"),
        ("A18 2", p("a.b", 7, &[2]), "bool of value 2"),
        ("A18 255", array(7, 2, &[0, 255]), "bool of value 255"),
        ("A19 wrong type", align(5, &32u32.to_le_bytes()), "general.alignment"),
        ("A19 string", align(8, &[1, 0, 0, 0, 0, 0, 0, 0, b'8']), "general.alignment"),
        ("A19 array", align(9, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "general.alignment"),
        ("A21 0", one(&[], 0, 0, 32), "`tee`: 0 dimensions"),
        ("A21 5", one(&[1; 5], 0, 0, 32), "5 dimensions"),
        ("A21 8", one(&[1; 8], 0, 0, 32), "8 dimensions"),
        ("A21 max", f(1).text(b"tee").u32(u32::MAX).raw(&[0; 99]).bytes(), "4294967295 dimensions"),
        ("A22 0", one(&[8, 0], 0, 0, 32), "zero"),
        ("A22 negative", one(&[u64::MAX], 0, 0, 32), "tensor `tee`: values of a tensor: "),
        ("A22 max", one(&[i64::MAX as u64], 0, 0, 32), "tensor `tee`: values of a tensor: "),
        ("A23", one(&[(1 << 42) + 1, 1 << 20, 4, 1], 0, 0, 32), "tensor `tee`: values of a tensor: "),
        ("A24", one(&[i64::MAX as u64, 2, 1, 1], 0, 0, 32), "tensor `tee`: values of a tensor: "),
        ("A25", one(&[33], 2, 0, 64), "no multiple of the 32 in a block of Q4_0"),
        ("A26 -1", one(&[32], u32::MAX, 0, 64), "id 4294967295 of tensor `tee`"),
        ("A26 unknown", one(&[32], 999, 0, 64), "id 999 of tensor `tee`"),
        ("A26 removed", one(&[32], 4, 0, 64), "tensor format: "),
        ("A26 repacked", one(&[32], 31, 0, 64), "tensor format: "),
        ("A27", f(2).tensor(b"a", &[8], 0, 0).tensor(b"a", &[8], 0, 32).data(64).bytes(), "`a` comes twice"),
        ("A28 0", name(b""), "name is empty"),
        ("A28 1025", name(&[b'n'; 1025]), "at most 1024"),
        ("A28 not UTF-8", name(&[0xc0, 0x80]), "UTF-8"),
        ("A28 control", name(b"a\x1b[2J"), "control"),
        ("A29 unaligned", one(&[8], 0, 4, 64), "multiple of the alignment"),
        ("A29 past the end", one(&[8], 0, 1 << 20, 32), "hole"),
        ("A29 wraps", one(&[8], 0, u64::MAX - 31, 32), "hole"),
        ("A30 same", two(0, 0, 64), "inside the tensor before it"),
        ("A30 hole", two(0, 64, 128), "`b`: offset 64, wanted 32: a hole"),
        ("A30 order", two(32, 0, 64), "`a`: offset 32, wanted 0"),
        ("A32 by a byte", one(&[8], 0, 0, 31), "incomplete"),
        ("A32 at 0", one(&[8], 0, 0, 0), "incomplete"),
        ("A34", p("split.count", 2, &[5, 0]), "key split.no"),
        ("A34 many", p("split.count", 4, &65_536u32.to_le_bytes()), "split.count: 65536; at most"),
        ("A34 type", p("split.count", 8, &[1, 0, 0, 0, 0, 0, 0, 0, b'2']), "key split.count"),
        ("zip", b"PK\x03\x04 and more".to_vec(), "zip"),
        ("web page", b"<!DOCTYPE html>".to_vec(), "error page"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1".to_vec(), "Git LFS"),
        ("safetensors", b"\x40\0\0\0\0\0\0\0{\"a\"".to_vec(), "safetensors"),
    ];
    for n in [1 << 63, u64::MAX, 1 << 32, 65_537] {
        all.push(("A5", Liar::new(n, 0).raw(&[0; 99]).bytes(), "tensors: "));
        all.push(("A6", Liar::new(0, n).raw(&[0; 99]).bytes(), "metadata pairs: "));
    }
    all.push(("A5 small", Liar::new(65_536, 0).raw(&[0; 99]).bytes(), "65536 tensors cannot"));
    all.push(("A6 small", Liar::new(0, 65_536).raw(&[0; 99]).bytes(), "65536 metadata pairs cannot"));
    for a in [0u32, 1, 3, 7, 1 << 30, 1 << 31] {
        all.push(("A19", align(4, &a.to_le_bytes()), "general.alignment"));
    }
    // A31: sizes that only together pass 2^64 need more tensors than elements are allowed; the largest allowed do not fit.
    let big = f(2).tensor(b"a", &[1 << 40], 0, 0).tensor(b"b", &[1 << 40], 0, 1 << 42).data(64).bytes();
    all.push(("A31", big, "incomplete"));
    all
}

#[test]
fn lies_are_named() {
    for (case, bytes, word) in lies() {
        let e = load(&bytes).err().unwrap_or_else(|| panic!("{case} was accepted")).to_string();
        assert!(e.contains(word), "{case}: wanted `{word}` in: {e}");
        assert!(!e.chars().any(char::is_control) && e.len() < 1000, "{case}: {e:?}");
    }
    let header = small()[..24].to_vec();
    for n in 0..24 {
        assert!(load(&header[..n]).is_err(), "A2: {n} bytes");
    }
}

#[test]
fn odd_but_true() {
    let ok = |bytes: &[u8]| load(bytes).unwrap();
    assert_eq!(ok(&[small(), vec![7; 100]].concat()).trailing(), 100, "A33");
    let named = |n: &[u8]| Liar::new(1, 0).tensor(n, &[8], 0, 0).data(32).bytes();
    ok(&named(&[b'n'; 64]));
    ok(&named(&[b'n'; 1024]));
    ok(&named(b"../../x"));
    ok(&Liar { version: 2, ..Liar::new(0, 0) }.bytes());
    for joined in [0u16, 1] {
        ok(&Liar::new(0, 1).pair("split.count", 2, &joined.to_le_bytes()).bytes());
    }
    // As many pairs and tensors as fit in the smallest file.
    let pairs = (0..65_536).fold(Liar::new(0, 65_536), |l, i| l.pair(&format!("{i:x}"), 0, &[0]));
    ok(&pairs.bytes());
    let aligned = Liar::new(65_536, 1).pair("general.alignment", 4, &8u32.to_le_bytes());
    let tensors = (0..65_536).fold(aligned, |l, i| l.tensor(format!("{i:x}").as_bytes(), &[1], 0, 8 * i));
    ok(&tensors.data(65_536 * 8).bytes());
}

#[test]
fn wrong_types_name_key_wanted_and_found() {
    let g = load(&small()).unwrap();
    let text = |e: Error| e.to_string();
    assert_eq!(
        text(g.u32("general.architecture").unwrap_err()),
        "key general.architecture does not fit: wanted u32, found string llama"
    );
    assert_eq!(text(g.f32("a.u32").unwrap_err()), "key a.u32 does not fit: wanted finite f32, found u32 3");
    let nan = Liar::new(0, 1).pair("a.f", 6, &f32::NAN.to_le_bytes()).bytes();
    assert!(text(load(&nan).unwrap().f32("a.f").unwrap_err()).contains("NaN"));
    let adapter = Writer::new().set("general.type", "adapter").finish().unwrap();
    assert!(text(load(&adapter).unwrap().require_u32("llama.block_count").unwrap_err()).contains("an adapter"));
}

#[test]
fn containers_reserve_no_more_than_they_hold() {
    let mut head = Head::new();
    head.set("rank", 8u64).set("targets", vec!["q".into()]);
    let good = Builder::new("adapter").section("head", true, head.encode()).section("data", true, vec![1; 40]).finish();
    let read = |b: &[u8]| bounded(b, |b| Container::read(b.into(), &Limits::default()));
    read(&good).unwrap();
    for at in 0..good.len() {
        for value in 0..=255u8 {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(read(&bad).is_ok(), bad == good, "byte {at} = {value}");
        }
    }
    let empty_texts = [b"\x01\0\0\0\x01a\x04".as_slice(), &32_768u32.to_le_bytes(), &vec![0; 4 * 32_768]].concat();
    bounded(&empty_texts, |b| Head::decode(&b, &Limits::default())).unwrap();
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

#[test]
fn a_scale_that_is_no_number_is_found_by_its_tensor() {
    use mynah::kernel::{Compute, PLAIN, Pool};
    use mynah::model::{Model, Session, SessionConfig};
    let compute = Compute { kernels: &PLAIN, pool: Pool::new(1) };
    let good = load(mynah::base::MODEL).unwrap();
    let matrix = good.matrix("blk.1.ffn_up.weight").unwrap();
    // The scale in the first bytes of the first block of row 2.
    let at = matrix.data().as_ptr() as usize - good.files()[0].as_ptr() as usize + 2 * matrix.row_bytes();
    for (scale, same) in [(0x7e00u16, false), (0x7c00, false), (0x3c00, true)] {
        let mut file = mynah::base::MODEL.to_vec();
        file[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        let model = Model::load(&load(&file).unwrap(), compute.clone()).unwrap();
        let config = SessionConfig { context: 16, ..SessionConfig::default() };
        let mut session = Session::new(&model, config).unwrap();
        match session.feed(&[1, 2, 3]) {
            Ok(_) => assert!(same, "{scale:#x}"),
            Err(e) => {
                assert!(!same && e.to_string().contains("blk.1.ffn_up.weight: row 2, column"), "{scale:#x}: {e}");
                assert_eq!(session.position(), 0);
            }
        }
    }
}

mod models {
    //! Files that are whole, but whose model is not what it seems.

    use super::{bounded, load};
    use crate::alloc::largest;
    use crate::shared::{needs_shared, shared};
    use crate::tiny::{self, Rng};
    use mynah::adapter::{Adapter, At, Into, KINDS, Kind, Needs, NewPart, Place, Ready, Seen, Shape, Site, Start};
    use mynah::container::head::Head;
    use mynah::error::Result;
    use mynah::gguf::{Gguf, Writer};
    use mynah::kernel::{Buffer, Compute, Pool, Tile, View};
    use mynah::model::{Model, Session, SessionConfig};
    use mynah::nn::linear::Precision;
    use mynah::quant::Format;
    use mynah::role::Role;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// The file with other tensors: those of it that `stays` leaves, then `more`, vectors.
    fn other(file: &Gguf, stays: impl Fn(&str) -> bool, more: &[(String, Vec<f32>)]) -> Vec<u8> {
        let mut w = Writer::new();
        file.pairs().for_each(|(key, value)| _ = w.set(key, value.clone()));
        for t in file.tensors().iter().filter(|t| stays(&t.name)) {
            w.tensor(&*t.name, t.dims(), t.format, file.data(t).unwrap());
        }
        for (name, values) in more {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            w.tensor(name.as_str(), &[values.len() as u64], Format::by_id(0).unwrap(), bytes);
        }
        w.finish().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Model> {
        let file = load(bytes)?;
        bounded(bytes, |_| Model::load(&file, Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) }))
    }

    fn logits(model: &Model, precision: Precision, adapter: Option<Arc<Ready>>) -> Vec<u32> {
        let config = SessionConfig { context: 16, precision, ..SessionConfig::default() };
        let mut session = Session::new(model, config).unwrap();
        adapter.into_iter().for_each(|a| session.attach(a, 1.0).unwrap());
        session.feed(&[5, 7, 6]).unwrap().iter().map(|v| v.to_bits()).collect()
    }

    /// Adds a vector to what products make.
    struct Added {
        shape: Shape,
        values: Vec<f32>,
    }

    impl Added {
        fn new(mut biases: Vec<(Site, Vec<f32>)>) -> Added {
            biases.sort_by_key(|b| b.0);
            let places = biases.iter().map(|(site, v)| (Place::Site(*site), [v.len(); 2])).collect();
            let part = |_, [_, len]: [usize; 2]| vec![NewPart::new("bias", 1, len, Start::Zero)];
            let values = biases.into_iter().flat_map(|b| b.1).collect();
            Added { shape: Shape::build(places, |_| Needs::default(), part), values }
        }
    }

    impl Adapter for Added {
        fn kind(&self) -> &'static Kind {
            KINDS[0]
        }

        fn shape(&self) -> &Shape {
            &self.shape
        }

        fn params(&self) -> &[f32] {
            &self.values
        }

        fn params_mut(&mut self) -> &mut [f32] {
            &mut self.values
        }

        fn forward(&self, at: &At, _: View, y: &mut Tile, _: &mut Buffer) {
            let bias = &self.values[self.shape.parts[at.slot].range.clone()];
            (0..y.n()).for_each(|i| y.row(i).iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }

        fn backward(&self, _: &At, _: &Seen, _: &mut [f32], _: Into, _: &mut Buffer) {
            unreachable!("it is not trained");
        }

        fn record(&self, _: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
            unreachable!("it is not saved");
        }
    }

    /// Holds a file with biases to the same file without them, where they are added by hand.
    #[track_caller]
    fn biases_are_added(bytes: &[u8]) {
        let file = load(bytes).unwrap();
        let is_bias = |name: &str| name.starts_with("blk.") && name.ends_with(".bias");
        let names = file.tensors().iter().map(|t| &*t.name).filter(|n| is_bias(n));
        let site = |name: &str| Site::by_gguf(&name.replace(".bias", ".weight")).unwrap();
        let biases: Vec<(Site, Vec<f32>)> = names.map(|n| (site(n), file.vector(n).unwrap())).collect();
        assert!(!biases.is_empty() && biases.iter().all(|b| b.1.iter().any(|v| *v != 0.0)));
        let plain = open(&other(&file, |name| !is_bias(name), &[])).unwrap();
        let added = plain.ready(Box::new(Added::new(biases))).unwrap();
        for precision in [Precision::F32, Precision::Int8] {
            let got = logits(&open(bytes).unwrap(), precision, None);
            assert_ne!(got, logits(&plain, precision, None), "without them");
            assert_eq!(got, logits(&plain, precision, Some(added.clone())), "added by hand");
        }
    }

    #[test]
    fn biases_of_all_products_are_added() {
        let file = load(&tiny::file("llama", 3, false)).unwrap();
        let mut rng = Rng(9);
        let mut bias = |layer: usize, role: Role| {
            let weight = file.matrix(&format!("blk.{layer}.{}.weight", role.gguf())).unwrap();
            (format!("blk.{layer}.{}.bias", role.gguf()), (0..weight.rows).map(|_| rng.unit()).collect::<Vec<f32>>())
        };
        // Those of an attention layer and a dense feed-forward layer.
        let there = |role: &Role| file.tensor(&format!("blk.1.{}.weight", role.gguf())).is_some();
        let roles: Vec<Role> = Role::LINEAR.into_iter().filter(there).collect();
        assert_eq!(roles.len(), 7);
        for &role in &roles {
            biases_are_added(&other(&file, |_| true, &[bias(1, role)]));
        }
        let all: Vec<_> = (0..tiny::LAYERS).flat_map(|l| roles.iter().map(move |&role| (l, role))).collect();
        let all: Vec<_> = all.into_iter().map(|(layer, role)| bias(layer, role)).collect();
        biases_are_added(&other(&file, |_| true, &all));
    }

    #[needs_shared]
    #[test]
    fn biases_of_the_shared_cases_are_added() {
        for name in ["ffn_bias", "out_bias"] {
            biases_are_added(&std::fs::read(shared().join(format!("cases/17/{name}.gguf"))).unwrap());
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], tensor: &str) {
        let e = open(bytes).err().unwrap_or_else(|| panic!("{tensor} was accepted")).to_string();
        assert!(e.contains(tensor), "wanted `{tensor}` in: {e}");
    }

    #[test]
    fn tensors_that_nobody_would_read_are_named() {
        let file = load(&tiny::file("llama", 3, true)).unwrap();
        for name in [
            "blk.0.mystery.weight",
            "mystery.weight",
            "output.bias",
            "output_norm.bias",
            "blk.0.attn_norm.bias",
            "blk.0.attn_q.scale",
            "blk.00.attn_q.bias",
            "blk.x.attn_q.bias",
            "blk.2.attn_q.bias",
            "blk.18446744073709551615.attn_q.weight",
            "blk.18446744073709551616.attn_q.bias",
            "attn_q.weight",
        ] {
            refused(&other(&file, |_| true, &[(name.into(), vec![0.0; 32])]), name);
        }
        for missing in ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "output_norm.weight", "token_embd.weight"] {
            refused(&other(&file, |name| name != missing, &[]), missing);
        }
        refused(&other(&file, |_| true, &[("blk.1.attn_k.bias".into(), vec![0.0; 32])]), "blk.1.attn_k.bias");
        refused(&other(&file, |_| true, &[("blk.1.attn_q.bias".into(), vec![f32::NAN; 32])]), "blk.1.attn_q.bias");
    }

    #[needs_shared]
    #[test]
    fn tensors_of_the_shared_cases_are_named() {
        for (name, tensor) in [("blocks4", "blk.4."), ("unknown_tensor", "blk.0.mystery.weight")] {
            refused(&std::fs::read(shared().join(format!("cases/17/{name}.gguf"))).unwrap(), tensor);
        }
    }

    /// Loads, feeds a little, and holds both to a bound on time and memory.
    #[track_caller]
    fn is_light(bytes: &[u8]) {
        let file = load(bytes).unwrap();
        let begin = Instant::now();
        let (model, most) = largest(|| {
            let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) };
            let model = Model::load(&file, compute).unwrap();
            logits(&model, Precision::F32, None);
            model
        });
        let (took, context) = (begin.elapsed(), model.hparams.context);
        eprintln!("{context} positions: {took:?}, at most {most} bytes at once");
        assert!(context >= 1 << 20 && most <= 1 << 20, "{context} positions, {most} bytes at once");
        assert!(took < Duration::from_millis(500), "{took:?}");
    }

    #[test]
    fn a_long_context_costs_nothing_before_it_is_used() {
        let file = load(&tiny::file("llama", 3, true)).unwrap();
        for context in [1 << 20, u32::MAX] {
            let mut w = Writer::new();
            let pairs = file.pairs().filter(|p| p.0 != "llama.context_length");
            pairs.for_each(|(key, value)| _ = w.set(key, value.clone()));
            w.set("llama.context_length", context);
            file.tensors().iter().for_each(|t| _ = w.tensor(&*t.name, t.dims(), t.format, file.data(t).unwrap()));
            is_light(&w.finish().unwrap());
        }
    }

    #[needs_shared]
    #[test]
    fn a_long_context_of_the_shared_cases_costs_nothing() {
        for name in ["rope-128", "rope-1k"] {
            is_light(&std::fs::read(shared().join(format!("cases/hostile/02/{name}.gguf"))).unwrap());
        }
    }
}
