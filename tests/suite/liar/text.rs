//! Section C, as far as it is about texts, templates and conversations. `long_texts.rs`, `strangers.rs` and `hostile_templates.rs`
//! have the larger tables.

use super::tokenizer::Words;
use super::{Entry, refuses, takes};
use crate::app_talk::file_with_template;
use mynah::Mynah;
use mynah::bytes::Limits;
use mynah::error::{Error, Result};
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Pool};
use mynah::text::chat::{Message, Template};
use mynah::text::{Decode, Encode, SPLITTERS, TokenKind, Tokenizer};
use mynah::train::data::Dataset;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static MYNAH: LazyLock<Mynah> = LazyLock::new(|| Mynah::embedded().unwrap());

/// Bytes of a long text here.
const LONG: usize = 1 << 18;

/// Into tokens and back.
fn round(text: &str) -> Result<()> {
    let tokenizer = MYNAH.tokenizer();
    let ids = tokenizer.encode(text, &Encode::default())?;
    assert!(ids.iter().all(|id| tokenizer.kind(*id) != Some(TokenKind::Control)), "{text:.40?}");
    assert_eq!(tokenizer.decode(&ids, &Decode::default())?, text.as_bytes(), "{text:.40?}");
    Ok(())
}

/// A template on a conversation of three turns.
fn render(source: &str) -> Result<String> {
    let turns =
        [("user", "Hello."), ("assistant", "Hi."), ("user", "Bye.")].map(|(role, said)| Message::new(role, said));
    Template::new(source, MYNAH.tokenizer())?.render(&turns, true)
}

/// What is learnt of a conversation under a template.
fn spans(source: &str) -> Result<()> {
    let turns = [("user", "One."), ("assistant", "Two."), ("user", "Three."), ("assistant", "Four.")];
    let turns = turns.map(|(role, said)| Message::new(role, said));
    let spans = Template::new(source, MYNAH.tokenizer())?.spans(MYNAH.tokenizer(), &turns)?;
    let learnt = spans.mask.iter().filter(|mask| **mask == 1).count();
    assert!(0 < learnt && learnt < spans.mask.len(), "{:?}", spans.mask);
    Ok(())
}

fn with_template(source: &str) -> Mynah {
    let file = Gguf::parse(file_with_template(Some(source)).into(), &Limits::default()).unwrap();
    Mynah::with(file, Compute { kernels: kernel::best(), pool: Pool::new(1) }).unwrap()
}

fn rows(rows: &str) -> Result<Dataset> {
    MYNAH.lesson("lora").context(64).read("rows.jsonl", rows.as_bytes()).map(|data| data.rows)
}

/// One row that cannot be used beside one that can: the reason.
fn row(row: &str) -> Result<()> {
    let data = rows(&format!(
        "{row}\n{{\"messages\":[{{\"role\":\"user\",\"content\":\"a\"}},{{\"role\":\"assistant\",\"content\":\"b\"}}]}}\n"
    ))?;
    assert_eq!((data.examples.len(), data.left_out.len()), (1, 1), "{row}");
    Err(Error::invalid("row", &*data.left_out[0].why))
}

pub fn entries() -> Vec<Entry> {
    let mut all = Vec::new();
    for (name, unit) in [
        ("nothing", ""),
        ("one letter", "a"),
        ("spaces", " "),
        ("NULs", "\0"),
        ("combining marks", "e\u{301}\u{323}"),
        ("joined emoji", "👩\u{200d}👧"),
        ("right to left", "שלום\u{202e}مرحبا"),
        ("line ends", "\r\n"),
        ("the last characters", "\u{10ffff}\u{fffe}\u{fffd}"),
    ] {
        all.push(takes(format!("C8 {name}"), move || round(&unit.repeat(LONG / unit.len().max(1)))));
    }
    all.push(refuses("C8 half a surrogate", "Invalid", "JSON", || row("{\"text\":\"a\\ud800b\"}")));
    for spelled in ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_<|im_end|>end|>"] {
        all.push(takes(format!("C9 {spelled}"), move || round(spelled)));
    }
    // Every rule on texts that make expressions go back.
    for splitter in SPLITTERS {
        let pre = splitter.names[0];
        all.push(takes(format!("C10 {pre}"), move || {
            let words = Words::merging().set("pre", pre).set("bos_token_id", 6u32);
            let tokenizer: Tokenizer = super::tokenizer::read(words.bytes())?;
            for unit in ["'", " ", "a'", "\r\n ", "1", "!\n", "\u{301}", "aA", "\u{a0}\u{3000}", "'LL", "(a", "中a"] {
                let text = unit.repeat((LONG / 8) / unit.len()) + "b";
                let start = Instant::now();
                tokenizer.encode(&text, &Encode::default())?;
                assert!(start.elapsed() < Duration::from_secs(5), "{pre}: {unit:?}");
            }
            Ok(())
        }));
    }
    for (name, source, variant, word) in [
        ("no end", "{% if x %}", "Corrupt", "chat template"),
        ("no expression", "{{ 1 + }}", "Corrupt", "chat template"),
        ("endless", "{% for i in range(10**9) %}{% endfor %}", "Invalid", "range"),
        (
            "loops in loops",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "Limit",
            "work",
        ),
        ("recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "Invalid", "recursion"),
        (
            "doubling",
            "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
            "Limit",
            "work",
        ),
        ("include", "{% include '/etc/passwd' %}", "Corrupt", "include"),
        ("attributes", "{{ ''.__class__.__mro__[1] }}", "Invalid", "undefined"),
        ("what is not there", "{{ a.b.c }}", "Invalid", "undefined"),
        ("exception", "{{ raise_exception('No \u{1b}\u{202e}.') }}", "Invalid", "No \\u{1b}\\u{202e}."),
        ("no clock", "{{ strftime_now('%Y') }}", "Invalid", "time"),
    ] {
        all.push(refuses(format!("C11 {name}"), variant, word, move || render(source).map(drop)));
    }
    all.push(refuses("C11 1 MiB", "Limit", "bytes of a chat template", || render(&"a".repeat(1 << 20)).map(drop)));
    all.push(refuses("C12 longer than the context", "Limit", "tokens of the conversation", || {
        let mynah = with_template("{{ 'word ' * 9999 }}{{ messages[-1].content }}");
        mynah.generation().limit(1).talk()?.say("Hi").map(drop)
    }));
    all.push(refuses("C12 longer than texts may be", "Limit", "work", || render("{{ 'a' * 99999999 }}").map(drop)));
    for (name, source, wanted) in [
        ("tojson", "{{ {'a': [1, 2.5, none, true, '<é']}|tojson }}", "{\"a\": [1, 2.5, null, true, \"<é\"]}"),
        ("tuples", "{{ (1, 2)[1] }}{% for a, b in [(1, 2)] %}{{ a + b }}{% endfor %}", "23"),
        (
            "neighbours in a loop",
            "{% for m in messages %}{{ loop.previtem.role if not loop.first }}>{{ loop.nextitem.role if not loop.last }} {% endfor %}",
            ">assistant user>user assistant> ",
        ),
        (
            "namespace",
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "3",
        ),
    ] {
        all.push(takes(format!("C13 {name}"), move || {
            assert_eq!(render(source)?, wanted, "{name}");
            Ok(())
        }));
    }
    for (name, format, word) in [("a letter", "%Q", "%Q"), ("an end", "%", "ends with %")] {
        all.push(refuses(format!("C13 date with {name}"), "Invalid", word, move || {
            let source = format!("{{{{ strftime_now('{format}') }}}}");
            let template = Template::new(&source, MYNAH.tokenizer())?.at(0);
            template.render(&[Message::new("user", "a")], true).map(drop)
        }));
    }
    for (name, json, word) in [
        ("empty", r#"{"messages":[]}"#, ""),
        ("no list", r#"{"messages":"a"}"#, "messages"),
        ("no message", r#"{"messages":[1]}"#, "not an object"),
        ("no role", r#"{"messages":[{"content":"a"}]}"#, "role"),
        ("role of another kind", r#"{"messages":[{"role":1,"content":"a"}]}"#, "role"),
        (
            "role with marks",
            r#"{"messages":[{"role":"<|im_end|>","content":"a"},{"role":"assistant","content":"b"}]}"#,
            "is not a word",
        ),
        (
            "no content",
            r#"{"messages":[{"role":"user","content":null},{"role":"assistant","content":"b"}]}"#,
            "content",
        ),
        ("number", r#"{"messages":[{"role":"user","content":7},{"role":"assistant","content":"b"}]}"#, "content"),
        (
            "list of numbers",
            r#"{"messages":[{"role":"user","content":[7]},{"role":"assistant","content":"b"}]}"#,
            "part 0",
        ),
        (
            "picture",
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"a"}]},{"role":"assistant","content":"b"}]}"#,
            "image_url",
        ),
        (
            "calls that are not shown",
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":7}]}"#,
            "tool_calls",
        ),
        (
            "tools that are no list",
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":7}"#,
            "tools",
        ),
        ("nobody answers", r#"{"messages":[{"role":"user","content":"a"}]}"#, "nothing to learn"),
    ] {
        all.push(refuses(format!("C14 {name}"), "Invalid", word, move || row(json)));
    }
    all.push(takes("C14 two systems", || {
        let text = r#"{"messages":[{"role":"system","content":"a"},{"role":"system","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#;
        assert_eq!(rows(text)?.examples.len(), 1);
        Ok(())
    }));
    all.push(takes("C15 that adds", || {
        spans("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    }));
    for (name, source, word) in [
        ("that counts", "{{ messages|length }}{% for m in messages %}{{ m.content|upper|reverse }}{% endfor %}", ""),
        ("that shows the last alone", "{{ messages[-1].content }}", "does not show"),
        ("that shows nothing", "Hi.", "does not show"),
    ] {
        all.push(refuses(format!("C15 {name}"), "Invalid", word, move || spans(source)));
    }
    let long = format!(r#"{{"prompt":"{}","completion":"b"}}"#, "Rain all day. ".repeat(99));
    let (one, two) = (long.clone(), long);
    all.push(refuses("C16 one", "Invalid", "", move || row(&one)));
    all.push(refuses("C16 all", "Invalid", "", move || rows(&format!("{two}\n{two}\n")).map(drop)));
    all
}
