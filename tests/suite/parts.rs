//! Models in parts, and files that are given as a model and are none.

use crate::shared::{needs_shared, shared};
use mynah::Mynah;
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::{Gguf, Writer};
use mynah::model::{Session, SessionConfig};
use mynah::quant::Format;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The sets at hand: the name of the parts without numbers, and the whole file.
const SETS: [(&str, &str); 2] =
    [("tiny64-qwen3-f32", "arch/tiny64-qwen3-f32.gguf"), ("tiny256-qwen2-q4_k_m", "arch/tiny256-qwen2-q4_k_m.gguf")];

fn part(folder: &Path, stem: &str, i: usize) -> PathBuf {
    folder.join(format!("{stem}-{i:05}-of-00003.gguf"))
}

fn logits(mynah: &Mynah) -> Vec<f32> {
    let config = SessionConfig { context: 16, ..Default::default() };
    Session::new(mynah.model(), config).unwrap().feed(&[5, 300, 17, 17, 42]).unwrap().to_vec()
}

#[needs_shared]
#[test]
fn any_part_names_the_whole_set() {
    let shared = shared();
    for (stem, whole) in SETS {
        let whole = Mynah::open(shared.join("models").join(whole)).unwrap();
        let want = logits(&whole);
        for i in 1..=3 {
            let path = part(&shared.join("models/split"), stem, i);
            let split = Mynah::open(&path).unwrap();
            let gguf = split.gguf();
            assert_eq!(gguf.files().len(), 3, "{stem}");
            assert_eq!(gguf.tensors().len(), whole.gguf().tensors().len(), "{stem}");
            assert!(
                gguf.tensors().iter().all(|t| gguf.data(t).unwrap()[..] == whole_data(&whole, &t.name)[..]),
                "{stem}"
            );
            assert_eq!(logits(&split), want, "{stem} by part {i}");
            assert_eq!(split.base().content, whole.base().content, "{stem}: an adapter fits both");
            assert_eq!(split.model().file_len(), whole.model().file_len(), "{stem}");
            // Weights lie in the mapped files.
            for tensor in gguf.tensors() {
                let (data, file) = (gguf.data(tensor).unwrap(), &gguf.files()[usize::from(tensor.part)]);
                assert!(file.as_ptr_range().contains(&data.as_ptr()), "{} is not copied", tensor.name);
            }
        }
        let bytes = |i| Bytes::from(std::fs::read(part(&shared.join("models/split"), stem, i)).unwrap());
        let gguf = Gguf::parse_parts(vec![bytes(1), bytes(2), bytes(3)], &Limits::default()).unwrap();
        let merged: Vec<u8> = gguf.merged().unwrap().iter().flat_map(|piece| piece.to_vec()).collect();
        assert!(merged == whole.gguf().files()[0][..], "{stem}: the bytes of the file that was split");
    }
}

fn whole_data(whole: &Mynah, name: &str) -> Bytes {
    whole.gguf().data(whole.gguf().tensor(name).unwrap()).unwrap()
}

#[needs_shared]
#[test]
fn commands_take_any_part() {
    let shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "one two three four five six seven eight nine ten\n".repeat(20)).unwrap();
    let run = |line: &str, model: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command.args(line.split(' ').map(|word| if word == "MODEL" { model.to_str().unwrap() } else { word }));
        let out = command.current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let (stem, whole) = SETS[0];
    let (whole, split) = (shared.join("models").join(whole), part(&shared.join("models/split"), stem, 2));
    // The adapter of a model in parts, on the whole file, and the other way round.
    let train = "train -m MODEL -d notes.txt --ctx 32 --steps 2 --method lora --json -o";
    run(&format!("{train} split.mynah"), &split);
    run(&format!("{train} whole.mynah"), &whole);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("split.mynah") == read("whole.mynah"), "the same training gives the same file");
    for line in [
        "run -m MODEL -a split.mynah -p one -n 4 --temp 0",
        "logits -m MODEL -p one --json",
        "eval -m MODEL -a whole.mynah -d notes.txt --ctx 32 --json",
        "tokenize -m MODEL one",
    ] {
        let [split, whole] = [&split, &whole].map(|model| run(line, model));
        // What follows is a speed.
        let result = |said: &str| said.split("\"tokens_per_second").next().unwrap().to_string();
        assert_eq!(result(&split), result(&whole), "{line}");
    }
    run("plan -m MODEL -d notes.txt --ctx 32", &split);
    let seen: serde_json::Value = serde_json::from_str(&run("inspect MODEL --json", &split)).unwrap();
    assert_eq!((&seen["parts"], seen["tensors"].as_array().unwrap().len()), (&3.into(), 25));
}

/// One file of a set that was made up.
#[derive(Clone)]
struct Fake {
    no: u16,
    count: u16,
    tensors: i32,
    names: Vec<&'static str>,
    arch: Option<&'static str>,
}

impl Fake {
    fn bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.set("split.no", self.no).set("split.count", self.count).set("split.tensors.count", self.tensors);
        if let Some(arch) = self.arch {
            w.set("general.architecture", arch);
        }
        for name in &self.names {
            w.tensor(*name, &[4], Format::by_id(0).unwrap(), vec![0; 16]);
        }
        w.finish().unwrap()
    }
}

fn fakes() -> Vec<Fake> {
    let one = |no, names: &[&'static str]| Fake { no, count: 3, tensors: 4, names: names.to_vec(), arch: None };
    vec![Fake { arch: Some("llama"), ..one(0, &["a"]) }, one(1, &["b", "c"]), one(2, &["d"])]
}

#[test]
fn parts_that_do_not_belong_together_are_refused_by_name() {
    type Change = fn(&mut Vec<Fake>);
    let change: [(&str, Change, &str); 9] = [
        ("nothing", |_| (), ""),
        ("another count", |set| set[1].count = 4, "part 2 of 3: key split.count: expected 3, found 4"),
        ("the same twice", |set| set[2] = set[1].clone(), "part 3 of 3: key split.no: expected 2, found 1"),
        ("a number too large", |set| set[2].no = 3, "part 3 of 3: key split.no: expected"),
        ("other tensors", |set| set[1].tensors = 5, "part 2 of 3: key split.tensors.count: expected 4, found 5"),
        ("a lost tensor", |set| set[2].names.clear(), "part 1 of 3: tensors of all parts: expected 4 as key"),
        ("a tensor twice", |set| set[2].names[0] = "c", "part 3 of 3: tensor `c` comes twice"),
        ("another model", |set| set[1].arch = Some("gemma"), "part 2 of 3: key general.architecture: expected"),
        ("a whole file", |set| set[1].count = 1, "part 2 of 3: key split.count: expected 3, found a whole file"),
    ];
    for (what, change, wanted) in change {
        let mut set = fakes();
        change(&mut set);
        let files = set.iter().map(|fake| fake.bytes().into()).collect();
        match Gguf::parse_parts(files, &Limits::default()) {
            Ok(gguf) => assert!(wanted.is_empty() && gguf.tensor("d").unwrap().part == 2, "{what}"),
            Err(e) => assert!(!wanted.is_empty() && e.to_string().contains(wanted), "{what}: {e}"),
        }
    }
    let alone = Gguf::parse(fakes()[1].bytes().into(), &Limits::default()).unwrap_err().to_string();
    assert_eq!(alone, "unsupported model file: part 2 of 3; all parts are needed together");
    assert!(Gguf::parse_parts(Vec::new(), &Limits::default()).is_err());
}

#[test]
fn files_of_a_set_are_found_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (i, fake) in fakes().iter().enumerate() {
        std::fs::write(part(folder.path(), "m", i + 1), fake.bytes()).unwrap();
    }
    let open = |path: &Path| Gguf::open(path, &Limits::default());
    assert_eq!(open(&at("m-00003-of-00003.gguf")).unwrap().tensors().len(), 4);

    let refused = |given: &str, words: &[&str]| {
        let e = open(&at(given)).unwrap_err().to_string();
        assert!(words.iter().all(|word| e.contains(word)), "{given}: {e}");
    };
    std::fs::copy(at("m-00002-of-00003.gguf"), at("second.gguf")).unwrap();
    refused("second.gguf", &["second.gguf: ", "name of part 2 of 3", "NAME-00002-of-00003.gguf"]);
    std::fs::copy(at("m-00002-of-00003.gguf"), at("m-00002-of-00004.gguf")).unwrap();
    refused(
        "m-00002-of-00004.gguf",
        &["m-00002-of-00004.gguf: ", "key split.count", "expected 4 as the file's name says"],
    );
    std::fs::write(at("m-00002-of-00003.gguf"), b"GGUF").unwrap();
    refused("m-00001-of-00003.gguf", &["m-00002-of-00003.gguf: "]);
    std::fs::remove_file(at("m-00002-of-00003.gguf")).unwrap();
    refused("m-00001-of-00003.gguf", &["m-00002-of-00003.gguf: part 2 of 3: the file is missing"]);
    // A whole file may be called like a part.
    let mut w = Writer::new();
    std::fs::write(at("x-00001-of-00002.gguf"), w.set("general.architecture", "llama").finish().unwrap()).unwrap();
    assert_eq!(open(&at("x-00001-of-00002.gguf")).unwrap().files().len(), 1);
}

#[test]
fn what_is_no_model_is_named() {
    let gguf = |pairs: &[(&str, &str)], tensor: bool| {
        let mut w = Writer::new();
        pairs.iter().for_each(|(key, value)| {
            w.set(*key, *value);
        });
        if tensor {
            w.tensor("x", &[4], Format::by_id(0).unwrap(), vec![0; 16]);
        }
        w.finish().unwrap()
    };
    let mut vocab = Writer::new();
    vocab.set("general.architecture", "llama").set("tokenizer.ggml.tokens", &["a", "b"][..]);
    let safetensors = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut imatrix = vec![2, 0, 0, 0, 20, 0, 0, 0];
    imatrix.extend(b"blk.0.ffn_down.weight\0\0\0\0");
    for (bytes, words) in [
        (gguf(&[("general.type", "adapter"), ("general.architecture", "llama")], true), ["an adapter", "-m BASE -a"]),
        (gguf(&[("general.architecture", "clip")], true), ["a projector", "the language model"]),
        (
            gguf(&[("general.type", "mmproj"), ("general.architecture", "x")], true),
            ["a projector", "the language model"],
        ),
        (gguf(&[("general.type", "imatrix")], true), ["an importance matrix", "the model"]),
        (vocab.finish().unwrap(), ["a vocabulary without weights", "only a model"]),
        (gguf(&[("general.architecture", "rwkv6")], true), ["tokenizer.ggml.model", "architecture rwkv6"]),
        (gguf(&[], true), ["tokenizer.ggml.model", "names no architecture"]),
        (imatrix, ["an importance matrix", "the model"]),
        (safetensors("{\"model.norm.weight\":{}}"), ["safetensors", "convert"]),
        (safetensors("{\"base_model.model.layers.0.q_proj.lora_A.weight\":{}}"), ["an adapter", "-a FOLDER"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), ["Git LFS pointer", "git lfs pull"]),
        (b"\n <!DOCTYPE html><html>".to_vec(), ["HTML", "download it again"]),
        (b"{\"error\":\"Access is restricted\"}".to_vec(), ["JSON", "Access is restricted"]),
        (b"Entry not found\n".to_vec(), ["text", "Entry not found"]),
        (b"\x8dMYN\r\n\x1a\n".to_vec(), ["an adapter", "-m BASE -a"]),
        (b"\x80\x02}q\x00.".to_vec(), ["a pickle", "GGUF"]),
        (b"\x1f\x8b\x08\x00".to_vec(), ["gzip", "unpack"]),
    ] {
        let e = Mynah::from_bytes(bytes).map(|_| ()).unwrap_err().to_string();
        assert!(words.iter().all(|word| e.contains(word)) && !e.contains('\n'), "{words:?}: {e}");
    }
}
