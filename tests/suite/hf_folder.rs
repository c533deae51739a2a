//! Folders of Hugging Face's. The miniatures were converted by llama.cpp; what they were before follows from them, and must
//! become them again.

use crate::shared::{needs_shared, shared};
use mynah::Error;
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::{Gguf, Value};
use mynah::kernel::{Compute, Pool};
use mynah::rewrite::Mix;
use mynah::rewrite::folder::Folder;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

fn compute() -> Compute {
    Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) }
}

const NAMES: [[&str; 2]; 14] = [
    ["token_embd", "model.embed_tokens"],
    ["output", "lm_head"],
    ["output_norm", "model.norm"],
    ["attn_norm", "input_layernorm"],
    ["ffn_norm", "post_attention_layernorm"],
    ["attn_q", "self_attn.q_proj"],
    ["attn_k", "self_attn.k_proj"],
    ["attn_v", "self_attn.v_proj"],
    ["attn_output", "self_attn.o_proj"],
    ["attn_q_norm", "self_attn.q_norm"],
    ["attn_k_norm", "self_attn.k_norm"],
    ["ffn_gate", "mlp.gate_proj"],
    ["ffn_up", "mlp.up_proj"],
    ["ffn_down", "mlp.down_proj"],
];

fn there(name: &str) -> String {
    let (path, suffix) = name.rsplit_once('.').unwrap();
    let (before, own) = match path.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, own)) => (format!("model.layers.{layer}."), own),
        None => (String::new(), path),
    };
    let [_, hf] = NAMES.iter().find(|[gguf, _]| *gguf == own).unwrap();
    format!("{before}{hf}.{suffix}")
}

/// The class, how texts are cut, and what tells more than the model file does.
type Row = (&'static str, &'static str, fn(&mut Json));

const ROWS: &[Row] = &[
    ("qwen2", "Qwen2ForCausalLM", |_| ()),
    ("qwen3", "Qwen3ForCausalLM", |_| ()),
    ("smollm3", "SmolLM3ForCausalLM", |_| ()),
    ("qwen2-yarn", "Qwen2ForCausalLM", |c| {
        c["rope_scaling"] = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    }),
    ("llama-rope3", "LlamaForCausalLM", |c| {
        // Those of the miniature are not in its file: these give its divisors.
        c["rope_parameters"] = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 500000.0
        });
    }),
];

fn cutting(pre: &str) -> (Json, bool) {
    let split = |digits: &str| {
        let regex = format!(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{digits}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        );
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}, {"type": "ByteLevel"}
        ]})
    };
    match pre {
        "qwen2" => (split("\\p{N}"), false),
        "llama-bpe" => (split("\\p{N}{1,3}"), true),
        "smaug-bpe" => (split("\\p{N}{1,3}"), false),
        other => panic!("{other}"),
    }
}

/// Writes the folder that a miniature came from, its weights in that many files.
fn write(folder: &Path, file: &Gguf, class: &str, more: fn(&mut Json), parts: usize) {
    let arch = file.require_string("general.architecture").unwrap();
    let key = |name: &str| file.u32(&format!("{arch}.{name}")).unwrap();
    let real = |name: &str| file.get(&format!("{arch}.{name}")).map(|v| v.to_string().parse::<f64>().unwrap());
    let vocab: Vec<&str> = file.strings("tokenizer.ggml.tokens").unwrap().unwrap().collect();
    let mut config = json!({
        "architectures": [class],
        "num_hidden_layers": key("block_count"),
        "max_position_embeddings": key("context_length"),
        "hidden_size": key("embedding_length"),
        "intermediate_size": key("feed_forward_length"),
        "num_attention_heads": key("attention.head_count"),
        "num_key_value_heads": key("attention.head_count_kv"),
        "rope_theta": real("rope.freq_base"),
        "rms_norm_eps": real("attention.layer_norm_rms_epsilon"),
        "vocab_size": vocab.len(),
    });
    if let Some(width) = key("attention.key_length") {
        config["head_dim"] = width.into();
    }
    more(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let kinds: Vec<i32> = file.i32s("tokenizer.ggml.token_type").unwrap().unwrap().collect();
    let added: Vec<Json> = (0..vocab.len())
        .filter(|i| kinds[*i] != 1)
        .map(|i| json!({"id": i, "content": vocab[i], "special": kinds[i] == 3, "normalized": false}))
        .collect();
    let words: serde_json::Map<String, Json> =
        (0..vocab.len()).filter(|i| kinds[*i] == 1).map(|i| (vocab[i].to_string(), i.into())).collect();
    let merges: Vec<&str> = file.strings("tokenizer.ggml.merges").unwrap().unwrap().collect();
    // Old files have texts, newer ones pairs.
    let merges: Json = match parts {
        1 => merges.into(),
        _ => merges.iter().map(|m| m.split(' ').collect::<Vec<_>>()).collect::<Vec<_>>().into(),
    };
    let (cut, whole) = cutting(file.require_string("tokenizer.ggml.pre").unwrap());
    let tokenizer = json!({
        "added_tokens": added, "pre_tokenizer": cut,
        "model": {"type": "BPE", "ignore_merges": whole, "vocab": words, "merges": merges},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let token = |name: &str| vocab[file.u32(&format!("tokenizer.ggml.{name}_token_id")).unwrap().unwrap() as usize];
    let tokenizer_config = json!({
        "bos_token": token("bos"), "eos_token": {"content": token("eos")}, "pad_token": token("padding"),
        "add_bos_token": file.bool("tokenizer.ggml.add_bos_token").unwrap(),
    });
    fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();

    let paired = ["llama", "smollm3"].contains(&arch);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for tensor in file.tensors().iter().filter(|t| &*t.name != "rope_freqs.weight") {
        let mut data = file.data(tensor).unwrap().to_vec();
        let heads = match () {
            () if tensor.name.contains("attn_q.") => key("attention.head_count"),
            () if tensor.name.contains("attn_k.") => key("attention.head_count_kv"),
            () => None,
        };
        let dims: Vec<usize> = tensor.dims().iter().rev().map(|d| *d as usize).collect();
        if let (Some(heads), true) = (heads, paired) {
            let (rows, bytes) = (dims[0], data.len() / dims[0]);
            let width = rows / heads as usize;
            let old = data.clone();
            for row in 0..rows {
                let from = mynah::adapter::gguf_row(row, width);
                data[row * bytes..][..bytes].copy_from_slice(&old[from * bytes..][..bytes]);
            }
        }
        tensors.push((there(&tensor.name), dims, data));
    }
    tensors.sort();
    let mut index = serde_json::Map::new();
    for (i, some) in tensors.chunks(tensors.len().div_ceil(parts)).enumerate() {
        let views = some.iter().map(|(n, d, b)| (n, TensorView::new(Dtype::F32, d.clone(), b).unwrap()));
        let bytes = serialize(views, None).unwrap();
        let name = match parts {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{parts:05}.safetensors", i + 1),
        };
        some.iter().for_each(|(n, ..)| _ = index.insert(n.clone(), name.clone().into()));
        fs::write(folder.join(name), bytes).unwrap();
    }
    if parts > 1 {
        fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": index}).to_string()).unwrap();
    }
}

fn convert(folder: &Path, to: Option<&str>) -> mynah::Result<Gguf> {
    let mut out = Vec::new();
    let to = to.map(|to| Mix::by_name(to).unwrap());
    Folder::open(folder, &Limits::default())?.convert(to, Some("mini"), &compute(), &mut out, &mut |_| ())?;
    Ok(Gguf::parse(Bytes::from(out), &Limits::default()).unwrap())
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.kind() == b.kind() && a.data()[..] == b.data()[..],
        _ => a.kind() == b.kind() && a.to_string() == b.to_string(),
    }
}

#[needs_shared]
#[test]
fn miniatures_become_what_llama_cpp_made_of_them() {
    for (name, class, more) in ROWS {
        let want =
            Gguf::open(&shared().join(format!("models/arch/tiny64-{name}-f32.gguf")), &Limits::default()).unwrap();
        for parts in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &want, class, *more, parts);
            let found = convert(dir.path(), None).unwrap();
            // What the converter guesses from names.
            let guessed = ["general.name", "general.version", "general.basename"];
            let pairs = |file: &Gguf| -> Vec<(String, Value)> {
                let kept = file.ordered_pairs().filter(|(key, _)| !guessed.contains(key));
                kept.map(|(key, value)| (key.to_string(), value.clone())).collect()
            };
            let (a, b) = (pairs(&want), pairs(&found));
            let keys = |pairs: &[(String, Value)]| pairs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
            assert_eq!(keys(&b), keys(&a), "{name}");
            for ((key, a), (_, b)) in a.iter().zip(&b) {
                assert!(same(a, b), "{name}: {key} is {b}, wanted {a}");
            }
            let tensors = |file: &Gguf| file.tensors().iter().map(|t| format!("{t:?}")).collect::<Vec<_>>();
            assert_eq!(tensors(&found), tensors(&want), "{name}");
            for (a, b) in want.tensors().iter().zip(found.tensors()) {
                let (a, b) = (want.data(a).unwrap(), found.data(b).unwrap());
                assert!(a[..] == b[..], "{name}: bytes of a tensor");
            }
        }
    }
}

#[needs_shared]
#[test]
fn folders_that_do_not_fit_are_named() {
    let file = Gguf::open(&shared().join("models/arch/tiny64-qwen2-f32.gguf"), &Limits::default()).unwrap();
    let change = |name: &'static str, change: fn(&mut Json)| {
        move |folder: &Path| {
            let path = folder.join(name);
            let mut json: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut json);
            fs::write(path, json.to_string()).unwrap();
        }
    };
    type Is = fn(&Error) -> bool;
    let unsupported: Is = |e| matches!(e, Error::Unsupported { .. });
    let mismatch: Is = |e| matches!(e, Error::Mismatch { .. });
    type Harm = Box<dyn Fn(&Path)>;
    let rows: [(&str, Harm, Is, &str); 11] = [
        (
            "H1 another class",
            Box::new(change("config.json", |c| c["architectures"] = json!(["T5Model"]))),
            unsupported,
            "T5Model",
        ),
        ("H2 no class", Box::new(change("config.json", |c| c["architectures"] = json!([]))), unsupported, "none"),
        (
            "H3 quantised weights",
            Box::new(change("config.json", |c| c["quantization_config"] = json!({}))),
            unsupported,
            "quantised",
        ),
        (
            "H4 no number of heads",
            Box::new(change("config.json", |c| c["num_attention_heads"] = json!(-1))),
            mismatch,
            "num_attention_heads",
        ),
        (
            "H5 another scaling",
            Box::new(change("config.json", |c| c["rope_scaling"] = json!({"type": "longrope"}))),
            unsupported,
            "longrope",
        ),
        (
            "H6 another tokenizer",
            Box::new(change("tokenizer.json", |t| t["model"]["type"] = json!("Unigram"))),
            unsupported,
            "Unigram",
        ),
        (
            "H7 another cutting",
            Box::new(change("tokenizer.json", |t| t["pre_tokenizer"] = json!({"type": "Metaspace"}))),
            unsupported,
            "Metaspace",
        ),
        (
            "H8 an id beyond the vocabulary",
            Box::new(change("config.json", |c| c["vocab_size"] = json!(9))),
            mismatch,
            "ids below 9",
        ),
        (
            "H9 a part that is missing",
            Box::new(|f| fs::remove_file(f.join("model-00002-of-00003.safetensors")).unwrap()),
            |e| matches!(e, Error::Io { .. }),
            "no such file",
        ),
        (
            "H10 a part that is cut",
            Box::new(|f| {
                let path = f.join("model-00002-of-00003.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
            }),
            |e| matches!(e, Error::Corrupt { .. }),
            "00002",
        ),
        (
            "H11 an index of a file elsewhere",
            Box::new(change("model.safetensors.index.json", |i| i["weight_map"]["x"] = json!("../a.safetensors"))),
            |e| matches!(e, Error::Invalid { .. }),
            "no file beside it",
        ),
    ];
    for (what, harm, is, word) in rows {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &file, "Qwen2ForCausalLM", |_| (), 3);
        harm(dir.path());
        let e = convert(dir.path(), None).unwrap_err();
        assert!(is(e.inner()) && e.to_string().contains(word), "{what}: {e}");
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &file, "Qwen2ForCausalLM", |_| (), 1);
    let e = convert(dir.path(), Some("Q4_0")).unwrap_err();
    assert!(matches!(e, Error::Invalid { .. }), "{e}");
    assert_eq!(convert(dir.path(), Some("F16")).unwrap().tensor("token_embd.weight").unwrap().format.name, "F16");
    // The command does the same, and where no model can be made of a folder the earlier file stays.
    let run = |line: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mynah"));
        let out = command.args(line).current_dir(dir.path().parent().unwrap()).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (folder, model) = (dir.path().to_str().unwrap().to_string(), tempfile::tempdir().unwrap());
    let model = model.path().join("m.gguf").to_str().unwrap().to_string();
    let (done, said) = run(&["convert", &folder, &model]);
    assert!(done, "{said}");
    let before = std::fs::read(&model).unwrap();
    change("config.json", |c| c["hidden_size"] = json!(128))(dir.path());
    let (done, said) = run(&["convert", &folder, &model, "--force"]);
    assert!(!done && std::fs::read(&model).unwrap() == before, "{said}");
    let beside = std::fs::read_dir(Path::new(&model).parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "what was written is gone: {said}");
}
