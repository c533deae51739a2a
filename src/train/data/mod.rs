//! Training data: plain text, or JSON Lines of several shapes, as token rows with loss masks.
//!
//! | line | target tokens |
//! | --- | --- |
//! | `{"text": "…"}` | every token |
//! | `{"prompt": "…", "completion": "…"}` | the completion and the end token |
//! | the same with `"label": true` or `false` | the same, with a verdict |
//! | `{"prompt": "…", "chosen": "…", "rejected": "…"}` | two completions, the first the better |
//! | `{"tokens": [1, 2], "mask": [0, 1]}` | tokens with mask 1; all without `mask` |
//! | `{"messages": [{"role": "user", "content": "…"}]}` | the assistant's words, by the model's chat template |
//! | `{"query": "…", "positive": "…", "negative": "…"}` | none: texts to be embedded; `negative` may be a list, or missing |
//!
//! Prompts and completions may be lists of messages, too. Without a prompt, the common beginning of `chosen` and
//! `rejected` is the prompt. `"weight": 0.5` is the factor of a row's loss, `"aligned": [-1.2, -0.9]` the mean
//! log-probabilities of a completion's tokens under aligned models, for PoFT. Other keys of a line are ignored, and `null`
//! stands for a key that is absent. The shape may change from line to line.
//!
//! A message has a `role` and a `content`, which is a text or a list of text parts. The template also gets its other
//! fields, such as `tool_calls`, and the columns `tools` and `chat_template_kwargs` of the row. An assistant's message with
//! `"weight": 0` is no target. `"ended": false` in a last message marks it as cut off: its end token is no target.
//!
//! A row that cannot be used is left out and named: the template refuses its messages, for example, or its line is no JSON,
//! as the last line of a file that was cut off.

mod order;

pub use order::{Order, pack};

use super::Example;
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::rng::Random;
#[cfg(feature = "chat")]
use crate::text::chat::{Conversation, Template, Turns};
use crate::text::{Encode, Json, Tokenizer};
use std::prelude::v1::*;

const SHAPES: &str = r#"known are {"text"}, {"prompt", "completion"}, {"prompt", "completion", "label"}, {"prompt", "chosen", "rejected"}, {"query", "positive", "negative"}, {"tokens", "mask"} and {"messages"}"#;

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
    /// Bounds on lines and nesting.
    pub limits: Limits,
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
    /// Number of rows that were left out because they have no target token, perhaps after they were cut.
    pub skipped: usize,
    /// Rows that were left out because they cannot be used.
    pub left_out: Vec<LeftOut>,
    /// Number of rows that spell control tokens which were read as text; of a plain text at most 1.
    pub spelled: usize,
}

/// A row of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its line, from 1.
    pub line: usize,
    /// The reason, on one line.
    pub why: String,
}

impl core::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
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
        let held = (libm::round(n as f64 * fraction) as usize).clamp(1, n - 1);
        let mut order: Vec<usize> = (0..n).collect();
        Random::new(seed, "data", "split").shuffle(&mut order);
        let mut aside = vec![false; n];
        order[..held].iter().for_each(|&i| aside[i] = true);
        let (mut train, mut eval) = (Vec::new(), Vec::new());
        for (example, aside) in self.examples.into_iter().zip(aside) {
            if aside { eval.push(example) } else { train.push(example) }
        }
        Ok((train, eval))
    }
}

impl Reader<'_> {
    /// Reads the rows of a file: as JSON Lines if its name has such a suffix, or if it has no known suffix and begins
    /// with a brace; otherwise as text.
    ///
    /// # Errors
    /// Those of [`Reader::text`] and [`Reader::lines`].
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<Dataset> {
        let ends = |list: &[&str]| list.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        let brace = || bytes.trim_ascii_start().first() == Some(&b'{');
        if ends(&[".jsonl", ".ndjson", ".json"]) || (!ends(&[".txt", ".md"]) && brace()) {
            self.lines(bytes)
        } else {
            self.text(utf8(bytes)?)
        }
    }

    /// One text, cut into rows of `ctx` tokens; the last may be shorter.
    ///
    /// # Errors
    /// `Invalid` if there are not two tokens; those of [`Tokenizer::encode`].
    pub fn text(&self, text: &str) -> Result<Dataset> {
        self.check()?;
        let ids = self.tokenizer.encode(text, &self.whole())?;
        let rows = ids.chunks(self.ctx).filter(|row| row.len() > 1);
        let examples: Vec<_> = rows.map(|row| Example::all(row.to_vec())).collect();
        if examples.is_empty() {
            return Err(Error::invalid("data", format!("{} tokens; at least 2 are needed", ids.len())));
        }
        let spelled = usize::from(!self.parse_special && self.tokenizer.spells_control(text));
        Ok(Dataset { examples, spelled, ..Dataset::default() })
    }

    /// How a whole text is encoded.
    fn whole(&self) -> Encode {
        Encode { add_special: true, parse_special: self.parse_special }
    }

    /// JSON Lines. Empty lines, a byte order mark and Windows line ends are accepted. Rows that cannot be used are left out,
    /// and so are lines that are no JSON.
    ///
    /// # Errors
    /// `Invalid` if there is no usable row, with the numbers of the first lines and the reasons. The error of an only row is
    /// that row's own.
    pub fn lines(&self, bytes: &[u8]) -> Result<Dataset> {
        self.check()?;
        utf16(bytes)?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut out = Dataset::default();
        let mut first = None;
        for (number, line) in (1..).zip(bytes.split(|&b| b == b'\n')) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let (json, mut example) = match self.line(line) {
                Ok(read) => read,
                Err(error) => {
                    out.left_out.push(LeftOut { line: number, why: error.to_string() });
                    first = first.or(Some(error));
                    continue;
                }
            };
            out.cut += usize::from(example.sequences().any(|e| e.tokens.len() > self.ctx));
            if !example.passages.is_empty() {
                let endings = endings(self.tokenizer)?;
                let texts = core::iter::once(&mut example.tokens);
                let texts = texts.chain(example.passages.iter_mut().map(|p| &mut p.tokens));
                texts.for_each(|tokens| shorten(tokens, self.ctx, endings));
                example.passages.iter_mut().for_each(|p| p.mask.truncate(self.ctx));
            }
            let other = example.other.take().map(|o| Box::new(self.cut(*o)));
            let texts = !example.passages.is_empty();
            let example = Example { other, line: Some(number), ..self.cut(example) };
            if texts || example.sequences().all(|e| e.targets() > 0) {
                out.spelled += usize::from(self.spells(&json));
                out.examples.push(example);
            } else {
                out.skipped += 1
            }
        }
        match (out.examples.len(), out.skipped, &out.left_out[..], first) {
            (1.., ..) => Ok(out),
            (_, 0, [one], Some(error)) => Err(error.in_file(format!("line {}", one.line))),
            (_, skipped, left_out @ [_, ..], _) => {
                let first: Vec<String> = left_out.iter().take(3).map(LeftOut::to_string).collect();
                let more = if left_out.len() > 3 { "; and so on" } else { "" };
                let why = format!("none of {} rows can be used: {}{more}", skipped + left_out.len(), first.join("; "));
                Err(Error::invalid("data", why))
            }
            (_, 0, ..) => Err(Error::invalid("data", "no rows")),
            (_, n, ..) => {
                let why = format!("none of {n} rows has a target token within {} tokens", self.ctx);
                Err(Error::invalid("data", why))
            }
        }
    }

    /// A line and the row that it makes.
    fn line(&self, line: &[u8]) -> Result<(Json, Example)> {
        Limits::check("bytes of a line", line.len() as u64, self.limits.line)?;
        let json = Json::parse(line, self.limits.json_depth)?;
        let example = self.row(&json)?;
        Ok((json, example))
    }

    fn cut(&self, mut example: Example) -> Example {
        example.tokens.truncate(self.ctx);
        example.mask.truncate(self.ctx);
        example
    }

    /// A query and its passages: whole texts, each with the tokens that the model expects around it.
    fn query(&self, row: &Json) -> Result<Example> {
        let whole = self.whole();
        let text = |name: &str, value: Option<&Json>| {
            let text = value.and_then(Json::text).ok_or_else(|| Error::invalid(name, "missing or not a text"))?;
            let tokens = self.tokenizer.encode(text, &whole)?;
            match tokens.len() {
                0 => Err(Error::invalid(name, "it has no token")),
                n => Ok(Example::new(tokens, vec![false; n])),
            }
        };
        let mut passages = vec![text("positive", get(row, "positive"))?];
        match get(row, "negative") {
            None => {}
            Some(Json::List(list)) => {
                for (i, value) in list.iter().enumerate() {
                    passages.push(text(&format!("negative[{i}]"), Some(value))?);
                }
            }
            one => passages.push(text("negative", one)?),
        }
        Ok(text("query", get(row, "query"))?.finding(passages))
    }

    fn check(&self) -> Result<()> {
        if self.ctx < 2 {
            return Err(Error::invalid("context", format!("{} tokens; at least 2 are needed", self.ctx)));
        }
        Ok(())
    }

    /// Whether a row spells control tokens that are read as text.
    fn spells(&self, row: &Json) -> bool {
        let texts = || {
            KEYS.iter()
                .chain(&["tools", "query", "positive", "negative"])
                .filter_map(|key| row.get(key))
                .flat_map(Json::texts)
        };
        !self.parse_special && texts().any(|text| self.tokenizer.spells_control(text))
    }

    fn row(&self, row: &Json) -> Result<Example> {
        let Some(pairs) = row.object() else {
            return Err(Error::invalid("row", format!("not an object; {SHAPES}")));
        };
        let mut found: Vec<&str> = KEYS.into_iter().filter(|key| get(row, key).is_some()).collect();
        leave_out_copies(row, &mut found)?;
        let mut example = match found[..] {
            ["text"] => Example::all(self.tokenizer.encode(text(row, "text")?, &self.whole())?),
            ["prompt", "completion"] => Example { good: label(row)?, ..self.answer(row, true, "completion", 0)? },
            ["prompt", "chosen", "rejected"] | ["chosen", "rejected"] => {
                let prompt = found[0] == "prompt";
                let common = if prompt { 0 } else { common(row)? };
                let answer = |key| self.answer(row, prompt, key, common);
                answer("chosen")?.over(answer("rejected")?)
            }
            ["tokens"] => self.tokens(row)?,
            ["messages"] => self.conversation(row, &[list(row, "messages")?], 0)?,
            [] if get(row, "query").is_some() => self.query(row)?,
            _ => {
                let keys: Vec<_> = pairs.iter().map(|(key, _)| format!("{:?}", printable(key))).collect();
                return Err(Error::invalid("row", format!("keys {}; {SHAPES}", printable(&keys.join(", ")))));
            }
        };
        let number = |key: &str, value: &Json| {
            let number = value.number().filter(|v| v.is_finite());
            number.ok_or_else(|| Error::invalid(key, "not a finite number"))
        };
        if let Some(value) = get(row, "weight") {
            let weight = number("weight", value)? as f32;
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::invalid("weight", format!("{weight}; a number from 0 can be used")));
            }
            example.weight = Some(weight);
        }
        if get(row, "aligned").is_some() {
            let means = list(row, "aligned")?;
            let sum = means.iter().map(|v| number("aligned", v)).sum::<Result<f64>>()?;
            if means.is_empty() || sum > 0.0 {
                return Err(Error::invalid("aligned", "a list of mean log-probabilities is needed, none above 0"));
            }
            let targets = self.cut(example.clone()).targets();
            example.reference = Some(sum / means.len() as f64 * targets as f64);
        }
        Ok(example)
    }

    /// The completion under `key`, after the row's prompt if it has one. Otherwise the first `common` messages of the
    /// conversation are the prompt.
    fn answer(&self, row: &Json, prompt: bool, key: &str, common: usize) -> Result<Example> {
        match (get(row, "prompt").filter(|_| prompt), get(row, key)) {
            (Some(Json::Text(prompt)), Some(Json::Text(text))) => self.completion(prompt, text),
            (Some(Json::List(prompt)), Some(Json::List(said))) => self.conversation(row, &[prompt, said], prompt.len()),
            (None, Some(Json::List(said))) if common > 0 => self.conversation(row, &[said], common),
            _ => {
                let why = "prompt and completions must be texts, or all lists of messages";
                Err(Error::invalid(key, why))
            }
        }
    }

    /// Prompt and completion are encoded separately, so that no token crosses the border between them.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Example> {
        let t = self.tokenizer;
        let plain = Encode { add_special: false, parse_special: self.parse_special };
        let mut tokens: Vec<u32> = t.bos().filter(|_| t.adds_bos()).into_iter().collect();
        tokens.extend(t.encode(prompt, &plain)?);
        let start = tokens.len();
        tokens.extend(t.encode(completion, &plain)?);
        tokens.extend(t.eos());
        Ok(Example::completion(&tokens[..start], &tokens[start..]))
    }

    fn tokens(&self, row: &Json) -> Result<Example> {
        let numbers = |key: &str, below: usize| -> Result<Option<Vec<u32>>> {
            let Some(value) = get(row, key) else { return Ok(None) };
            let list = value.list().ok_or_else(|| Error::invalid(key, "not a list"))?;
            let good = |v: &Json| v.whole().filter(|&n| n < below as u64).map(|n| n as u32);
            let number = |v: &Json| {
                good(v).ok_or_else(|| {
                    Error::invalid(key, format!("{}; only whole numbers below {below}", printable(&v.to_string())))
                })
            };
            list.iter().map(number).collect::<Result<_>>().map(Some)
        };
        let tokens = numbers("tokens", self.tokenizer.vocab_len())?.unwrap_or_default();
        let mask = match numbers("mask", 2)? {
            Some(mask) if mask.len() != tokens.len() => {
                return Err(Error::invalid("mask", format!("{} entries for {} tokens", mask.len(), tokens.len())));
            }
            Some(mask) => mask.iter().map(|m| *m == 1).collect(),
            None => vec![true; tokens.len()],
        };
        Ok(Example::new(tokens, mask))
    }

    /// Parts of a conversation; the assistant's words from message `first` on are the targets.
    #[cfg(feature = "chat")]
    fn conversation(&self, row: &Json, parts: &[&[Json]], first: usize) -> Result<Example> {
        let template =
            self.template.ok_or_else(|| Error::invalid("messages", "the model file has no chat template"))?;
        let turns = parts.iter().try_fold(Turns::default(), |turns, part| turns.and(part))?.with_columns(row)?;
        let turns = template.settle(turns)?;
        let conversation = Conversation { parse_special: self.parse_special, ..turns.conversation() };
        let mut spans = template.spans_of(self.tokenizer, conversation, |i| i >= first && turns.learn[i])?;
        if turns.ended.last() == Some(&false)
            && let Some(last) = spans.mask.iter().rposition(|m| *m == 1)
            && self.tokenizer.is_eos(spans.ids[last])
        {
            spans.mask[last] = 0;
        }
        Ok(Example::new(spans.ids, spans.mask.iter().map(|m| *m == 1).collect()))
    }

    #[cfg(not(feature = "chat"))]
    fn conversation(&self, _: &Json, _: &[&[Json]], _: usize) -> Result<Example> {
        Err(Error::unsupported("row of data", "messages: this build has no chat templates"))
    }
}

/// Keys that make a row's shape.
const KEYS: [&str; 7] = ["text", "prompt", "completion", "chosen", "rejected", "tokens", "messages"];

/// The value of a key; null stands for none.
fn get<'a>(row: &'a Json, key: &str) -> Option<&'a Json> {
    row.get(key).filter(|value| **value != Json::Null)
}

fn list<'a>(row: &'a Json, key: &str) -> Result<&'a [Json]> {
    get(row, key).and_then(Json::list).ok_or_else(|| Error::invalid(key, "not a list"))
}

fn text<'a>(row: &'a Json, key: &str) -> Result<&'a str> {
    get(row, key).and_then(Json::text).ok_or_else(|| Error::invalid(key, "missing or not a text"))
}

/// What a message says, if it is the user's.
fn question(message: &Json) -> Option<&str> {
    message.get("role").filter(|role| role.text() == Some("user"))?;
    message.get("content")?.text()
}

/// Whether two messages are the same, in whatever order their keys are.
fn same(a: &Json, b: &Json) -> bool {
    match (a.object(), b.object()) {
        (Some(pairs), Some(others)) => {
            pairs.len() == others.len() && pairs.iter().all(|(key, value)| b.get(key) == Some(value))
        }
        _ => a == b,
    }
}

/// Leaves keys out of `found` that say again what others say, as published sets have them: a text `prompt` beside
/// conversations in which the user asks it first, and `messages` beside the same as `chosen`.
///
/// # Errors
/// `Invalid` if such a key says something else.
fn leave_out_copies(row: &Json, found: &mut Vec<&str>) -> Result<()> {
    let has = |found: &[&str], key: &str| found.contains(&key);
    let pair = has(found, "chosen") && has(found, "rejected");
    if pair && has(found, "messages") {
        let (messages, chosen) = (list(row, "messages")?, list(row, "chosen")?);
        if messages.len() != chosen.len() || !messages.iter().zip(chosen).all(|(a, b)| same(a, b)) {
            return Err(Error::invalid("messages", "neither the only shape of the row nor the same as chosen"));
        }
        found.retain(|key| *key != "messages");
    }
    let prompt = get(row, "prompt").and_then(Json::text);
    let said = ["messages", "chosen", "rejected"].into_iter().filter(|key| has(found, key));
    let said: Vec<(&str, &[Json])> = said.filter_map(|key| Some((key, get(row, key)?.list()?))).collect();
    if let Some(prompt) = prompt
        && !said.is_empty()
    {
        if let Some((key, _)) = said.iter().find(|(_, said)| said.is_empty()) {
            return Err(Error::invalid(*key, "no messages"));
        }
        let asked = |said: &[Json]| said.iter().find_map(question).is_some_and(|asked| asked.trim() == prompt.trim());
        if !said.iter().all(|(_, said)| asked(said)) {
            return Err(Error::invalid("prompt", "another text than what the user says first in the messages"));
        }
        found.retain(|key| *key != "prompt");
    }
    Ok(())
}

/// The number of messages that `chosen` and `rejected` have in common at the beginning, never their last ones.
fn common(row: &Json) -> Result<usize> {
    let (a, b) = (list(row, "chosen")?, list(row, "rejected")?);
    let most = a.len().min(b.len()).saturating_sub(1);
    Ok(a.iter().zip(b).take(most).take_while(|(a, b)| same(a, b)).count())
}

/// The verdict on a row's completion, if it has one.
fn label(row: &Json) -> Result<Option<bool>> {
    match get(row, "label") {
        None => Ok(None),
        Some(Json::Bool(good)) => Ok(Some(*good)),
        Some(value) => match value.whole() {
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            _ => Err(Error::invalid("label", "it must be true or false")),
        },
    }
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
    Ok((0..=all.len() - plain.len()).find(|&n| all[all.len() - n - plain.len()..].starts_with(&plain)).unwrap_or(0))
}

/// The first `most` tokens, of which the last are the last of the whole text.
fn shorten(tokens: &mut Vec<u32>, most: usize, endings: usize) {
    let (n, endings) = (tokens.len(), endings.min(most));
    if n > most {
        tokens.copy_within(n - endings.., most - endings);
        tokens.truncate(most);
    }
}

fn utf16(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::invalid("data", "UTF-16; save it as UTF-8"));
    }
    Ok(())
}

/// A text file without its byte order mark.
///
/// # Errors
/// `Invalid` if it is not UTF-8, with the first byte that is not.
pub fn utf8(bytes: &[u8]) -> Result<&str> {
    utf16(bytes)?;
    let text = core::str::from_utf8(bytes)
        .map_err(|e| Error::invalid("data", format!("not UTF-8 at byte {}", e.valid_up_to())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
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
        assert_eq!((got.cut, got.skipped), (0, 0));
    }

    #[test]
    fn long_rows_are_cut_and_empty_ones_left_out() {
        let text = "{\"text\": \"abcdef\"}\n{\"prompt\": \"abcdef\", \"completion\": \"b\"}\n{\"tokens\": [4]}";
        let got = lines(4, text).unwrap();
        assert_eq!((got.examples.len(), got.cut, got.skipped), (1, 2, 2));
        assert_eq!(got.examples[0].tokens, [1, 100, 101, 102]);
        assert!(lines(4, "{\"tokens\": [4, 5], \"mask\": [1, 0]}").unwrap_err().to_string().contains("none of 1"));
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
        assert!(why(b"\xff\xfe{\0").contains("UTF-16"));
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
            limits: Limits::default(),
        };
        let rows = |text: &str| reader.file("a.txt", text.as_bytes()).unwrap().examples;
        assert_eq!(rows("abcdef").iter().map(|e| e.tokens.len()).collect::<Vec<_>>(), [4, 3]);
        assert_eq!(rows("abcd").len(), 1); // a last row of one token has nothing to predict
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
