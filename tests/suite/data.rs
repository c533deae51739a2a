//! Data as people have them: every case of `../shared/cases` 01 to 09 does what it should, and files of every kind become rows.

use crate::shared::{needs_shared, shared};
use std::path::Path;
use std::process::{Command, Stdio};

/// A case: its folder, its file, the exit status, and what is said.
const CASES: &[(&str, &str, i32, &[&str])] = &[
    ("01", "gbk.jsonl", 1, &["gbk.jsonl", "line 5, column 13", "0xcc is not UTF-8", "save the file as UTF-8"]),
    ("01", "latin.jsonl", 1, &["latin.jsonl", "line 5, column 14", "0xe9 is not UTF-8", "save the file as UTF-8"]),
    ("01", "cp1252.txt", 1, &["cp1252.txt", "line 3, column 9", "0x93 is not UTF-8", "--encoding windows-1252"]),
    ("02", "bom.jsonl", 0, &["2 rows"]),
    ("02", "bom_middle.jsonl", 0, &["byte order mark begins line 2", "2 rows"]),
    ("02", "utf16.jsonl", 0, &["UTF-16LE", "1 rows"]),
    ("02", "utf16nobom.jsonl", 0, &["UTF-16LE", "1 rows"]),
    ("02", "mac.jsonl", 0, &["CR alone", "2 rows"]),
    ("02", "utf16nobom.txt", 0, &["UTF-16LE", "1 rows"]),
    // These have messages, and the model has no chat template: they were read.
    ("03", "pretty.jsonl", 1, &["line 1: messages: the model file has no chat template", "line 7"]),
    ("04", "sharegpt.json", 1, &["line 2: messages: the model file has no chat template"]),
    ("04", "sharegpt_oneline.json", 1, &["line 1: messages: the model file has no chat template"]),
    ("04", "sharegpt.jsonl", 1, &["line 2: messages: the model file has no chat template"]),
    ("04", "alpaca.jsonl", 0, &["1 rows"]),
    ("04", "alpaca.json", 0, &["one JSON list of rows", "1 rows"]),
    ("04", "pc_array.json", 0, &["one JSON list of rows", "2 rows"]),
    ("05", "rows.csv", 0, &["columns \"prompt\", \"completion\"", "commas", "2 rows"]),
    ("05", "rows.tsv", 1, &["line 2: row: 2 cells, but the first line names 1 columns"]),
    ("06", "null_tool.jsonl", 1, &["line 1: tools: the chat template does not show them"]),
    ("06", "tool_text.jsonl", 1, &["line 1: tools: the chat template does not show them"]),
    ("06", "tool_only.jsonl", 1, &["line 1: message 1: the chat template does not show tool_calls"]),
    ("06", "weight0.jsonl", 0, &["1 rows"]),
    ("06", "null_completion.jsonl", 0, &["line 2: row: keys \"prompt\", \"completion\" (null)", "1 rows"]),
    ("06", "null_text.jsonl", 0, &["line 2: row: keys \"text\" (null)", "1 rows"]),
    ("06", "null_extra.jsonl", 0, &["2 rows"]),
    ("06", "label_null.jsonl", 0, &["2 rows"]),
    ("06", "messages_and_text.jsonl", 0, &["1 rows"]),
    ("06", "ultra.jsonl", 0, &["1 rows"]),
    ("06", "ultrafeedback.jsonl", 0, &["1 rows"]),
    ("07", "parts.jsonl", 0, &["1 rows"]),
    ("07", "parts_img.jsonl", 1, &["line 1: message 0: content: part 0 is of type image_url"]),
    ("08", "alt.jsonl", 0, &["2 rows"]),
    ("08", "roles.jsonl", 0, &["1 rows"]),
    ("08", "userlast.jsonl", 1, &["line 1: row: nothing to learn"]),
    ("08", "mix.jsonl", 0, &["1 row is left out", "line 2: row: nothing to learn", "2 rows"]),
    ("08", "empty.jsonl", 1, &["none of 2 rows", "nothing to learn"]),
    ("08", "thought.jsonl", 0, &["1 rows"]),
    ("09", "longprompt.jsonl", 1, &["none of 8 rows", "within 48 tokens", "--ctx"]),
    ("09", "some.jsonl", 0, &["8 rows are left out", "within 48 tokens", "1 rows"]),
    ("09", "maskzero.jsonl", 1, &["none of 3 rows", "nothing of it counts"]),
    ("09", "maskfirst.jsonl", 1, &["none of 3 rows", "nothing of it counts"]),
    ("09", "empty.jsonl", 1, &["none of 4 rows", "nothing to learn"]),
    ("09", "emptycompl.jsonl", 1, &["nothing to learn"]),
    ("09", "emptyprompt.jsonl", 0, &["1 rows"]),
    ("09", "weight0.jsonl", 1, &["none of 3 rows", "its weight is 0"]),
    ("09", "weight_mixed.jsonl", 0, &["line 1: row: nothing to learn: its weight is 0", "1 rows"]),
];

/// Runs the command in a folder; its exit status, and what it wrote to both outputs.
fn run(folder: &Path, args: &[&str], input: &[u8]) -> (i32, String, String) {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who reads nothing closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    let out = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

#[needs_shared]
#[test]
fn every_case_does_what_it_should() {
    let shared = shared();
    let models = shared.join("models");
    let mut ran = 0;
    for folder in (1..=9).map(|n| format!("{n:02}")) {
        let case = shared.join("cases").join(&folder);
        let commands = std::fs::read_to_string(case.join("cmd")).unwrap();
        for line in commands.lines().filter(|line| line.starts_with("$M ")) {
            let line = line.replace("$MO", &models.to_string_lossy());
            let args: Vec<&str> = line.split_whitespace().skip(1).collect();
            let file = args[args.iter().position(|arg| *arg == "-d").unwrap() + 1];
            let dir = tempfile::tempdir().unwrap();
            std::fs::copy(case.join(file), dir.path().join(file)).unwrap();
            let (status, _, said) = run(dir.path(), &args, b"");
            let (.., wanted, words) = CASES.iter().find(|(of, name, ..)| *of == folder && *name == file).unwrap();
            assert_eq!(status, *wanted, "{folder}/{file}: {said}");
            for word in *words {
                assert!(said.contains(word), "{folder}/{file}: {word:?} is missing in: {said}");
            }
            assert_eq!(dir.path().join("o.mynah").exists(), status == 0, "{folder}/{file}");
            ran += 1;
        }
    }
    assert_eq!(ran, CASES.len());
}

/// The built-in model's reader of data.
#[cfg(feature = "base")]
mod readers {
    use mynah::app::Setup;
    use mynah::text::Decode;
    use mynah::train::data::{Dataset, Options, Split};
    use mynah::{Mynah, Result};

    pub fn mynah() -> Mynah {
        Mynah::embedded().unwrap()
    }

    fn setup(options: Options) -> Setup {
        mynah().lesson("lora").context(64).settings(|s| s.data = options)
    }

    pub fn read_with(options: Options, name: &str, bytes: &[u8]) -> Result<Dataset> {
        setup(options).read(name, bytes).map(|data| data.rows)
    }

    pub fn read(name: &str, text: &str) -> Dataset {
        read_with(Options::default(), name, text.as_bytes()).unwrap_or_else(|e| panic!("{name}: {text}: {e}"))
    }

    pub fn why(name: &str, bytes: &[u8]) -> String {
        read_with(Options::default(), name, bytes).unwrap_err().to_string()
    }

    pub fn speaker(name: &str) -> Options {
        Options { speaker: Some(name.into()), ..Options::default() }
    }

    pub fn split(split: Split) -> Options {
        Options { split, ..Options::default() }
    }

    /// The rows as the model sees them, with what is learnt between marks.
    pub fn texts(data: &Dataset) -> Vec<String> {
        let mynah = mynah();
        let of = |row: &mynah::train::Example| {
            let options = Decode { unparse_special: true, ..Decode::default() };
            let (mut text, mut marked) = (Vec::new(), false);
            for (i, token) in row.tokens.iter().enumerate() {
                let learnt = i > 0 && row.mask[i];
                if learnt != marked {
                    text.extend(if learnt { "«" } else { "»" }.bytes());
                }
                marked = learnt;
                text.extend(mynah.tokenizer().decode(&[*token], &options).unwrap());
            }
            String::from_utf8(text).unwrap() + if marked { "»" } else { "" }
        };
        data.examples.iter().map(of).collect()
    }
}

#[cfg(feature = "base")]
mod kinds {
    use super::readers::*;
    use super::run;
    use mynah::train::data::{Options, Split};
    use std::fs;

    /// A day of a diary, of about `sentences` sentences.
    fn day(i: usize, sentences: usize) -> String {
        const SAID: [&str; 5] = [
            "Rain all day at the harbour.",
            "I painted the door red.",
            "The parrot stole the butter again.",
            "We had soup with carrots.",
            "The lamp went out at four.",
        ];
        (0..sentences).map(|j| SAID[(i + j) % SAID.len()]).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_diary_has_a_row_an_entry() {
        type Head = fn(usize) -> String;
        let heads: [(&str, Head); 12] = [
            ("a date", |i| format!("2024-03-{i:02}\n")),
            ("a date", |i| format!("{i} March 2024\n\n")),
            ("a date", |i| format!("Tuesday, March {i}th, 2024: ")),
            ("a date", |i| format!("**{i}. März**\n")),
            ("a date", |i| format!("{i}.3.24 ")),
            ("a date", |i| format!("[2024/03/{i}] ")),
            ("a date", |i| format!("## 2024-03-{i:02}, Lisbon\n\n### Morning\n")),
            ("a date", |i| format!("{}\n", ["Monday", "Tuesday:", "Wednesday"][i % 3])),
            ("a heading", |i| format!("# Storm {i}\n\n")),
            ("a heading", |i| format!("Storm {i}\n=======\n")),
            ("a number", |i| format!("Day {i}: ")),
            ("a rule", |i| if i == 1 { String::new() } else { "* * *\n".into() }),
        ];
        for (what, head) in heads {
            let text: String = (1..=20).map(|i| format!("{}{}\n\n", head(i), day(i, 4))).collect();
            let data = read("diary.txt", &text);
            assert_eq!(data.examples.len(), 20, "{}: {:?}", head(3), texts(&data));
            assert_eq!(data.notes, [format!("20 entries, each starts with {what}")], "{}", head(3));
            let rows = texts(&data);
            for (i, row) in rows.iter().enumerate() {
                let head = head(i + 1);
                let first = head.split('\n').next().unwrap().trim();
                assert!(what == "a rule" || row.replace(['«', '»'], "").contains(first), "{first} in {row}");
                assert!(row.replace(['«', '»'], "").contains(&day(i + 1, 4)), "{row}");
            }
        }
    }

    #[test]
    fn headings_above_a_date_belong_to_it() {
        let text = "# Diary\n\n## March\n\n3 March\nRain.\n\n4 March\nSun.\n\n## April\n\n1 April\nSnow.\n";
        let data = read("diary.md", text);
        assert_eq!(data.examples.iter().map(|row| row.line.unwrap()).collect::<Vec<_>>(), [1, 8, 11]);
        // Metadata are no text, code is no heading.
        let text = "---\ntitle: Notes\n---\n# A\nText.\n```sh\n# not a heading\n```\n# B\nMore.\n";
        let data = read("notes.md", text);
        assert_eq!(data.examples.iter().map(|row| row.line.unwrap()).collect::<Vec<_>>(), [4, 9]);
        assert!(!texts(&data)[0].contains("title") && texts(&data)[0].contains("not a"), "{:?}", texts(&data));
    }

    #[test]
    fn paragraphs_are_joined_and_long_ones_cut_at_sentences() {
        // Short paragraphs, with or without empty lines: no row of one line.
        for between in ["\n\n", "\n"] {
            let text: Vec<String> = (0..40).map(|i| day(i, 1)).collect();
            let data = read("facts.txt", &text.join(between));
            assert!((6..=20).contains(&data.examples.len()), "{} rows", data.examples.len());
            assert!(data.notes[0].starts_with("40 paragraphs, joined into"), "{:?}", data.notes);
            let all = texts(&data).iter().map(|row| row.matches('.').count()).collect::<Vec<_>>();
            assert!(all.iter().all(|n| *n >= 2) && all.iter().sum::<usize>() == 40, "{all:?}");
        }
        // A long entry: every row begins and ends with a sentence, and nothing is lost.
        let text = format!("{}\n\n{}", day(0, 60), day(1, 3));
        let data = read("long.txt", &text);
        let rows = texts(&data);
        assert!(rows.len() > 5 && data.notes[0].contains("cut at ends of sentences"), "{:?}", data.notes);
        let learnt: Vec<String> = rows.iter().map(|row| row.replace(['«', '»'], "").trim().to_string()).collect();
        assert!(learnt.iter().all(|row| row.ends_with('.')), "{learnt:?}");
        assert_eq!(learnt.iter().map(|row| row.matches('.').count()).sum::<usize>(), 63);
        let lens: Vec<usize> = data.examples.iter().map(|row| row.tokens.len()).collect();
        assert!(lens.iter().all(|n| *n <= 64) && lens[..lens.len() - 1].iter().all(|n| *n > 24), "{lens:?}");
        // Without ends of sentences at words, and without these anywhere.
        for text in ["rain and tea and ".repeat(60), "rain".repeat(200)] {
            let data = read("long.txt", &text);
            assert!(data.examples.len() > 1 && data.examples.iter().all(|row| row.tokens.len() <= 64));
        }
    }

    #[test]
    fn how_a_text_is_split_can_be_said() {
        let text: String = (1..=6).map(|i| format!("{i} March\n{}\n\n", day(i, 1))).collect();
        let rows = |how| read_with(split(how), "a.txt", text.as_bytes()).unwrap().examples.len();
        assert_eq!((rows(Split::Auto), rows(Split::Lines)), (6, 12));
        assert!(rows(Split::Paragraphs) < 6 && rows(Split::Whole) < 6);
        let whole = read_with(split(Split::Whole), "a.txt", text.as_bytes()).unwrap();
        let (last, full) = whole.examples.split_last().unwrap();
        assert!(full.iter().all(|row| row.tokens.len() == 64) && last.line.is_none());
    }

    /// Published shapes, each as one row, and what is to be read from it.
    #[test]
    fn published_shapes_are_read() {
        let tea = ["Tea?", "«Yes"];
        for (row, wanted) in [
            (r#"{"instruction": "Tea?", "input": "", "output": "Yes."}"#, &tea[..]),
            (
                r#"{"instruction": "Say it", "input": "Tea?", "output": "Yes.", "text": "Below is"}"#,
                &["Say it\nTea?", "«Yes"],
            ),
            (
                r#"{"instruction": "Tea?", "output": "Yes.", "system": "Be brief.", "history": [["A", "B"]]}"#,
                &["brief", "«B", "«Yes"],
            ),
            (r#"{"instruction": "Tea?", "context": "", "response": "Yes.", "category": "qa"}"#, &tea),
            (r#"{"question": "Tea?", "answer": "Yes.", "id": 3}"#, &tea),
            (r#"{"system_prompt": "Be brief.", "question": "Tea?", "response": "Yes."}"#, &["brief", "Tea?", "«Yes"]),
            (r#"{"conversations": [{"from": "human", "value": "Tea?"}, {"from": "gpt", "value": "Yes."}]}"#, &tea),
            (
                r#"{"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Tea?"}, {"from": "gpt", "value": "Yes."}]}"#,
                &["brief", "«Yes"],
            ),
            (
                r#"{"conversations": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}]}"#,
                &tea,
            ),
            (r#"{"messages": [{"role": "human", "content": "Tea?"}, {"role": "gpt", "content": "Yes."}]}"#, &tea),
            (r#"{"id": "0", "data": ["Tea?", "Yes.", "Soup?", "No."]}"#, &["Tea?", "«Yes", "Soup?", "«No"]),
            (
                r#"{"prompt": "Tea?", "prompt_id": "x", "messages": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}]}"#,
                &tea,
            ),
            (r#"{"prompt": "Tea?", "completion": "Yes.", "data": [], "question": "?", "answer": "!"}"#, &tea),
        ] {
            let data = read("rows.jsonl", row);
            let text = texts(&data).concat();
            for part in wanted {
                assert!(text.contains(part), "{part:?} of {row} in {text}");
            }
        }
        // Pairs.
        let said = |text: &str| {
            format!(r#"[{{"role": "user", "content": "Tea?"}}, {{"role": "assistant", "content": "{text}"}}]"#)
        };
        for row in [
            format!(r#"{{"prompt": "Tea?", "chosen": {0}, "rejected": {1}, "messages": {0}, "score_chosen": 8.0}}"#, said("Yes."), said("No.")),
            r#"{"chosen": "\n\nHuman: Tea?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Tea?\n\nAssistant: No."}"#.into(),
            r#"{"input": {"messages": [{"role": "user", "content": "Tea?"}]}, "preferred_output": [{"role": "assistant", "content": "Yes."}], "non_preferred_output": [{"role": "assistant", "content": "No."}]}"#.into(),
        ] {
            let data = read("pairs.jsonl", &row);
            let text = texts(&data).concat();
            let mut other = data.clone();
            other.examples = vec![*data.examples[0].other.clone().unwrap()];
            let other = texts(&other).concat();
            assert!(text.contains("«Yes") && other.contains("«No") && !other.contains("«Tea"), "{text} {other}");
        }
        // What is none of them is named with all that are known.
        for (row, part) in [
            (r#"{"ask": "a", "reply": "b"}"#, r#"keys "ask", "reply""#),
            (r#"{"text": "a", "tokens": [1, 2]}"#, "2 shapes at once"),
            (r#"{"messages": [], "completion": "a"}"#, "\"completion\" is in the way"),
            (r#"{"conversations": [{"from": "narrator", "value": "a"}]}"#, "known are system, human"),
            (r#"{"conversations": [{"who": "narrator", "value": "a"}]}"#, "\"from\" and \"value\" are needed"),
            (r#"{"chosen": "a", "rejected": "b"}"#, "Human: and Assistant:"),
        ] {
            let why = why("a.jsonl", row.as_bytes());
            assert!(why.contains(part), "{row}: {why}");
            assert!(!part.contains("keys") || why.contains("{\"instruction\", \"output\"}"), "{why}");
        }
    }

    #[test]
    fn files_are_what_they_are() {
        for (name, bytes, part) in [
            ("a.txt", &b"%PDF-1.7"[..], "a PDF"),
            ("a.docx", b"PK\x03\x04", "a Word document"),
            ("a.zip", b"PK\x03\x04", "a ZIP archive"),
            ("a", b"\x1f\x8b\x08", "a gzip file"),
            ("a.html", b"<!DOCTYPE html><p>Hi", "a web page"),
            ("a.parquet", b"PAR1", "a Parquet file"),
            ("a.log", b"a\tb\nc\td\ne\tf\n", "columns with tabs"),
            ("a.bin", b"abc\0def", "a byte 0"),
            ("a.txt", b"caf\xe9 au lait", "line 1, column 4: byte 0xe9 is not UTF-8"),
            ("a.csv", b"a,b\nc,d\n", "\"a\", \"b\""),
        ] {
            let why = why(name, bytes);
            assert!(why.contains(part), "{name}: {why}");
        }
        for (name, text, rows, note) in [
            ("a", "{\"text\": \"a b c\"}\n{\"text\": \"d e f\"}", 2, "looks like JSON"),
            ("a", "[{\"text\": \"a b c\"}]", 1, "looks like JSON"),
            ("a", "question,answer\nTea?,Yes.\n", 1, "looks like a table"),
            ("a.log", "Rain. Tea. Soup.", 1, "read as plain text"),
            ("a.txt", "{\"text\": \"a b c\"}", 1, "looks like JSON, and is read as text"),
        ] {
            let data = read(name, text);
            assert!(data.examples.len() == rows && data.notes[0].contains(note), "{name}: {:?}", data.notes);
        }
        let latin = Options { encoding: Some("latin1".into()), ..Options::default() };
        let data = read_with(latin, "a.txt", b"caf\xe9 au lait").unwrap();
        assert!(texts(&data)[0].replace('«', "").contains("café"), "{:?}", texts(&data));
    }

    #[test]
    fn chats_become_conversations() {
        let android = "12/30/23, 09:00 - Messages are end-to-end encrypted.\n\
            12/30/23, 09:01 - Ann: Tea?\n12/30/23, 09:02 - Ben: Yes.\nAt four.\n12/30/23, 09:03 - Ben: With milk.\n\
            12/30/23, 09:04 - Ann: <Media omitted>\n12/31/23, 10:00 - Ben: Up?\n12/31/23, 10:01 - Ann: No.\n12/31/23, 10:02 - Ben: Ah.\n";
        let apple = android.replace("12/30/23, 09:0", "[30.12.23, 09:0").replace("12/31/23, 10:0", "[31.12.23, 10:0");
        let apple: String = apple.replace(" - ", ":30] ");
        for text in [android, &apple] {
            let data = read_with(speaker("Ben"), "WhatsApp Chat.txt", text.as_bytes()).unwrap();
            let rows = texts(&data);
            assert_eq!(rows.len(), 2, "{rows:?}");
            assert!(rows[0].contains("Tea?") && rows[0].contains("«Yes.\nAt four.\nWith milk."), "{rows:?}");
            assert!(rows[1].contains("No.") && rows[1].contains("«Ah.") && !rows[1].contains("Up?"), "{rows:?}");
            assert!(
                data.notes[0].contains("words of Ben") && data.notes[0].contains("1 messages without text, 1 notices"),
                "{:?}",
                data.notes
            );
            let why = why("chat.txt", text.as_bytes());
            assert!(why.contains("Ben (4 messages), Ann (2 messages)"), "{why}");
        }
    }

    const MAILS: &str = "From ann@x.example Mon Mar  4 10:00:00 2024\nFrom: Ann <ann@x.example>\nMessage-ID: <1@x>\nSubject: =?utf-8?Q?T=C3=A9?=\n\nTea at four?\n\n-- \nAnn\n\n\
        From ben@x.example Mon Mar  4 11:00:00 2024\nFrom: Ben <ben@x.example>\nMessage-ID: <2@x>\nIn-Reply-To: <1@x>\nSubject: Re: =?utf-8?Q?T=C3=A9?=\nContent-Transfer-Encoding: quoted-printable\n\nYes, at four =E2=80=93 with milk.\n\nOn Monday, 4 March, Ann wrote:\n> Tea at four?\n";

    #[test]
    fn mails_become_rows() {
        let data = read("box.mbox", MAILS);
        let rows = texts(&data);
        assert_eq!(rows.len(), 2, "{rows:?}");
        let plain = |row: &str| row.replace(['«', '»'], "");
        assert!(plain(&rows[0]).contains("Subject: Té\n\nTea at four?") && !rows[0].contains("Ann"), "{rows:?}");
        assert!(plain(&rows[1]).contains("four – with milk.") && !rows[1].contains("wrote"), "{rows:?}");
        for name in ["Ben", "ben@x.example"] {
            let data = read_with(speaker(name), "box.mbox", MAILS.as_bytes()).unwrap();
            let rows = texts(&data);
            assert!(rows.len() == 1 && rows[0].contains("Tea at four?") && rows[0].contains("«Yes, at"), "{rows:?}");
        }
    }

    #[test]
    fn folders_streams_and_looks() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("notes");
        fs::create_dir_all(folder.join("more")).unwrap();
        fs::write(folder.join("b.md"), "# One\nRain and tea.\n# Two\nSoup and snow.\n").unwrap();
        fs::write(folder.join("a.jsonl"), "{\"text\": \"Fog on the water.\"}\n{\"txt\": 1}\n").unwrap();
        fs::write(folder.join("more/c.txt"), "The parrot saw a ship.").unwrap();
        fs::write(folder.join("d.png"), "\u{89}PNG").unwrap();
        fs::write(folder.join(".hidden.txt"), "no").unwrap();
        let (status, out, said) = run(dir.path(), &["data", "look", "notes", "--rows", "9"], b"");
        assert_eq!(status, 0, "{said}");
        assert!(out.contains("4 rows") && out.contains("«") && out.contains("og on the water."), "{out}");
        for part in ["b.md: 2 entries", "1 file is skipped because of its type: d.png", "a.jsonl: line 2: row: keys"] {
            assert!(said.contains(part), "{part:?} in {said}");
        }
        let (status, out, _) = run(dir.path(), &["data", "look", "notes", "--json"], b"");
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((status, json["rows"].as_u64(), json["left_out"][0]["line"].as_u64()), (0, Some(4), Some(2)));
        assert_eq!(json["first"][0]["parts"][1]["learnt"], true, "{out}");

        let model = dir.path().join("model.gguf");
        fs::write(&model, mynah::base::MODEL).unwrap();
        let train = ["train", "-m", "model.gguf", "-o", "out", "--steps", "1", "--ctx", "32", "-d"];
        let (status, _, said) = run(dir.path(), &[&train[..], &["notes"]].concat(), b"");
        assert!(status == 0 && said.contains("4 rows"), "{said}");
        let rows = b"{\"prompt\": \"Tea?\", \"chosen\": \"Yes.\", \"rejected\": \"No.\"}\n";
        fs::remove_file(dir.path().join("out")).unwrap();
        let (status, _, said) = run(dir.path(), &[&train[..], &["-", "--objective", "dpo"]].concat(), rows);
        assert!(status == 0 && said.contains("1 rows") && !dir.path().join("-.reference").exists(), "{said}");
        let csv = b"Frage;Antwort\nTee?;Ja.\n";
        let look = ["data", "look", "-", "--columns", "question=Frage,answer=Antwort"];
        fs::write(dir.path().join("q.csv"), csv).unwrap();
        let (status, out, said) = run(dir.path(), &[&look[..2], &["q.csv"], &look[3..]].concat(), b"");
        assert!(status == 0 && out.contains("Tee?") && said.contains("semicolons"), "{out} {said}");
        let (status, _, said) = run(dir.path(), &["data", "look", "q.csv", "--columns", "question"], b"");
        assert!(status == 2 && said.contains("KEY=NAME"), "{said}");
    }
}
