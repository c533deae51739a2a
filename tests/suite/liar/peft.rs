//! Section D: safetensors files, and the directories in which PEFT keeps adapters.

use super::{Entry, Fields, Parser, check, refuses, takes};
use mynah::adapter::{Adapter, Base, Shapes, folder, parse_targets, peft};
use mynah::bytes::{Bytes, Limits};
use mynah::error::Result;
use mynah::nn::attention::Heads;
use std::path::Path;

/// The model of the PEFT references: five blocks, width 64, eight heads of 8, four for keys and values.
pub fn base() -> Base {
    let shapes = [[64, 64], [64, 32], [64, 32], [64, 64], [64, 172], [64, 172], [172, 64]];
    let empty = Shapes::new(Heads { q: 8, kv: 4, dim: 8, scale: 1.0, cap: None });
    let roles = parse_targets("attn,mlp").unwrap();
    let block = roles.into_iter().zip(shapes).fold(empty, |block, (role, shape)| block.with(role, shape));
    Base {
        name: "any".into(),
        format: "F32".into(),
        architecture: "llama".into(),
        width: 64,
        shapes: vec![block; 5],
        hf: &[],
        hf_blocks: "model.layers",
        bind: &[],
        paired_rows: true,
        content: [0; 32],
        tokenizer: [0; 32],
        frozen: None,
    }
}

/// The two files behind each other, the length of the first before them.
pub static PEFT: Parser = Parser { name: "PEFT directory", read: |bytes| read(bytes).map(drop) };

pub fn read(bytes: Vec<u8>) -> Result<Box<dyn Adapter>> {
    let begin = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let bytes = Bytes::from(bytes);
    peft::read(&bytes[8..begin], bytes.slice(begin..bytes.len()).unwrap(), &base(), &Limits::default())
}

pub const CONFIG: &str =
    r#"{"peft_type":"LORA","r":2,"lora_alpha":4,"bias":"none","use_dora":false,"target_modules":["v_proj"]}"#;
const A: &str = r#""base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight":{"dtype":"F32","shape":[2,64],"data_offsets":[0,512]}"#;
const B: &str = r#""base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight":{"dtype":"F32","shape":[32,2],"data_offsets":[512,768]}"#;

/// A directory of one site.
#[derive(Clone)]
pub struct Directory {
    config: Vec<u8>,
    header: Vec<u8>,
    /// The length of the header, if it is another than it says.
    length: Option<u64>,
    data: Vec<u8>,
}

impl Directory {
    pub fn new() -> Directory {
        let data = (0..192).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect();
        Directory { config: CONFIG.into(), header: format!("{{{A},{B}}}").into(), length: None, data }
    }

    /// With another text in the place of `from` in the configuration.
    pub fn config(self, from: &str, to: &str) -> Directory {
        Directory { config: replaced(&self.config, from, to), ..self }
    }

    /// The same in the table of tensors.
    fn header(self, from: &str, to: &str) -> Directory {
        Directory { header: replaced(&self.header, from, to), ..self }
    }

    fn table(self, header: impl AsRef<[u8]>, data: usize) -> Directory {
        let mut held = self.data;
        held.resize(data, 0);
        Directory { header: header.as_ref().into(), data: held, ..self }
    }

    /// With other values from this one on.
    fn values(mut self, from: usize, values: &[f32]) -> Directory {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.data[4 * from..][..bytes.len()].copy_from_slice(&bytes);
        self
    }

    pub fn tensors(&self) -> Fields {
        let length = self.length.unwrap_or(self.header.len() as u64);
        Fields::default().u64("length", length).raw("header", &self.header).raw("data", &self.data)
    }

    pub fn bytes(&self) -> Vec<u8> {
        joined(&self.config, &self.tensors().bytes)
    }
}

/// As [`PEFT`] reads them.
pub fn joined(config: &[u8], tensors: &[u8]) -> Vec<u8> {
    [&(config.len() as u64).to_le_bytes(), config, tensors].concat()
}

fn replaced(text: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.contains(from), "no {from} in {text}");
    text.replace(from, to).into()
}

fn entries() -> Vec<Entry> {
    let d = Directory::new;
    let config = |from: &str, to: &str| d().config(from, to);
    let header = |from: &str, to: &str| d().header(from, to);
    let rank = |to: &str| config(r#""r":2"#, &format!(r#""r":{to}"#));
    let alpha = |to: &str| config(r#""lora_alpha":4"#, &format!(r#""lora_alpha":{to}"#));
    let off = |to: &str| config(r#""use_dora":false"#, to);
    let length = |n: u64| Directory { length: Some(n), ..d() };
    let offsets = |to: &str| header("[0,512]", to);
    let shape = |to: &str| header("[2,64]", to);
    let dtype = |to: &str| header(r#""F32","shape":[2"#, &format!(r#""{to}","shape":[2"#));
    let deep = "[".repeat(100_000);
    let keys = |n: usize| (0..n).map(|i| format!("\"{i:x}\":\"\"")).collect::<Vec<_>>().join(",");
    let file = d().tensors().bytes.len() as u64;
    let refused: Vec<(&str, Directory, &'static str, &str)> = vec![
        ("D1 0", length(0), "Invalid", "no table of tensors"),
        ("D1 7", length(7), "Corrupt", "JSON"),
        ("D1 more than there is", length(file), "Corrupt", "ends early"),
        ("D1 2^63", length(1 << 63), "Limit", "bytes of a safetensors header: 9223372036854775808"),
        ("D1 max", length(u64::MAX), "Limit", "bytes of a safetensors header"),
        ("D1 100 MB and 1", length(100_000_001), "Limit", "at most 100000000"),
        ("D1 one less", length(file - 768 - 9), "Corrupt", "JSON"),
        ("D2 no JSON", d().table("{base", 768), "Corrupt", "JSON"),
        ("D2 a list", d().table("[1]", 768), "Invalid", "no table of tensors"),
        (
            "D2 BOM",
            header("{\"base_model.model.model.layers.0.self_attn.v_proj.lora_A", "\u{feff}{\"x"),
            "Invalid",
            "no table",
        ),
        ("D2 NaN", offsets("[0,NaN]"), "Corrupt", "a number is wanted"),
        ("D2 deep", d().table(format!("{{\"a\":{deep}"), 768), "Corrupt", "an object is wanted"),
        ("D2 deep configuration", off(&format!("\"x\":{deep}")), "Limit", "nesting of JSON: 65; at most 64"),
        ("D2 one key twice", header("lora_B", "lora_A"), "Corrupt", "comes twice"),
        ("D2 twice by escapes", header("lora_B", "lora_\\u0041"), "Corrupt", "comes twice"),
        (
            "D2 key of a tensor twice",
            header("\"shape\":[2,64]", "\"shape\":[2,64],\"shape\":[2,64]"),
            "Corrupt",
            "twice",
        ),
        (
            "D2 10^6 keys",
            d().table(format!("{{\"__metadata__\":{{{}}}}}", keys(1_000_000)), 0),
            "Limit",
            "keys of a JSON object: 32769; at most 32768",
        ),
        (
            "D2 100000 tensors",
            d().table(
                format!("{{{}}}", keys(100_000).replace("\"\"", r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#)),
                0,
            ),
            "Limit",
            "keys of a JSON object",
        ),
        ("D2 40000 keys of a configuration", off(&keys(40_000)), "Limit", "keys of a JSON object"),
        (
            "D2 a configuration of 1 MiB",
            off(&format!("\"x\":\"{}\"", " ".repeat(1 << 20))),
            "Limit",
            "bytes of a JSON text",
        ),
        ("D2 not UTF-8", d().table(b"{\"a\xff\":1}", 768), "Corrupt", "JSON is not UTF-8"),
        ("D2 something behind", d().table(format!("{{{A},{B}}}x"), 768), "Corrupt", "something after the end"),
        ("D3 reversed", offsets("[512,0]"), "Corrupt", "at [512, 0]"),
        ("D3 overlapping", offsets("[256,768]"), "Corrupt", "begins at"),
        (
            "D3 hole",
            header("[512,768]", "[516,772]").table(format!("{{{A},{}}}", B.replace("[512,768]", "[516,772]")), 772),
            "Corrupt",
            "begins at",
        ),
        ("D3 past the end", offsets("[0,513]"), "Corrupt", "at [0, 513]"),
        ("D3 float", offsets("[0,512.0]"), "Corrupt", "512.0 where a whole number"),
        ("D3 negative", offsets("[-4,508]"), "Corrupt", "-4 where a whole number"),
        ("D3 over 2^53", offsets("[0,9007199254740993]"), "Corrupt", "9007199254740993 where a whole number"),
        ("D3 one", header("[512,768]", "[512]"), "Corrupt", "lora_B"),
        ("D3 three", header("[512,768]", "[512,768,768]"), "Limit", "numbers of a tensor: 3"),
        ("D3 bytes of nobody", d().table(format!("{{{A},{B}}}"), 772), "Corrupt", "4 bytes belong to no tensor"),
        ("D3 fewer bytes", d().table(format!("{{{A},{B}}}"), 764), "Corrupt", "lora_B"),
        ("D4 wraps", shape("[4294967296,4294967296,128]"), "Corrupt", "shape [4294967296"),
        ("D4 another size", shape("[2,63]"), "Corrupt", "shape [2, 63]"),
        ("D4 nine dimensions", shape("[1,1,1,1,1,1,1,2,64]"), "Limit", "numbers of a tensor: 9"),
        ("D5 unknown", dtype("F4"), "Unsupported", "type of tensor"),
        ("D5 of six bits", dtype("F6_E2M3"), "Unsupported", "F6_E2M3"),
        (
            "D5 F8",
            header("\"F32\",\"shape\":[2,64]", "\"F8_E4M3\",\"shape\":[2,256]").header("[32,2]", "[32,2]"),
            "Mismatch",
            "shape of",
        ),
        ("D5 complex", header("\"F32\",\"shape\":[2,64]", "\"C64\",\"shape\":[1,64]"), "Mismatch", "shape of"),
        ("D5 integers", dtype("I32"), "Unsupported", "type of tensor"),
        ("D5 F64", header("\"F32\",\"shape\":[2,64]", "\"F64\",\"shape\":[1,64]"), "Mismatch", "shape of"),
        (
            "D6",
            header(
                "{\"base_model.model.model.layers.0.self_attn.v_proj.lora_A",
                "{\"__metadata__\":{\"format\":1},\"base_model.model.model.layers.0.self_attn.v_proj.lora_A",
            ),
            "Corrupt",
            "a string is wanted",
        ),
        (
            "D6 a list",
            header(
                "{\"base_model.model.model.layers.0.self_attn.v_proj.lora_A",
                "{\"__metadata__\":[],\"base_model.model.model.layers.0.self_attn.v_proj.lora_A",
            ),
            "Corrupt",
            "an object is wanted",
        ),
        ("D9 no JSON", config("{\"peft", "peft"), "Corrupt", "JSON"),
        ("D9 empty", config(CONFIG, ""), "Corrupt", "an object is wanted"),
        ("D9 lfs", config(CONFIG, "version https://git-lfs.github.com/spec/v1"), "Invalid", "Git LFS"),
        ("D9 r 0", rank("0"), "Mismatch", "rank of"),
        ("D9 r -1", rank("-1"), "Corrupt", "-1 where a whole number"),
        ("D9 r 10^9", rank("1000000000"), "Limit", "rank: 1000000000; at most 1024"),
        ("D9 r float", rank("2.0"), "Corrupt", "2.0 where a whole number"),
        ("D9 r text", rank("\"2\""), "Corrupt", "a number is wanted"),
        ("D9 r another", rank("3"), "Mismatch", "rank of"),
        ("D9 r twice", rank("2,\"r\":2"), "Corrupt", "`r` comes twice"),
        ("D9 r missing", config("\"r\":2,", ""), "Mismatch", "key r"),
        ("D9 alpha NaN", alpha("NaN"), "Corrupt", "a number is wanted"),
        ("D9 alpha infinite", alpha("1e400"), "Corrupt", "1e400 where a finite number"),
        ("D9 alpha over f32", alpha("1e300"), "Invalid", "alpha: inf"),
        ("D9 alpha 0", alpha("0"), "Invalid", "alpha: 0"),
        ("D9 regex bomb", rank("2,\"rank_pattern\":{\"(.*)*\\\\1!\":4}"), "Limit", "steps of a regular expression"),
        ("D9 unknown kind", config("LORA", "VERA"), "Unsupported", "peft_type: VERA"),
        ("D9 kind that escapes", config("LORA", "\\u001b[2J"), "Unsupported", "peft_type: \\u{1b}[2J"),
        ("D9 no kind", config("\"peft_type\":\"LORA\",", ""), "Mismatch", "key peft_type"),
        ("D9 use_dora", off("\"use_dora\":true"), "Mismatch", "no lora_magnitude_vector"),
        ("D9 bias", config("\"none\"", "\"all\""), "Unsupported", "`bias` is set"),
        ("D9 modules_to_save", off("\"modules_to_save\":[\"lm_head\"]"), "Unsupported", "`modules_to_save` is set"),
        ("D9 changes the base", off("\"init_lora_weights\":\"pissa_niter_4\""), "Unsupported", "pissa"),
        ("D9 rank_pattern", rank("2,\"rank_pattern\":{\"v_proj\":4}"), "Mismatch", "rank of"),
        ("D9 rank_pattern of NaN", rank("2,\"rank_pattern\":{\"v_proj\":NaN}"), "Corrupt", "a number is wanted"),
        (
            "D9 5000 patterns",
            rank(&format!("2,\"rank_pattern\":{{{}}}", keys(5000).replace("\"\"", "1"))),
            "Limit",
            "patterns: 4097; at most 4096",
        ),
        ("D10 no B", d().table(format!("{{{A}}}"), 512), "Mismatch", "no lora_B"),
        ("D10 no A", d().table(format!("{{{}}}", B.replace("[512,768]", "[0,256]")), 256), "Mismatch", "no lora_A"),
        (
            "D10 swapped",
            header("lora_A", "lora_X").header("lora_B", "lora_A").header("lora_X", "lora_B"),
            "Mismatch",
            "shape of",
        ),
        ("D10 transposed A", shape("[64,2]"), "Mismatch", "shape of"),
        ("D10 transposed B", header("[32,2]", "[2,32]"), "Mismatch", "shape of"),
        ("D10 mixed ranks", header("[32,2]", "[64,1]"), "Mismatch", "shape of"),
        ("D10 flat", shape("[128]"), "Mismatch", "shape of"),
        (
            "D10 two for one site",
            header("base_model.model.model.layers.0.self_attn.v_proj.lora_B", "model.layers.0.self_attn.v_proj.lora_A"),
            "Corrupt",
            "two tensors for",
        ),
        ("D10 another block", header("layers.0", "layers.5"), "Mismatch", "blk.5"),
        ("D11 MLX", header("lora_A.weight", "lora_a").header("lora_B.weight", "lora_b"), "Unsupported", "lora_a"),
        (
            "D11 MobileFineTuner",
            header("base_model.model.model.layers.0.self_attn.v_proj.", "layer.0.attn.v."),
            "Unsupported",
            "layer.0.attn.v.",
        ),
        (
            "D11 of diffusion",
            header("base_model.model.model.layers.0.self_attn.v_proj.", "lora_unet_"),
            "Unsupported",
            "lora_unet_",
        ),
        ("D12 a block 00", header("layers.0", "layers.00"), "Unsupported", "layers.00"),
        ("D12 another path", header("base_model.model.model.", "vision.model."), "Unsupported", "vision.model."),
        ("D12 another module", header("v_proj", "w_proj"), "Unsupported", "w_proj"),
        ("D12 none at all", d().table("{}", 0), "Invalid", "changes nothing"),
        (
            "D13",
            d().table(
                format!("{{{A},{B},\"lm_head.weight\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[768,768]}}}}"),
                768,
            ),
            "Unsupported",
            "lm_head.weight",
        ),
        ("D14", d().values(128, &[0.0; 64]), "Invalid", "it changes nothing: every B is zero"),
        ("D15 NaN", d().values(3, &[f32::NAN]), "Corrupt", "is not finite"),
        ("D15 infinite", d().values(191, &[f32::INFINITY]), "Corrupt", "is not finite"),
        (
            "D18 zip",
            Directory { header: b"x".to_vec(), length: Some(u64::from_le_bytes(*b"PK\x03\x04arch")), ..d() },
            "Unsupported",
            "convert it to safetensors",
        ),
        (
            "D18 pickle",
            Directory { header: b"x".to_vec(), length: Some(u64::from_le_bytes(*b"\x80\x02}q\0X\0\0")), ..d() },
            "Unsupported",
            "convert it to safetensors",
        ),
    ];
    // One tensor of 512 bytes of another method.
    let of = |method: &str, name: &str, shape: &str| {
        let tensor = format!(r#"{{"{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,512]}}}}"#);
        let config = format!(r#"{{"peft_type":"{method}","num_virtual_tokens":2,"target_modules":["v_proj"]}}"#);
        d().config(CONFIG, &config).table(tensor, 512)
    };
    let scale = "base_model.model.model.layers.0.self_attn.v_proj.ia3_l";
    let more = of("PROMPT_TUNING", "prompt_embeddings", "[2,64]")
        .header("{\"prompt", "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"prompt");
    let refused = refused.into_iter().chain([
        ("D10 IA3 of another shape", of("IA3", scale, "[1,128]"), "Mismatch", "shape of"),
        ("D10 IA3 of two sides", of("IA3", scale, "[2,64]"), "Mismatch", "shape of"),
        (
            "D10 LoRA in IA3",
            of("IA3", "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight", "[2,64]"),
            "Unsupported",
            "lora_A",
        ),
        (
            "D10 a prompt of another length",
            of("PROMPT_TUNING", "prompt_embeddings", "[1,128]"),
            "Mismatch",
            "shape of prompt_embeddings",
        ),
        (
            "D10 a prompt of three sides",
            of("P_TUNING", "prompt_embeddings", "[1,2,64]"),
            "Mismatch",
            "shape of prompt_embeddings",
        ),
        (
            "D10 a prefix of another width",
            of("PREFIX_TUNING", "prompt_embeddings", "[2,64]"),
            "Mismatch",
            "shape of prompt_embeddings",
        ),
        ("D12 a prompt of another name", of("PROMPT_TUNING", "embeddings", "[2,64]"), "Unsupported", "embeddings"),
        ("D13 beside a prompt", more, "Unsupported", "adapter tensors: a"),
        (
            "D15 NaN in a prompt",
            of("PROMPT_TUNING", "prompt_embeddings", "[2,64]").values(3, &[f32::NAN]),
            "Corrupt",
            "is not finite",
        ),
        ("D10 IA3 flat", of("IA3", scale, "[32,4]").header("[32,4]", "[128]"), "Mismatch", "shape of"),
        ("D9 target_modules that is a number", config("[\"v_proj\"]", "7"), "Corrupt", "a value is wanted"),
        ("D9 a layer below zero", off("\"layers_to_transform\":[-1]"), "Corrupt", "-1 where a whole number"),
        ("D9 another module", config("[\"v_proj\"]", "[\"q_proj\"]"), "Mismatch", "v_proj"),
        (
            "D9 an expression of 5000 bytes",
            config("[\"v_proj\"]", &format!("\"({})\"", "a".repeat(5000))),
            "Limit",
            "bytes of a regular expression",
        ),
        ("D9 unknown key", off("\"use_wonders\":\"\\u001b[2J\""), "Unsupported", "`use_wonders`"),
    ]);
    let mut all: Vec<Entry> =
        refused.map(|(name, directory, variant, word)| PEFT.refuses(name, directory.bytes(), variant, word)).collect();
    let empty = r#""model.x":{"dtype":"F16","shape":[0,7],"data_offsets":[768,768]},"model.y":{"dtype":"U8","shape":[],"data_offsets":[768,769]}"#;
    all.push(SAFETENSORS.takes("D7", d().table(format!("{{{A},{B},{empty}}}"), 769).tensors().bytes));
    let metadata = d().header(
        "{\"base_model.model.model.layers.0.self_attn.v_proj.lora_A",
        "{\"__metadata__\":{\"format\":\"pt\"},\"base_model.model.model.layers.0.self_attn.v_proj.lora_A",
    );
    all.push(PEFT.takes("D6 strings", metadata.bytes()));
    all.push(PEFT.takes("D15 1e38", d().values(3, &[1e38]).bytes()));
    // Just more than a list that doubles has room for: twice as much would be more than twice the file.
    let many = keys(16_385).replace("\"\"", r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#);
    all.push(SAFETENSORS.takes("D7 16385 of no size", d().table(format!("{{{many}}}"), 0).tensors().bytes));
    all.push(takes("D9 alpha_pattern", || {
        let patterned =
            Directory::new().config(r#""r":2"#, r#""r":2,"alpha_pattern":{"self_attn.v_proj":6},"rank_pattern":{}"#);
        let factor = |d: Directory| Ok::<_, mynah::Error>(read(d.bytes())?.low_rank().unwrap().0.slots()[0].factor);
        assert_eq!(factor(patterned)?, 3.0);
        assert_eq!(factor(Directory::new())?, 2.0);
        Ok(())
    }));

    // Folders.
    type Names = &'static [(&'static str, &'static str)];
    let folders: [(&str, Names, &str, &str); 8] = [
        (
            "D8",
            &[
                ("adapter_config.json", CONFIG),
                ("adapter_model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../../x\"}}"),
            ],
            "Invalid",
            "is no file beside it",
        ),
        ("D9 missing", &[("adapter_model.safetensors", "")], "Invalid", "adapter_config.json is missing"),
        ("D9 nothing", &[], "Invalid", "the folder is empty"),
        ("D9 no weights", &[("adapter_config.json", CONFIG)], "Invalid", "adapter_model.safetensors is missing"),
        (
            "D11 a folder of MLX",
            &[("adapters.safetensors", ""), ("adapter_config.json", "{}")],
            "Mismatch",
            "lora_parameters with a scale",
        ),
        (
            "D18 a folder with a pickle",
            &[("adapter_config.json", CONFIG), ("adapter_model.bin", "\u{80}")],
            "Unsupported",
            "convert it to safetensors",
        ),
        (
            "D12 a whole model",
            &[("config.json", "{}"), ("model.safetensors", "")],
            "Invalid",
            "the weights of a whole model",
        ),
        (
            "D1 empty file",
            &[("adapter_config.json", CONFIG), ("adapter_model.safetensors", "")],
            "Corrupt",
            "ends early",
        ),
    ];
    for (name, files, variant, word) in folders {
        all.push(refuses(name, variant, word, move || {
            let dir = tempfile::tempdir().unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
            folder::open(dir.path(), &base(), &Limits::default()).map(drop)
        }));
    }
    all.push(takes("D17", || {
        // What was read stays what it was, whatever becomes of the file.
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &Path, d: &Directory| {
            std::fs::write(path.join("adapter_config.json"), &d.config).unwrap();
            std::fs::write(path.join("adapter_model.safetensors"), d.tensors().bytes).unwrap();
        };
        write(dir.path(), &Directory::new());
        let lora = peft::open(dir.path(), &base(), &Limits::default())?;
        let before = lora.params().to_vec();
        write(dir.path(), &Directory::new().values(0, &[9.0; 192]));
        assert_eq!(lora.params(), before);
        Ok(())
    }));
    all.push(super::container::ADAPTER.refuses(
        "D16",
        super::container::Adapter::lora().head(|head| _ = head.set("base.content", "1".repeat(64))).bytes(),
        "Mismatch",
        "weights of the base",
    ));
    all
}

/// The table of tensors alone.
pub static SAFETENSORS: Parser = Parser {
    name: "safetensors",
    read: |bytes| mynah::adapter::safetensors::Safetensors::parse(bytes.into(), &Limits::default()).map(drop),
};

#[test]
fn section_d() {
    check('D', 18, entries(), &[]);
}
