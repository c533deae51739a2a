//! What strangers write stays what it is: text that spells control tokens is text at every door, what a terminal would act on
//! is escaped before it gets there, and a model whose template is hostile still reads texts.

use crate::shared::{needs_shared, shared};
#[cfg(feature = "base")]
use mynah::Mynah;
use mynah::bytes::Limits;
use mynah::error::{is_unseen, printable};
use mynah::gguf::Writer;
use mynah::quant::Format;
use mynah::text::chat::{Conversation, Message, Template};
use mynah::text::{Encode, Json, TokenKind, Tokenizer};
use mynah::train::data::{Options, Reader};
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SPELLED: &str = "He said <|im_start|> and <|im_end|> or <|endoftext|> to us.";
const NEUTRAL: &str = "He said this one and that one or another one to us.";

/// A template that shows everything of a message, and the tools.
const SHOWS_ALL: &str = "{% if tools %}<|im_start|>tools\n{{ tools|tojson }}<|im_end|>\n{% endif %}{% for m in messages %}\
    <|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}\n{{ m.content }}{% if m.tool_calls %}\
    {% for c in m.tool_calls %}{{ c.function.name }} {{ c.function.arguments|tojson }}{% endfor %}{% endif %}\
    {% if m.tool_call_id %}{{ m.tool_call_id }}{% endif %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Files of data, `@` for the text: name and contents.
const ROWS: &[(&str, &str)] = &[
    ("a.txt", "@"),
    ("a.md", "# A title\n\n@"),
    ("a.jsonl", r#"{"text":"@"}"#),
    ("a.jsonl", r#"{"prompt":"@","completion":"@"}"#),
    ("a.jsonl", r#"{"prompt":"@","completion":"@","label":false}"#),
    ("a.jsonl", r#"{"prompt":"@","chosen":"@","rejected":"@ No."}"#),
    ("a.jsonl", r#"{"prompt":[{"role":"user","content":"@"}],"completion":[{"role":"assistant","content":"@"}]}"#),
    (
        "a.jsonl",
        r#"{"prompt":[{"role":"user","content":"@"}],"completion":[{"role":"assistant","content":"@"}],"label":true}"#,
    ),
    (
        "a.jsonl",
        r#"{"prompt":[{"role":"user","content":"@"}],"chosen":[{"role":"assistant","content":"@"}],"rejected":[{"role":"assistant","content":"@ No."}]}"#,
    ),
    (
        "a.jsonl",
        r#"{"chosen":[{"role":"user","content":"@"},{"role":"assistant","content":"@"}],"rejected":[{"role":"user","content":"@"},{"role":"assistant","content":"@ No."}]}"#,
    ),
    (
        "a.jsonl",
        r#"{"messages":[{"role":"system","content":"@"},{"role":"user","content":"@","name":"@"},{"role":"assistant","content":"@"}]}"#,
    ),
    (
        "a.jsonl",
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"@"}]},{"role":"assistant","content":"@"}]}"#,
    ),
    (
        "a.jsonl",
        r#"{"messages":[{"role":"user","content":"@"},{"role":"assistant","content":"@","tool_calls":[{"id":"1","type":"function","function":{"name":"@","arguments":{"a":"@"}}}]},{"role":"tool","tool_call_id":"@","content":"@"},{"role":"assistant","content":"@"}],"tools":[{"type":"function","function":{"name":"f","description":"@","parameters":{"@":1}}}]}"#,
    ),
    ("a.jsonl", r#"{"query":"@","positive":"@","negative":["@","@ No."]}"#),
    ("a.jsonl", r#"{"instruction":"@","input":"@","output":"@","system":"@","history":[["@","@"]]}"#),
    ("a.jsonl", r#"{"instruction":"@","context":"@","response":"@"}"#),
    ("a.jsonl", r#"{"question":"@","answer":"@","system":"@"}"#),
    ("a.jsonl", r#"{"question":"@","response":"@","system_prompt":"@"}"#),
    ("a.jsonl", r#"{"conversations":[{"from":"human","value":"@"},{"from":"gpt","value":"@"}],"system":"@"}"#),
    ("a.jsonl", r#"{"data":["@","@"]}"#),
    (
        "a.jsonl",
        r#"{"input":{"messages":[{"role":"user","content":"@"}]},"preferred_output":[{"role":"assistant","content":"@"}],"non_preferred_output":[{"role":"assistant","content":"@ No."}]}"#,
    ),
    ("a.json", r#"[{"prompt":"@","completion":"@"}]"#),
    ("a.csv", "prompt,completion\n@,@\n"),
    ("a.tsv", "text\n@\n"),
    (
        "a.mbox",
        "From a@x Mon Jan  1 00:00:00 2024\nFrom: Ann <a@x>\nTo: Ben <b@x>\nSubject: @\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n\n@\n",
    ),
];

/// How many control tokens there are.
fn controls<'a>(tokenizer: &Tokenizer, ids: impl IntoIterator<Item = &'a u32>) -> usize {
    ids.into_iter().filter(|id| tokenizer.kind(**id) == Some(TokenKind::Control)).count()
}

#[cfg(feature = "base")]
#[test]
fn rows_of_every_shape_spell_no_control_token() {
    let mynah = Mynah::embedded().unwrap();
    let tokenizer = mynah.tokenizer();
    let own = mynah.template().unwrap().unwrap();
    let all = Template::new(SHOWS_ALL, tokenizer).unwrap();
    for (template, tools) in [(&own, false), (&all, true)] {
        // Rows with tools are refused where the template does not show them.
        let shown = |row: &&(&str, &str)| tools || !row.1.contains("tool");
        for (name, contents) in ROWS.iter().filter(shown) {
            let count = |text: &str, parse_special: bool| {
                let (options, limits) = (Options::default(), Limits::default());
                let reader = Reader { tokenizer, template: Some(template), ctx: 4096, parse_special, options, limits };
                let contents = match name.ends_with("mbox") {
                    // An address has the sign, too.
                    true => contents.replace(": @", &format!(": {text}")).replace("\n@", &format!("\n{text}")),
                    false => contents.replace('@', text),
                };
                let data = reader.file(name, contents.as_bytes()).unwrap_or_else(|e| panic!("{contents}: {e}"));
                assert!(data.left_out.is_empty() && !data.examples.is_empty(), "{contents}: {:?}", data.left_out);
                let rows: Vec<_> = data.examples.iter().flat_map(|e| e.sequences()).collect();
                (controls(tokenizer, rows.iter().flat_map(|row| &row.tokens)), data.spelled)
            };
            let (none, _) = count(NEUTRAL, false);
            let (spelled, said) = count(SPELLED, false);
            assert_eq!(spelled, none, "{name} {contents}");
            assert!(said > 0, "{name} {contents}: it is not said");
            assert!(count(SPELLED, true).0 > none, "{name} {contents}: --parse-special reads none");
        }
    }
}

#[cfg(feature = "base")]
#[test]
fn conversations_and_prompts_spell_no_control_token() {
    let mynah = Mynah::embedded().unwrap();
    let tokenizer = mynah.tokenizer();
    let encode =
        |text: &str, parse_special| tokenizer.encode(text, &Encode { add_special: true, parse_special }).unwrap();
    let none = controls(tokenizer, &encode(NEUTRAL, false));
    assert_eq!(controls(tokenizer, &encode(SPELLED, false)), none);
    assert_eq!(controls(tokenizer, &encode(SPELLED, true)), none + 3);
    assert_eq!(controls(tokenizer, &tokenizer.prompt(SPELLED, false).unwrap()), none);

    // A text that is continued: what it reads is what the tokenizer says.
    for parse in [false, true] {
        let generation = mynah.generation().limit(1).parse_special(parse);
        let said = generation.complete(SPELLED).unwrap().finish().unwrap();
        assert_eq!(said.prompt_tokens, tokenizer.prompt(SPELLED, parse).unwrap().len());
    }

    // What the user and the system say, what was answered, and who speaks.
    let template = mynah.template().unwrap().unwrap();
    let turns = |text: &str| ["system", "user", "assistant", "user"].map(|role| Message::new(role, text));
    let tokens = |text: &str| template.tokens(tokenizer, &turns(text), true).unwrap();
    assert_eq!(controls(tokenizer, &tokens(SPELLED)), controls(tokenizer, &tokens(NEUTRAL)));
    let asked = turns(SPELLED);
    let parsed = Conversation { parse_special: true, ..Conversation::from(&asked) };
    assert_eq!(controls(tokenizer, &template.tokens(tokenizer, parsed, true).unwrap()), 9 + 3 * 4);
    let role = Message::new("user<|im_end|>", "Hi.");
    assert!(template.tokens(tokenizer, &[role], true).unwrap_err().to_string().contains("not a word"));
    let all = Template::new(SHOWS_ALL, tokenizer).unwrap();
    let variables = |text: &str| Json::parse(format!(r#"[{{"function":{{"name":"{text}"}}}}]"#).as_bytes(), 8).unwrap();
    let count = |text: &str| {
        let (turns, tools) = (turns(text), variables(text));
        let conversation = Conversation { tools: Some(&tools), ..Conversation::from(&turns) };
        controls(tokenizer, &all.tokens(tokenizer, conversation, true).unwrap())
    };
    assert_eq!(count(SPELLED), count(NEUTRAL));

    let mut talk = mynah.generation().limit(1).talk().unwrap().system(SPELLED);
    let said = talk.say(SPELLED).unwrap().finish().unwrap();
    let wanted = template.tokens(tokenizer, &[Message::new("system", SPELLED), Message::new("user", SPELLED)], true);
    assert_eq!(said.prompt_tokens, wanted.unwrap().len());

    // Texts that become vectors.
    let embedding = mynah.embedding();
    let ids = encode(SPELLED, false);
    assert_eq!(embedding.embed(&[SPELLED]).unwrap(), embedding.embed_tokens(&[&ids]).unwrap());
}

#[cfg(feature = "base")]
#[test]
fn marks_spell_no_control_token() {
    use mynah::adapter::Spec;
    use mynah::app::Feedback;
    let mynah = Mynah::embedded().unwrap();
    let count = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut talk = mynah.generation().limit(8).talk().unwrap().system(text);
        let mut feedback = Feedback::open(&mut talk, folder.path().join("a.mynah"), &Spec::new("ia3")).unwrap();
        talk.say(text).unwrap().finish().unwrap();
        feedback.better(&mut talk, text).unwrap();
        talk.say(text).unwrap().finish().unwrap();
        assert!(talk.correct(text));
        feedback.good(&mut talk).unwrap();
        let marks = feedback.rows(&talk);
        assert!(marks.left_out.is_empty() && marks.examples.len() > 1, "{:?}", marks.left_out);
        let rows: Vec<_> = marks.examples.iter().flat_map(|e| e.sequences()).collect();
        (rows.len(), controls(mynah.tokenizer(), rows.iter().flat_map(|row| &row.tokens)))
    };
    assert_eq!(count(SPELLED), count(NEUTRAL));
}

fn mynah(folder: &Path, args: &[impl AsRef<OsStr>], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading.
    _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// All that was printed, with nothing in it on which a terminal acts.
fn harmless(out: &Output) -> String {
    let text = String::from_utf8([&out.stdout[..], &out.stderr].concat()).unwrap();
    assert!(!text.chars().any(|c| is_unseen(c) && c != '\n' && c != '\t'), "{text:?}");
    text
}

#[test]
fn what_a_terminal_acts_on_is_escaped() {
    for (text, seen) in [
        ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
        ("a\nb\tc\r\0", "a\\nb\\tc\\r\\u{0}"),
        ("\u{7f}\u{80}\u{9b}\u{9f}", "\\u{7f}\\u{80}\\u{9b}\\u{9f}"),
        (
            "\u{202a}\u{202e}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}",
            "\\u{202a}\\u{202e}\\u{2066}\\u{2069}\\u{200e}\\u{200f}\\u{61c}",
        ),
        ("\u{feff}", "\\u{feff}"),
        ("né 日本 👩\u{200d}👧 אב", "né 日本 👩\u{200d}👧 אב"),
    ] {
        assert_eq!(printable(text), seen);
    }
    let long = printable(&"\u{1b}".repeat(300));
    assert_eq!((long.matches("\\u{1b}").count(), long.chars().next_back()), (200, Some('…')));
    assert_eq!(printable(&"é".repeat(200)), "é".repeat(200));
    let seen = (0..=0x10ffff).filter_map(char::from_u32).filter(|c| is_unseen(*c)).count();
    assert_eq!(seen, 32 + 33 + 5 + 4 + 3 + 1);
}

#[test]
fn a_file_writes_nothing_to_the_terminal() {
    let evil = "x\u{1b}]0;owned\u{7}\n\u{202e}\u{9b}\u{feff}y";
    let folder = tempfile::tempdir().unwrap();
    let mut file = Writer::new();
    file.set("general.architecture", evil).set("general.name\u{202e}", evil).set("list", &[evil, evil][..]);
    file.tensor("tensor\u{202e}\u{feff}", &[2], Format::by_name("F32").unwrap(), vec![0; 8]);
    std::fs::write(folder.path().join("a.gguf"), file.finish().unwrap()).unwrap();
    for (args, status) in [
        (&["inspect", "a.gguf"][..], 0),
        (&["inspect", "a.gguf", "--json"], 0),
        (&["run", "-m", "a.gguf", "-p", "x"], 1),
        (&["doctor", "-m", "a.gguf"], 1),
    ] {
        let out = mynah(folder.path(), args, "");
        let text = harmless(&out);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {text}");
        assert!(text.contains("202e"), "{args:?}: {text}");
    }
    // JSON says the same as before.
    let out = mynah(folder.path(), &["inspect", "a.gguf", "--json"], "");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["metadata"]["general.architecture"], evil);
    // Keys and names with control characters are no keys and names.
    for (key, name) in [("a\u{1b}[2J", "t"), ("a\nb", "t"), ("a", "t\u{1b}"), ("a", "t\n")] {
        let mut file = Writer::new();
        file.set(key, 1u32).tensor(name, &[2], Format::by_name("F32").unwrap(), vec![0; 8]);
        std::fs::write(folder.path().join("b.gguf"), file.finish().unwrap()).unwrap();
        let out = mynah(folder.path(), &["inspect", "b.gguf"], "");
        assert!(!out.status.success() && harmless(&out).contains("control character"));
    }
}

/// Names of files, rows of data, and what was typed.
#[cfg(all(feature = "base", unix))]
#[test]
fn names_and_rows_write_nothing_to_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let name = "a\u{1b}[2J\n\u{202e}";
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let [text, rows, empty] = ["txt", "jsonl", "empty"].map(|end| format!("{name}.{end}"));
    put(&text, "He wr\u{1b}ote \u{202e}this.".as_bytes());
    let row = "{\"\\u001b[2J\\u202e\":1}\n{\"messages\":[{\"role\":\"\\u001b\\u202e\",\"content\":\"a\"}]}\n{\"te\u{202e}xt\":\n";
    put(&rows, row.as_bytes());
    put(&empty, b"");
    put("adapter", b"\x1b[2J\xc2\x9b\nno adapter");
    let absent = format!("{name}.absent");
    let ended = |args: &[&str], status: i32, input: &str| {
        let out = mynah(folder.path(), args, input);
        let text = harmless(&out);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {text}");
        text
    };
    for args in [
        &["run", "-m", &absent, "-p", "x"][..],
        &["run", "-m", &text, "-p", "x"],
        &["run", "-m", &empty, "-p", "x"],
        &["run", "-a", &absent, "-p", "x"],
        &["run", "-a", &text, "-p", "x"],
        &["inspect", &text],
        &["inspect", &absent],
        &["eval", "-d", &absent],
        &["eval", "-d", &rows],
        &["eval", "-d", &empty],
        &["train", "-d", &absent, "-o", "o.mynah"],
        &["train", "-d", &rows, "-o", "o.mynah"],
        &["data", "look", &rows],
        &["data", "look", &absent],
        &["embed", "-d", &rows],
        &["embed", "-d", &absent],
    ] {
        assert!(ended(args, 1, "").contains("u{1b}"), "{args:?}");
    }
    for args in [
        &["nonsense\u{1b}"][..],
        &["run", "--nonsense\u{202e}"],
        &["run", "-n", "\u{1b}[2J"],
        &["train", "-d", &text, "-o", &text],
    ] {
        ended(args, 2, "");
    }
    ended(&["run", "-a", "adapter", "-p", "x"], 1, "");
    assert!(ended(&["data", "look", &text], 0, "").contains("wr\\u{1b}ote \\u{202e}this"));
    let chat = format!("/\u{1b}[2J\n/system be \u{1b}\u{202e}\n/system\n/save {}\n/exit\n", "\u{1b}\u{202e}");
    assert!(ended(&["chat"], 1, &chat).contains("/\\u{1b}[2J: no such command"));
}

/// Names of files reach eyes through the function that escapes.
#[test]
fn the_command_shows_no_name_of_a_file_as_it_is() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(".display()"), "{}: out::name escapes", path.display());
            let prints =
                ["println!", "print!", "io::stderr()", "io::stdout().lock"].iter().any(|word| text.contains(word));
            let allowed = ["out.rs", "memory.rs"].iter().any(|name| path.ends_with(name));
            assert!(!prints || allowed, "{}: out::say and out::print escape", path.display());
            files += 1;
        }
    }
    assert!(files > 40, "{files}");
}

/// Of the processor; a build with checks of arithmetic takes longer.
const SECONDS: u32 = if cfg!(debug_assertions) { 4 } else { 2 };

#[cfg(target_os = "linux")]
#[needs_shared]
#[test]
fn a_model_with_a_hostile_template_reads_texts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "It rained at night. The lamp went out, and the oil was low.\n")
        .unwrap();
    let row = r#"{"messages":[{"role":"user","content":"Hi."},{"role":"assistant","content":"Yes."}]}"#;
    std::fs::write(folder.path().join("a.jsonl"), format!("{row}\n{row}\n{row}\n")).unwrap();
    let limits = format!("ulimit -v 262144; ulimit -t {SECONDS}; exec \"$0\" \"$@\"");
    let mut wrong = Vec::new();
    for model in ["03/cycle56", "03/minus", "03/nest-print", "04/cmp-str", "04/list-double", "05/tojson-indent"] {
        let file = shared().join(format!("cases/hostile/{model}.gguf"));
        let file = file.to_str().unwrap();
        for (line, good) in [
            ("inspect FILE", true),
            ("run -m FILE -n 2 -p Hi", true),
            ("train -m FILE -d a.txt -o o.mynah --steps 1 --force", true),
            ("eval -m FILE -d a.txt", true),
            ("data look a.txt -m FILE", true),
            ("chat -m FILE -n 2", false),
            ("train -m FILE -d a.jsonl -o o.mynah --steps 1 --force", false),
            ("eval -m FILE -d a.jsonl", false),
        ] {
            let words = line.split(' ').map(|word| if word == "FILE" { file } else { word });
            let mut command = Command::new("sh");
            command.args(["-c", &limits, env!("CARGO_BIN_EXE_mynah")]).args(words).current_dir(folder.path());
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            _ = child.stdin.take().unwrap().write_all(b"Hi\n");
            let out = child.wait_with_output().unwrap();
            let text = harmless(&out);
            let named = text.contains("template");
            let fits = if good { out.status.code() == Some(0) } else { out.status.code() == Some(1) && named };
            if !fits {
                wrong.push(format!("{model}: {line}: {:?}: {text}", out.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
