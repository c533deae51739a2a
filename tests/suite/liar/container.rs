//! Section E: mynah's own container, with adapters and with checkpoints in it.

use super::{Entry, Fields, Parser, check, takes};
use crate::resume::{Plan, Run};
use mynah::adapter::{self, Spec};
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::container::{Builder, Container};
use mynah::kernel::{Compute, Pool};
use std::cell::RefCell;

pub static CONTAINER: Parser = Parser {
    name: "container",
    read: |bytes| {
        let file = Container::read(bytes.into(), &Limits::default())?;
        file.sections().for_each(|(name, ..)| assert!(file.section(name).is_some(), "{name}"));
        file.refuse_unknown(&["head", "data"])
    },
};

pub static HEAD: Parser =
    Parser { name: "head of a container", read: |bytes| Head::decode(&bytes, &Limits::default()).map(drop) };

pub static ADAPTER: Parser = Parser {
    name: "adapter",
    read: |bytes| {
        let bytes = mynah::bytes::Bytes::from(bytes);
        adapter::info(bytes.clone(), &Limits::default())?;
        adapter::probe::read(bytes.clone(), &Limits::default())?;
        adapter::from_bytes(bytes, &super::peft::base(), &Limits::default()).map(drop)
    },
};

/// The run that a checkpoint is for.
fn plan() -> Plan {
    Plan { small: true, rank: 1, ..Plan::new("lora", "sgd") }
}

thread_local! {
    /// What checkpoints are read into. A refused one changes nothing of it, as `resume.rs` proves.
    static RUN: RefCell<Run> = RefCell::new(plan().start());
}

pub static CHECKPOINT: Parser =
    Parser { name: "checkpoint", read: |bytes| RUN.with(|run| run.borrow_mut().go_on(bytes)) };

/// A checkpoint after a step.
pub fn checkpoint() -> Vec<u8> {
    let mut run = plan().start();
    run.step();
    run.save()
}

/// A container, section by section.
#[derive(Clone)]
pub struct Adapter {
    kind: String,
    sections: Vec<(String, bool, Vec<u8>)>,
}

impl Adapter {
    fn of(bytes: Vec<u8>) -> Adapter {
        let file = Container::read(bytes.into(), &Limits::default()).unwrap();
        // Facts in the spelling of the wide file that this one writes.
        let section = |(name, required, _): (&str, bool, usize)| {
            let bytes = match name {
                "head" | "provenance" => file.facts(name, &Limits::default()).unwrap().encode(),
                _ => file.section(name).unwrap().to_vec(),
            };
            (name.to_string(), required, bytes)
        };
        Adapter { kind: file.kind().into(), sections: file.sections().map(section).collect() }
    }

    fn new(spec: Spec, ones: bool) -> Adapter {
        let base = super::peft::base();
        let mut adapter = adapter::create(&Spec { layers: Some(vec![0]), ..spec }, &base).unwrap();
        if ones {
            adapter.params_mut().fill(0.5);
        }
        Adapter::of(adapter::to_bytes_as(&*adapter, &base, &Default::default(), "f16").unwrap())
    }

    pub fn lora() -> Adapter {
        Adapter::new(Spec::new("lora").with("rank", 2usize), true)
    }

    /// Of one site.
    pub fn tiny() -> Adapter {
        Adapter::new(Spec { targets: vec![mynah::role::Role::K], ..Spec::new("lora").with("rank", 1usize) }, true)
    }

    fn nola() -> Adapter {
        Adapter::new(Spec::new("nola").with("rank", 2usize).with("basis", 3usize).with("basis b", 3usize), true)
    }

    /// With other facts.
    pub fn head(self, change: impl FnOnce(&mut Head)) -> Adapter {
        let held = &self.sections.iter().find(|(name, ..)| name == "head").unwrap().2;
        let mut head = Head::decode(held, &Limits::default()).unwrap();
        change(&mut head);
        self.section("head", true, head.encode())
    }

    /// Without a fact.
    fn lacks(self, key: &str) -> Adapter {
        let held = &self.sections.iter().find(|(name, ..)| name == "head").unwrap().2;
        let (all, mut head) = (Head::decode(held, &Limits::default()).unwrap(), Head::new());
        all.fields().filter(|(name, _)| *name != key).for_each(|(name, value)| _ = head.set(name, value.clone()));
        self.section("head", true, head.encode())
    }

    fn section(mut self, name: &str, required: bool, bytes: Vec<u8>) -> Adapter {
        self.sections.retain(|(held, ..)| held != name);
        self.sections.push((name.into(), required, bytes));
        self.sections.sort();
        self
    }

    fn without(mut self, name: &str) -> Adapter {
        self.sections.retain(|(held, ..)| held != name);
        self
    }

    /// With the bytes of a section changed.
    fn change(self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Adapter {
        let (_, required, mut bytes) = self.sections.iter().find(|(held, ..)| held == name).unwrap().clone();
        change(&mut bytes);
        self.section(name, required, bytes)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = Builder::new(&self.kind);
        for (name, required, bytes) in &self.sections {
            file = file.section(name, *required, bytes.clone());
        }
        file.finish()
    }

    /// The same field by field.
    pub fn fields(&self) -> Fields {
        let pad = |text: &str, n: usize| [text.as_bytes(), &vec![0; n - text.len()]].concat();
        let table = 32 + 48 * self.sections.len();
        let data: usize = self.sections.iter().map(|(_, _, bytes)| bytes.len().next_multiple_of(8)).sum();
        let mut file = Fields::default().raw("magic", b"\x8dMYN\r\n\x1a\n").u16("major", 1).u16("minor", 0);
        file = file.u32("sections", self.sections.len() as u32).u64("length", (table + data + 40) as u64);
        file = file.raw("kind", &pad(&self.kind, 8));
        let mut offset = table;
        for (name, required, bytes) in &self.sections {
            let of = |what: &str| format!("{what} of {name}");
            file = file.raw(of("name"), &pad(name, 16)).u64(of("offset"), offset as u64);
            file = file.u64(of("length"), bytes.len() as u64).raw(of("sum"), &blake3::hash(bytes).as_bytes()[..8]);
            file = file.u32(of("required"), u32::from(*required)).u32(of("reserved"), 0);
            offset += bytes.len().next_multiple_of(8);
        }
        for (name, _, bytes) in &self.sections {
            file = file.raw(format!("data of {name}"), bytes);
            let padding = bytes.len().next_multiple_of(8) - bytes.len();
            file = file.raw(format!("padding of {name}"), &vec![0; padding]);
        }
        let hash = blake3::hash(&file.bytes);
        file.raw("hash", hash.as_bytes()).raw("end", b"MYNAHEND")
    }
}

/// A small one, to be changed byte by byte.
pub fn small() -> Adapter {
    let mut head = Head::new();
    head.set("rank", 8u64).set("targets", vec!["q".into()]).set("a", "b").set("loss", 0.5);
    Adapter {
        kind: "adapter".into(),
        sections: vec![("data".into(), true, vec![1; 12]), ("head".into(), true, head.encode())],
    }
}

/// The facts of it.
pub fn small_head() -> Vec<u8> {
    small().sections[1].2.clone()
}

/// Puts right checksums and a right hash under bytes that were changed.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < 72 {
        return bytes;
    }
    let word = |b: &[u8], at: usize| usize::try_from(u64::from_le_bytes(b[at..at + 8].try_into().unwrap())).ok();
    let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    for row in (0..count.min(64)).map(|i| 32 + 48 * i) {
        let range = (row + 48 <= bytes.len()).then(|| Some((word(&bytes, row + 16)?, word(&bytes, row + 24)?)));
        if let Some((start, n)) = range.flatten()
            && let Some(end) = start.checked_add(n).filter(|end| *end <= bytes.len())
        {
            let hash = blake3::hash(&bytes[start..end]);
            bytes[row + 32..row + 40].copy_from_slice(&hash.as_bytes()[..8]);
        }
    }
    let end = bytes.len() - 40;
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(hash.as_bytes());
    bytes
}

/// Loss, a prompt of one token, and twice an answer of one token and one score.
const PROBE: &[u8] = b"\x01\0\0\x80\x3e\x01\x07\x01\x05\x01\x05\0\0\x80\x3f\x01\x05\x01\x05\0\0\x80\x3f";

fn entries() -> Vec<Entry> {
    let (l, n, s) = (Adapter::lora, Adapter::nola, small);
    let probed = |bytes: &[u8]| l().section("probe", false, bytes.to_vec()).bytes();
    let nola = |change: fn(&mut Head)| Adapter::nola().head(change).bytes();
    let lora = |change: fn(&mut Head)| Adapter::lora().head(change).bytes();
    let lie = |field: &str, value: &[u8]| seal(small().fields().with(field, value));
    let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
    let first = |v: f32| move |bytes: &mut Vec<u8>| bytes[..2].copy_from_slice(&half(v));
    let targets = |text: &'static str| {
        Adapter::lora().head(move |head| _ = head.set("targets", vec![String::from(text)])).bytes()
    };
    let each = |name: &str, word: u32| {
        Adapter::lora().section(name, true, (0..7).flat_map(|_| word.to_le_bytes()).collect()).bytes()
    };
    let adapters: Vec<(&str, Vec<u8>, &'static str, &str)> = vec![
        ("E1 generator", nola(|h| _ = h.set("generator", "chacha99")), "Unsupported", "generator: chacha99"),
        ("E1 no generator", n().lacks("generator").bytes(), "Mismatch", "head: generator"),
        ("E1 basis", nola(|h| _ = h.set("basis", "mystery")), "Unsupported", "mystery"),
        ("E1 codec", lora(|h| _ = h.set("codec", "zip\x1b")), "Unsupported", "codec: zip\\u{1b}"),
        ("E1 kind", lora(|h| _ = h.set("kind", "mystery")), "Unsupported", "mystery"),
        ("E2 no bases", nola(|h| _ = h.set("bases.a", 0u64)), "Invalid", "bases: 0; 1 to 4096"),
        ("E2 4097 bases", nola(|h| _ = h.set("bases.b", 4097u64)), "Invalid", "bases: 4097; 1 to 4096"),
        ("E2 2^64 bases", nola(|h| _ = h.set("bases.b", u64::MAX)), "Invalid", "bases: "),
        (
            "E2 4096 bases that are not there",
            nola(|h| _ = h.set("bases.b", 4096u64)),
            "Corrupt",
            "bytes of parameters for",
        ),
        ("E2 rank 0", lora(|h| _ = h.set("rank", 0u64)), "Invalid", "rank: 0"),
        ("E2 rank 1025", lora(|h| _ = h.set("rank", 1025u64)), "Limit", "rank: 1025; at most 1024"),
        ("E2 rank 2^64", lora(|h| _ = h.set("rank", u64::MAX)), "Limit", "rank: 18446744073709551615"),
        ("E2 rank of a real", lora(|h| _ = h.set("rank", 2.0)), "Mismatch", "head: rank"),
        ("E2 rank over the width", lora(|h| _ = h.set("rank", 33u64)), "Invalid", "rank: 33 for"),
        ("E2 ranks 2^32", each("ranks", u32::MAX), "Limit", "rank: 4294967295"),
        ("E2 ranks of too few", l().section("ranks", true, vec![1; 8]).bytes(), "Corrupt", "bytes of ranks for 7"),
        ("E2 width", targets("attn_q 64 65 0-0"), "Mismatch", "expected 64 to 65, found 64 to 64"),
        ("E2 a width of 2^64", targets("attn_q 64 18446744073709551616 0-0"), "Corrupt", "target `attn_q"),
        ("E2 blocks", targets("attn_q 64 64 0-5"), "Mismatch", "layers"),
        ("E2 2^64 blocks", targets("attn_q 64 64 0-18446744073709551615"), "Corrupt", "target `attn_q"),
        ("E2 blocks reversed", targets("attn_q 64 64 4-0"), "Invalid", "no targets"),
        ("E2 one block again and again", targets("attn_q 64 64 0-0,0-0"), "Corrupt", "is a target twice"),
        ("E2 no site", targets("output 64 64 0-0"), "Unsupported", "adapter target: output"),
        ("E2 control", targets("\x1b[2J 64 64 0-0"), "Unsupported", "\\u{1b}[2J"),
        ("E2 no targets", lora(|h| _ = h.set("targets", Vec::new())), "Invalid", "it has no targets"),
        ("E3 truncated", l().change("params", |b| b.truncate(b.len() - 2)).bytes(), "Corrupt", "bytes of parameters"),
        ("E3 extra", l().change("params", |b| b.extend([0; 2])).bytes(), "Corrupt", "bytes of parameters for"),
        ("E3 none", l().change("params", Vec::clear).bytes(), "Corrupt", "0 bytes of parameters"),
        ("E3 no section", l().without("params").bytes(), "Corrupt", "no section `params`"),
        ("E3 NaN", l().change("params", first(f32::NAN)).bytes(), "Corrupt", "is not finite"),
        ("E3 infinite", l().change("params", first(f32::INFINITY)).bytes(), "Corrupt", "is not finite"),
        (
            "E3 of nola, truncated",
            n().change("params", |b| b.truncate(b.len() - 2)).bytes(),
            "Corrupt",
            "bytes of parameters",
        ),
        ("E3 of nola, NaN", n().change("params", first(f32::NAN)).bytes(), "Corrupt", "is not finite"),
        ("E3 alpha 0", lora(|h| _ = h.set("alpha", 0.0)), "Invalid", "alpha: 0"),
        ("E3 alpha over f32", lora(|h| _ = h.set("alpha", 1e300)), "Invalid", "alpha: inf"),
        ("E3 alphas NaN", each("alphas", f32::NAN.to_bits()), "Invalid", "alpha: NaN"),
        ("E3 all zero", l().change("params", |b| b.fill(0)).bytes(), "Invalid", "it changes nothing"),
        ("E3 scaling", lora(|h| _ = h.set("scaling", "cube")), "Unsupported", "scaling: cube"),
        ("E5 other streams", nola(|h| _ = h.set("canary", "0".repeat(64))), "Mismatch", "canary of the random streams"),
        ("E5 another seed", nola(|h| _ = h.set("seed", 1u64)), "Mismatch", "canary of the random streams"),
        ("E8", lora(|h| _ = h.set("base.content", "1".repeat(64))), "Mismatch", "weights of the base"),
        ("E8 the first digits", lora(|h| _ = h.set("base.content", "1".repeat(32))), "Mismatch", "weights of the base"),
        ("E8 short", lora(|h| _ = h.set("base.content", "0".repeat(31))), "Corrupt", "base.content is no digest of 32"),
        ("E8 long", lora(|h| _ = h.set("base.content", "0".repeat(65))), "Corrupt", "base.content is no digest of 32"),
        ("E8 no digits", lora(|h| _ = h.set("base.content", "é".repeat(16))), "Corrupt", "base.content is no digest"),
        (
            "E8 large digits",
            lora(|h| _ = h.set("base.content", "A".repeat(64))),
            "Corrupt",
            "base.content is no digest",
        ),
        ("E8 nothing", l().lacks("base.content").bytes(), "Mismatch", "head: base.fingerprint: expected text"),
        (
            "E8 a file",
            l().lacks("base.content").head(|h| _ = h.set("base.fingerprint", "1".repeat(64))).bytes(),
            "Mismatch",
            "weights of the base",
        ),
        ("E8 short tokenizer", lora(|h| _ = h.set("base.tokenizer", "0".repeat(15))), "Corrupt", "no digest of 16"),
        ("E8 architecture", lora(|h| _ = h.set("base.architecture", "qwen2")), "Mismatch", "architecture of the base"),
        ("E8 tokenizer", lora(|h| _ = h.set("base.tokenizer", "1".repeat(64))), "Mismatch", "tokenizer of the base"),
        ("E9 nothing", probed(&[]), "Corrupt", "end early"),
        ("E9 version", probed(&[2]), "Unsupported", "probe: version 2"),
        ("E9 loss NaN", probed(&[&[1][..], &f32::NAN.to_le_bytes(), &[0; 9]].concat()), "Corrupt", "a loss of NaN"),
        ("E9 loss below 0", probed(&[&[1][..], &(-0f32).to_le_bytes(), &[0; 9]].concat()), "Corrupt", "a loss of -0"),
        ("E9 no prompt", probed(&[&PROBE[..5], &[0], &PROBE[7..]].concat()), "Corrupt", "probe: 0 entries"),
        (
            "E9 tokens 2^32",
            probed(&[&PROBE[..5], &[255, 255, 255, 255, 15], &[0; 9]].concat()),
            "Corrupt",
            "4294967295 entries",
        ),
        (
            "E9 a token of 2^32",
            probed(&[&PROBE[..6], &[128, 128, 128, 128, 16], &PROBE[7..]].concat()),
            "Corrupt",
            "a token of number 4294967296",
        ),
        ("E9 a longer number", probed(&[&PROBE[..5], &[0x81, 0], &PROBE[6..]].concat()), "Corrupt", "leading zero"),
        (
            "E9 a logit infinite",
            probed(&[&PROBE[..11], &[0, 0, 0x80, 0x7f], &PROBE[15..]].concat()),
            "Corrupt",
            "do not fall",
        ),
        ("E9 another first token", probed(&[&PROBE[..8], &[6], &PROBE[9..]].concat()), "Corrupt", "does not begin"),
        ("E9 bytes behind it", probed(&[PROBE, &[0]].concat()), "Corrupt", "probe: 1 bytes too many"),
        ("E9 too long", probed(&[1; 16_385]), "Limit", "bytes of a probe: 16385"),
        ("E10 required", l().section("zz", true, vec![1]).bytes(), "Unsupported", "section: `zz`"),
        ("E11 twice", [l().bytes(), l().bytes()].concat(), "Corrupt", "belong to it"),
        ("E11 trailing", [l().bytes(), vec![0; 8]].concat(), "Corrupt", "belong to it"),
        (
            "E11 another kind",
            Builder::new("train").section("head", true, vec![0; 4]).finish(),
            "Mismatch",
            "kind of file",
        ),
    ];
    let containers: Vec<(&str, Vec<u8>, &'static str, &str)> = vec![
        ("E1 major", lie("major", &[2, 0]), "Unsupported", "container version: 2.0"),
        ("E1 major 0", lie("major", &[0, 0]), "Unsupported", "container version: 0.0"),
        ("E1 empty", vec![], "Invalid", "empty"),
        ("E1 GGUF", b"GGUF\x03\0\0\0".to_vec(), "Invalid", "GGUF"),
        ("E1 through text", lie("magic", b"\x8dMYN\n\x1a\n\0"), "Corrupt", "took it for text"),
        ("E2 sections 2^32", lie("sections", &[255; 4]), "Limit", "sections: 4294967295; at most 65536"),
        ("E2 sections 65535", lie("sections", &[255, 255, 0, 0]), "Corrupt", "longer than the"),
        ("E2 length 2^64", lie("length", &[255; 8]), "Corrupt", "incomplete"),
        ("E2 length 0", lie("length", &[0; 8]), "Corrupt", "of which only 0 belong"),
        ("E2 kind", lie("kind", b"A\0\0\0\0\0\0\0"), "Corrupt", "kind"),
        ("E2 name", lie("name of data", b"../x\0\0\0\0\0\0\0\0\0\0\0\0"), "Corrupt", "section name is not valid"),
        ("E2 order", lie("name of data", b"zz\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "Corrupt", "out of order"),
        ("E2 one name twice", lie("name of head", b"data\0\0\0\0\0\0\0\0\0\0\0\0"), "Corrupt", "out of order"),
        ("E2 offset", lie("offset of head", &[0; 8]), "Corrupt", "offset 0"),
        ("E2 section of 2^64", lie("length of head", &[255; 8]), "Corrupt", "exceed"),
        ("E2 section of one more", lie("length of head", &[255, 0, 0, 0, 0, 0, 0, 0]), "Corrupt", "exceed"),
        ("E2 required 2", lie("required of head", &[2, 0, 0, 0]), "Corrupt", "flags"),
        ("E2 reserved", lie("reserved of head", &[1, 0, 0, 0]), "Corrupt", "flags"),
        ("E4 a sum", small().fields().with("sum of data", &[0; 8]), "Corrupt", "section `data`: its checksum"),
        (
            "E4 a bit of data",
            small().fields().with("data of data", &[0; 12]),
            "Corrupt",
            "section `data`: its checksum",
        ),
        ("E4 padding", lie("padding of data", &[1, 0, 0, 0]), "Corrupt", "padding"),
        ("E4 the hash", small().fields().with("hash", &[0; 32]), "Corrupt", "the hash of the file differs"),
        ("E4 the end", small().fields().with("end", b"MYNAHENE"), "Corrupt", "the end mark is missing"),
        (
            "E10 required, of a newer version",
            seal(s().section("new", true, vec![]).fields().with("minor", &[9, 0])),
            "Unsupported",
            "`new`, required by this file of version 1.9",
        ),
    ];
    let head = |fields: u32, rest: &[u8]| [&fields.to_le_bytes(), rest].concat();
    let heads: Vec<(&str, Vec<u8>, &'static str, &str)> = vec![
        ("E2 facts 2^32", head(u32::MAX, b"\x01a\x02\0\0\0\0\0\0\0\0"), "Corrupt", "ends early"),
        ("E2 a text of 2^32", head(1, b"\x01a\x01\xff\xff\xff\xff"), "Corrupt", "ends early"),
        (
            "E2 a list of 2^32",
            head(1, b"\x01a\x04\xff\xff\xff\xff"),
            "Limit",
            "texts of a list: 4294967295; at most 32768",
        ),
        ("E2 a list of 32768", head(1, b"\x01a\x04\0\x80\0\0"), "Corrupt", "ends early"),
        ("E2 a head of 1 MiB", vec![0; (1 << 20) + 1], "Limit", "bytes of a head: 1048577"),
        ("E3 a fact NaN", head(1, &[&b"\x01a\x03"[..], &f64::NAN.to_le_bytes()].concat()), "Corrupt", "head: a is NaN"),
        ("E3 a fact of type 5", head(1, b"\x01a\x05"), "Corrupt", "head: a of type 5"),
        ("E3 facts twice", head(2, b"\x01a\x02\0\0\0\0\0\0\0\0\x01a\x02\0\0\0\0\0\0\0\0"), "Corrupt", "out of order"),
        ("E3 a key of nothing", head(1, b"\0\x02\0\0\0\0\0\0\0\0"), "Corrupt", "empty or out of order"),
        ("E3 a key not UTF-8", head(1, b"\x01\xff\x02\0\0\0\0\0\0\0\0"), "Corrupt", "UTF-8"),
        ("E3 bytes behind the facts", head(0, b"\0"), "Corrupt", "1 bytes too many"),
    ];
    let c = || Adapter::of(checkpoint());
    let state = |step: u64, epoch: u64, left: u64| {
        let mut head = Head::new();
        head.set("step", step).set("epoch", epoch).set("left", left);
        Adapter::of(checkpoint()).section("state", true, head.encode()).bytes()
    };
    let checkpoints: Vec<(&str, Vec<u8>, &'static str, &str)> = vec![
        ("E2 a checkpoint of another run", c().head(|h| _ = h.set("rank", 9u64)).bytes(), "Changed", "rank was 9"),
        (
            "E2 a checkpoint of facts that escape",
            c().head(|h| _ = h.set("\x1b[2J", "\x07")).bytes(),
            "Changed",
            "\\u{1b}[2J was",
        ),
        ("E2 a checkpoint of more steps", state(7, 1, 5), "Corrupt", "7 steps done of 6"),
        ("E2 a checkpoint of 2^64 steps", state(u64::MAX, 1, 5), "Corrupt", "steps done of 6"),
        ("E2 a checkpoint of more rows", state(1, 1, 8), "Corrupt", "8 rows left"),
        ("E3 a checkpoint without state", c().without("state").bytes(), "Corrupt", "no section `state`"),
        ("E3 a checkpoint without adapter", c().without("adapter").bytes(), "Corrupt", "no section `adapter`"),
        ("E3 a checkpoint of an empty adapter", c().section("adapter", true, vec![]).bytes(), "Invalid", "empty"),
        ("E3 a checkpoint of pieces", c().section("o.zz", true, vec![0; 12]).bytes(), "Unsupported", "`o.zz`"),
        ("E10 a checkpoint of more", c().section("x", true, vec![]).bytes(), "Unsupported", "`x`"),
        ("E11 a checkpoint twice", [checkpoint(), checkpoint()].concat(), "Corrupt", "belong to it"),
        ("E11 an adapter in its place", l().bytes(), "Mismatch", "kind of file"),
    ];
    let mut all = Vec::new();
    for (parser, entries) in
        [(&ADAPTER, adapters), (&CONTAINER, containers), (&HEAD, heads), (&CHECKPOINT, checkpoints)]
    {
        all.extend(entries.into_iter().map(|(name, bytes, variant, word)| parser.refuses(name, bytes, variant, word)));
    }
    let cut = lora(|h| _ = h.set("base.content", "0".repeat(32)).set("base.tokenizer", "0".repeat(16)));
    all.push(ADAPTER.takes("E8 the first digits of the same", cut));
    all.push(ADAPTER.takes("E9 as it should be", probed(PROBE)));
    all.push(ADAPTER.takes("E10 optional", l().section("zz", false, vec![1]).bytes()));
    all.push(CONTAINER.takes(
        "E10 optional, of a newer version",
        seal(s().section("new", false, vec![]).fields().with("minor", &[9, 0])),
    ));
    all.push(CONTAINER.takes("E4 whole", s().fields().bytes));
    all.push(CHECKPOINT.takes("E3 a checkpoint", checkpoint()));
    all.push(HEAD.takes("E2 a list of 32768 texts", [head(1, b"\x01a\x04\0\x80\0\0"), vec![0; 4 * 32_768]].concat()));
    let far = state(1, u64::MAX, 5);
    all.push(takes("E2 a checkpoint of 2^64 epochs", move || {
        // Which epoch it was decides the order of the rows alone: the run ends as any does.
        let mut run = plan().start();
        run.go_on(far)?;
        (1..6).for_each(|_| run.step());
        Ok(())
    }));
    all.push(takes("E6", || {
        let grown = |threads| {
            let base = super::peft::base();
            let mut nola = adapter::from_bytes(Adapter::nola().bytes().into(), &base, &Limits::default()).unwrap();
            nola.prepare(
                &Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) },
                &crate::digest::Drawn(Vec::new()),
            )
            .unwrap();
            changed(&*nola, threads)
        };
        assert!(grown(1).iter().any(|v| *v != 0.0));
        assert_eq!(grown(1), grown(16));
        Ok(())
    }));
    all.push(takes("E7", || {
        // The streams of a seed are named by their site: another rank shares no values by accident, and both load.
        for rank in [1usize, 2, 4] {
            let spec = Spec::new("nola").with("rank", rank).with("basis", 3usize).with("basis b", 3usize);
            (ADAPTER.read)(Adapter::new(spec, true).bytes())?;
        }
        Ok(())
    }));
    all
}

/// What an adapter adds to the first place that it has.
fn changed(adapter: &dyn adapter::Adapter, threads: usize) -> Vec<f32> {
    use mynah::adapter::At;
    use mynah::kernel::{Buffer, Tile, View};
    let cx = Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) };
    let (x, mut y) = (vec![0.5; 64], vec![0.0; 64]);
    let place = adapter.shape().slots[0].place;
    let at = At { cx: &cx, place, slot: 0, strength: 1.0, heads: super::peft::base().shapes[0].heads, lse: None };
    adapter.forward(&at, View::new(&x, 1, 64), &mut Tile::new(&mut y, 1, 64), &mut Buffer::default());
    y
}

#[test]
fn section_e() {
    check('E', 12, entries(), &[(12, "nothing converts between kinds of adapters")]);
}
