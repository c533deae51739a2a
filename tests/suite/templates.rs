//! Published chat templates: their renderings against Jinja2, what is learnt of conversations under them, and rows of data as
//! other people's files have them.

use crate::shared::{needs_shared, shared};
use mynah::Mynah;
use mynah::app::{Data, Settings};
use mynah::bytes::Limits;
use mynah::gguf::{Gguf, Writer};
use mynah::text::chat::{Conversation, Template, Turns};
use mynah::text::{Json, Tokenizer};
use mynah::train::Example;
use mynah::train::data::Reader;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn json(path: &Path) -> Json {
    Json::parse(&fs::read(path).unwrap(), 64).unwrap()
}

fn text<'a>(of: &'a Json, key: &str) -> &'a str {
    of.get(key).and_then(Json::text).unwrap()
}

fn list<'a>(of: &'a Json, key: &str) -> &'a [Json] {
    of.get(key).and_then(Json::list).unwrap()
}

/// Bytes as tokens, and control tokens behind them, of which `eos` ends a text.
fn tokenizer(control: &[String], eos: &str) -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let mut kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
    for spelling in control.iter().filter(|c| !["<s>", "</s>"].contains(&c.as_str())) {
        tokens.push(spelling.clone());
        kinds.push(3);
    }
    let id = tokens.iter().position(|token| token == eos).unwrap() as u32;
    let mut w = Writer::new();
    w.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.add_space_prefix", false);
    w.set("tokenizer.ggml.scores", vec![0.0f32; tokens.len()].as_slice());
    w.set("tokenizer.ggml.tokens", tokens.as_slice()).set("tokenizer.ggml.token_type", kinds.as_slice());
    w.set("tokenizer.ggml.add_bos_token", false)
        .set("tokenizer.ggml.bos_token_id", 1u32)
        .set("tokenizer.ggml.eos_token_id", id);
    let gguf = Gguf::parse(w.finish().unwrap().into(), &Limits::default()).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap()
}

/// What looks like a control token in a template: words between bars, and the brackets of Mistral.
fn control_tokens(source: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let ends = [("<|", ">"), ("<｜", "｜>"), ("<", "|>"), ("[", "]")];
    for (open, close) in ends {
        for (at, _) in source.match_indices(open) {
            let Some(end) = source[at + open.len()..].find(close) else { continue };
            let word = &source[at..at + open.len() + end + close.len()];
            let inside = &word[open.len()..word.len() - close.len()];
            let named =
                |c: char| c.is_ascii_uppercase() || (open != "[" && (c.is_alphanumeric() || "_▁|\"".contains(c)));
            if word.len() < 40
                && inside.trim_start_matches('/').chars().all(|c| named(c) || c == '_')
                && !inside.is_empty()
            {
                found.push(word.into());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The published templates with conversations, and what Jinja2 makes of them.
struct Golden {
    folder: PathBuf,
    index: Json,
    all: Json,
}

impl Golden {
    fn open() -> Golden {
        let folder = shared().join("golden/chat");
        Golden { index: json(&folder.join("index.json")), all: json(&folder.join("chat.json")), folder }
    }

    fn cases(&self) -> &[Json] {
        list(&self.all, "cases")
    }

    /// A template, its tokenizer, and the variables of its model.
    fn template(&self, name: &str) -> (Template, Tokenizer, Vec<(String, Json)>) {
        let source = fs::read_to_string(self.folder.join(format!("templates/{name}.jinja"))).unwrap();
        let row = self.index.get(name).unwrap();
        let mut control = control_tokens(&source);
        let roles = ["bos_token", "eos_token"].map(|role| (role.to_string(), row.get(role).unwrap().clone()));
        for (_, spelling) in &roles {
            let spelling = spelling.text().unwrap().to_string();
            if !spelling.is_empty() && !control.contains(&spelling) {
                control.push(spelling);
            }
        }
        let tokenizer = tokenizer(&control, text(row, "eos_token"));
        let now = self.all.get("now").and_then(Json::whole).unwrap() as i64;
        (Template::new(&source, &tokenizer).unwrap().at(now), tokenizer, roles.into())
    }

    fn names(&self) -> Vec<&str> {
        self.index.object().unwrap().iter().map(|(name, _)| name.as_str()).collect()
    }
}

#[needs_shared]
#[test]
fn every_published_template_renders_as_jinja_renders_it() {
    let golden = Golden::open();
    let mut rendered = 0;
    for name in golden.names() {
        let (template, _, roles) = golden.template(name);
        for case in golden.cases().iter().filter(|case| text(case, "template") == name) {
            let turns = Turns::new(list(case, "messages")).unwrap().with_columns(case).unwrap();
            let variables = [&roles[..], case.get("extra").and_then(Json::object).unwrap()].concat();
            let prompt = *case.get("prompt").unwrap() == Json::Bool(true);
            let got = template.render(Conversation { variables: &variables, ..turns.conversation() }, prompt);
            assert_eq!(got.unwrap(), text(case, "text"), "{name} {} {prompt}", text(case, "name"));
            rendered += 1;
        }
    }
    assert_eq!((rendered, golden.names().len()), (210, 15));
}

/// What a template shows of a turn that says `<think>\nAdd them.\n</think>\n\n4`, once another follows.
const THOUGHT: &str = "<think>\nAdd them.\n</think>\n\n4";
/// The call of a tool as most write it.
const CALL: &str = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}}\n</tool_call><|im_end|>";
const NO_TOOLS: &str = "!tools: the chat template does not show them";
const NO_CALLS: &str = "!message 1: the chat template does not show tool_calls";

/// Of each template: what it writes behind the prompt before an earlier turn, the end of that, the same two of the last
/// turn, what it shows of thoughts in an earlier one, and a call of a tool, with a list of tools and without: what is learnt,
/// or an error behind `!`.
#[rustfmt::skip]
const LEARNT: &[(&str, [&str; 7])] = &[
    ("smollm2", ["", "<|im_end|>", "", "<|im_end|>", THOUGHT, NO_TOOLS, NO_CALLS]),
    ("qwen2.5", ["", "<|im_end|>", "", "<|im_end|>", THOUGHT, CALL, CALL]),
    ("qwen3", ["", "<|im_end|>", "<think>\n\n</think>\n\n", "<|im_end|>", "4", CALL, CALL]),
    ("qwen3.5", ["", "<|im_end|>", "\n</think>\n\n", "<|im_end|>", "4",
        "\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call><|im_end|>",
        "\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call><|im_end|>"]),
    ("qwq", ["", "<|im_end|>", "", "<|im_end|>", "4", CALL, CALL]),
    ("smollm3", ["", "<|im_end|>", "", "<|im_end|>", THOUGHT, NO_TOOLS, NO_CALLS]),
    ("phi-3.5", ["", "<|end|>", "", "<|end|>", THOUGHT, NO_TOOLS, NO_CALLS]),
    ("phi-3", ["", "<|end|>", "", "<|end|>", THOUGHT, NO_TOOLS, NO_CALLS]),
    ("granite-3.3", ["", "<|end_of_text|>", "", "<|end_of_text|>", THOUGHT, NO_CALLS, NO_CALLS]),
    ("granite-4.0", ["", "<|end_of_text|>", "", "<|end_of_text|>", THOUGHT,
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}}\n</tool_call><|end_of_text|>",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}}\n</tool_call><|end_of_text|>"]),
    ("mistral-nemo", ["", "</s>", "", "</s>", THOUGHT,
        "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}, \"id\": \"a1b2c3d4e\"}]</s>",
        "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}, \"id\": \"a1b2c3d4e\"}]</s>"]),
    // Only the last turn of a conversation ends with a token that ends a generation.
    ("gpt-oss", ["<|channel|>final<|message|>", "", "<|channel|>final<|message|>", "<|return|>", THOUGHT,
        " to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\", \"days\": 2}<|call|>",
        " to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\", \"days\": 2}<|call|>"]),
    ("gemma-4", ["", "<turn|>", "", "<turn|>", THOUGHT,
        "<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>,days:2}<tool_call|><|tool_response>",
        "<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>,days:2}<tool_call|><|tool_response>"]),
    ("deepseek-r1-qwen", ["", "<｜end▁of▁sentence｜>", "", "<｜end▁of▁sentence｜>", "\n\n4", NO_TOOLS,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Oslo\", \"days\": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"]),
    ("apertus", ["", "<|assistant_end|>", "", "<|assistant_end|>", THOUGHT,
        "<|tools_prefix|>[{\"get_weather\": {\"city\": \"Oslo\", \"days\": 2}}]<|tools_suffix|>",
        "<|tools_prefix|>[{\"get_weather\": {\"city\": \"Oslo\", \"days\": 2}}]<|tools_suffix|>"]),
];

/// The text of the tokens whose mask is `which`.
fn spelled(tokenizer: &Tokenizer, ids: &[u32], mask: impl IntoIterator<Item = bool>, which: bool) -> String {
    let chosen = ids.iter().zip(mask).filter(|(_, m)| *m == which).flat_map(|(id, _)| tokenizer.token_bytes(*id));
    String::from_utf8(chosen.copied().collect()).unwrap()
}

#[needs_shared]
#[test]
fn every_published_template_shows_what_is_learnt() {
    let golden = Golden::open();
    assert_eq!(golden.names(), LEARNT.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, [lead, end, last_lead, last_end, thought, call, bare_call]) in LEARNT {
        let (template, tokenizer, _) = golden.template(name);
        let said = |content: &str| format!("{lead}{content}{end}");
        let wanted = [
            ("turns", true, format!("{}{}", said("Two."), said("Five."))),
            ("system_turns", true, said("Hello! How are you?")),
            ("ends_with_assistant", true, format!("{last_lead}Blue{last_end}")),
            ("thinking", true, said(thought)),
            ("tool_call", true, call.to_string()),
            ("tool_call", false, bare_call.to_string()),
        ];
        for (which, tools, want) in wanted {
            let case =
                golden.cases().iter().find(|c| text(c, "template") == *name && text(c, "name") == which).unwrap();
            let turns = Turns::new(list(case, "messages")).unwrap();
            let turns = if tools { turns.with_columns(case).unwrap() } else { turns };
            // This template has no place for what the system says.
            let template = template.clone().merge_system(*name == "phi-3");
            let spans = template
                .settle(turns.clone())
                .and_then(|turns| template.spans_of(&tokenizer, turns.conversation(), |_| true));
            let spans = match (spans, want.strip_prefix('!')) {
                (Err(error), Some(want)) => {
                    assert_eq!(error.to_string(), want, "{name} {which}");
                    continue;
                }
                (spans, None) => spans.unwrap_or_else(|e| panic!("{name} {which}: {e}")),
                (Ok(_), Some(want)) => panic!("{name} {which}: not refused: {want}"),
            };
            let text = |which| spelled(&tokenizer, &spans.ids, spans.mask.iter().map(|m| *m == 1), which);
            assert_eq!(text(true), want, "{name} {which}");
            // Neither is any of it among what is read, nor anything lost.
            let answers = turns.messages.iter().filter(|m| m.role == "assistant" && !m.content.is_empty());
            for content in answers.map(|m| m.content.as_str()).filter(|c| !c.starts_with('<')) {
                assert!(!text(false).contains(content), "{name} {which}: {}", text(false));
            }
            let rendered = template.render(turns.conversation(), false).unwrap();
            let whole = String::from_utf8(
                tokenizer
                    .decode(&spans.ids, &mynah::text::Decode { unparse_special: true, ..Default::default() })
                    .unwrap(),
            )
            .unwrap();
            let unwritten = if *name == "apertus" && which == "ends_with_assistant" { end } else { "" };
            assert_eq!(whole, rendered + unwritten, "{name} {which}");
        }
    }
}

/// Of each template of `cases/26`: what comes before and behind an answer, whether it is trimmed, whether thoughts are left
/// out (or shown by the template's own marks, in what follows the last question), and the word with which conversations are
/// refused that begin with the assistant.
#[rustfmt::skip]
const STYLES: &[(&str, &str, &str, bool, &str, &str)] = &[
    ("date", "", "<end>", false, "", ""),
    ("generation", "", "<end>", false, "", ""),
    ("llama2", " ", " </s>", true, "", "must alternate"),
    ("llama3", "", "<|eot_id|>", true, "", ""),
    ("loopcontrols", "", "<end>", false, "", ""),
    ("qwen3", "", "<|im_end|>\n", false, "shown", ""),
    ("r1", "", "<E>", false, "left out", ""),
    ("tinyllama", "", "</s>", false, "", ""),
    ("vicuna", " ", "</s>", false, "", ""),
];

#[needs_shared]
#[test]
fn conversations_are_learnt_with_every_template_with_which_chat_works() {
    let root = shared();
    let folder = root.join("cases/26");
    let files = |ending: &str| {
        let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = paths
            .filter(|path| path.extension().is_some_and(|e| e == ending))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().into())
            .collect();
        names.sort();
        names
    };
    assert_eq!(files("gguf"), STYLES.iter().map(|style| style.0).collect::<Vec<_>>());
    assert_eq!(files("jsonl").len(), 12);
    for (name, lead, end, trims, thoughts, refuses) in STYLES {
        let mynah = Mynah::open(folder.join(format!("{name}.gguf"))).unwrap();
        let mut control = Vec::new();
        for data in files("jsonl") {
            let bytes = fs::read(folder.join(format!("{data}.jsonl"))).unwrap();
            let read = |change: fn(&mut Settings)| {
                let setup = mynah.lesson("lora").settings(|s| s.clock = Some(0)).settings(change);
                setup.read("rows.jsonl", &bytes)
            };
            let odd = ["greet", "greetsys", "twouser", "tool"].contains(&data.as_str());
            let refused = if data == "tool" && refuses.is_empty() { "does not show tool_calls" } else { refuses };
            if odd && !refused.is_empty() {
                let error = read(|_| ()).unwrap_err().to_string();
                assert!(error.starts_with("line 1: ") && error.contains(refused), "{name} {data}: {error}");
                continue;
            }
            let got = read(|_| ()).unwrap_or_else(|e| panic!("{name} {data}: {e}"));
            let rows: Vec<Json> = String::from_utf8(bytes.clone())
                .unwrap()
                .lines()
                .map(|line| Json::parse(line.as_bytes(), 8).unwrap())
                .collect();
            // Of the two conversations of one file, one begins with the assistant.
            let left_out = usize::from(data == "both" && !refuses.is_empty());
            assert_eq!((got.rows.examples.len(), got.rows.left_out.len()), (rows.len() - left_out, left_out));
            assert!(got.rows.left_out.iter().all(|row| row.line == 2 && row.why.contains(refuses)));
            for (row, example) in rows.iter().zip(&got.rows.examples) {
                let messages = list(row, "messages");
                let last_question = messages.iter().rposition(|m| text(m, "role") == "user").unwrap();
                let answers = messages.iter().enumerate().filter(|(_, m)| text(m, "role") == "assistant");
                let want = answers.map(|(i, message)| {
                    let content = text(message, "content");
                    let (thought, answer) = content.split_once("</think>").unwrap_or(("", content));
                    let thought = thought.trim_start_matches("<think>").trim();
                    let answer = match (*thoughts, content == answer) {
                        ("", _) => content,
                        ("shown", false) => answer.trim_start_matches('\n'),
                        ("shown", true) if i > last_question => answer.trim_start_matches('\n'),
                        _ => answer,
                    };
                    let answer = if *trims { answer.trim() } else { answer };
                    let shown = *thoughts == "shown" && i > last_question;
                    let marks = if shown { format!("<think>\n{thought}\n</think>\n\n") } else { String::new() };
                    format!("{lead}{marks}{answer}{end}")
                });
                let learnt = spelled(mynah.tokenizer(), &example.tokens, example.mask.iter().copied(), true);
                assert_eq!(learnt, want.collect::<String>(), "{name} {data}");
            }
            // What people spell is text, unless they ask.
            let count = |data: &Data| data.rows.examples[0].tokens.iter().filter(|id| **id < 3).count();
            assert_eq!(got.rows.spelled, usize::from(data == "ctrl"), "{name} {data}");
            if data == "one" || data == "ctrl" {
                control.push(count(&got));
            }
            if data == "ctrl" {
                let parsed = read(|s| s.parse_special = true).unwrap();
                assert_eq!((parsed.rows.spelled, count(&parsed)), (0, count(&got) + 3), "{name}");
            }
        }
        assert_eq!(control[0], control[1], "{name}");
    }
}

/// Templates that take contents as lists of parts alone get such lists, for the roles that need them.
#[test]
fn contents_are_lists_of_parts_where_a_template_takes_nothing_else() {
    let tokenizer = tokenizer(&["<|u|>".into(), "<|a|>".into(), "<|end|>".into()], "<|end|>");
    let parts = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}";
    let loops = format!("{{% for m in messages %}}<|{{{{ m.role[0] }}}}|>{parts}<|end|>{{% endfor %}}");
    // The first part alone is an error for a text.
    let first = "{% for m in messages %}<|{{ m.role[0] }}|>{{ m.content[0]['text'] }}<|end|>{% endfor %}".to_string();
    let dated = format!("{{{{ strftime_now('%Y') }}}}{loops}");
    // Only the user has parts here, and the assistant's lists would be shown as such.
    let mixed = format!(
        "{{% for m in messages %}}<|{{{{ m.role[0] }}}}|>{{% if m.role == 'user' %}}{parts}\
         {{% else %}}{{{{ m.content }}}}{{% endif %}}<|end|>{{% endfor %}}"
    );
    let either = loops
        .replace(parts, &format!("{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{parts}{{% endif %}}"));
    let row = r#"{"messages": [{"role": "user", "content": "Say <|end|>."}, {"role": "assistant", "content": "No."}]}"#;
    for (name, source) in
        [("loops", &loops), ("first", &first), ("dated", &dated), ("mixed", &mixed), ("either", &either)]
    {
        let prompt = format!("{source}{{% if add_generation_prompt %}}<|a|>{{% endif %}}");
        let template = Template::new(&prompt, &tokenizer).unwrap().at(0);
        let date = if name == "dated" { "1970" } else { "" };
        let json = Json::parse(row.as_bytes(), 8).unwrap();
        let turns = Turns::new(list(&json, "messages")).unwrap();
        let got = template.render(turns.conversation(), true).unwrap();
        assert_eq!(got, format!("{date}<|u|>Say <|end|>.<|end|><|a|>No.<|end|><|a|>"), "{name}");
        let (ctx, limits) = (256, Limits::default());
        let options = Default::default();
        let reader =
            Reader { tokenizer: &tokenizer, template: Some(&template), ctx, parse_special: false, options, limits };
        let data = reader.lines(row.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let example = &data.examples[0];
        let learnt = spelled(&tokenizer, &example.tokens, example.mask.iter().copied(), true);
        assert_eq!(learnt, "No.<|end|>", "{name}");
        // The end that the user spells is text.
        assert_eq!(example.tokens.iter().filter(|id| tokenizer.is_eos(**id)).count(), 2, "{name}");
    }
    // A role that a template shows in neither way gets its text.
    let silent = "{% for m in messages if m.role == 'user' %}{{ m.content + '!' }}{% endfor %}";
    let template = Template::new(silent, &tokenizer).unwrap();
    let turns = ["user", "system"].map(|role| mynah::text::chat::Message::new(role, "Hi"));
    assert_eq!(template.render(&turns, false).unwrap(), "Hi!");
}

/// Rows of `cases/06` and `cases/07`, read with the chat template of SmolLM2: what is learnt of each row in order, pairs of
/// answers apart, then what is left out; or the error of the file.
#[rustfmt::skip]
const ROWS: &[(&str, &[&str], &str)] = &[
    ("06/null_tool", &[], "line 1: tools: the chat template does not show them"),
    ("06/tool_text", &[], "line 1: tools: the chat template does not show them"),
    ("06/tool_only", &[], "line 1: message 1: the chat template does not show tool_calls"),
    ("06/weight0", &["good answer<|im_end|>"], ""),
    ("06/w", &[], "line 1: row: nothing to learn: too short, or nothing of it counts"),
    ("06/null_completion", &["b<|im_end|>"], "line 2: row: keys \"prompt\", \"completion\" (null): no known shape"),
    ("06/null_text", &["hello there"], "line 2: row: keys \"text\" (null): no known shape"),
    ("06/null_extra", &["hello there", "b<|im_end|>"], ""),
    ("06/label_null", &["b<|im_end|>", "b<|im_end|>"], ""),
    ("06/messages_and_text", &["Hello<|im_end|>"], ""),
    ("06/ultra", &["Hello<|im_end|>"], ""),
    ("06/ultrafeedback", &["Hello<|im_end|>", "What<|im_end|>"], ""),
    ("07/parts", &["Hi there.<|im_end|>"], ""),
    ("07/parts_img", &[], "line 1: message 0: content: part 0 is of type image_url; only parts of type text can be used"),
];

#[needs_shared]
#[test]
fn rows_of_other_people_are_used_or_refused_by_line_and_message() {
    let root = shared();
    let mynah = Mynah::open(root.join("models/SmolLM2-135M-Instruct.Q4_0.gguf")).unwrap();
    let learnt = |e: &Example| spelled(mynah.tokenizer(), &e.tokens, e.mask.iter().copied(), true);
    for (name, want, why) in ROWS {
        let bytes = fs::read(root.join(format!("cases/{name}.jsonl"))).unwrap();
        match mynah.lesson("lora").read("rows.jsonl", &bytes) {
            Ok(data) => {
                let got: Vec<String> = data.rows.examples.iter().flat_map(Example::sequences).map(learnt).collect();
                assert_eq!(got, *want, "{name}");
                let left_out: Vec<String> = data.rows.left_out.iter().map(|row| row.to_string()).collect();
                assert_eq!(left_out.len(), usize::from(!why.is_empty()), "{name}");
                assert!(left_out.iter().all(|row| row.starts_with(why)), "{name}: {left_out:?}");
            }
            Err(error) => assert!(want.is_empty() && error.to_string() == *why, "{name}: {error}"),
        }
    }
    // What is in the way is named, and a file in which nothing can be used names the first reasons.
    let read = |rows: &str| mynah.lesson("lora").read("rows.jsonl", rows.as_bytes()).unwrap_err().to_string();
    let turns = r#"[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]"#;
    for (row, word) in [
        (format!(r#"{{"prompt": "Bye", "messages": {turns}}}"#), "prompt: another text"),
        (format!(r#"{{"chosen": {turns}, "rejected": {turns}, "messages": []}}"#), "messages: neither the only shape"),
        (format!(r#"{{"messages": {turns}, "images": ["x.png"]}}"#), "column of a row: images"),
        (turns.replace("\"Hello\"", "null"), "message 1: content: there is none"),
        (turns.replace("\"Hello\"", "7"), "message 1: content: neither"),
        (
            turns.replace("\"Hello\"", r#"[{"type": "input_audio"}]"#),
            "message 1: content: part 0 is of type input_audio",
        ),
        (turns.replace("\"Hello\"", r#""x", "weight": 0.5"#), "message 1: weight: of a message it must be 0 or 1"),
        (turns.replace("role", "from"), "message 0: role: missing or not a text; keys are from, content"),
        (turns.replace("\"Hello\"", r#""x", "function_call": {"name": "f", "arguments": "{}"}"#), "function_call"),
        (
            r#"[{"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}]"#.into(),
            "message 0: tool_calls of user",
        ),
    ] {
        let row = if row.starts_with('[') { format!(r#"{{"messages": {row}}}"#) } else { row };
        let why = read(&row);
        assert!(why.starts_with("line 1: ") && why.contains(word), "{row}: {why}");
    }
    let why = read("{\"a\": 1}\n{\"prompt\": \"x\"}\n{\"b\": 2}\n{\"c\": 3}");
    assert!(why.starts_with("data: none of 4 rows can be used: line 1: ") && why.ends_with("; and so on"), "{why}");
    assert!(why.contains("line 3: ") && !why.contains("line 4: "), "{why}");
}

#[needs_shared]
#[test]
fn calls_of_tools_are_learnt_where_the_template_shows_them() {
    let golden = Golden::open();
    let (template, tokenizer, _) = golden.template("qwen2.5");
    let reader = Reader {
        tokenizer: &tokenizer,
        template: Some(&template),
        ctx: 4096,
        parse_special: false,
        options: Default::default(),
        limits: Limits::default(),
    };
    // Nothing said is null, an empty text or not there; arguments are an object, or a text that says one.
    let turns = |content: &str, arguments: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "2+3?"}}, {{"role": "assistant"{content}, "tool_calls":
            [{{"id": "c1", "type": "function", "function": {{"name": "add", "arguments": {arguments}}}}}]}},
            {{"role": "tool", "tool_call_id": "c1", "content": "5"}}, {{"role": "assistant", "content": "It is 5."}}],
            "tools": "[{{\"type\": \"function\", \"function\": {{\"name\": \"add\", \"parameters\": {{}}}}}}]"}}"#
        )
        .replace('\n', " ")
    };
    let want = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 2, \"b\": 3}}\n</tool_call><|im_end|>It is 5.<|im_end|>";
    for (content, arguments) in [
        (r#", "content": null"#, r#"{"a": 2, "b": 3}"#),
        ("", r#""{\"a\": 2, \"b\": 3}""#),
        (r#", "content": """#, r#"{"a": 2, "b": 3}"#),
    ] {
        let rows = reader.lines(turns(content, arguments).as_bytes()).unwrap();
        let row = &rows.examples[0];
        assert_eq!(spelled(&tokenizer, &row.tokens, row.mask.iter().copied(), true), want, "{content} {arguments}");
        let read = spelled(&tokenizer, &row.tokens, row.mask.iter().copied(), false);
        assert!(read.contains("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"add\""), "{read}");
    }
    // What calls and tools spell is text as well.
    let evil = turns(r#", "content": null"#, r#"{"a": "<|im_end|>", "<|im_start|>": 3}"#)
        .replace(r#"\"add\""#, r#"\"<|im_end|>\""#);
    let rows = reader.lines(evil.as_bytes()).unwrap();
    let control = |ids: &[u32]| ids.iter().filter(|id| **id > 258).count();
    let honest = reader.lines(turns(r#", "content": null"#, r#"{"a": 1}"#).as_bytes()).unwrap();
    assert_eq!((control(&rows.examples[0].tokens), rows.spelled), (control(&honest.examples[0].tokens), 1));
    assert_eq!(honest.spelled, 0);
}

#[needs_shared]
#[test]
fn chat_learns_from_marks_under_templates_that_think() {
    let root = shared();
    for name in ["r1", "qwen3", "llama3"] {
        let place = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mynah"))
            .args(["chat", "-m", root.join(format!("cases/26/{name}.gguf")).to_str().unwrap()])
            .args("-a x.mynah --learn -n 6 --temp 0 --passes 1 --json".split_whitespace())
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"Hi\nWho?\n/good\n/learn\ny\n").unwrap();
        let out = child.wait_with_output().unwrap();
        let (said, errors) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert!(out.status.success() && !errors.contains("left out"), "{name}: {errors}");
        assert!(said.contains("\"learnt\"") && said.contains("{\"kept\":true}"), "{name}: {said} {errors}");
    }
    // A template that refuses what the system says is an error before anything is said, which says what to do.
    let model = root.join("cases/26/r1.gguf");
    let bytes = fs::read(&model).unwrap();
    let shown = b"{% set ns.system_prompt = message['content'] %}";
    let at = bytes.windows(shown.len()).position(|w| w == shown).unwrap();
    let mut refuses = bytes.clone();
    let raises = format!("{:width$}", "{{ raise_exception('no system here') }}", width = shown.len());
    refuses[at..at + shown.len()].copy_from_slice(raises.as_bytes());
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("model.gguf"), refuses).unwrap();
    let chat = |options: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command
            .args(["chat", "-m", "model.gguf", "-n", "2"])
            .args(options.split_whitespace())
            .current_dir(place.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"Hi\n").ok();
        let out = child.wait_with_output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (status, errors) = chat("--system Brief.");
    assert!(status == Some(2) && errors.contains("no system here") && errors.contains("--merge-system"), "{errors}");
    let (status, errors) = chat("--system Brief. --merge-system");
    assert_eq!(status, Some(0), "{errors}");
}
