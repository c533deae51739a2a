//! The shapes of rows: a row of a table each, ours and those of published sets.

use super::Reader;
use super::turns::{common, leave_out_copies, message, roles, sharegpt, system, transcript};
use crate::error::{Error, Result, printable};
#[cfg(feature = "chat")]
use crate::text::chat::{Conversation, Message, Turns};
use crate::text::{Encode, Json};
use crate::train::Example;
use std::prelude::v1::*;

/// A shape of rows.
pub struct Shape {
    /// What it is called.
    pub name: &'static str,
    /// The keys that a row of it has.
    pub keys: &'static [&'static str],
    /// Keys that are read, too, or say again what others say.
    pub beside: &'static [&'static str],
    /// What is learnt.
    pub learnt: &'static str,
    read: fn(&Reader, &Json) -> Result<Example>,
}

/// Every shape that is known.
pub static SHAPES: &[Shape] = &[
    Shape { name: "text", keys: &["text"], beside: &[], learnt: "all of it", read: whole },
    Shape {
        name: "prompt and completion",
        keys: &["prompt", "completion"],
        beside: &["label"],
        learnt: "the completion; with `label`, whether it was liked",
        read: |reader, row| match (label(row)?, get(row, "completion")) {
            // The end alone is nothing to learn, but not to say anything may be disliked.
            (None | Some(true), Some(Json::Text(said))) if said.is_empty() => Ok(Example::default()),
            (good, _) => Ok(Example { good, ..reader.answer(row, true, "completion", 0)? }),
        },
    },
    Shape {
        name: "pair",
        keys: &["prompt", "chosen", "rejected"],
        beside: &["messages"],
        learnt: "that the first completion is the better one",
        read: |reader, row| reader.pair(row, true),
    },
    Shape {
        name: "pair of conversations",
        keys: &["chosen", "rejected"],
        beside: &["messages"],
        learnt: "that the first conversation is the better one (UltraFeedback, HH-RLHF)",
        read: |reader, row| reader.pair(row, false),
    },
    Shape {
        name: "conversation",
        keys: &["messages"],
        beside: &[],
        learnt: "what the assistant says (OpenAI, UltraChat)",
        read: |reader, row| reader.conversation(row, &[&roles(list(row, "messages")?)], 0),
    },
    Shape {
        name: "tokens",
        keys: &["tokens"],
        beside: &["mask"],
        learnt: "the tokens that `mask` marks, or all",
        read: |reader, row| reader.tokens(row),
    },
    Shape {
        name: "query",
        keys: &["query", "positive"],
        beside: &["negative"],
        learnt: "to find the positive text, and not the negative ones",
        read: |reader, row| reader.query(row),
    },
    Shape {
        name: "Alpaca",
        keys: &["instruction", "output"],
        beside: &["input", "text", "system", "history"],
        learnt: "the output",
        read: |reader, row| reader.instruction(row, "input", "output"),
    },
    Shape {
        name: "Dolly",
        keys: &["instruction", "response"],
        beside: &["context"],
        learnt: "the response",
        read: |reader, row| reader.instruction(row, "context", "response"),
    },
    Shape {
        name: "question and answer",
        keys: &["question", "answer"],
        beside: &["system"],
        learnt: "the answer",
        read: |reader, row| reader.question(row, "system", "answer"),
    },
    Shape {
        name: "OpenOrca",
        keys: &["question", "response"],
        beside: &["system_prompt"],
        learnt: "the response",
        read: |reader, row| reader.question(row, "system_prompt", "response"),
    },
    Shape {
        name: "ShareGPT",
        keys: &["conversations"],
        beside: &["system"],
        learnt: "what the assistant says",
        read: |reader, row| {
            let turns = list(row, "conversations")?.iter().enumerate().map(sharegpt).collect::<Result<Vec<_>>>()?;
            reader.conversation(row, &[&system(row, "system")?, &turns], 0)
        },
    },
    Shape {
        name: "turns",
        keys: &["data"],
        beside: &[],
        learnt: "every second text (UltraChat, first version)",
        read: |reader, row| {
            let turn = |(i, said): (usize, &Json)| match said.text() {
                Some(said) => Ok(message(if i % 2 == 0 { "user" } else { "assistant" }, said)),
                None => Err(Error::invalid("data", format!("turn {i} is not a text"))),
            };
            let turns = list(row, "data")?.iter().enumerate().map(turn).collect::<Result<Vec<_>>>()?;
            reader.conversation(row, &[&turns], 0)
        },
    },
    Shape {
        name: "OpenAI's pair",
        keys: &["input", "preferred_output", "non_preferred_output"],
        beside: &[],
        learnt: "that the first output is the better one",
        read: |reader, row| {
            let input = get(row, "input").ok_or_else(|| Error::invalid("input", "missing"))?;
            let prompt = roles(list(input, "messages")?);
            let of = |key| reader.conversation(input, &[&prompt, &roles(list(row, key)?)], prompt.len());
            Ok(of("preferred_output")?.over(of("non_preferred_output")?))
        },
    },
];

/// How many of them are mynah's own: those win over the others.
const OURS: usize = 7;
/// Keys that make a row's shape: beside another shape they are in the way.
const KEYS: [&str; 7] = ["text", "prompt", "completion", "chosen", "rejected", "tokens", "messages"];
/// The shapes as a message lists them.
pub fn known() -> String {
    let keys = |shape: &Shape| format!("{{{}}}", quoted(shape.keys.iter().copied()));
    let all: Vec<String> = SHAPES.iter().map(keys).collect();
    format!("known are {}", all.join(", "))
}

/// Names in quotes, with commas between them.
pub fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("\"{}\"", printable(name))).collect::<Vec<_>>().join(", ")
}

/// The shape whose keys these are, if it is one alone.
///
/// # Errors
/// What is wrong with them.
pub fn of(found: &[&str]) -> core::result::Result<&'static Shape, String> {
    let has = |key: &&str| found.contains(key);
    let fitting = |shapes: &'static [Shape]| -> Vec<&Shape> {
        shapes.iter().filter(|shape| shape.keys.iter().all(has)).collect()
    };
    let covers = |a: &Shape, b: &Shape| b.keys.iter().all(|key| a.keys.contains(key) || a.beside.contains(key));
    let best = |fits: &[&'static Shape]| fits.iter().copied().find(|a| fits.iter().all(|b| covers(a, b)));
    let fits = fitting(SHAPES);
    let Some(shape) = best(&fits).or_else(|| best(&fitting(SHAPES.get(..OURS).unwrap_or(SHAPES)))) else {
        return Err(match fits.is_empty() {
            true => "no known shape".into(),
            false => format!("{} shapes at once", fits.len()),
        });
    };
    match KEYS.iter().find(|key| has(key) && !shape.keys.contains(key) && !shape.beside.contains(key)) {
        Some(key) => Err(format!("{key:?} is in the way of the shape {}", shape.name)),
        None => Ok(shape),
    }
}

fn whole(reader: &Reader, row: &Json) -> Result<Example> {
    let text = text(row, "text")?;
    match text.trim().is_empty() {
        true => Ok(Example::default()),
        false => Ok(Example::all(reader.tokenizer.encode(text, &reader.whole())?)),
    }
}

impl Reader<'_> {
    /// What a row says.
    pub(super) fn row(&self, row: &Json) -> Result<Example> {
        let Some(pairs) = row.object() else {
            return Err(Error::invalid("row", format!("not an object; {}", known())));
        };
        let mut found: Vec<&str> =
            pairs.iter().filter(|(_, value)| *value != Json::Null).map(|(key, _)| key.as_str()).collect();
        leave_out_copies(row, &mut found)?;
        let shape = of(&found).map_err(|why| {
            let null = |(key, value): &(String, Json)| match value {
                Json::Null => format!("\"{}\" (null)", printable(key)),
                _ => format!("\"{}\"", printable(key)),
            };
            let keys: Vec<String> = pairs.iter().map(null).collect();
            Error::invalid("row", format!("keys {}: {why}; {}", printable(&keys.join(", ")), known()))
        })?;
        let mut example = (shape.read)(self, row)?;
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

    fn pair(&self, row: &Json, prompt: bool) -> Result<Example> {
        if let (false, Some(Json::Text(chosen)), Some(Json::Text(rejected))) =
            (prompt, get(row, "chosen"), get(row, "rejected"))
        {
            let (chosen, rejected) = (transcript(chosen)?, transcript(rejected)?);
            let row =
                Json::Object(vec![("chosen".into(), Json::List(chosen)), ("rejected".into(), Json::List(rejected))]);
            return self.pair(&row, false);
        }
        let common = if prompt { 0 } else { common(row)? };
        let answer = |key| self.answer(row, prompt, key, common);
        Ok(answer("chosen")?.over(answer("rejected")?))
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

    /// Instruction and input as the user's turn, one below the other. Without a chat template, Alpaca's own text.
    fn instruction(&self, row: &Json, input: &str, output: &str) -> Result<Example> {
        let asked = text(row, "instruction")?;
        let input = optional(row, input)?.map(str::trim).filter(|input| !input.is_empty());
        let history = match get(row, "history") {
            None => &[][..],
            Some(_) => list(row, "history")?,
        };
        let system = system(row, "system")?;
        if !self.talks() && history.is_empty() && system.is_empty() {
            let (more, below) = match input {
                Some(input) => {
                    (", paired with an input that provides further context", format!("\n\n### Input:\n{input}"))
                }
                None => ("", String::new()),
            };
            let prompt = format!(
                "Below is an instruction that describes a task{more}. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{asked}{below}\n\n### Response:\n"
            );
            return self.completion(&prompt, text(row, output)?);
        }
        let mut turns = system;
        for (i, pair) in history.iter().enumerate() {
            let Some([Json::Text(asked), Json::Text(said)]) = pair.list() else {
                return Err(Error::invalid("history", format!("entry {i} is not two texts")));
            };
            turns.extend([message("user", asked), message("assistant", said)]);
        }
        let asked = input.map_or(asked.into(), |input| format!("{asked}\n{input}"));
        turns.extend([message("user", &asked), message("assistant", text(row, output)?)]);
        self.conversation(row, &[&turns], 0)
    }

    /// A question and its answer as two turns, or without a chat template as two paragraphs.
    fn question(&self, row: &Json, above: &str, answer: &str) -> Result<Example> {
        let (asked, said) = (text(row, "question")?, text(row, answer)?);
        let mut turns = system(row, above)?;
        if !self.talks() && turns.is_empty() {
            return self.completion(&format!("Question: {asked}\nAnswer:"), &format!(" {}", said.trim_start()));
        }
        turns.extend([message("user", asked), message("assistant", said)]);
        self.conversation(row, &[&turns], 0)
    }

    /// The completion under `key`, after the row's prompt if it has one. Otherwise the first `common` messages of the
    /// conversation are the prompt.
    fn answer(&self, row: &Json, prompt: bool, key: &str, common: usize) -> Result<Example> {
        match (get(row, "prompt").filter(|_| prompt), get(row, key)) {
            (Some(Json::Text(prompt)), Some(Json::Text(text))) => self.completion(prompt, text),
            (Some(Json::List(prompt)), Some(Json::List(said))) => {
                self.conversation(row, &[&roles(prompt), &roles(said)], prompt.len())
            }
            (None, Some(Json::List(said))) if common > 0 => self.conversation(row, &[&roles(said)], common),
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
        let (prompt, completion) = tokens.split_at_checked(start).unwrap_or((&tokens, &[]));
        Ok(Example::completion(prompt, completion))
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

    /// Whether conversations can be rendered.
    pub(super) fn talks(&self) -> bool {
        #[cfg(feature = "chat")]
        return self.template.is_some();
        #[cfg(not(feature = "chat"))]
        return false;
    }

    /// Parts of a conversation; the assistant's words from message `first` on are the targets.
    #[cfg(feature = "chat")]
    fn conversation(&self, row: &Json, parts: &[&[Json]], first: usize) -> Result<Example> {
        let template =
            self.template.ok_or_else(|| Error::invalid("messages", "the model file has no chat template"))?;
        let turns = parts.iter().try_fold(Turns::default(), |turns, part| turns.and(part))?.with_columns(row)?;
        let turns = template.settle(turns)?;
        let conversation = Conversation { parse_special: self.parse_special, ..turns.conversation() };
        // An answer without a word is nothing to learn, unless it is compared with another.
        let says = |message: &Message| !message.content.trim().is_empty() || !message.fields.is_empty();
        let wanted = |i: usize| turns.learn.get(i).copied().unwrap_or(false);
        let said = |i: usize| first > 0 || turns.messages.get(i).is_some_and(says);
        let learnt = |i: usize| i >= first && wanted(i) && said(i);
        let mut spans = template.spans_of(self.tokenizer, conversation, learnt)?;
        if turns.ended.last() == Some(&false)
            && let Some(last) = spans.mask.iter().rposition(|m| *m == 1)
            && spans.ids.get(last).is_some_and(|id| self.tokenizer.is_eos(*id))
            && let Some(end) = spans.mask.get_mut(last)
        {
            *end = 0;
        }
        Ok(Example::new(spans.ids, spans.mask.iter().map(|m| *m == 1).collect()))
    }

    #[cfg(not(feature = "chat"))]
    fn conversation(&self, _: &Json, _: &[&[Json]], _: usize) -> Result<Example> {
        Err(Error::unsupported("row of data", "messages: this build has no chat templates"))
    }
}

/// The value of a key; null stands for none.
pub(super) fn get<'a>(row: &'a Json, key: &str) -> Option<&'a Json> {
    row.get(key).filter(|value| **value != Json::Null)
}

pub(super) fn list<'a>(row: &'a Json, key: &str) -> Result<&'a [Json]> {
    get(row, key).and_then(Json::list).ok_or_else(|| Error::invalid(key, "not a list"))
}

pub(super) fn text<'a>(row: &'a Json, key: &str) -> Result<&'a str> {
    get(row, key).and_then(Json::text).ok_or_else(|| Error::invalid(key, "missing or not a text"))
}

/// A text that a row need not have.
pub(super) fn optional<'a>(row: &'a Json, key: &str) -> Result<Option<&'a str>> {
    get(row, key).map(|_| text(row, key)).transpose()
}

fn number(key: &str, value: &Json) -> Result<f64> {
    value.number().filter(|v| v.is_finite()).ok_or_else(|| Error::invalid(key, "not a finite number"))
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
