//! Training data as people have it: texts, JSON, tables, exports of chats and mails, as token rows with loss masks.
//!
//! [`Reader::file`] recognises what a file holds by its name, and by its first bytes where the name does not tell. A text
//! becomes rows by entries or paragraphs ([`Split`]); everything else has rows, whose keys say what is learnt of them. The
//! shapes are rows of a table, [`SHAPES`]:
//!
//! | row | target tokens |
//! | --- | --- |
//! | `{"text": "…"}` | every token |
//! | `{"prompt": "…", "completion": "…"}` | the completion and the end token |
//! | the same with `"label": true` or `false` | the same, with a verdict |
//! | `{"prompt": "…", "chosen": "…", "rejected": "…"}` | two completions, the first the better |
//! | `{"tokens": [1, 2], "mask": [0, 1]}` | tokens with mask 1; all without `mask` |
//! | `{"messages": [{"role": "user", "content": "…"}]}` | the assistant's words, by the model's chat template |
//! | `{"query": "…", "positive": "…", "negative": "…"}` | none: texts to be embedded; `negative` may be a list, or missing |
//!
//! The others are those of published sets. Prompts and completions may be lists of messages, too. Without a prompt, the common
//! beginning of `chosen` and `rejected` is the prompt. `"weight": 0.5` is the factor of a row's loss, `"aligned": [-1.2, -0.9]`
//! the mean log-probabilities of a completion's tokens under aligned models, for PoFT. Other keys of a row are ignored, and
//! `null` stands for a key that is absent. The shape may change from row to row.
//!
//! A message has a `role` and a `content`, which is a text or a list of text parts. The template also gets its other
//! fields, such as `tool_calls`, and the columns `tools` and `chat_template_kwargs` of the row. An assistant's message with
//! `"weight": 0` is no target. `"ended": false` in a last message marks it as cut off: its end token is no target.
//!
//! A row that cannot be used is left out and named: the template refuses its messages, for example, or its line is no JSON,
//! as the last line of a file that was cut off, or nothing of it is to be learnt. What was guessed of a file is said in
//! [`Dataset::notes`].
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

mod dates;
mod encoding;
mod entries;
#[cfg(feature = "std")]
mod files;
mod format;
mod json;
#[cfg(feature = "imports")]
mod mail;
mod order;
mod shape;
mod table;
mod talk;
mod turns;

pub use entries::Split;
#[cfg(feature = "std")]
pub use files::{Files, is_stream};
pub use format::Format;
pub use order::{Order, pack};
pub use shape::{SHAPES, Shape};

use super::Example;
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::rng::Random;
#[cfg(feature = "chat")]
use crate::text::chat::Template;
use crate::text::{Encode, Json, Tokenizer};
use core::slice::SliceIndex;
use std::borrow::Cow;
use std::prelude::v1::*;

/// A reader of training data: what it needs beside the data.
pub struct Reader<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The chat template, for conversations.
    #[cfg(feature = "chat")]
    pub template: Option<&'a Template>,
    /// Most tokens of a row.
    pub ctx: usize,
    /// Whether control tokens that the data spells become those tokens; otherwise such spellings are text. Those of the chat
    /// template always do.
    pub parse_special: bool,
    /// What the caller says of the data.
    pub options: Options,
    /// Bounds on lines and nesting.
    pub limits: Limits,
}

/// What a person says about data that the data do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The encoding of files, such as `windows-1252`; UTF-8 and UTF-16 are recognised.
    pub encoding: Option<String>,
    /// Keys that columns, or keys, of other names stand for: `("prompt", "Frage")`.
    pub columns: Vec<(String, String)>,
    /// Whose words are learnt in exports of chats and mails.
    pub speaker: Option<String>,
    /// How texts become rows.
    pub split: Split,
}

impl Options {
    /// What tells these options from others; nothing if all are the usual ones.
    pub fn facts(&self) -> String {
        match *self == Options::default() {
            true => String::new(),
            false => {
                let Options { encoding, columns, speaker, split } = self;
                format!("{encoding:?} {columns:?} {speaker:?} {split:?}")
            }
        }
    }
}

/// A digest of rows: BLAKE3 of their contents, without reference log-probabilities and line numbers.
pub fn digest(rows: &[Example]) -> [u8; 32] {
    fn add(hash: &mut blake3::Hasher, row: &Example) {
        let Example { tokens, mask, weight, good, other, passages, reference: _, line: _ } = row;
        hash.update(&(tokens.len() as u64).to_le_bytes());
        tokens.iter().for_each(|t| _ = hash.update(&t.to_le_bytes()));
        mask.iter().for_each(|c| _ = hash.update(&[u8::from(*c)]));
        hash.update(&weight.unwrap_or(1.0).to_le_bytes());
        hash.update(&[good.map_or(2, u8::from), u8::from(other.is_some())]);
        if let Some(other) = other {
            add(hash, other);
        }
        passages.iter().for_each(|passage| add(hash, passage));
    }
    let mut hash = blake3::Hasher::new();
    rows.iter().for_each(|row| add(&mut hash, row));
    *hash.finalize().as_bytes()
}

/// Rows for training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The rows; each has a target token.
    pub examples: Vec<Example>,
    /// Number of rows that were cut because they were longer than the context.
    pub cut: usize,
    /// Tokens of the longest row, before it was cut.
    pub longest: usize,
    /// Rows that were left out because they cannot be used, or because nothing of them is to be learnt.
    pub left_out: Vec<LeftOut>,
    /// What was guessed of the data, a line each.
    pub notes: Vec<String>,
    /// Number of rows that spell control tokens which were read as text; of a plain text at most 1.
    pub spelled: usize,
}

/// A row of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its file, in a folder of several.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: usize,
    /// The reason, on one line.
    pub why: String,
}

impl core::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let file = self.file.as_ref().map(|file| format!("{}: ", printable(file))).unwrap_or_default();
        write!(f, "{file}line {}: {}", self.line, self.why)
    }
}

impl Dataset {
    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.examples.iter().flat_map(Example::sequences).map(|e| e.tokens.len()).sum()
    }

    /// Splits off a random `fraction` of the rows, at least one and never all. Returns the training rows and the
    /// held-out rows, both in their order.
    ///
    /// # Errors
    /// `Invalid` if the fraction is not in 0..1 or there are too few rows.
    pub fn split(self, fraction: f64, seed: u64) -> Result<(Vec<Example>, Vec<Example>)> {
        let n = self.examples.len();
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::invalid("evaluation fraction", format!("{fraction}; it must be 0 or more and below 1")));
        }
        if fraction == 0.0 {
            return Ok((self.examples, Vec::new()));
        }
        if n < 2 {
            return Err(Error::invalid("evaluation fraction", format!("{n} row cannot be split in two")));
        }
        let held = (libm::round(n as f64 * fraction) as usize).clamp(1, n.saturating_sub(1));
        let mut order: Vec<usize> = (0..n).collect();
        Random::new(seed, "data", "split").shuffle(&mut order);
        let mut aside = vec![false; n];
        for i in order.into_iter().take(held) {
            aside.get_mut(i).into_iter().for_each(|aside| *aside = true);
        }
        let (mut train, mut eval) = (Vec::new(), Vec::new());
        for (example, aside) in self.examples.into_iter().zip(aside) {
            if aside { eval.push(example) } else { train.push(example) }
        }
        Ok((train, eval))
    }
}

impl Reader<'_> {
    /// Reads the rows of a file, whose name tells what it holds; where it does not, the first bytes do.
    ///
    /// # Errors
    /// `Unsupported` for files that hold something else; `Invalid` with line and column of bytes in another encoding, and if
    /// there is no usable row, with the numbers of the first lines and the reasons. The error of an only row is that row's
    /// own.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<Dataset> {
        self.collect(|out| self.read(name, bytes, out))
    }

    /// Reads the rows of several files, as those of a folder.
    ///
    /// # Errors
    /// Those of [`Reader::file`], with the file's name in a folder.
    #[cfg(feature = "std")]
    pub fn files(&self, files: &Files) -> Result<Dataset> {
        self.collect(|out| {
            for (name, bytes) in &files.list {
                out.file = Some(name.clone()).filter(|_| files.folder);
                let read = self.read(name, bytes, out);
                read.map_err(|e| if files.folder { e.in_file(name) } else { e })?;
            }
            out.file = None;
            if !files.others.is_empty() {
                let first: Vec<&str> = files.others.iter().take(3).map(String::as_str).collect();
                let more = if files.others.len() > 3 { " and others" } else { "" };
                let (n, which) = (files.others.len(), first.join(", "));
                out.note(match n {
                    1 => format!("1 file is skipped because of its type: {which}"),
                    _ => format!("{n} files are skipped because of their type: {which}{more}"),
                });
            }
            Ok(())
        })
    }

    /// A text, cut into rows as [`Options::split`] says.
    ///
    /// # Errors
    /// `Invalid` if there are not two tokens; those of [`Tokenizer::encode`].
    pub fn text(&self, text: &str) -> Result<Dataset> {
        self.collect(|out| self.entries(text, out))
    }

    /// Rows of JSON: one a line, one list of all, or rows over several lines. Empty lines, a byte order mark and Windows line
    /// ends are accepted. Rows that cannot be used are left out, and so are lines that are no JSON.
    ///
    /// # Errors
    /// Those of [`Reader::file`].
    pub fn lines(&self, bytes: &[u8]) -> Result<Dataset> {
        self.collect(|out| self.json(bytes, out))
    }

    fn collect(&self, read: impl FnOnce(&mut Collector) -> Result<()>) -> Result<Dataset> {
        self.check()?;
        let mut out = Collector::new(self);
        read(&mut out)?;
        out.finish()
    }

    fn read(&self, name: &str, bytes: &[u8], out: &mut Collector) -> Result<()> {
        let (format, note) = Format::of(name, bytes)?;
        note.into_iter().for_each(|note| out.note(note));
        // Mails say themselves how they are encoded, each part of them.
        match format {
            Format::Json => return self.json(bytes, out),
            Format::Mail => return self.mail(bytes, out),
            _ => {}
        }
        let text = self.decode(bytes, false, out)?;
        match format {
            Format::Table { tabs } => {
                let columns = &self.options.columns;
                let note = table::rows(&text, tabs, columns, &self.limits, &mut |line, row| out.push(line, row))?;
                out.note(note);
                Ok(())
            }
            Format::Chat if matches!(self.options.split, Split::Auto | Split::Whole) => self.talk(&text, out),
            _ => self.entries(&text, out),
        }
    }

    #[cfg(feature = "imports")]
    fn mail(&self, bytes: &[u8], out: &mut Collector) -> Result<()> {
        self.mails(bytes, out)
    }

    #[cfg(not(feature = "imports"))]
    fn mail(&self, _: &[u8], _: &mut Collector) -> Result<()> {
        Err(Error::unsupported("data", "mails: this build does not read them"))
    }

    fn json(&self, bytes: &[u8], out: &mut Collector) -> Result<()> {
        let text = self.decode(bytes, true, out)?;
        let note = json::rows(&text, &self.limits, &mut |line, json| {
            out.push(line, json.map(|row| self.renamed(row)));
        });
        note.into_iter().for_each(|note| out.note(note));
        Ok(())
    }

    fn decode<'b>(&self, bytes: &'b [u8], cut: bool, out: &mut Collector) -> Result<Cow<'b, str>> {
        let mut notes = Vec::new();
        let text = encoding::decode(bytes, self.options.encoding.as_deref(), cut, &mut notes)?;
        notes.into_iter().for_each(|note| out.note(note));
        Ok(text)
    }

    /// A row with the keys that its own stand for.
    fn renamed(&self, row: Json) -> Json {
        let Json::Object(mut pairs) = row else { return row };
        for (key, name) in &self.options.columns {
            if let Some(pair) = pairs.iter_mut().find(|(own, _)| own == name) {
                pair.0 = key.clone();
            }
        }
        Json::Object(pairs)
    }

    /// How a whole text is encoded.
    fn whole(&self) -> Encode {
        Encode { add_special: true, parse_special: self.parse_special }
    }

    fn cut(&self, mut example: Example) -> Example {
        example.tokens.truncate(self.ctx);
        example.mask.truncate(self.ctx);
        example
    }

    fn check(&self) -> Result<()> {
        if self.ctx < 2 {
            return Err(Error::invalid("context", format!("{} tokens; at least 2 are needed", self.ctx)));
        }
        Ok(())
    }

    /// Whether a row spells control tokens that are read as text.
    fn spells(&self, row: &Json) -> bool {
        let keys = SHAPES.iter().flat_map(|shape| shape.keys.iter().chain(shape.beside)).chain(&["tools"]);
        let mut texts = keys.filter_map(|key| row.get(key)).flat_map(Json::texts);
        !self.parse_special && texts.any(|text| self.tokenizer.spells_control(text))
    }
}

/// Takes the rows of files as they are read.
struct Collector<'a> {
    reader: &'a Reader<'a>,
    data: Dataset,
    /// The file that is read, in a folder of several.
    file: Option<String>,
    /// The first error of a row.
    first: Option<Error>,
    /// Most tokens that a row would need so that something of it is learnt.
    wanted: usize,
}

impl<'a> Collector<'a> {
    fn new(reader: &'a Reader<'a>) -> Collector<'a> {
        Collector { reader, data: Dataset::default(), file: None, first: None, wanted: 0 }
    }

    fn note(&mut self, note: String) {
        let file = self.file.as_ref().map(|file| format!("{}: ", printable(file))).unwrap_or_default();
        self.data.notes.push(file + &note);
    }

    /// Rows that were read so far, used or not.
    fn rows(&self) -> usize {
        self.data.examples.len().saturating_add(self.data.left_out.len())
    }

    fn leave_out(&mut self, line: usize, why: Error) {
        self.data.left_out.push(LeftOut { file: self.file.clone(), line, why: why.to_string() });
        self.first.get_or_insert(why);
    }

    /// A row as it stands in the data, or why there is none, and the line where it begins.
    fn push(&mut self, line: usize, row: Result<Json>) {
        let reader = self.reader;
        match row.and_then(|row| Ok((reader.row(&row)?, row))) {
            Ok((example, row)) => {
                let spells = self.add(line, example) && reader.spells(&row);
                self.data.spelled = self.data.spelled.saturating_add(usize::from(spells));
            }
            Err(why) => self.leave_out(line, why),
        }
    }

    /// A row of tokens that begins in this line. Returns whether it is used.
    fn add(&mut self, line: usize, mut example: Example) -> bool {
        let ctx = self.reader.ctx;
        let longest = example.sequences().map(|e| e.tokens.len()).max().unwrap_or(0);
        let (texts, silent) = (!example.passages.is_empty(), example.weight == Some(0.0));
        // Where the first token stands that is learnt.
        let begin = |e: &Example| e.mask.iter().skip(1).position(|learnt| *learnt).map(|t| t.saturating_add(1));
        let begins: Vec<Option<usize>> = example.sequences().map(begin).collect();
        let why = match begins.iter().copied().collect::<Option<Vec<usize>>>() {
            _ if silent => Some("nothing to learn: its weight is 0".into()),
            _ if texts => None,
            None => Some("nothing to learn: too short, or nothing of it counts".into()),
            Some(begins) => begins.into_iter().max().filter(|begin| *begin >= ctx).map(|begin| {
                self.wanted = self.wanted.max(longest);
                format!("nothing to learn within {ctx} tokens: what counts begins at token {}", begin.saturating_add(1))
            }),
        };
        if let Some(why) = why {
            self.leave_out(line, Error::invalid("row", why));
            return false;
        }
        self.data.longest = self.data.longest.max(longest);
        self.data.cut = self.data.cut.saturating_add(usize::from(longest > ctx));
        if texts && longest > ctx {
            let endings = endings(self.reader.tokenizer).unwrap_or(0);
            let texts = core::iter::once(&mut example.tokens);
            let texts = texts.chain(example.passages.iter_mut().map(|p| &mut p.tokens));
            texts.for_each(|tokens| shorten(tokens, ctx, endings));
            example.passages.iter_mut().for_each(|p| p.mask.truncate(ctx));
        }
        let other = example.other.take().map(|o| Box::new(self.reader.cut(*o)));
        let line = Some(line).filter(|_| self.file.is_none());
        self.data.examples.push(Example { other, line, ..self.reader.cut(example) });
        true
    }

    fn finish(self) -> Result<Dataset> {
        let Collector { data, first, wanted, reader, .. } = self;
        match (data.examples.len(), &data.left_out[..], first) {
            (1.., ..) => Ok(data),
            (_, [], _) => Err(Error::invalid("data", "no rows")),
            (_, all, _) if wanted > 0 => {
                let (n, ctx) = (all.len(), reader.ctx);
                let why = format!(
                    "none of {n} rows has anything to learn within {ctx} tokens; {wanted} would take the longest whole \
                     (--ctx, Settings::context)"
                );
                Err(Error::invalid("data", why))
            }
            (_, [one], Some(error)) => {
                let error = error.in_file(format!("line {}", one.line));
                Err(one.file.iter().fold(error, |error, file| error.in_file(file)))
            }
            (_, all, _) => {
                let first: Vec<String> = all.iter().take(3).map(LeftOut::to_string).collect();
                let more = if all.len() > 3 { "; and so on" } else { "" };
                let why = format!("none of {} rows can be used: {}{more}", all.len(), first.join("; "));
                Err(Error::invalid("data", why))
            }
        }
    }
}

/// A part of a text that lies in it, from character to character; of others nothing.
fn part_of(text: &str, range: impl SliceIndex<str, Output = str>) -> &str {
    text.get(range).unwrap_or_default()
}

/// The tokens of a whole text with those that the model expects around it; of more than `most` the first ones, and those that
/// end a text.
///
/// # Errors
/// Those of [`Tokenizer::encode`].
pub fn whole(tokenizer: &Tokenizer, text: &str, most: usize) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode(text, &Encode { add_special: true, parse_special: false })?;
    if tokens.len() > most {
        shorten(&mut tokens, most, endings(tokenizer)?);
    }
    Ok(tokens)
}

/// How many tokens the tokenizer puts at the end of a text.
fn endings(tokenizer: &Tokenizer) -> Result<usize> {
    let encode = |add_special| tokenizer.encode("a", &Encode { add_special, parse_special: false });
    let (all, plain) = (encode(true)?, encode(false)?);
    // Behind the last place where the text stands.
    let place = all.windows(plain.len().max(1)).rposition(|tokens| *tokens == plain[..]);
    Ok(place.map_or(0, |place| all.len().saturating_sub(place.saturating_add(plain.len()))))
}

/// The first `most` tokens, of which the last are the last of the whole text.
fn shorten(tokens: &mut Vec<u32>, most: usize, endings: usize) {
    let (n, endings) = (tokens.len(), endings.min(most));
    if n > most {
        tokens.copy_within(n.saturating_sub(endings).., most.saturating_sub(endings));
        tokens.truncate(most);
    }
}

/// The text of a file in UTF-8 or UTF-16, without its byte order mark.
///
/// # Errors
/// `Invalid` with line and column of the first byte that is neither.
pub fn text_of(bytes: &[u8]) -> Result<Cow<'_, str>> {
    encoding::decode(bytes, None, false, &mut Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, Writer};

    /// Bytes as tokens: 0 to 2 are special, byte b is b + 3.
    fn tokenizer() -> Tokenizer {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
        tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
        let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
        let mut w = Writer::new();
        w.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.add_space_prefix", false);
        w.set("tokenizer.ggml.tokens", tokens.as_slice()).set("tokenizer.ggml.scores", &[0.0f32; 259][..]);
        w.set("tokenizer.ggml.token_type", kinds.as_slice());
        w.set("tokenizer.ggml.bos_token_id", 1u32).set("tokenizer.ggml.eos_token_id", 2u32);
        w.set("tokenizer.ggml.add_bos_token", true);
        let gguf = Gguf::parse(w.finish().unwrap().into(), &Limits::default()).unwrap();
        Tokenizer::from_gguf(&gguf).unwrap()
    }

    fn lines(ctx: usize, text: impl AsRef<[u8]>) -> Result<Dataset> {
        let tokenizer = tokenizer();
        let reader = Reader {
            tokenizer: &tokenizer,
            #[cfg(feature = "chat")]
            template: None,
            ctx,
            parse_special: false,
            options: Options::default(),
            limits: Limits::default(),
        };
        reader.lines(text.as_ref())
    }

    fn why(text: impl AsRef<[u8]>) -> String {
        lines(64, text).unwrap_err().to_string()
    }

    #[test]
    fn every_shape_becomes_rows() {
        let text = "\u{feff}{\"text\": \"ab\", \"id\": 7}\r\n\r\n{\"prompt\": \"a\", \"completion\": \"b\"}\n\
            {\"tokens\": [5, 6, 7], \"mask\": [1, 0, 1]}\n{\"tokens\": [5, 6]}";
        let got = lines(64, text).unwrap();
        let row = |line: usize, tokens: &[u32], mask: &[u8]| Example {
            line: Some(line),
            ..Example::new(tokens.to_vec(), mask.iter().map(|m| *m == 1).collect())
        };
        assert_eq!(
            got.examples,
            [
                row(1, &[1, 100, 101], &[1, 1, 1]),
                row(3, &[1, 100, 101, 2], &[0, 0, 1, 1]),
                row(4, &[5, 6, 7], &[1, 0, 1]),
                row(5, &[5, 6], &[1, 1]),
            ]
        );
        assert_eq!((got.cut, got.left_out.len()), (0, 0));
    }

    #[test]
    fn long_rows_are_cut_and_empty_ones_left_out() {
        let text = "{\"text\": \"abcdef\"}\n{\"prompt\": \"abcdef\", \"completion\": \"b\"}\n{\"tokens\": [4]}";
        let got = lines(4, text).unwrap();
        assert_eq!((got.examples.len(), got.cut, got.longest), (1, 1, 7));
        let why: Vec<&str> = got.left_out.iter().map(|row| row.why.as_str()).collect();
        assert_eq!(why.len(), 2);
        assert!(
            why[0].contains("within 4 tokens: what counts begins at token 8")
                && why[1].contains("nothing of it counts"),
            "{why:?}"
        );
        assert_eq!(got.examples[0].tokens, [1, 100, 101, 102]);
        assert!(
            lines(4, "{\"tokens\": [4, 5], \"mask\": [1, 0]}").unwrap_err().to_string().contains("nothing to learn")
        );
        let long = lines(4, "{\"prompt\": \"abcdef\", \"completion\": \"b\"}").unwrap_err().to_string();
        assert!(long.contains("within 4 tokens; 9 would take") && long.contains("--ctx"), "{long}");
    }

    #[test]
    fn a_bad_line_is_named() {
        assert!(why("\n{\"text\": ").starts_with("line 2: JSON"));
        assert!(why("{\"text\": \"a\", \"text\": \"b\"}").contains("comes twice"));
        assert!(why("{\"text\": \"a\", \"x\": {\"y\": 1, \"y\": 1}}").contains("comes twice"));
        assert!(why("[1]").contains("messages"));
        assert!(why("{\"txt\": \"a\"}").contains("known are"));
        assert!(why("{\"prompt\": \"a\"}").contains("known are"));
        assert!(why("{\"text\": \"a\", \"tokens\": [1]}").contains("known are"));
        assert!(why("{\"text\": 7}").contains("not a text"));
        assert!(why("{\"tokens\": [1, 259]}").contains("259"));
        assert!(why("{\"tokens\": [1, -1]}").contains("-1"));
        assert!(why("{\"tokens\": [1, 2.5]}").contains("2.5"));
        assert!(why("{\"tokens\": [1, 2], \"mask\": [1]}").contains("1 entries for 2"));
        assert!(why("{\"tokens\": [1, 2], \"mask\": [1, 2]}").contains("below 2"));
        assert!(why("{\"text\": \"a\"} x").contains("line 1"));
        assert!(why(b"{\"text\": \"\xff\"}").contains("line 1"));
        assert!(why(b"\xff\xfe{\0").contains("EOF"), "UTF-16 is read");
        assert!(why("").contains("no rows") && why("\n\n").contains("no rows"));
        assert!(why(format!("{{\"text\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000))).contains("line 1"));
        assert!(why(format!("{{\"x\": {}1{}}}", "[".repeat(70), "]".repeat(70))).contains("deep"));
        assert!(why(vec![b' '; 9 << 20].into_iter().chain(*b"x").collect::<Vec<_>>()).contains("8388608"));
        assert!(why("{\"messages\": []}").contains("template"));
    }

    #[test]
    fn lines_that_are_no_json_are_left_out() {
        let good = "{\"text\": \"ab\"}";
        let long = " ".repeat(9 << 20);
        let bad = ["{\"text\": \"a", "[1]", "7", "{\"text\": \"a\"} x", "\u{1}", &long];
        let text = bad.iter().map(|bad| format!("{bad}{}\n{good}\n", if *bad == long { "x" } else { "" }));
        let got = lines(64, text.collect::<String>()).unwrap();
        let named = |rows: &[LeftOut]| rows.iter().map(|row| row.line).collect::<Vec<_>>();
        assert_eq!((got.examples.len(), named(&got.left_out)), (6, vec![1, 3, 5, 7, 9, 11]));
        let of: Vec<Option<usize>> = got.examples.iter().map(|e| e.line).collect();
        assert_eq!(of, [2, 4, 6, 8, 10, 12].map(Some), "lines keep their numbers");
        let reasons = ["EOF", "not an object", "not an object", "trailing", "expected value", "8388608"];
        for (row, reason) in got.left_out.iter().zip(reasons) {
            assert!(row.why.contains(reason) && !row.why.contains('\n'), "{row}");
        }

        // A file that was cut off, inside a character too.
        let whole = format!("{good}\n{{\"text\": \"\u{e9}\"}}");
        for end in [good.len() + 2, whole.len() - 3, whole.len() - 1] {
            let got = lines(64, &whole.as_bytes()[..end]).unwrap();
            assert_eq!((got.examples.len(), named(&got.left_out)), (1, vec![2]), "{end} bytes");
        }

        let none = why("{\"text\": \"a\n[1]\n\n{\"txt\": 1}\n7");
        assert!(none.contains("none of 4 rows") && none.contains("line 1: JSON: EOF"), "{none}");
        assert!(none.contains("line 4: row: keys") && none.ends_with("; and so on"), "{none}");
    }

    #[test]
    fn text_is_cut_into_rows() {
        let tokenizer = tokenizer();
        let reader = Reader {
            tokenizer: &tokenizer,
            #[cfg(feature = "chat")]
            template: None,
            ctx: 4,
            parse_special: false,
            options: Options::default(),
            limits: Limits::default(),
        };
        let rows = |text: &str| reader.file("a.txt", text.as_bytes()).unwrap().examples;
        assert_eq!(rows("abcdef").iter().map(|e| e.tokens.len()).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(rows("abcd").iter().map(|e| e.tokens.len()).collect::<Vec<_>>(), [3, 3]); // about as long
        assert!(reader.file("a.txt", b"").is_err() && reader.file("a.txt", b"\xff").is_err());
        assert_eq!(reader.file("a", b" {\"tokens\": [1, 2]}").unwrap().examples.len(), 1);
    }

    #[test]
    fn split_keeps_every_row_once() {
        let rows: Vec<Example> = (0..10).map(|i| Example::all(vec![i, i])).collect();
        let data = Dataset { examples: rows.clone(), ..Dataset::default() };
        let (train, eval) = data.clone().split(0.25, 3).unwrap();
        assert_eq!((train.len(), eval.len()), (7, 3));
        let mut all: Vec<_> = train.into_iter().chain(eval).collect();
        all.sort_by_key(|e| e.tokens[0]);
        assert_eq!(all, rows);
        assert_eq!(data.clone().split(0.0, 3).unwrap().1.len(), 0);
        assert_eq!(data.clone().split(0.001, 3).unwrap().1.len(), 1);
        assert_eq!(data.clone().split(0.999, 3).unwrap().0.len(), 1);
        assert!(data.clone().split(1.0, 3).is_err() && data.split(f64::NAN, 3).is_err());
    }
}
