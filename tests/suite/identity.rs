//! What an adapter knows its base by: the tensors and the tokenizer, whatever file they lie in; and digests that are kept
//! between runs.

#![cfg(feature = "base")]

use mynah::adapter::{self, Fit, Provenance, Spec};
use mynah::bytes::{Bytes, Limits};
use mynah::container::head::Head;
use mynah::container::{Builder, Container};
use mynah::gguf::{Gguf, Writer};
use mynah::model::{Digest, Digests};
use mynah::quant::Format;
use mynah::{Error, Mynah};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub fn embedded() -> Gguf {
    Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap()
}

/// The built-in model in another file: with these metadata changed, and every tensor as `change` makes it.
pub fn rewritten(
    pairs: &[(&str, mynah::gguf::Value)],
    change: impl Fn(&str, &'static Format, Bytes) -> (String, &'static Format, Bytes),
) -> Vec<u8> {
    let (gguf, mut writer) = (embedded(), Writer::new());
    for (key, value) in gguf.pairs() {
        let other = pairs.iter().find(|(name, _)| *name == key);
        writer.set(key, other.map_or_else(|| value.clone(), |(_, value)| value.clone()));
    }
    for (key, value) in pairs.iter().filter(|(key, _)| gguf.get(key).is_none()) {
        writer.set(*key, value.clone());
    }
    for tensor in gguf.tensors().iter().rev() {
        let (name, format, data) = change(&tensor.name, tensor.format, gguf.data(tensor).unwrap());
        writer.tensor(name, tensor.dims(), format, data);
    }
    writer.finish().unwrap()
}

fn same(name: &str, format: &'static Format, data: Bytes) -> (String, &'static Format, Bytes) {
    (name.into(), format, data)
}

/// The built-in model, re-quantised: what was in 4 bits is in 8.
pub fn requantised() -> Vec<u8> {
    let eight = Format::by_name("Q8_0").unwrap();
    rewritten(&[("general.file_type", 7u32.into())], |name, format, data| {
        if format.name != "Q4_0" {
            return same(name, format, data);
        }
        let mut values = vec![0.0; data.len() / format.bytes * format.block];
        (format.decode.unwrap())(&data, &mut values);
        let mut blocks = vec![0; values.len() / eight.block * eight.bytes];
        (eight.encode.unwrap())(&values, &mut blocks);
        (name.into(), eight, blocks.into())
    })
}

/// An adapter of the built-in model that changes something.
pub fn adapter(mynah: &Mynah) -> Vec<u8> {
    let spec = Spec { layers: Some(vec![0]), targets: vec![mynah::role::Role::Q], ..Spec::new("lora") };
    let mut adapter = adapter::create(&spec.with("rank", 2usize), mynah.base()).unwrap();
    adapter.params_mut().iter_mut().enumerate().for_each(|(i, p)| *p = (i as f32 * 0.7).sin());
    let (base, format) = (mynah.model().name().into(), mynah.model().format().into());
    let provenance = Provenance { base, format, ..Provenance::default() };
    adapter::to_bytes(&*adapter, mynah.base(), &provenance).unwrap()
}

/// With facts of its head changed, in the wide spelling.
fn head(file: &[u8], change: impl Fn(&mut Head)) -> Vec<u8> {
    let limits = Limits::default();
    let file = Container::read(file.to_vec().into(), &limits).unwrap();
    let mut out = Builder::new(file.kind());
    for (name, required, _) in file.sections() {
        let mut bytes = file.section(name).unwrap().to_vec();
        if ["head", "provenance"].contains(&name) {
            let mut facts = file.facts(name, &limits).unwrap();
            if name == "head" {
                change(&mut facts);
            }
            bytes = facts.encode();
        }
        out = out.section(name, required, bytes);
    }
    out.finish()
}

#[test]
fn the_digest_is_of_the_bytes_that_its_page_specifies() {
    let f32s = Format::by_name("F32").unwrap();
    let mut writer = Writer::new();
    writer.set("general.architecture", "any").tensor("b", &[2], f32s, vec![1; 8]).tensor(
        "a",
        &[1, 3],
        f32s,
        vec![2; 12],
    );
    let gguf = Gguf::parse(writer.finish().unwrap().into(), &Limits::default()).unwrap();
    let mut wanted = b"mynah tensors 1".to_vec();
    let u64s = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    wanted.extend(u64s(&[2]));
    for (name, dims, bytes) in [(b'a', &[1, 3][..], 12), (b'b', &[2], 8)] {
        wanted.extend(u64s(&[1]));
        wanted.push(name);
        wanted.extend([0u32, dims.len() as u32].iter().flat_map(|v| v.to_le_bytes()));
        wanted.extend(u64s(dims));
        wanted.extend(u64s(&[bytes]));
    }
    wanted.extend([vec![2; 12], vec![1; 8]].concat());
    let content: Vec<u8> = gguf.content().unwrap().iter().flat_map(|piece| piece.to_vec()).collect();
    assert_eq!(content, wanted);
}

#[test]
fn the_file_does_not_matter_and_every_tensor_does() {
    let base = Mynah::embedded().unwrap();
    let digest = |file: Vec<u8>| Mynah::from_bytes(file).unwrap().model().digest(Digest::Content);
    let (content, file) = (base.model().digest(Digest::Content), base.model().digest(Digest::File));
    assert_eq!(base.base().content, content);
    assert_eq!(file, *blake3::hash(mynah::base::MODEL).as_bytes());
    assert_eq!(base.base().file(), file);
    let name = [("general.name", "another".into())];
    let trailing = || [mynah::base::MODEL, &[0; 64]].concat();
    for (what, other) in
        [("order", rewritten(&[], same)), ("metadata", rewritten(&name, same)), ("padding", trailing())]
    {
        assert_eq!(digest(other.clone()), content, "{what}");
        assert_ne!(Mynah::from_bytes(other).unwrap().model().digest(Digest::File), file, "{what}");
    }
    let last = |data: Bytes, by: u8| {
        let mut data = data.to_vec();
        *data.last_mut().unwrap() ^= by;
        Bytes::from(data)
    };
    for wanted in embedded().tensors() {
        let one = |name: &str, format: &'static Format, data: Bytes| {
            let data = if name == &*wanted.name { last(data, 1) } else { data };
            (name.into(), format, data)
        };
        assert_ne!(digest(rewritten(&[], one)), content, "{}", wanted.name);
    }
    assert_ne!(digest(requantised()), content);
}

#[test]
fn adapters_fit_the_same_tensors_in_another_file() {
    let base = Mynah::embedded().unwrap();
    let file = adapter(&base);
    let info = adapter::info(file.clone().into(), &Limits::default()).unwrap();
    assert!(info.head.get("base.content").is_some() && info.head.get("base.fingerprint").is_none());
    let other = Mynah::from_bytes(rewritten(&[("general.name", "another".into())], same)).unwrap();
    other.ready(file.clone()).unwrap();
    // Of earlier versions: bound to the whole file.
    let spelt = |digest: [u8; 32]| blake3::Hash::from(digest).to_hex().to_string();
    let whole = base.base().file();
    let limits = Limits::default();
    let container = Container::read(file.clone().into(), &limits).unwrap();
    let held = container.facts("head", &limits).unwrap();
    let old = head(&file, |head| {
        *head = Head::new();
        held.fields().filter(|(key, _)| *key != "base.content").for_each(|(key, v)| _ = head.set(key, v.clone()));
        head.set("base.fingerprint", spelt(whole));
    });
    base.ready(old.clone()).unwrap();
    let e = other.ready(old).err().unwrap();
    assert!(matches!(e.inner(), Error::Mismatch { what, .. } if what == "weights of the base"), "{e}");
    // Digests may be cut short.
    let cut = |content: usize, tokenizer: usize| {
        head(&file, |head| {
            head.set("base.content", &spelt(base.base().content)[..content]);
            head.set("base.tokenizer", &spelt(base.base().tokenizer)[..tokenizer]);
        })
    };
    base.ready(cut(32, 16)).unwrap();
    base.ready(cut(47, 63)).unwrap();
    for (short, word) in [(cut(31, 16), "base.content"), (cut(32, 15), "base.tokenizer")] {
        let e = base.ready(short).err().unwrap();
        assert!(matches!(e.inner(), Error::Corrupt { what, .. } if what.contains(word)), "{e}");
    }
}

#[test]
fn another_quantisation_is_refused_in_words() {
    let base = Mynah::embedded().unwrap();
    let other = Mynah::from_bytes(requantised()).unwrap();
    assert_eq!([base.base().title(), other.base().title()], ["mynah-base, Q4_0", "mynah-base, Q8_0"]);
    let file = adapter(&base);
    let said = other.ready(file.clone()).err().unwrap().to_string();
    for word in ["weights of the base", "those of its training, of mynah-base, Q4_0 (", "others, of mynah-base, Q8_0 ("]
    {
        assert!(said.contains(word), "{said}");
    }
    adapter::restore(file.clone().into(), other.base(), &Limits::default(), Fit::Shapes).unwrap();
    // With another tokenizer, words do not mean the same.
    let tokens = mynah::adapter::Base { tokenizer: [7; 32], ..other.base().clone() };
    let e = adapter::restore(file.into(), &tokens, &Limits::default(), Fit::Shapes).err().unwrap();
    assert!(matches!(&e, Error::Mismatch { what, .. } if what == "tokenizer of the base"), "{e}");
}

#[test]
fn names_come_from_what_a_file_says() {
    for (pairs, wanted) in [
        (vec![("general.name", "A \u{1b}[2J".into())], "A \\u{1b}[2J, Q4_0"),
        (vec![("general.name", " ".into()), ("general.size_label", "0.6M".into())], "llama 0.6M, Q4_0"),
        (vec![("general.name", "".into()), ("general.basename", "Smol".into())], "Smol, Q4_0"),
        (vec![("general.file_type", 15u32.into())], "mynah-base, Q4_K_M"),
        // What nobody knows is told from the tensors.
        (vec![("general.file_type", 4999u32.into())], "mynah-base, Q4_0"),
    ] {
        let mynah = Mynah::from_bytes(rewritten(&pairs, same)).unwrap();
        assert_eq!(mynah.base().title(), wanted);
    }
}

/// A caller's store of digests.
#[derive(Default)]
struct Noted {
    known: Mutex<Vec<(Digest, [u8; 32])>>,
    asked: AtomicUsize,
}

impl Digests for Noted {
    fn load(&self, of: Digest) -> Option<[u8; 32]> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.known.lock().unwrap().iter().find(|(what, _)| *what == of).map(|(_, digest)| *digest)
    }

    fn save(&self, of: Digest, digest: &[u8; 32]) {
        self.known.lock().unwrap().push((of, *digest));
    }
}

#[test]
fn known_digests_are_not_computed() {
    let base = Mynah::embedded().unwrap();
    let noted = Arc::new(Noted::default());
    let model = base.model().keeping(noted.clone());
    let digests = [Digest::Content, Digest::File].map(|of| (of, model.digest(of)));
    assert_eq!(*noted.known.lock().unwrap(), digests);
    // Once a model.
    model.clone().digest(Digest::File);
    assert_eq!(noted.asked.load(Ordering::Relaxed), 2);
    let planted = Arc::new(Noted { known: Mutex::new(vec![(Digest::Content, [9; 32])]), ..Noted::default() });
    assert_eq!(base.with_model(base.model().keeping(planted)).base().content, [9; 32]);
}

/// A folder with the built-in model as a file, an adapter for it, and a cache.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.model(), mynah::base::MODEL).unwrap();
        fs::write(place.path("a.mynah"), adapter(&Mynah::embedded().unwrap())).unwrap();
        place.set_age(3600);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self) -> PathBuf {
        self.path("m.gguf")
    }

    /// The model was changed so many seconds ago.
    fn set_age(&self, seconds: u64) {
        let file = fs::File::options().append(true).open(self.model()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    fn cache(&self) -> PathBuf {
        self.path("cache/mynah/digests")
    }

    /// Attaches the adapter, which asks for the digest of the tensors.
    fn attach(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command.args(["logits", "-m", "m.gguf", "-a", "a.mynah", "-p", "Rain", "--threads", "1"]);
        command.current_dir(self.0.path()).env("XDG_CACHE_HOME", self.path("cache")).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn attaches(&self, what: &str) {
        let out = self.attach();
        assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Rows of key and digest.
    fn rows(&self) -> Vec<Vec<u8>> {
        rows(&self.cache())
    }

    fn keep(&self, rows: &[Vec<u8>]) {
        fs::write(self.cache(), Builder::new("digests").section("rows", true, rows.concat()).finish()).unwrap();
    }
}

fn rows(path: &Path) -> Vec<Vec<u8>> {
    let file = Container::read(fs::read(path).unwrap().into(), &Limits::default()).unwrap();
    assert_eq!(file.kind(), "digests");
    file.section("rows").unwrap().chunks(64).map(<[u8]>::to_vec).collect()
}

#[test]
fn the_second_run_does_not_read_the_file() {
    let place = Place::new();
    let content = Mynah::embedded().unwrap().base().content;
    place.attaches("the first run");
    let first = place.rows();
    assert_eq!((first.len(), &first[0][32..]), (1, &content[..]));
    place.attaches("the second run");
    assert_eq!(place.rows(), first);
    // What is planted is believed: nothing is computed.
    let planted = vec![[&first[0][..32], &[0xaa; 32]].concat()];
    place.keep(&planted);
    let out = place.attach();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("aaaaaaaaaaaaaaaa"), "{said}");
    // A file of another time, and one of another size, are other files.
    place.set_age(7200);
    place.attaches("another time");
    let rows = place.rows();
    assert!(rows.len() == 2 && rows[0] == planted[0] && rows[1][32..] == content, "{rows:02x?}");
    let time = place.model().metadata().unwrap().modified().unwrap();
    let longer = [mynah::base::MODEL, &[0; 32]].concat();
    fs::write(place.model(), longer).unwrap();
    fs::File::options().append(true).open(place.model()).unwrap().set_modified(time).unwrap();
    place.attaches("another size");
    assert_eq!(place.rows().len(), 3);
}

#[test]
fn damaged_files_of_digests_are_written_anew() {
    let place = Place::new();
    place.attaches("the first run");
    let (first, good) = (place.rows(), fs::read(place.cache()).unwrap());
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (what, bytes) in [
        ("empty", vec![]),
        ("cut", good[..good.len() / 2].to_vec()),
        ("a bit", flipped),
        ("a text", b"not this".to_vec()),
        ("another kind", Builder::new("adapter").section("rows", true, first.concat()).finish()),
        ("no rows", Builder::new("digests").finish()),
        ("too long", vec![0; 1 << 20]),
    ] {
        fs::write(place.cache(), bytes).unwrap();
        place.attaches(what);
        assert!(fs::read(place.cache()).unwrap() == good, "{what}");
    }
    // The oldest rows go.
    let many: Vec<Vec<u8>> = (0..256u32).map(|i| [vec![7; 60], i.to_le_bytes().to_vec()].concat()).collect();
    place.keep(&many);
    place.attaches("full");
    assert!(place.rows() == [&many[1..], &first].concat());
    // A file that was written to just now may be written to again at the same time.
    fs::remove_file(place.cache()).unwrap();
    place.set_age(0);
    place.attaches("new");
    assert!(!place.cache().exists());
    // Where nothing can be kept, nothing is.
    place.set_age(3600);
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::write(place.path("cache"), "a file").unwrap();
    place.attaches("no folder");
}
