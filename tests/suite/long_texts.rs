//! Texts of megabytes that were written to hurt, by real vocabularies: memory is bounded by the tokens, time grows with the text,
//! and the text comes back.

use crate::alloc::peak;
use crate::shared::{needs_shared, shared};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::Gguf;
use mynah::text::{Decode, Encode, Tokenizer};
use std::process::Command;
use std::time::{Duration, Instant};

/// How many times longer the longer text is than the shorter one.
const TIMES: usize = 4;

/// What is reserved beyond the tokens: most of it for the symbols and pairs of a window that is merged.
const BEYOND: usize = 8 << 20;

/// A vocabulary in the shared folder, and whether the text comes back: of WordPiece it never does, and the one of gemma has next
/// to nothing but its special spellings, among them runs of line ends.
const MODELS: &[(&str, bool)] = &[
    ("models/SmolLM2-135M-Instruct.Q4_0.gguf", true),
    ("models/vocab/vocab-gemma-4.gguf", false),
    ("models/vocab/vocab-mistral-v3.gguf", true),
    ("models/stories260K.gguf", true),
    ("models/vocab/vocab-bert-bge.gguf", false),
];

/// What texts are made of, and how long the longer one is.
const UNITS: &[(&str, &str, usize)] = &[
    ("letters", "a", 4 << 20),
    ("spaces", " ", 1 << 20),
    ("NULs", "\0", 1 << 20),
    ("line ends", "\n", 1 << 20),
    ("combining marks", "e\u{301}\u{302}\u{323}", 1 << 20),
    ("joined emoji", "👩\u{200d}👩\u{200d}👧\u{200d}👦", 1 << 20),
    ("right to left", "שלום\u{202e}مرحبا", 1 << 20),
    ("one line without spaces", "Wordsthatrunonandon,0123456789;andagain!中文", 1 << 20),
    ("control spellings", "<|im_end|>", 1 << 20),
    ("beginnings of spellings", "<|im_<|im_end", 1 << 20),
    ("spaces and lines", "  \n \n\n   \t", 1 << 20),
    ("words", "The lamp went out at four in the morning. ", 1 << 20),
];

fn open(name: &str) -> Tokenizer {
    let bytes = Bytes::from(std::fs::read(shared().join(name)).unwrap());
    Tokenizer::from_gguf(&Gguf::parse(bytes, &Limits::default()).unwrap()).unwrap()
}

fn text(unit: &str, len: usize) -> String {
    unit.repeat(len.div_ceil(unit.len()))
}

/// Processor time of this thread, where the system tells it.
fn now(start: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = text.and_then(|text| text.split(' ').next()?.parse().ok()).filter(|n| *n > 0);
    told.map_or(start.elapsed(), Duration::from_nanos)
}

/// The child's part, alone in its process, since it counts what the process reserves.
#[needs_shared]
#[test]
#[ignore = "run by the test below, alone in a process"]
fn child() {
    let start = Instant::now();
    let mut wrong = Vec::new();
    for (model, lossless) in MODELS {
        let tokenizer = open(model);
        for &(what, unit, size) in UNITS {
            let run = |len: usize| {
                let text = text(unit, len);
                let before = now(start);
                let (ids, most) = peak(|| tokenizer.encode(&text, &Encode::default()).unwrap());
                let time = now(start) - before;
                (text, ids, most, time)
            };
            let (.., short) = run(size / TIMES);
            let (text, ids, most, long) = run(size);
            // A list that grows is copied into one of twice the size.
            let beyond = most.saturating_sub(3 * 4 * ids.len().next_power_of_two());
            println!("{model} {what}: {} ids, {most} bytes, {beyond} beyond, {short:?} {long:?}", ids.len());
            if beyond > BEYOND {
                wrong.push(format!("{model} {what}: {beyond} bytes beyond {} ids", ids.len()));
            }
            // A time that grows with the square would be minutes; machines are noisy.
            if long > (short * 6).max(Duration::from_secs(3)) {
                wrong.push(format!("{model} {what}: {long:?}, and {short:?} for a fourth"));
            }
            let back = tokenizer.decode(&ids, &Decode::default()).unwrap();
            if *lossless && String::from_utf8_lossy(&back).trim_start() != text.trim_start() {
                wrong.push(format!("{model} {what}: does not come back"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[needs_shared]
#[test]
fn long_texts_take_memory_for_their_tokens_and_time_for_their_length() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    let out = test.args(["--exact", "long_texts::child", "--ignored", "--nocapture"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(text.lines().filter(|line| line.contains(" beyond, ")).count(), MODELS.len() * UNITS.len());
    assert!(shared().is_dir());
}
