//! What is called with bytes of strangers. Each function returns for all bytes: a panic, an abort, a value that contradicts
//! another, or a reservation far beyond the file is a fault.
//!
//! The fuzzer calls these functions, and so does the suite with the seeds and with every input that ever failed.

use arbitrary::{Arbitrary, Unstructured};
use mynah::Mynah;
use mynah::adapter::{self, peft, safetensors::Safetensors};
use mynah::bytes::{Bytes, Limits, map};
use mynah::container::codec::{CODECS, Params, Whole};
use mynah::container::{Builder, Container};
use mynah::gguf::Gguf;
use mynah::model::Model;
use mynah::picture::{self, Parts};
use mynah::rewrite::folder::Folder;
use mynah::text::chat::{Message, Template};
use mynah::text::{Decode, Encode, Tokenizer};
use mynah::train::checkpoint::Checkpoint;
use mynah::train::data::{Options, Reader};
use std::sync::OnceLock;

/// What a target is called with.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("gguf", gguf),
    ("mapped", mapped),
    ("container", container),
    ("codec", codec),
    ("safetensors", safetensors),
    ("peft", peft),
    ("hugging", hugging),
    ("tokenizer", tokenizer),
    ("template", template),
    ("data", data),
    ("checkpoint", checkpoint),
    ("picture", picture),
];

fn limits() -> Limits {
    Limits::default()
}

/// The built-in model.
fn mynah() -> &'static Mynah {
    static MYNAH: OnceLock<Mynah> = OnceLock::new();
    MYNAH.get_or_init(|| Mynah::embedded().expect("the built-in model"))
}

/// A model file, and what is made of it.
pub fn gguf(bytes: &[u8]) {
    let Ok(file) = Gguf::parse(bytes.to_vec().into(), &limits()) else { return };
    for (key, value) in file.pairs() {
        let text = value.to_string();
        assert!(!text.chars().any(char::is_control), "{key}: {text}");
        if let Ok(Some(array)) = file.array(key) {
            assert_eq!(array.values().count(), array.len(), "{key}");
        }
    }
    for tensor in file.tensors() {
        let data = file.data(tensor).expect("a tensor that was accepted lies in the file");
        assert_eq!(data.len() as u64, tensor.bytes);
        file.matrix(&tensor.name).ok();
        file.vector(&tensor.name).ok();
    }
    _ = file.looks_like();
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
        round_trip(&tokenizer, "The parrot’s tea\n\n was 23 % \u{1f99c} cold.");
        Template::from_gguf(&file, &tokenizer).ok();
    }
    if file.check_model().is_ok() {
        Model::load(&file, mynah().model().compute.clone()).ok();
    }
}

/// A mapped file and one that was read: the same result, or the same error.
pub fn mapped(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("room for it");
    let said = |result: mynah::Result<Gguf>| {
        let all = |file: Gguf| {
            let pairs: Vec<String> = file.pairs().map(|(key, value)| format!("{key} {value}")).collect();
            let tensors = file.tensors().iter().map(|t| (t.name.clone(), file.data(t).expect("inside").to_vec()));
            (pairs, tensors.collect::<Vec<_>>())
        };
        result.map(all).map_err(|e| e.to_string())
    };
    let read = map::read(file.path(), limits().file).and_then(|bytes| Gguf::parse(bytes.into(), &limits()));
    let mapped = map::open(file.path()).and_then(|bytes| Gguf::parse(bytes, &limits()));
    assert_eq!(said(read), said(mapped));
}

/// A file of ours: sections of any name and content, sealed as ours are, so that what reads them is reached.
#[derive(Arbitrary, Debug)]
struct Sections<'a> {
    adapter: bool,
    sections: Vec<(Name<'a>, bool, &'a [u8])>,
}

/// The name of a section, mostly one that is known.
#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Head,
    Params,
    Adapter,
    Optimizer,
    Provenance,
    Other(&'a str),
}

fn sealed(bytes: &[u8], kinds: [&str; 2]) -> Option<Vec<u8>> {
    let Sections { adapter, sections } = Sections::arbitrary_take_rest(Unstructured::new(bytes)).ok()?;
    let mut file = Builder::new(kinds[usize::from(adapter)]);
    let mut names = std::collections::BTreeSet::new();
    for (name, required, content) in sections.into_iter().take(16) {
        let name = match name {
            Name::Head => "head",
            Name::Params => "params",
            Name::Adapter => "adapter",
            Name::Optimizer => "optimizer",
            Name::Provenance => "provenance",
            Name::Other(name) => name,
        };
        // The writer's own rules: a program that breaks them is at fault, not a file.
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if name.is_empty() || name.len() > 16 || !name.bytes().all(letter) || !names.insert(name) {
            continue;
        }
        file = file.section(name, required, content.to_vec());
    }
    Some(file.finish())
}

/// An adapter file: the bytes themselves, and as the content of sections.
pub fn container(bytes: &[u8]) {
    for file in core::iter::once(bytes.to_vec()).chain(sealed(bytes, ["other", "adapter"])) {
        let file = Bytes::from(file);
        if let Ok(container) = Container::read(file.clone(), &limits()) {
            for (name, _, len) in container.sections() {
                assert!(container.section(name).is_some_and(|section| section.len() <= len.max(section.len())));
            }
        }
        adapter::file::info(file.clone(), &limits()).ok();
        for fit in [adapter::file::from_bytes, adapter::file::from_bytes_for_shapes] {
            fit(file.clone(), mynah().base(), &limits()).ok();
        }
    }
}

/// Every codec on any bytes: as many values as were asked for, and writing them gives the bytes again.
pub fn codec(bytes: &[u8]) {
    let [which, cols, rows, rest @ ..] = bytes else { return };
    let codec = &CODECS[usize::from(*which) % CODECS.len()];
    let (cols, rows) = (usize::from(*cols).max(1), usize::from(*rows));
    // Two parts, of the same name or of two.
    let parts = ["part", ["part", "other"][rows % 2]].map(|name| Whole { name, cols, len: cols * rows });
    let start = |part: usize, out: &mut [f32]| {
        out.iter_mut().enumerate().for_each(|(i, v)| *v = ((i + part) % 7) as f32 / 7.0);
    };
    let params = Params { parts: &parts, start: &start };
    let Ok(values) = codec.decode(rest, &params) else { return };
    assert_eq!(values.len(), params.len());
    assert!(codec.encode(&values, &params).expect("what it read") == rest, "{}: other bytes", codec.name);
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    let Ok(file) = Safetensors::parse(bytes.to_vec().into(), &limits()) else { return };
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name).map(|t| &t.name), Some(&tensor.name));
        file.matrix(tensor).ok();
    }
}

/// A PEFT folder: a configuration and its tensors.
pub fn peft(bytes: &[u8]) {
    let Ok((config, tensors)) = <(&[u8], &[u8])>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    for (config, tensors) in [(config, tensors), (bytes, &[][..])] {
        peft::read(config, tensors.to_vec().into(), mynah().base(), &limits()).ok();
    }
}

/// A folder of a model with one tensor: its configuration up to a zero, and behind that a tokenizer of either kind.
pub fn hugging(bytes: &[u8]) {
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (config, tokenizer) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("room for it");
    let header = br#"{"norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    put("model.safetensors", &[&(header.len() as u64).to_le_bytes(), &header[..], &[0; 8]].concat());
    put("config.json", config);
    // A brace begins JSON, and no vocabulary.
    put(if tokenizer.starts_with(b"{") { "tokenizer.json" } else { "tokenizer.model" }, tokenizer);
    let mut limits = limits();
    limits.array = 1 << 12;
    if let Ok(folder) = Folder::open(folder.path(), &limits) {
        let mut file = Vec::new();
        if folder.convert(None, None, &mynah().model().compute, &mut file, &mut |_| ()).is_ok() {
            Gguf::parse(file.into(), &limits).expect("its own file");
        }
    }
}

fn round_trip(tokenizer: &Tokenizer, text: &str) {
    let plain = Encode { add_special: false, parse_special: false };
    let Ok(ids) = tokenizer.encode(text, &plain) else { return };
    for id in &ids {
        assert!((*id as usize) < tokenizer.vocab_len());
    }
    tokenizer.decode(&ids, &Decode::default()).expect("its own tokens");
    tokenizer.encode(text, &Encode { add_special: true, parse_special: true }).ok();
}

/// Text to tokens and back. The built-in vocabulary loses nothing.
pub fn tokenizer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let tokenizer = mynah().tokenizer();
    round_trip(tokenizer, &text);
    let ids = tokenizer.encode(&text, &Encode { add_special: false, parse_special: false }).expect("any text");
    let decoded = tokenizer.decode(&ids, &Decode::default()).expect("its own tokens");
    assert_eq!(String::from_utf8_lossy(&decoded), text);
}

/// A chat template.
pub fn template(bytes: &[u8]) {
    let Ok(source) = core::str::from_utf8(bytes) else { return };
    let Ok(template) = Template::new(source, mynah().tokenizer()) else { return };
    let messages = ["system", "user", "assistant", "user"].map(|role| Message::new(role, "Tea <|im_end|> at four?"));
    for prompt in [false, true] {
        if let Ok(text) = template.render(&messages[..], prompt) {
            assert!(text.len() as u64 <= limits().template_output);
        }
    }
    template.check_system().ok();
}

/// A file of data, by its extension.
pub fn data(bytes: &[u8]) {
    let [which, rest @ ..] = bytes else { return };
    let names = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.md", "a.mbox", "a"];
    let template = Template::plain(mynah().tokenizer()).expect("the plain template");
    let reader = Reader {
        tokenizer: mynah().tokenizer(),
        template: Some(&template),
        ctx: 64,
        parse_special: false,
        options: Options::default(),
        limits: limits(),
    };
    if let Ok(data) = reader.file(names[usize::from(*which) % names.len()], rest) {
        for row in &data.examples {
            assert_eq!(row.tokens.len(), row.mask.len());
            assert!(row.tokens.len() <= 64);
        }
    }
}

/// A checkpoint: the bytes themselves, and as the content of sections.
pub fn checkpoint(bytes: &[u8]) {
    for file in core::iter::once(bytes.to_vec()).chain(sealed(bytes, ["other", "train"])) {
        if let Ok(checkpoint) = Checkpoint::read(file.into(), &limits()) {
            _ = checkpoint.step();
            checkpoint.note("options").ok();
            if let Ok(bytes) = checkpoint.adapter() {
                adapter::file::restore(bytes, mynah().base(), &limits(), adapter::file::Fit::Same).ok();
            }
        }
    }
}

/// A picture: the bytes as a file, as pixels, and as what a set of codes holds.
pub fn picture(bytes: &[u8]) {
    picture::read(bytes, &limits()).ok();
    let [side, rest @ ..] = bytes else { return };
    let (width, scale) = (u32::from(*side).max(1), 3);
    let height = rest.len() as u32 / width;
    if let Some(pixels) = image::GrayImage::from_raw(width, height, rest[..(width * height) as usize].to_vec())
        && height > 0
    {
        let large =
            image::imageops::resize(&pixels, width * scale, height * scale, image::imageops::FilterType::Nearest);
        let mut file = std::io::Cursor::new(Vec::new());
        large.write_to(&mut file, image::ImageFormat::Png).expect("room in memory");
        let found = picture::read(file.get_ref(), &limits()).expect("a whole picture");
        assert!(found.payloads.len() as u64 <= limits().codes);
    }
    let mut parts = Parts::new();
    for payload in rest.chunks(usize::from(*side).max(1)) {
        parts.add(payload, &limits()).ok();
    }
    if let Ok(file) = parts.finish() {
        let codes = picture::codes(&file, &limits()).expect("a file that came in codes");
        assert!(!codes.is_empty());
    }
}
