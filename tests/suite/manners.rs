//! The manners of the command: what it says to who is new to it, what its exit status tells, and what it refuses to open.

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn mynah(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command line, whose words single quotes join.
fn run(folder: &Path, line: &str, input: &[u8]) -> Output {
    let words = line.split('\'').enumerate().flat_map(|(i, piece)| match i % 2 {
        0 => piece.split_whitespace().map(str::to_string).collect(),
        _ => vec![piece.to_string()],
    });
    let mut child = mynah(folder).args(words).stdin(Stdio::piped()).spawn().unwrap();
    // It may end without reading.
    _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into()
}

/// Rows of a command line, its exit status, and words that it says.
type Rows<'a> = &'a [(&'a str, i32, &'a [&'a str])];

fn all_say(folder: &Path, rows: Rows) {
    for (line, status, words) in rows {
        let out = run(folder, line, b"");
        let text = said(&out);
        assert_eq!(out.status.code(), Some(*status), "{line}: {text}");
        for word in *words {
            assert!(text.contains(word), "{line}: wanted {word:?} in: {text}");
        }
        assert!(!text.contains("os error 2"), "{line}: {text}");
    }
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A safetensors file whose tensors have these names.
fn safetensors(names: &[&str]) -> Vec<u8> {
    let row = |(i, name): (usize, &&str)| {
        let (from, to) = (8 * i, 8 * i + 8);
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[{from},{to}]}}")
    };
    let head = format!("{{{}}}", names.iter().enumerate().map(row).collect::<Vec<_>>().join(","));
    [&(head.len() as u64).to_le_bytes(), head.as_bytes(), &vec![0; 8 * names.len()]].concat()
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n";
const CONFIG: &str = "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8}";

#[test]
fn what_is_no_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    write(folder, "text.gguf", "hello");
    write(folder, "empty.gguf", "");
    write(folder, "bytes.gguf", [1u8, 2, 3, 0, 0, 0, 0, 0, 9, 9]);
    write(folder, "page.gguf", "<!DOCTYPE html><html>");
    write(folder, "pointer.gguf", POINTER);
    write(folder, "cut.gguf", &mynah::base::MODEL[..400_000]);
    write(folder, "some/small.gguf", mynah::base::MODEL);
    write(folder, "hf/config.json", "{}");
    write(folder, "none/x.txt", "");
    all_say(
        folder,
        &[
            ("run -p a -m nowhere.gguf", 1, &["nowhere.gguf: no such file", "there is ./bytes.gguf"]),
            ("run -p a -m some/large.gguf", 1, &["some/large.gguf: no such file; there is some/small.gguf"]),
            (
                "run -p a -m Owner/Model-GGUF",
                1,
                &["no such file", "never goes on the net", "hf download Owner/Model-GGUF"],
            ),
            ("chat -m hf.co/Owner/Model:Q8_0", 1, &["hf download Owner/Model --include '*Q8_0*.gguf'"]),
            (
                "eval -d a -m https://huggingface.co/o/r/blob/main/a.gguf",
                1,
                &["curl -L -O https://huggingface.co/o/r/resolve"],
            ),
            ("tokenize -m smollm2:135m a", 1, &["ollama show --modelfile smollm2:135m"]),
            ("run -p a -a owner/lora:0.5", 1, &["hf download owner/lora --local-dir lora"]),
            ("run -p a -m some", 1, &["some: it is a folder", "some/small.gguf"]),
            ("run -p a -m hf", 1, &["convert_hf_to_gguf.py"]),
            ("run -p a -m none", 1, &["no GGUF file lies in it"]),
            ("run -p a -m text.gguf", 1, &["text.gguf: not a GGUF file"]),
            ("run -p a -m empty.gguf", 1, &["empty.gguf: not a GGUF file: it is empty; copy or download it again"]),
            ("run -p a -m bytes.gguf", 1, &["bytes.gguf: not a GGUF file: it begins with the bytes [01, 02, 03, 00]"]),
            ("run -p a -m page.gguf", 1, &["not a GGUF file", "HTML", "download it again"]),
            ("run -p a -m pointer.gguf", 1, &["not a GGUF file", "Git LFS pointer", "git lfs pull"]),
            ("run -p a -m cut.gguf", 1, &["cut.gguf: damaged file", "400000"]),
            ("inspect nowhere", 1, &["nowhere: no such file"]),
        ],
    );
}

#[test]
fn what_is_no_adapter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let peft = safetensors(&["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]);
    let mlx = safetensors(&["model.layers.0.self_attn.q_proj.lora_a", "model.layers.0.self_attn.q_proj.lora_b"]);
    let whole = safetensors(&["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]);
    write(folder, "text", "some words that are no adapter");
    write(folder, "empty", "");
    write(folder, "model.gguf", mynah::base::MODEL);
    write(folder, "pointer", POINTER);
    write(folder, "pickle.pt", b"PK\x03\x04 archive");
    write(folder, "old.bin", b"\x80\x02}q\x00.");
    write(folder, "image.safetensors", safetensors(&["lora_unet_down.lora_down.weight"]));
    write(folder, "peft.safetensors", &peft);
    write(folder, "weights/adapter_model.safetensors", &peft);
    write(folder, "config/adapter_config.json", CONFIG);
    write(folder, "bin/adapter_config.json", CONFIG);
    write(folder, "bin/adapter_model.bin", "x");
    write(folder, "lfs/adapter_config.json", CONFIG);
    write(folder, "lfs/adapter_model.safetensors", POINTER);
    write(folder, "lfs2/adapter_config.json", POINTER);
    write(folder, "lfs2/adapter_model.safetensors", &peft);
    write(folder, "mlx/adapter_config.json", "{\"fine_tune_type\":\"lora\"}");
    write(folder, "mlx/adapters.safetensors", &mlx);
    write(folder, "full/config.json", "{}");
    write(folder, "full/model.safetensors", &whole);
    write(folder, "trainer/checkpoint-9/adapter_config.json", CONFIG);
    write(folder, "saved/checkpoint-3.mynah", "");
    std::fs::create_dir(folder.join("bare")).unwrap();
    all_say(
        folder,
        &[
            ("run -p a -a nowhere", 1, &["nowhere: no such file"]),
            ("run -p a -a ''", 2, &["the name of a file is empty"]),
            ("run -p a -a text", 1, &["text: not an adapter: it is text: some words"]),
            ("run -p a -a empty", 1, &["empty: not a", "it is empty"]),
            ("run -p a -a model.gguf", 1, &["model.gguf: not an adapter", "a file of architecture llama", "-m MODEL"]),
            ("run -p a -a pointer", 1, &["pointer: not an adapter", "Git LFS pointer", "git lfs pull"]),
            ("run -p a -a pickle.pt", 1, &["pickle.pt", "a pickle", "convert it to safetensors"]),
            ("run -p a -a old.bin", 1, &["old.bin", "a pickle", "convert it to safetensors"]),
            ("run -p a -a image.safetensors", 1, &["makes images"]),
            ("run -p a -a peft.safetensors", 1, &["PEFT", "adapter_config.json", "-a FOLDER"]),
            ("run -p a -a config/adapter_config.json", 1, &["configuration of a PEFT adapter", "-a FOLDER"]),
            ("run -p a -a mlx/adapters.safetensors", 1, &["MLX", "adapter_config.json", "-a FOLDER"]),
            ("run -p a -a full/model.safetensors", 1, &["a whole model", "convert_hf_to_gguf.py"]),
            ("run -p a -a weights", 1, &["adapter_config.json is missing"]),
            ("run -p a -a config", 1, &["adapter_model.safetensors is missing"]),
            ("run -p a -a bin", 1, &["bin", "a pickle", "convert it to safetensors"]),
            ("run -p a -a lfs", 1, &["lfs", "Git LFS pointer", "git lfs pull"]),
            ("run -p a -a lfs2", 1, &["adapter_config.json", "Git LFS pointer"]),
            ("run -p a -a mlx", 1, &["mlx: adapter_config.json", "lora_parameters"]),
            ("run -p a -a full", 1, &["a whole model", "convert_hf_to_gguf.py"]),
            ("run -p a -a trainer", 1, &["perhaps checkpoint-9 in it is meant"]),
            ("run -p a -a saved", 1, &["perhaps checkpoint-3.mynah in it is meant"]),
            ("run -p a -a bare", 1, &["the folder is empty"]),
        ],
    );
}

#[test]
fn numbers_are_refused_by_their_range() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m.gguf", mynah::base::MODEL);
    all_say(
        dir.path(),
        &[
            ("run -p a --top-k -1", 2, &["--top-k", "'-1'", "it must be 0 to"]),
            ("run -p a --temp -1", 2, &["temp", "-1", "0 to"]),
            ("run -p a -n -1", 2, &["'-1'", "it must be 1 or more"]),
            ("run -p a --threads -2", 2, &["'-2'", "it must be 1 to 1024"]),
            ("plan -m m.gguf --lr -1", 2, &["--lr", "'-1'", "it must be"]),
            ("plan -m m.gguf --rank -1", 2, &["--rank", "'-1'", "it must be 1 to"]),
            ("plan -m m.gguf --steps -5", 2, &["--steps", "'-5'", "it must be 1 or more"]),
            ("plan -m m.gguf --alpha -1e99", 2, &["alpha"]),
            ("detokenize -m m.gguf -1", 2, &["'-1'", "it must be 0 or more"]),
        ],
    );
    let out = run(dir.path(), "run -n 1 -p -1 --json", b"");
    assert!(out.status.success(), "a prompt may be a number: {}", said(&out));
}

/// The first contact: each line that is shown runs, and the demo ends with a file to talk with.
#[test]
fn the_name_alone_says_what_to_try() {
    let dir = tempfile::tempdir().unwrap();
    let hello = run(dir.path(), "", b"");
    assert!(hello.status.success());
    let text = String::from_utf8(hello.stdout).unwrap();
    // What a line does stands two spaces behind it.
    let lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("  mynah ")?.split("  ").next()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    let mut shown = String::new();
    for line in &lines {
        let out = run(dir.path(), line, b"Good evening.\n");
        assert!(out.status.success() && !out.stdout.is_empty(), "{line}: {}", said(&out));
        if line.starts_with("demo") {
            shown = said(&out);
        }
    }
    let next: Vec<&str> = shown.lines().filter_map(|l| l.strip_prefix("  mynah ")).collect();
    assert_eq!(next.len(), 2, "{shown}");
    for line in &next {
        assert!(line.contains("-a demo.mynah"));
        let out = run(dir.path(), line, b"Good evening.\n");
        assert!(out.status.success() && !out.stdout.is_empty(), "{line}: {}", said(&out));
    }
    let file = dir.path().join("demo.mynah");
    assert!(file.exists());

    // What is somebody else's stays.
    std::fs::write(&file, "mine").unwrap();
    let again = run(dir.path(), "demo", b"");
    assert!(again.status.success() && said(&again).contains("demo.mynah is another file"), "{}", said(&again));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    all_say(dir.path(), &[("demo -o demo.mynah", 2, &["demo.mynah: the file is there already", "--force"])]);
}

#[test]
fn the_doctor_says_what_a_model_takes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m.gguf", mynah::base::MODEL);
    let json = |line: &str| -> Value { serde_json::from_slice(&run(dir.path(), line, b"").stdout).unwrap() };
    let machine = json("doctor --json");
    assert!(machine["model"].is_null() && machine["threads"].as_u64().unwrap() > 0);
    let backends: Vec<&str> = machine["backends"].as_array().unwrap().iter().map(|b| b.as_str().unwrap()).collect();
    assert!(backends.contains(&machine["backend"].as_str().unwrap()) && backends.contains(&"plain"));
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of}"));
    assert!(number(&machine, "memory_bytes") >= number(&machine, "free_bytes") && number(&machine, "free_bytes") > 0.0);
    let all = json("doctor -m m.gguf --json");
    let model = &all["model"];
    let size = mynah::base::MODEL.len() as f64;
    assert_eq!(number(model, "bytes"), size);
    assert!(number(model, "run_bytes") > size && number(model, "cache_bytes") > 0.0);
    // What it reads for a token is most of its file, and the plan is that of the command.
    assert!((0.5 * size..size).contains(&number(model, "bytes_per_token")));
    let plan = json("plan -m m.gguf --json");
    let ratio = number(model, "train_bytes") / number(&plan, "total");
    assert!((0.9..1.1).contains(&ratio), "{model} {plan}");
    let rate = number(&all, "bytes_per_second") / number(model, "bytes_per_token");
    assert!((number(model, "tokens_per_second") / rate - 1.0).abs() < 1e-9);
    let text = String::from_utf8(run(dir.path(), "doctor -m m.gguf", b"").stdout).unwrap();
    for word in ["kernels", "bandwidth", "memory to run", "memory to train", "an estimate"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

/// A mark that some programs put in front of a text is none of it.
#[test]
fn a_mark_on_standard_input_is_taken_off() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = |input: &[u8]| -> Value {
        let out = run(dir.path(), "run -n 1 --json", input);
        let last = String::from_utf8(out.stdout).unwrap().lines().last().unwrap().to_string();
        serde_json::from_str::<Value>(&last).unwrap()["prompt_tokens"].clone()
    };
    assert_eq!(tokens(b"\xef\xbb\xbfGood evening.\n"), tokens(b"Good evening.\n"));
    let chat = run(dir.path(), "chat", b"\xef\xbb\xbf/help\n");
    assert!(chat.status.success() && said(&chat).contains("/regenerate"), "{}", said(&chat));
    let out = run(dir.path(), "run -n 1", b"ab\xffc");
    assert!(
        out.status.code() == Some(2) && said(&out).contains("standard input: not UTF-8 at byte 2"),
        "{}",
        said(&out)
    );
}

/// A template that takes no system message: what was asked for was not done.
#[test]
fn a_system_message_that_is_refused_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
        [{{ m.role }}]{{ m.content }}{% endfor %}";
    write(dir.path(), "m.gguf", crate::app_talk::file_with_template(Some(refuses)));
    for (line, input) in [
        ("chat -m m.gguf -n 4", &b"/system Be brief.\nGood evening.\n"[..]),
        ("chat -m m.gguf -n 4 --system 'Be brief.'", b"Good evening.\n"),
    ] {
        let out = run(dir.path(), line, input);
        assert_ne!(out.status.code(), Some(0), "{line}: {}", said(&out));
        assert!(said(&out).contains("no system"), "{line}: {}", said(&out));
    }
    let merged = run(dir.path(), "chat -m m.gguf -n 4 --system 'Be brief.' --merge-system", b"Good evening.\n");
    assert_eq!(merged.status.code(), Some(0), "{}", said(&merged));
}

/// Who feeds a conversation from a pipe sees by its exit status that something was not done.
#[test]
fn a_conversation_from_a_pipe_tells_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    for (input, status, words) in [
        ("Good evening.\n", 0, ""),
        ("/sing\n/exit\n", 1, "/sing: no such command"),
        (&*format!("{}\n", "many words ".repeat(3000)), 1, "there is room for"),
    ] {
        let out = run(dir.path(), "chat -n 4", input.as_bytes());
        assert!(out.status.code() == Some(status) && said(&out).contains(words), "{status}: {}", said(&out));
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    /// Standard output that is full, and standard output that nobody reads.
    #[test]
    fn output_that_cannot_be_written_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "m.gguf", mynah::base::MODEL);
        write(dir.path(), "t.txt", "The keeper wrote about the lamp. ".repeat(9));
        for line in [
            "",
            "--help",
            "--version",
            "run --help",
            "run -p a -n 2",
            "run -p a -n 2 --json",
            "chat",
            "eval -d t.txt",
            "embed -p a",
            "logits -p a",
            "tokenize -m m.gguf a",
            "detokenize -m m.gguf 7",
            "inspect m.gguf",
            "models",
            "doctor",
            "plan -m m.gguf",
        ] {
            let with = |stdout: Stdio| {
                let mut child = mynah(dir.path())
                    .args(line.split_whitespace())
                    .stdin(Stdio::piped())
                    .stdout(stdout)
                    .spawn()
                    .unwrap();
                _ = child.stdin.take().unwrap().write_all(b"Good evening.\n");
                child.wait_with_output().unwrap()
            };
            if Path::new("/dev/full").exists() {
                let full = with(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
                let text = said(&full);
                assert!(
                    full.status.code() == Some(1) && text.contains("standard output cannot be written"),
                    "{line}: {text}"
                );
            }
            let (read, written) = std::io::pipe().unwrap();
            drop(read);
            let closed = with(written.into());
            assert!(closed.status.code() == Some(141) && !said(&closed).contains("rror"), "{line}: {}", said(&closed));
        }
    }

    /// Ends what hangs.
    fn ends(mut child: Child, what: &str) -> Output {
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("{what} hangs");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }

    #[test]
    fn nothing_opens_a_pipe_or_a_device() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
        for (name, kind) in [("pipe", "a pipe"), ("/dev/zero", "a device"), ("/dev/null", "a device")] {
            for line in [
                "run -p a -m",
                "run -p a -a",
                "inspect",
                "eval -d",
                "embed -d",
                "tokenize a -m",
                "doctor -m",
                "demo --force -o",
            ] {
                let child = mynah(dir.path()).args(line.split_whitespace()).arg(name).spawn().unwrap();
                let out = ends(child, &format!("{line} {name}"));
                let text = said(&out);
                assert_eq!(out.status.code(), Some(1), "{line} {name}: {text}");
                assert!(text.contains(name) && text.contains(kind), "{line} {name}: {text}");
            }
        }
    }

    /// A conversation that a shell starts, after which it waits for a line.
    fn idle(folder: &Path, shell: &str) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{shell} exec \"$0\" chat -n 4 --json"), env!("CARGO_BIN_EXE_mynah")])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        answers(&mut child, &mut lines);
        (child, lines)
    }

    fn answers(child: &mut Child, lines: &mut impl BufRead) {
        child.stdin.as_mut().unwrap().write_all(b"Good evening.\n").unwrap();
        loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "no answer");
            if line.contains("\"stop\"") {
                return;
            }
        }
    }

    fn kill(child: &Child, signal: &str) {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }

    #[test]
    fn a_request_to_terminate_ends_an_idle_conversation() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, _lines) = idle(dir.path(), "");
        kill(&child, "-TERM");
        // Standard input stays open.
        let stdin = child.stdin.take();
        let out = ends(child, "a conversation");
        assert_eq!((out.status.code(), out.status.signal()), (Some(143), None), "{}", said(&out));
        drop(stdin);
    }

    /// The line editor changes how the terminal answers; a signal does not leave it so.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_terminal_is_as_before_after_a_signal() {
        let Ok(_) = Command::new("script").arg("--version").output() else {
            assert!(std::env::var_os("CI").is_none(), "no `script` to make a terminal with");
            return eprintln!("skipped: no `script` to make a terminal with");
        };
        for (signal, status) in [("TERM", "143"), ("HUP", "129")] {
            let dir = tempfile::tempdir().unwrap();
            let line = format!(
                "exec 3<&0; stty -g > before; {} chat <&3 & echo $! > pid; wait $!; echo $? > status; stty -g > after",
                env!("CARGO_BIN_EXE_mynah")
            );
            let mut child = Command::new("script")
                .args(["-qec", &format!("sh -c '{line}'"), "/dev/null"])
                .current_dir(dir.path())
                .env("TERM", "xterm")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let (mut seen, mut buffer) = (String::new(), [0; 4096]);
            while !seen.contains("\u{1b}[?2004h") {
                let n = screen.read(&mut buffer).unwrap();
                assert!(n > 0, "{seen}");
                seen += &String::from_utf8_lossy(&buffer[..n]);
            }
            let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().trim().to_string();
            let sent = Command::new("kill").args([format!("-{signal}"), read("pid")]).status().unwrap();
            assert!(sent.success());
            screen.read_to_string(&mut seen).ok();
            child.wait().unwrap();
            drop(keys);
            assert_eq!(read("status"), status, "{seen}");
            assert_eq!(read("after"), read("before"), "{seen}");
        }
    }

    /// As after `nohup`, and in the background of a script.
    #[test]
    fn signals_that_are_ignored_stay_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, mut lines) = idle(dir.path(), "trap '' HUP INT;");
        for _ in 0..3 {
            kill(&child, "-HUP");
            kill(&child, "-INT");
        }
        answers(&mut child, &mut lines);
        drop(child.stdin.take());
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        let out = ends(child, "a conversation");
        assert!(out.status.success() && !said(&out).contains("stopping"), "{}", said(&out));
    }
}
