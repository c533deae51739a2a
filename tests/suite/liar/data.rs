//! Section F: data, settings and numbers of a training run; and files of feedback.

use super::{Entry, Parser, check, refuses, takes};
use crate::resume::{Plan, Run};
use crate::tiny;
use mynah::adapter::{self, Adapter as _, Spec};
use mynah::app::Setup;
use mynah::bytes::Limits;
use mynah::error::Result;
use mynah::train::data::{Dataset, Files};
use mynah::train::journal::Journal;
use mynah::train::{Example, Trainer};
use mynah::{Error, Mynah};
use std::sync::LazyLock;

static MYNAH: LazyLock<Mynah> = LazyLock::new(|| Mynah::embedded().unwrap());

fn setup() -> Setup {
    MYNAH.lesson("lora").context(64).steps(2)
}

fn lines(bytes: &[u8]) -> Result<Dataset> {
    setup().read("rows.jsonl", bytes).map(|data| data.rows)
}

pub static LINES: Parser = Parser { name: "JSON lines", read: |bytes| lines(&bytes).map(drop) };
pub static TEXT: Parser = Parser { name: "text", read: |bytes| setup().read("a.txt", &bytes).map(drop) };
pub static TABLE: Parser = Parser { name: "table", read: |bytes| setup().read("a.csv", &bytes).map(drop) };
pub static MAIL: Parser = Parser { name: "mail", read: |bytes| setup().read("a.mbox", &bytes).map(drop) };

/// A file of feedback, as the conversation reads it: the journal, then its lines as examples.
pub static FEEDBACK: Parser = Parser {
    name: "feedback",
    read: |bytes| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let journal = Journal::open(&path, &Limits::default())?;
        journal.lines().for_each(|line| _ = lines(line));
        Ok(())
    },
};

/// Small files, to be changed byte by byte.
pub fn small() -> [(&'static Parser, Vec<u8>); 5] {
    let lines = "{\"text\": \"Rain.\"}\r\n{\"prompt\": \"a\", \"completion\": \"b\\u00e9\", \"label\": true}\n{\"tokens\": [1, 2]}\n";
    let marks = "{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"completion\":\"b\",\"label\":true}\n";
    let mail = "From ann@x.example Mon Mar  4 10:00:00 2024\nFrom: Ann <ann@x.example>\nSubject: =?utf-8?Q?T=C3=A9?=\n\nTea at four?\n";
    [
        (&LINES, lines.into()),
        (&TEXT, "2024-03-01\nRain. A storm!\n\n2024-03-02\n# Sun\u{e9}\n\n* * *\n".into()),
        (&TABLE, "prompt,completion\n\"a, \"\"b\",c\nd,\"e\nf\"\n".into()),
        (&MAIL, mail.into()),
        (&FEEDBACK, marks.into()),
    ]
}

const GOOD: &str = "{\"text\": \"Rain all day.\"}\n";

/// A trainer of the tiny model with an adapter whose parameters are all the same.
fn trainer(value: f32) -> Result<(Trainer, Vec<Example>)> {
    let model = tiny::model("llama", 7, true, 1);
    let mut adapter = adapter::create(&Spec::new("lora").with("rank", 2usize), &model.base([9; 32]))?;
    adapter.params_mut().fill(value);
    let rows = (0..2).map(|i| Example::all((0..9).map(|t| (i * 5 + t * 3) % tiny::VOCAB as u32).collect())).collect();
    Ok((Trainer::adapter(&model, adapter, Default::default())?, rows))
}

/// A step that must be discarded with nothing changed.
fn step(value: f32) -> Result<()> {
    let (mut trainer, rows) = trainer(value)?;
    let done = trainer.step(&[&rows]).map(drop);
    assert!(done.is_ok() || trainer.steps() == 0, "a discarded step counts");
    done
}

/// What another run says to the checkpoint of this one.
fn goes_on(edit: impl FnOnce(&mut Plan)) -> Result<()> {
    let mut run: Run = Plan::new("lora", "adamw").start();
    run.step();
    let saved = run.save();
    let mut plan = Plan::new("lora", "adamw");
    edit(&mut plan);
    let mut other = plan.start();
    let before = other.save();
    let done = other.go_on(saved);
    assert!(done.is_ok() || other.save() == before, "a refused checkpoint changed something");
    done
}

fn entries() -> Vec<Entry> {
    let row = |text: &str| format!("{{\"text\": \"{text}\"}}");
    let utf16 = |text: &str| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let long = "a".repeat(8 << 20);
    let deep = |n: usize| format!("{{\"text\": \"Rain all day.\", \"x\": {}{}}}", "[".repeat(n), "]".repeat(n));
    let refused: Vec<(&str, Vec<u8>, &'static str, &str)> = vec![
        ("F1 empty", vec![], "Invalid", "data: no rows"),
        ("F1 blank lines", b"\n \n\t\r\n".to_vec(), "Invalid", "data: no rows"),
        ("F1 no usable row", b"{\"a\": 1}\n{\"b\": 2}\n".to_vec(), "Invalid", "none of 2 rows can be used: line 1"),
        ("F2 no JSON", b"{\"text\": \"a\n".to_vec(), "Invalid", "JSON"),
        ("F2 of 8 MiB and more", row(&long).into(), "Limit", "bytes of a line: 8388620; at most 8388608"),
        ("F2 one key twice", b"{\"text\": \"a\", \"text\": \"b\"}".to_vec(), "Invalid", "comes twice"),
        ("F2 deep", deep(100_000).into(), "Invalid", "nested too deeply"),
        ("F2 65 deep", deep(64).into(), "Invalid", "nested too deeply"),
        ("F2 half a unit", [utf16(GOOD), vec![0x20]].concat(), "Invalid", "half a unit of UTF-16"),
        ("F2 a byte of another encoding", b"{\"text\": \"\xe9\"}".to_vec(), "Invalid", "0xe9 is not UTF-8"),
        ("F2 a NUL", b"{\"text\": \"a\0\"}".to_vec(), "Invalid", "a byte 0"),
        ("F2 UTF-32", [&[0xff, 0xfe, 0, 0][..], b"a\0\0\0"].concat(), "Invalid", "UTF-32"),
        ("F2 a number over f64", b"{\"text\": \"a\", \"weight\": 1e999}".to_vec(), "Invalid", "JSON"),
        ("F2 a negative weight", b"{\"text\": \"a b\", \"weight\": -1}".to_vec(), "Invalid", "weight: -1"),
        ("F2 tokens that do not exist", b"{\"tokens\": [1, 4294967296]}".to_vec(), "Invalid", "tokens: 4294967296"),
        ("F2 negative tokens", b"{\"tokens\": [1, -2]}".to_vec(), "Invalid", "tokens: -2"),
        (
            "F2 a mask of another length",
            b"{\"tokens\": [1, 2], \"mask\": [1]}".to_vec(),
            "Invalid",
            "1 entries for 2 tokens",
        ),
        ("F2 a key that escapes", b"{\"\\u001b[2J\": 1}".to_vec(), "Invalid", "\\u{1b}[2J"),
        (
            "F3",
            format!("{{\"prompt\": \"{}\", \"completion\": \"yes\"}}\n", "Rain all day. ".repeat(60)).repeat(3).into(),
            "Invalid",
            "none of 3 rows has anything to learn within 64 tokens",
        ),
        ("F4", b"{\"tokens\": [1, 2], \"mask\": [0, 0]}".to_vec(), "Invalid", "nothing of it counts"),
        ("F4 the first alone", b"{\"tokens\": [1, 2], \"mask\": [1, 0]}".to_vec(), "Invalid", "nothing of it counts"),
        ("F4 of weight 0", b"{\"text\": \"a b\", \"weight\": 0}".to_vec(), "Invalid", "its weight is 0"),
    ];
    let mut all: Vec<Entry> =
        refused.into_iter().map(|(name, bytes, variant, word)| LINES.refuses(name, bytes, variant, word)).collect();
    all.push(LINES.takes("F1 one row", GOOD.into()));
    for (name, bytes) in [
        ("F2 CRLF", GOOD.repeat(2).replace('\n', "\r\n").into_bytes()),
        ("F2 BOM", format!("\u{feff}{GOOD}").into_bytes()),
        ("F2 UTF-16", utf16(GOOD)),
        ("F2 64 deep", deep(63).into()),
        ("F3 a text", row(&"Rain all day. ".repeat(60)).into()),
    ] {
        all.push(LINES.takes(name, bytes));
    }
    all.push(takes("F2 in the middle", || {
        let data = lines(format!("{GOOD}{{\"text\": \n{GOOD}[]\n{{\"text\": 3}}\n").as_bytes())?;
        let left: Vec<usize> = data.left_out.iter().map(|row| row.line).collect();
        assert_eq!((data.examples.len(), &left[..]), (2, &[2, 4, 5][..]), "{:?}", data.left_out);
        Ok(())
    }));
    all.push(takes("F2 many broken values, in linear time", || {
        let begin = std::time::Instant::now();
        let text = format!("{{\n \"a\": 1\n}}\n{}", "{\n \"text\": \"x\n".repeat(20_000));
        lines(text.as_bytes()).err().unwrap();
        assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
        Ok(())
    }));

    // Exports, in linear time.
    let day = "12/31/23, 10:15 -";
    let long = format!("{day} Ann: Hello\n{}{day} You: Yes\n", "tea at 4\n".repeat(100_000));
    let names: String = (0..60_000).map(|i| format!("{day} Ann{i}: Hello\n")).collect();
    let names = format!("{names}{day} You: Yes\n{day} You: No\n");
    let mail = |i| {
        format!(
            "From ann@x.example Mon Mar  4 10:00:00 2024\nFrom: Ann <ann@x.example>\nMessage-ID: <{i}@x>\nIn-Reply-To: <{}@x>\n\nTea?\n\n",
            i + 1
        )
    };
    for (name, file, speaker, bytes) in [
        ("F2 a message of 100000 lines", "chat.txt", "You", long),
        ("F2 60000 speakers", "chat.txt", "You", names),
        ("F2 20000 answers", "mails.mbox", "Ann", (0..20_000).map(mail).collect()),
    ] {
        all.push(takes(name, move || {
            let begin = std::time::Instant::now();
            let setup = setup().settings(|s| s.data.speaker = Some(speaker.into()));
            // Whether they are rows is for the chat template to say, which the built-in model has.
            let read = setup.read(file, bytes.as_bytes()).map(|data| data.rows.examples.len());
            assert!(begin.elapsed().as_secs() < 8, "{name}: {:?}, {read:?}", begin.elapsed());
            Ok(())
        }));
    }

    // Files of feedback.
    all.push(FEEDBACK.takes("F1 feedback: empty", vec![]));
    all.push(FEEDBACK.takes("F2 feedback: torn", b"{\"a\":1}\n{\"b\"".to_vec()));
    all.push(FEEDBACK.takes("F2 feedback: no JSON", b"\0\xff\n\n{\n[1]\n\"\xed\xa0\x80\"\n".to_vec()));
    all.push(FEEDBACK.refuses("F2 feedback: over 64 MiB", vec![b'\n'; (64 << 20) + 1], "Limit", "67108865"));
    all.push(refuses("F1 feedback: a folder", "Io", "open", || {
        Journal::open(tempfile::tempdir().unwrap().path(), &Limits::default()).map(drop)
    }));

    // Files by name.
    all.push(refuses("F1 missing", "Io", "no such file", || {
        Files::open("there/is/none.jsonl".as_ref(), &Limits::default()).map(drop)
    }));
    all.push(refuses("F1 an empty folder", "Invalid", "a folder without files of data", || {
        Files::open(tempfile::tempdir().unwrap().path(), &Limits::default()).map(drop)
    }));

    #[cfg(target_os = "linux")]
    all.push(refuses("F1 a stream over its bound", "Limit", "bytes of a stream: 10; at most 9", || {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, [b'a'; 20]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let mut limits = Limits::default();
        limits.stream = 9;
        Files::open(format!("/dev/fd/{}", file.as_raw_fd()).as_ref(), &limits).map(drop)
    }));

    // Settings.
    type Change = fn(Setup) -> Setup;
    let settings: [(&str, Change, &str); 10] = [
        ("F5 rate 0", |s| s.rate(0.0), "learning rate"),
        ("F5 rate NaN", |s| s.rate(f32::NAN), "learning rate"),
        ("F5 rate 10^6", |s| s.rate(1e6), "learning rate"),
        ("F5 rate negative", |s| s.rate(-1e-3), "learning rate"),
        ("F5 warm-up", |s| s.settings(|s| s.warmup = 3), "warm-up"),
        ("F5 batch 0", |s| s.batch(0), "batch"),
        ("F5 accumulation 0", |s| s.settings(|s| s.accumulate = 0), "accumul"),
        ("F5 epochs 0", |s| s.settings(|s| (s.steps, s.epochs) = (None, Some(0))), "0 steps train nothing"),
        ("F5 steps 0", |s| s.steps(0), "steps"),
        ("F5 context 1", |s| s.context(1), "context"),
    ];
    for (name, change, word) in settings {
        all.push(refuses(name, "Invalid", word, move || change(setup()).lines(GOOD.repeat(4)).map(drop)));
    }

    // Numbers of a step.
    all.push(takes("F6 as it should be", || step(0.01)));
    all.push(refuses("F6 a loss that is no number", "Invalid", "the step was discarded", || step(1e30)));
    all.push(refuses("F8", "Invalid", "norm 0 in step 1", || step(0.0)));
    all.push(refuses("F9", "Changed", "rows to learn was ", || goes_on(|plan| plan.salt = 1)));
    all.push(refuses("F10 rank", "Changed", "rank was 4, now 8", || goes_on(|plan| plan.rank = 8)));
    all.push(refuses("F10 kind", "Changed", "kind was lora, now nola", || goes_on(|plan| plan.kind = "nola")));
    all.push(refuses("F10 base", "Changed", "base.fingerprint was ", || {
        goes_on(|plan| plan.model = tiny::model("llama", 8, true, 1))
    }));
    all.push(refuses("F10 optimizer", "Changed", "optimizer was adamw, now lion", || {
        goes_on(|plan| plan.config.optimizer.kind = "lion".into())
    }));
    all.push(refuses("F10 all at once", "Changed", "; ", || goes_on(|plan| (plan.rank, plan.batch) = (8, 1))));

    // Adapters that do not fit.
    let create = |spec: Spec| move || adapter::create(&spec, &super::peft::base()).map(drop);
    all.push(refuses(
        "F11 rank over the width",
        "Invalid",
        "rank: 65",
        create(Spec::new("lora").with("rank", 65usize)),
    ));
    all.push(refuses("F11 rank 0", "Invalid", "rank", create(Spec::new("lora").with("rank", 0usize))));
    for word in ["output", "attn", "q_pro", "", "attn_output.weight"].into_iter().filter(|w| *w != "attn") {
        all.push(refuses(format!("F11 target {word:?}"), "Invalid", "targets", move || {
            adapter::parse_targets(word).map(drop)
        }));
    }
    all.push(takes("F11 exact names", || {
        assert_eq!(adapter::parse_targets("attn_output")?, [mynah::role::Role::O]);
        Ok(())
    }));
    all.push(takes("F13", || {
        // No two matrices of one shape, of any site, are the same, nor is the one of another seed.
        let base = super::peft::base();
        let mut drawn: Vec<Vec<u32>> = Vec::new();
        for seed in [0, 1] {
            let lora = adapter::lora::Lora::create(&Spec { seed, ..Spec::new("lora").with("rank", 2usize) }, &base)?;
            let of =
                |slot: &adapter::lowrank::Slot| lora.params()[slot.a()].iter().take(64).map(|v| v.to_bits()).collect();
            drawn.extend(lora.layout().slots().iter().map(of));
        }
        let all = drawn.len();
        drawn.sort();
        drawn.dedup();
        assert_eq!((all, drawn.len()), (70, 70));
        Ok(())
    }));
    all
}

#[test]
fn section_f() {
    check(
        'F',
        14,
        entries(),
        &[
            (7, "gradients are f32; nothing is scaled into f16"),
            (12, "no input: plan.rs holds runs to what was planned, and the head makes no rows × vocabulary"),
            (14, "the library reads no clock"),
        ],
    );
}

#[test]
fn errors_of_rows_name_their_line() {
    let e: Error = lines(b"\n\n{\"text\": 3}\n").unwrap_err();
    assert!(e.to_string().contains("line 3"), "{e}");
}
