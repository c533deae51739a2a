//! The command: results, shapes of JSON, exit statuses.

use crate::shared::{needs_shared, shared};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn mynah(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn status(args: &[&str]) -> i32 {
    mynah(args).status.code().unwrap()
}

/// The JSON objects on standard output of a run that must succeed.
fn json(args: &[&str]) -> Vec<Value> {
    let out = mynah(args);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn golden(shared: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(shared.join("golden/llamacpp").join(name)).unwrap()).unwrap()
}

fn model(shared: &Path, name: &str) -> String {
    shared.join("models").join(name).to_str().unwrap().into()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().into()
    }
    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }
}

#[test]
fn wrong_use_is_2_and_failure_is_1() {
    let dir = Dir::new();
    let text = dir.file("t.txt", "some text");
    assert_eq!(status(&["--help"]), 0);
    assert_eq!(status(&["train", "--help"]), 0);
    assert_eq!(status(&["--version"]), 0);
    assert_eq!(status(&[]), 0);
    assert_eq!(status(&["sing"]), 2);
    for options in [
        &["--lr", "nan"] as &[&str],
        &["--lr", "0"],
        &["--steps", "0"],
        &["--epochs", "0"],
        &["--batch", "0"],
        &["--accumulate", "0"],
        &["--steps", "1", "--epochs", "1"],
        &["--rank", "0"],
        &["--rank", "x"],
        &["--eval-fraction", "1"],
        &["--method", "magic"],
        &["--init", "a", "--rank", "4"],
        &["--init", "a", "--basis", "4"],
        &["--beta1", "x"],
    ] {
        let args = [&["train", "-m", "m", "-d", &text, "-o", "o"], options].concat();
        assert_eq!(status(&args), 2, "{options:?}");
    }
    assert_eq!(status(&["chat", "-m", "/nowhere/m.gguf"]), 1);
    assert_eq!(status(&["run", "-m", "m", "-p", "x", "--temp", "-1"]), 2);
    assert_eq!(status(&["run", "-m", "/nowhere/m.gguf", "-p", "x"]), 1);
    assert_eq!(status(&["tokenize", "-m", &text, "x"]), 1);
    assert_eq!(status(&["inspect", &text]), 1);
    assert_eq!(status(&["inspect", "/nowhere"]), 1);
    let out = mynah(&["inspect", &text]);
    assert!(out.stdout.is_empty() && String::from_utf8_lossy(&out.stderr).contains("t.txt"));
}

/// What a command that is wrong use says.
fn refused(args: &[&str]) -> String {
    let out = mynah(args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
    said
}

#[test]
fn settings_that_a_row_lacks_are_refused_by_name() {
    let train = ["train", "-m", "m", "-d", "d", "-o", "o"];
    for (options, words) in [
        ("--basis 3", "basis: 3, and lora has none; --basis is for --method nola"),
        ("--method full --rank 3", "--rank is for --method lora, nola"),
        ("--method nola --basis-kind gauss", "rademacher"),
        ("--beta 1", "beta: 1, and sft has none; --beta is for --objective poft, dpo"),
        ("--optimizer sgd --beta2 0.9", "--beta2 is for --optimizer adamw, adamw_8bit, lion"),
        ("--optimizer lion --eps 1e-8", "eps: 1e-8, and lion has none"),
        ("--beta1 1", "beta1: 1; 0 to 0.9999999 can be used"),
        ("--rank 1025", "rank: 1025; 1 to 1024 can be used"),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        for line in [&train[..], &["plan", "-m", "m"]] {
            let said = refused(&[line, &options].concat());
            assert!(said.contains(words), "{options:?}: {said}");
        }
    }
    let said = refused(&["chat", "-m", "m", "-a", "a", "--learn", "--basis", "3"]);
    assert!(said.contains("--basis is for --method nola"), "{said}");
}

#[test]
fn the_help_of_train_begins_with_the_usual() {
    let help = String::from_utf8(mynah(&["train", "-h"]).stdout).unwrap();
    let headings: Vec<&str> = help.lines().filter(|l| l.ends_with(':') && !l.starts_with(' ')).collect();
    let wanted = ["Common options:", "Adapter:", "Data:", "Optimiser:", "Objective:", "Memory and speed:"];
    assert_eq!(headings[..6], wanted, "{headings:?}");
    assert_eq!(headings[6..9], ["Evaluation, checkpoints:", "Engine:", "Other options:"]);
    let common = help.split("Adapter:").next().unwrap();
    for option in ["--model", "--data", "--output", "--method", "--rank", "--steps", "--lr", "--ctx"] {
        assert!(common.contains(option), "{option}: {common}");
    }
    for row in mynah::adapter::KINDS.iter().flat_map(|k| k.knobs) {
        assert!(help.contains(&format!("--{}", row.knob.name.replace(' ', "-"))), "{}", row.knob.name);
    }
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let dir = Dir::new();
    let (model, data) = (base(&dir), dir.file("d.txt", &"Ann has a red boat. ".repeat(9)));
    let (out, log, init) = (dir.name("out"), dir.name("log"), dir.file("init", "no adapter"));
    let beside = format!("{data}.reference");
    let roundabout = dir.name("none/../base.gguf");
    std::fs::create_dir(dir.path("none")).unwrap();
    let mut cases: Vec<([&str; 4], [&str; 2])> = vec![
        (["-o", &model, "--log", &log], ["-o", "-m"]),
        (["-o", &data, "--log", &log], ["-o", "-d"]),
        (["-o", &out, "--log", &model], ["--log", "-m"]),
        (["-o", &out, "--log", &roundabout], ["--log", "-m"]),
        (["-o", &out, "--log", &data], ["--log", "-d"]),
        (["-o", &out, "--log", &out], ["--log", "-o"]),
        (["-o", &out, "--activation-cache", &model], ["--activation-cache", "-m"]),
        (["-o", &out, "--activation-cache", &out], ["--activation-cache", "-o"]),
        (["-o", &out, "--checkpoints", &out], ["--checkpoints", "-o"]),
        (["-o", &out, "--log", &init], ["--log", "--init"]),
        (["-o", &beside, "--log", &log], ["beside -d", "-o"]),
    ];
    let hard = dir.name("hard");
    if std::fs::hard_link(&model, &hard).is_ok() && cfg!(unix) {
        cases.push((["-o", &out, "--log", &hard], ["--log", "-m"]));
    }
    let read = || [&model, &data, &init].map(|path| std::fs::read(path).unwrap());
    let before = read();
    for (options, names) in cases {
        let more: &[&str] = match names {
            [_, "--init"] => &["--init", &init],
            ["beside -d", _] => &["--objective", "poft"],
            _ => &[],
        };
        let said = refused(&[&["train", "-m", &model, "-d", &data], &options[..], more].concat());
        assert!(names.iter().all(|name| said.contains(name)), "{options:?}: {said}");
    }
    let marked = dir.name("base.gguf.before");
    std::fs::rename(&model, &marked).unwrap();
    let said = refused(&["chat", "-m", &marked, "-a", &model, "--learn"]);
    assert!(said.contains("beside -a") && said.contains("-m"), "{said}");
    std::fs::rename(&marked, &model).unwrap();
    assert!(read() == before);
    assert_eq!(status(&["demo", "-o", &dir.name("nowhere/x")]), 1);
}

#[needs_shared]
#[test]
fn text_becomes_the_golden_tokens_and_back() {
    let shared = shared();
    for (name, file) in [("smollm2", "SmolLM2-135M-Instruct.Q4_0.gguf"), ("stories260K", "stories260K.gguf")] {
        let model = model(&shared, file);
        let cases = golden(&shared, &format!("tokenizer/tokenizer-{name}.json"));
        let plain = cases.as_array().unwrap().iter().filter(|c| !c["text"].as_str().unwrap().contains('\0'));
        for case in plain.step_by(9) {
            let text = case["text"].as_str().unwrap();
            let got = json(&["tokenize", "-m", &model, "--json", "--", text]);
            assert_eq!(got[0]["ids"], case["ids_plain"], "{text:?}");
            let special = ["--add-special", "--parse-special"];
            let got = json(&[&["tokenize", "-m", &model, "--json"], &special[..], &["--", text]].concat());
            assert_eq!(got[0]["ids"], case["ids_add_and_parse_special"], "{text:?}");
            let ids: Vec<String> = case["ids_plain"].as_array().unwrap().iter().map(Value::to_string).collect();
            if ids.is_empty() {
                continue;
            }
            let mut args = vec!["detokenize", "-m", &model, "--json"];
            args.extend(ids.iter().map(String::as_str));
            let got = json(&args);
            assert_eq!(keys(&got[0]), ["hex", "text"]);
            assert_eq!(got[0]["hex"], case["detok_plain_hex"], "{text:?}");
        }
    }
    let model = model(&shared, "stories260K.gguf");
    assert_eq!(status(&["detokenize", "-m", &model, "512"]), 2);
    assert_eq!(status(&["detokenize", "-m", &model, "x"]), 2);
    assert_eq!(status(&["detokenize", "-m", &model]), 2);
}

#[needs_shared]
#[test]
fn logits_are_the_golden_ones() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let cases = golden(&shared, "model/stories260K-f32.f32ref.json");
    for case in cases.as_array().unwrap().iter().take(3) {
        let mut args = vec!["logits", "-m", &model, "--exact", "--json", "-p", case["text"].as_str().unwrap()];
        args.extend(case["add_special"].as_bool().unwrap().then_some("--add-special"));
        args.extend(case["parse_special"].as_bool().unwrap().then_some("--parse-special"));
        let got = &json(&args)[0];
        assert_eq!(got["tokens"], case["tokens"]);
        let close = |a: &Value, b: &Value| assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 5e-3, "{a} {b}");
        let (nll, wanted) = (got["nll"].as_array().unwrap(), case["nll"].as_array().unwrap());
        assert_eq!(nll.len(), wanted.len());
        nll.iter().zip(wanted).for_each(|(a, b)| close(a, b));
        let (top, wanted) = (got["top"].as_array().unwrap(), case["top10"].as_array().unwrap());
        assert_eq!(top.len(), 10);
        for (a, b) in top.iter().zip(wanted) {
            close(&a[1], &b[1]);
        }
        args.extend(["--top", "0"]);
        assert_eq!(json(&args)[0]["top"].as_array().unwrap().len(), 512);
    }
    assert_eq!(status(&["logits", "-m", &model, "-p", ""]), 2);
}

#[needs_shared]
#[test]
fn greedy_text_is_the_golden_one() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let cases = golden(&shared, "model/stories260K-f32.f32ref.json");
    let plain = |c: &&Value| c["add_special"] == true && c["parse_special"] == false;
    let case = cases.as_array().unwrap().iter().find(plain).unwrap();
    let prompt = case["text"].as_str().unwrap();
    let args = ["run", "-m", &model, "-p", prompt, "-n", "32", "--temp", "0", "--exact", "--ignore-end", "--json"];
    let lines = json(&args);
    let (last, tokens) = lines.split_last().unwrap();
    assert_eq!(last["ids"], case["greedy32"]);
    assert_eq!(last["stop"], "length");
    assert!(last["prompt_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(last["tokens_per_second"].as_f64().unwrap() > 0.0);
    let ids: Vec<&Value> = tokens.iter().map(|t| &t["id"]).collect();
    assert_eq!(ids, last["ids"].as_array().unwrap().iter().collect::<Vec<_>>());
    // Threads change nothing, and neither does how the text is printed.
    assert_eq!(json(&[&args[..], &["--threads", "1"]].concat()).last().unwrap()["text"], last["text"]);
    let text = String::from_utf8(mynah(&args[..args.len() - 1]).stdout).unwrap();
    assert_eq!(text.strip_suffix('\n').unwrap(), last["text"].as_str().unwrap());
    let drawn = |seed| json(&["run", "-m", &model, "-p", prompt, "-n", "24", "--seed", seed, "--json"]).pop().unwrap();
    assert_eq!(drawn("1")["ids"], drawn("1")["ids"]);
    assert_ne!(drawn("1")["ids"], drawn("2")["ids"]);
}

#[needs_shared]
#[test]
fn a_closed_pipe_ends_quietly() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mynah"))
        .args(["run", "-m", &model, "-p", "Once", "-n", "400", "--ignore-end"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    // As of a program that the signal for this ends.
    assert_eq!(out.status.code(), Some(141));
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[needs_shared]
#[test]
fn eval_counts_as_it_says() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let all = std::fs::read_to_string(shared.join("golden/llamacpp/ppl/text.txt")).unwrap();
    let dir = Dir::new();
    let text = dir.file("t.txt", &all[..6000]);
    let got = &json(&["eval", "-m", &model, "-d", &text, "--ctx", "128", "--json"])[0];
    assert_eq!(keys(got), ["loss", "perplexity", "tokens", "tokens_per_second"]);
    let loss = got["loss"].as_f64().unwrap();
    assert!((loss.exp() / got["perplexity"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    let ids = json(&["tokenize", "-m", &model, "--add-special", "--json", &all[..6000]]);
    let n = ids[0]["ids"].as_array().unwrap().len();
    let rows = n / 128 + usize::from(n % 128 > 1);
    let lost = usize::from(n % 128 == 1);
    assert_eq!(got["tokens"].as_u64().unwrap() as usize, n - rows - lost);
    let got = &json(&["eval", "-m", &model, "-d", &text, "--ctx", "128", "--stride", "llama", "--json"])[0];
    assert_eq!(got["tokens"].as_u64().unwrap() as usize, n / 128 * 63);
    assert_eq!(status(&["eval", "-m", &model, "-d", &text, "--ctx", "1"]), 2);
    assert_eq!(status(&["eval", "-m", &model, "-d", &dir.file("e.txt", "")]), 1);
}

#[needs_shared]
#[test]
fn perplexity_is_that_of_llama_cpp() {
    let shared = shared();
    let text = shared.join("golden/llamacpp/ppl/text.txt");
    let text = text.to_str().unwrap();
    for (file, wanted) in [("stories260K.gguf", 42.7823), ("SmolLM2-135M-Instruct.Q4_0.gguf", 29.9922)] {
        let model = model(&shared, file);
        let got = &json(&["eval", "-m", &model, "-d", text, "--ctx", "512", "--stride", "llama", "--json"])[0];
        eprintln!("{file}: {got}, llama.cpp's perplexity {wanted}");
        assert!((got["perplexity"].as_f64().unwrap() / wanted - 1.0).abs() < 5e-3, "{file}: {got}");
    }
}

#[needs_shared]
#[test]
fn teaching_saving_and_going_on() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let dir = Dir::new();
    let notes = "{\"text\": \"The key is under the blue pot.\"}\n{\"prompt\": \"Who has the key?\", \"completion\": \" Ann.\"}\n\
        {\"tokens\": [1, 403, 407, 261], \"mask\": [0, 1, 1, 1]}\n{\"text\": \"Ann feeds the cat at ten.\"}\n";
    let data = dir.file("notes.jsonl", notes);
    let base = [
        "train",
        "-m",
        &model,
        "-d",
        &data,
        "--steps",
        "6",
        "--batch",
        "2",
        "--eval-fraction",
        "0.25",
        "--json",
        "--force",
    ];
    for (method, size) in [("lora", 100_000), ("nola", 20_000)] {
        let (out, log) = (dir.name(method), dir.name("log.jsonl"));
        let args = [&base[..], &["--method", method, "-o", &out, "--log", &log]].concat();
        let got = json(&args).pop().unwrap();
        for key in ["loss_first", "loss_last", "eval_before", "eval_after", "tokens_per_second"] {
            assert!(got[key].as_f64().is_some_and(|x| x > 0.0), "{method} {key}: {got}");
        }
        let bytes = got["adapter_bytes"].as_u64().unwrap();
        assert_eq!(bytes, std::fs::metadata(&out).unwrap().len());
        assert!(bytes < size, "{method}: {bytes}");
        let log = std::fs::read_to_string(&log).unwrap();
        let steps: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(steps.len(), 6);
        assert_eq!(steps[0]["step"], 1);
        for step in &steps {
            assert_eq!(keys(step).len(), 5);
            for key in ["step", "loss", "grad_norm", "lr", "tokens"] {
                assert!(step[key].is_number(), "{key}");
            }
        }
        assert_eq!(steps[0]["loss"], got["loss_first"]);
        assert_eq!(steps[5]["loss"], got["loss_last"]);

        // The same command gives the same file; one thread too.
        let first = std::fs::read(&out).unwrap();
        json(&[&args[..], &["--threads", "1"]].concat());
        assert!(first == std::fs::read(&out).unwrap(), "{method}");

        let info = json(&["inspect", &out, "--json"]).pop().unwrap();
        assert_eq!(info["kind"], method);
        assert_eq!(info["provenance"]["steps"], 6);
        assert_eq!(status(&["inspect", &out]), 0);

        let logits = |adapter: &[&str]| {
            let args = ["logits", "-m", &model, "-p", "The key is", "--exact", "--json"];
            json(&[&args[..], adapter].concat()).pop().unwrap()["top"][0][1].as_f64().unwrap()
        };
        let half = format!("{out}:0.5");
        assert_ne!(logits(&[]), logits(&["-a", &out]));
        assert_ne!(logits(&["-a", &half]), logits(&["-a", &out]));
        assert_eq!(status(&["run", "-m", &model, "-a", &out, "-p", "x", "-n", "2"]), 0);
        assert_eq!(status(&["run", "-m", &model, "-a", &format!("{out}:x"), "-p", "x"]), 2);

        let more = dir.name("more");
        let got = json(&[
            "train", "-m", &model, "-d", &data, "-o", &more, "--init", &out, "--steps", "2", "--json", "--force",
        ]);
        assert_eq!(got[0]["steps"], 2);
        let other = self::model(&shared, "stories260K-q8_0.gguf");
        let refused = mynah(&["run", "-m", &other, "-a", &out, "-p", "x"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("weights of the base"));
    }
    let out = dir.name("bad");
    for options in [&["--targets", "nose"] as &[&str], &["--rank", "65"], &["--ctx", "513"], &["--warmup", "9"]] {
        let args = [&base[..], options, &["-o", &out]].concat();
        assert_eq!(status(&args), 2, "{options:?}");
    }
    assert_eq!(status(&["train", "-m", &model, "-d", &data, "-o", &data]), 2);
    assert_eq!(status(&["train", "-m", &model, "-d", &dir.file("bad.jsonl", "{\"x\": 1}"), "-o", &out]), 1);
    assert!(!Path::new(&out).exists());
}

#[needs_shared]
#[test]
fn full_training_writes_a_model() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let dir = Dir::new();
    let data = dir.file("t.txt", &"Ann has a red boat and a blue cat. ".repeat(20));
    let out = dir.name("new.gguf");
    let got = json(&["train", "-m", &model, "-d", &data, "-o", &out, "--method", "full", "--ctx", "64", "--json"]);
    assert!(got[0]["loss_last"].as_f64() < got[0]["loss_first"].as_f64());
    let loss = |m: &str| {
        let got = json(&["eval", "-m", m, "-d", &data, "--ctx", "64", "--exact", "--json"]).pop().unwrap();
        got["loss"].as_f64().unwrap()
    };
    assert!(loss(&out) < loss(&model) - 0.1);
    let info = json(&["inspect", &out, "--json"]).pop().unwrap();
    assert_eq!(info["type"], "gguf");
    assert_eq!(info["metadata"]["general.architecture"], "llama");
    assert_eq!(status(&["inspect", &out]), 0);
}

#[needs_shared]
#[test]
fn foreign_adapters_attach() {
    let shared = shared();
    let model = model(&shared, "stories260K.gguf");
    let adapter = shared.join("golden/llamacpp/lora/lora-stories-public.gguf");
    let cases = golden(&shared, "model/stories260K-f32-lora.f32ref.json");
    let case = &cases.as_array().unwrap()[0];
    let mut args = vec!["logits", "-m", &model, "-a", adapter.to_str().unwrap(), "--exact", "--json"];
    args.extend(["-p", case["text"].as_str().unwrap()]);
    args.extend(case["add_special"].as_bool().unwrap().then_some("--add-special"));
    args.extend(case["parse_special"].as_bool().unwrap().then_some("--parse-special"));
    let got = &json(&args)[0];
    let difference = got["top"][0][1].as_f64().unwrap() - case["top10"][0][1].as_f64().unwrap();
    assert!(difference.abs() < 5e-3, "{difference}");
}

/// A model file that every checkout has.
fn base(dir: &Dir) -> String {
    std::fs::write(dir.path("base.gguf"), mynah::base::MODEL).unwrap();
    dir.name("base.gguf")
}

#[test]
fn a_model_is_measured() {
    let dir = Dir::new();
    let model = base(&dir);
    let args = ["bench", "-m", &model, "-p", "6,3", "-n", "2", "-t", "1,2", "-r", "3"];
    let rows = json(&[&args[..], &["--json"]].concat());
    let tests: Vec<_> =
        rows.iter().map(|r| [&r["n_prompt"], &r["n_gen"], &r["n_threads"]].map(|n| n.as_u64().unwrap())).collect();
    assert_eq!(tests, [[6, 0, 1], [6, 0, 2], [3, 0, 1], [3, 0, 2], [0, 2, 1], [0, 2, 2]]);
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        let samples: Vec<f64> = row["samples_ts"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
        assert_eq!(samples.len(), 3);
        assert!(
            number("min_ts") > 0.0
                && number("min_ts") <= number("median_ts")
                && number("median_ts") <= number("max_ts")
        );
        assert!(samples.contains(&number("median_ts")));
        // 1.0 MB of weights, most of them read once for every token that is decoded.
        let bytes = number("bytes_per_token") * if row["n_prompt"] == 0 { 1.0 } else { number("n_prompt") };
        assert!(bytes > 0.9e6 && bytes < 1.3e6, "{bytes}");
        assert!(number("multiply_adds_per_token") > 1e5 && number("cache_bytes") > 0.0);
        assert!(number("load_ms") > number("tokenizer_ms") && number("limit_bytes_per_second") > 1e8);
        assert!(number("fraction_of_memory") > 0.0);
        for key in ["model_filename", "model_type", "model_size", "model_n_params", "avg_ns", "avg_ts", "stddev_ts"] {
            assert!(!row[key].is_null(), "{key}");
        }
        assert!(row["compare_ratio"].is_null());
    }
    let text = |more: &[&str]| String::from_utf8(mynah(&[&args[..], more].concat()).stdout).unwrap();
    if cfg!(target_os = "linux") {
        let bound = mynah(&["bench", "-m", &model, "-p", "0", "-n", "2", "-r", "1", "--cpus", "0"]);
        assert!(String::from_utf8(bound.stdout).unwrap().contains("tg2"));
        assert_eq!(status(&["run", "-m", &model, "-p", "x", "-n", "1", "--cpus", "0"]), 0);
        assert_eq!(status(&["run", "-m", &model, "-p", "x", "-n", "1", "--cpus", "0", "--threads", "1"]), 2);
    }
    assert!(text(&[]).contains("tg2") && text(&["--markdown"]).contains("| tg2 "));

    // Its own lines, and those of llama-bench, can be compared with.
    let lines: String = rows.iter().map(|r| format!("{r}\n")).collect();
    for other in [dir.file("own.jsonl", &lines), dir.file("llama.jsonl", LLAMA_BENCH)] {
        let compared = json(&[&args[..], &["--json", "--compare", &other]].concat());
        let row = &compared[5];
        let ratio = row["median_ts"].as_f64().unwrap() / row["compare_ts"].as_f64().unwrap();
        assert!((ratio / row["compare_ratio"].as_f64().unwrap() - 1.0).abs() < 1e-9);
        assert!(text(&["--compare", &other]).contains("ratio"));
    }
    let llama = json(&[&args[..], &["--json", "--compare", &dir.file("l.jsonl", LLAMA_BENCH)]].concat());
    assert_eq!(llama[5]["compare_ts"], 250.0);
    assert!(llama[4]["compare_ts"].is_null());
}

/// Two lines of `llama-bench -o jsonl`, of its many keys those around the ones that count.
const LLAMA_BENCH: &str = r#"{"build_commit": "0c1e570", "model_filename": "/m/base.gguf", "model_type": "llama ?B Q4_0", "n_threads": 2, "n_prompt": 0, "n_gen": 2, "n_depth": 0, "avg_ts": 200.0, "stddev_ts": 1.5, "samples_ns": [ 1, 2 ], "samples_ts": [ 200, 300.0 ]}

{"build_commit": "0c1e570", "model_filename": "/m/base.gguf", "model_type": "llama ?B Q4_0", "n_threads": 1, "n_prompt": 0, "n_gen": 9, "n_depth": 0, "avg_ts": 200.0, "samples_ts": [ 200.0 ]}
"#;

#[test]
fn a_file_to_compare_with_is_checked_line_by_line() {
    let dir = Dir::new();
    let model = base(&dir);
    let refused = |text: &str| {
        let other = dir.file("other.jsonl", text);
        let out = mynah(&["bench", "-m", &model, "-p", "0", "-n", "2", "-r", "1", "--compare", &other]);
        assert_eq!(out.status.code(), Some(1), "{text}");
        String::from_utf8(out.stderr).unwrap()
    };
    let good = LLAMA_BENCH.lines().next().unwrap();
    for bad in [
        "{",
        "[]",
        "{\"n_prompt\": 1}",
        &good.replace("300.0", "-1"),
        &good.replace("\"n_gen\": 2", "\"n_gen\": \"2\""),
    ] {
        let message = refused(&format!("{good}\n\n{bad}\n"));
        assert!(message.contains("other.jsonl, line 3"), "{message}");
    }
    assert!(refused("\n").contains("no test"));
    let two = LLAMA_BENCH.replace("base.gguf", "a.gguf") + &LLAMA_BENCH.replace("base.gguf", "b\\u001b.gguf");
    let message = refused(&two);
    assert!(message.contains("a.gguf, b") && !message.contains('\u{1b}'), "{message}");
    let other = dir.name("nowhere.jsonl");
    assert_eq!(status(&["bench", "-m", &model, "--compare", &other]), 1);
}

#[test]
fn bench_refuses_what_it_cannot_measure() {
    let dir = Dir::new();
    let model = base(&dir);
    for options in [
        &["-p", "0", "-n", "0"] as &[&str],
        &["-p", "x"],
        &["-p", "100000"],
        &["-t", "0"],
        &["-t", "1,2,1"],
        &["--cpus", "0,x"],
        &["--cpus", "0,9999"],
        &["--cpus", "0", "-t", "2"],
        &["-r", "0"],
        &["--backend", "abacus"],
        &["--backend", "plain,plain"],
        &["--kernels"],
        &["--format", "Q4_0"],
    ] {
        assert_eq!(status(&[&["bench", "-m", &model], options].concat()), 2, "{options:?}");
    }
    assert_eq!(status(&["bench"]), 2);
    assert_eq!(status(&["bench", "--kernels", "--format", "Q9"]), 2);
    assert_eq!(status(&["bench", "--kernels", "--markdown"]), 2);
    assert_eq!(status(&["bench", "-m", &dir.name("nowhere")]), 1);
}

#[test]
fn kernels_are_checked_and_measured() {
    let names: Vec<&str> = mynah::kernel::available().iter().map(|k| k.name).collect();
    let args = ["bench", "--kernels", "--format", "q8_0,F16", "-t", "1"];
    let rows = json(&[&args[..], &["--json"]].concat());
    for name in &names {
        let of = |key: &str| rows.iter().filter(|r| r["backend"] == *name && !r[key].is_null()).collect::<Vec<_>>();
        assert_eq!(of("limit_bytes_per_second").len(), 1);
        assert!(of("kernel").len() > 8 && of("kernel").iter().all(|r| r["per_second"].as_f64().unwrap() > 0.0));
        let formats = of("format");
        assert_eq!(formats.iter().map(|r| r["format"].as_str().unwrap()).collect::<Vec<_>>(), ["Q8_0", "F16"]);
        for row in formats {
            assert_eq!(row["same_bits"], true);
            assert!(row["operations_per_second_by_rows"]["1"].as_f64().unwrap() > 0.0);
        }
    }
    let one = json(&[&args[..], &["--backend", names[0], "--json"]].concat());
    assert!(one.iter().all(|r| r["backend"] == names[0]));
    let text = String::from_utf8(mynah(&args).stdout).unwrap();
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    assert!(names.iter().all(|name| text.contains(name)));
}

#[needs_shared]
#[test]
fn texts_become_vectors() {
    let shared = shared();
    let dir = Dir::new();
    let m = model(&shared, "arch/tiny64-gemma-embedding-f32.gguf");
    let numbers = |v: &Value| -> Vec<f64> {
        assert_eq!(keys(v), ["embedding"]);
        v["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    // As llama.cpp has it, and of length 1 without the option.
    let golden = golden(&shared, "arch/tiny64-gemma-embedding-f32.f32ref.json");
    let rows: Vec<&Value> = golden.as_array().unwrap().iter().collect();
    let lines: Vec<String> = rows.iter().map(|g| serde_json::json!({"text": g["text"], "id": 7}).to_string()).collect();
    let file = dir.file("texts.jsonl", &lines.join("\n"));
    let plain = json(&["embed", "-m", &m, "-d", &file, "--exact", "--no-normalise", "--json"]);
    let unit = json(&["embed", "-m", &m, "-d", &file, "--exact", "--json"]);
    assert_eq!((plain.len(), unit.len()), (rows.len(), rows.len()));
    for ((plain, unit), want) in plain.iter().zip(&unit).zip(&rows) {
        let want: Vec<f64> = want["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let length = want.iter().map(|v| v * v).sum::<f64>().sqrt();
        for ((plain, unit), want) in numbers(plain).iter().zip(numbers(unit)).zip(want) {
            assert!((plain - want).abs() < 1e-3 && (unit - want / length).abs() < 1e-5, "{plain} {unit} for {want}");
        }
    }
    // One text alone, lines of a text, and standard input give the same numbers.
    let text = rows[0]["text"].as_str().unwrap();
    let alone = mynah(&["embed", "-m", &m, "-p", text]).stdout;
    let threads = mynah(&["embed", "-m", &m, "-d", &dir.file("a.txt", &format!("{text}\n\nmore")), "--threads", "1"]);
    let words = String::from_utf8(alone).unwrap();
    assert_eq!(words.split_whitespace().count(), 64);
    assert_eq!(String::from_utf8(threads.stdout).unwrap().lines().next(), words.lines().next());
    // What cannot be done says why.
    let long = "word ".repeat(600);
    let said = refused(&["embed", "-m", &m, "-p", &long]);
    assert!(said.contains("text 1 has") && said.contains("--ctx 512"), "{said}");
    assert_eq!(status(&["embed", "-m", &m, "-p", &long, "--ctx", "32"]), 0);
    assert_eq!(status(&["embed", "-m", &m]), 1);
    assert_eq!(status(&["embed", "-m", &m, "-p", "a", "--pooling", "rank"]), 2);
    let bad = dir.file("bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}");
    let out = mynah(&["embed", "-m", &m, "-d", &bad]);
    let said = String::from_utf8_lossy(&out.stderr).to_string();
    assert!(out.status.code() == Some(1) && said.contains("bad.jsonl: line 2"), "{said}");
}

/// Of a model with long and short rotary frequencies: which a context takes, and what an adapter that learnt with others says.
#[needs_shared]
#[test]
fn a_long_context_takes_other_frequencies() {
    let shared = shared();
    let path = shared.join("models/arch/tiny64-phi3-longrope-f32.gguf");
    let (m, dir) = (path.to_str().unwrap(), tempfile::tempdir().unwrap());
    // The goldens are of contexts of 256 and of 512.
    let golden = |ctx: &str| golden(&shared, &format!("arch/tiny64-phi3-longrope-f32-ctx{ctx}.f32ref.json"));
    for ctx in ["256", "512"] {
        let want = &golden(ctx)[0];
        let text = want["text"].as_str().unwrap();
        let args = ["logits", "-m", m, "-p", text, "--ctx", ctx, "--exact", "--add-special", "--json"];
        let got = &json(&args)[0]["nll"];
        for (got, want) in got.as_array().unwrap().iter().zip(want["nll"].as_array().unwrap()) {
            let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
            assert!((got - want).abs() < 1e-3, "context {ctx}: {got} for {want}");
        }
    }
    assert_eq!(status(&["logits", "-m", m, "-p", "a long text of words", "--ctx", "1"]), 2);
    let (text, out) = (dir.path().join("t.txt"), dir.path().join("a.mynah"));
    std::fs::write(&text, "One day a bird came to the lake and sang. ".repeat(30)).unwrap();
    let (text, a) = (text.to_str().unwrap(), out.to_str().unwrap());
    for (ctx, other, rope) in [("512", "64", "long"), ("64", "512", "short")] {
        let train = ["train", "-m", m, "-d", text, "-o", a, "--steps", "1", "--ctx", ctx];
        assert_eq!(status(&train), 0);
        assert_eq!(json(&["inspect", a, "--json"])[0]["provenance"]["rope"], rope);
        let said = |ctx: &str| {
            let args = ["run", "-m", m, "-a", a, "-p", "One day", "-n", "400", "--ctx", ctx, "--ignore-end"];
            String::from_utf8(mynah(&args).stderr).unwrap()
        };
        assert!(said(other).contains(&format!("learnt with the {rope} rotary frequencies")), "{}", said(other));
        assert!(!said(ctx).contains("rotary frequencies"), "{}", said(ctx));
        std::fs::remove_file(a).unwrap();
    }
}

/// What an encoder cannot do ends with what can be done instead.
#[needs_shared]
#[test]
fn encoders_name_what_they_are_for() {
    let shared = shared();
    let dir = Dir::new();
    let text = dir.file("text.txt", "Once upon a time there was a boat.");
    for name in ["bert", "gemma-embedding"] {
        let m = model(&shared, &format!("arch/tiny64-{name}-f32.gguf"));
        let words: &[(&[&str], &[&str])] = &[
            (&["run", "-p", "hi"], &["mynah embed"]),
            (&["chat"], &["mynah embed"]),
            (&["logits", "-p", "hi"], &["mynah embed"]),
            (&["eval", "-d", &text], &["mynah embed"]),
            (&["bench"], &["mynah embed"]),
            (&["plan", "-d", &text], &["mynah embed", "--objective infonce"]),
            (&["train", "-d", &text, "-o", "o"], &["mynah embed", "--objective infonce"]),
        ];
        for (args, words) in words {
            let out = mynah(&[*args, &["-m", &m]].concat());
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(!out.status.success() && said.contains(name), "{args:?}: {said}");
            assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
        }
    }
}

/// A search is trained, planned, measured and used from the command line.
#[needs_shared]
#[test]
fn queries_learn_to_find_their_passages() {
    let shared = shared();
    let dir = Dir::new();
    let m = model(&shared, "arch/tiny64-gemma-embedding-f32.gguf");
    let words = ["boat", "tree", "river", "bird", "stone", "hat", "door", "cup"];
    let row = |i: usize| {
        let (query, passage) = (words[i % 8], words[(i * 3 + 1) % 8]);
        serde_json::json!({"query": format!("where is the {query}?"), "positive": format!("look by the {passage}"), "negative": ["nothing here"]})
    };
    let rows: String = (0..8).map(|i| row(i).to_string() + "\n").collect();
    let data = dir.file("queries.jsonl", &rows);
    let recall = |more: &[&str]| {
        let got = json(&[&["eval", "-m", &m, "-d", &data, "--exact", "--json"], more].concat()).remove(0);
        let mut names = keys(&got);
        names.sort();
        assert_eq!(names, ["loss", "passages", "queries", "recall_at_1", "tokens_per_second"]);
        assert_eq!((got["queries"].as_u64(), got["passages"].as_u64()), (Some(8), Some(16)));
        (got["recall_at_1"].as_f64().unwrap(), got["loss"].as_f64().unwrap())
    };
    let before = recall(&[]);
    let out = dir.name("search.mynah");
    let train = ["-m", &m, "-d", &data, "--objective", "infonce", "--batch", "4", "--accumulate", "2", "--lr", "5e-3"];
    let plan = json(&[&["plan"], &train[..], &["--json"]].concat()).remove(0);
    assert!(plan["activations"].as_u64().unwrap() > 0 && plan["logits"] == 0);
    let run = [&["train"], &train[..], &["--steps", "30", "-o", &out, "--json"]].concat();
    let got = json(&run).remove(0);
    assert!(got["loss_last"].as_f64() < got["loss_first"].as_f64(), "{got}");
    let after = recall(&["-a", &out]);
    assert!(after.0 > before.0 && after.1 < before.1, "{before:?} {after:?}");
    // In less memory it is the same file.
    let least = plan["total"].as_u64().unwrap() - plan["activations"].as_u64().unwrap() / 3;
    let (small, bound) = (dir.name("small.mynah"), least.to_string());
    json(&[&["train"], &train[..], &["--steps", "30", "-o", &small, "--memory", &bound, "--json"]].concat());
    assert!(std::fs::read(&small).unwrap() == std::fs::read(&out).unwrap());
    let plain = mynah(&["embed", "-m", &m, "-p", "boat"]).stdout;
    assert!(plain != mynah(&["embed", "-m", &m, "-a", &out, "-p", "boat"]).stdout);

    // What cannot be learnt says so.
    let said = |args: &[&str]| String::from_utf8(mynah(args).stderr).unwrap();
    let text = dir.file("text.txt", "Once upon a time there was a boat.");
    let lm = said(&["train", "-m", &m, "-d", &text, "-o", "o"]);
    assert!(lm.contains("gemma-embedding makes embeddings") && lm.contains("--objective infonce"), "{lm}");
    let wrong = said(&["train", "-m", &m, "-d", &text, "-o", "o", "--objective", "infonce"]);
    assert!(wrong.contains("infonce learns from rows like {\"query\""), "{wrong}");
    let lone =
        dir.file("lone.jsonl", "{\"query\": \"a\", \"positive\": \"b\"}\n{\"query\": \"c\", \"positive\": \"d\"}");
    let alone = refused(&["train", "-m", &m, "-d", &lone, "-o", "o", "--objective", "infonce"]);
    assert!(alone.contains("batch: 1 row a step"), "{alone}");
    let bad = dir.file("bad.jsonl", &format!("{rows}{{\"query\": \"a\", \"positive\": 7}}\n{{\"query\": \"a\", \"positive\": \"b\", \"negative\": [\"c\", null]}}"));
    let out = said(&[
        "train",
        "-m",
        &m,
        "-d",
        &bad,
        "-o",
        &out,
        "--force",
        "--objective",
        "infonce",
        "--batch",
        "4",
        "--steps",
        "1",
    ]);
    assert!(out.contains("line 9") && out.contains("positive"), "{out}");
    assert!(out.contains("line 10") && out.contains("negative[1]"), "{out}");
}
