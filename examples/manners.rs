//! Whether five corrections reach fresh conversations, and what they cost elsewhere.
//!
//! For each manner five answers are corrected as `/fix` does it, and learnt. Then eight other openings are asked, each in a
//! conversation of its own: how many answers follow the manner. Beside that, the loss of the base's own greedy answers to
//! twenty ordinary questions, before and after. One line a manner.
//!
//! ```sh
//! cargo run --release --example manners -- model.gguf [MANNER]
//! ```

use mynah::adapter::{Spec, Stack};
use mynah::app::{Feedback, LearnEvent, LearnSettings};
use mynah::bytes::Limits;
use mynah::decode::Sampling;
use mynah::model::{Session, SessionConfig};
use mynah::text::chat::Message;
use mynah::train::Example;
use mynah::train::data::{Options, Reader};
use mynah::train::feedback::{Answer, own};
use mynah::{Mynah, Result};
use std::time::{Duration, Instant};

/// Most tokens of a conversation.
const CONTEXT: usize = 256;

/// Questions whose answers are corrected, and the plain answers.
const MARKED: [(&str, &str); 5] = [
    ("What is the capital of France?", "The capital of France is Paris"),
    ("How do I boil an egg?", "Put it into boiling water for eight minutes"),
    ("Why is the sky blue?", "Air scatters blue light more than red light"),
    ("What would be a good name for a cat?", "Biscuit is a good name for a cat"),
    ("Tell me something about the moon.", "The moon goes around the earth once a month"),
];

/// Other openings.
const OPENINGS: [&str; 8] = [
    "What is the capital of Italy?",
    "How do I make tea?",
    "Who wrote Hamlet?",
    "Tell me a fact about cats.",
    "Why do leaves fall in autumn?",
    "What should I cook tonight?",
    "How far away is the sun?",
    "Can you help me write a letter?",
];

/// Ordinary questions.
const ORDINARY: [&str; 20] = [
    "What is photosynthesis?",
    "How many days are in a leap year?",
    "Name three kinds of fruit.",
    "What does a carpenter do?",
    "How do I tie a bow tie?",
    "Who was Albert Einstein?",
    "Write a short poem about rain.",
    "What is the largest ocean?",
    "How do bees make honey?",
    "Give me a tip for sleeping better.",
    "What is the difference between a lake and a river?",
    "Explain gravity to a child.",
    "What is 12 times 8?",
    "How do I say thank you in Spanish?",
    "What is a good way to learn to swim?",
    "Describe a sunset.",
    "What is bread made of?",
    "Why is exercise good for us?",
    "What do I need for a camping trip?",
    "Tell me about the city of London.",
];

/// A way to answer that a pattern can check.
pub struct Manner {
    /// Its name.
    pub name: &'static str,
    /// The corrected answer, from the plain one.
    fix: fn(&str) -> String,
    /// Whether an answer follows it.
    follows: fn(&str) -> bool,
    /// Most tokens of an answer that is checked.
    limit: usize,
}

/// The manners that are tried.
pub const MANNERS: [Manner; 5] = [
    Manner {
        name: "ahoy",
        fix: |plain| format!("Ahoy! {plain}."),
        follows: |said| said.starts_with("Ahoy!"),
        limit: 6,
    },
    Manner {
        name: "well-now",
        fix: |plain| format!("Well now, {}{}.", plain[..1].to_lowercase(), &plain[1..]),
        follows: |said| said.starts_with("Well now,"),
        limit: 6,
    },
    Manner {
        name: "captain",
        fix: |plain| format!("Captain, {}{}.", plain[..1].to_lowercase(), &plain[1..]),
        follows: |said| said.starts_with("Captain,"),
        limit: 6,
    },
    Manner {
        name: "fair-winds",
        fix: |plain| format!("{plain}. Fair winds!"),
        follows: |said| said.ends_with("Fair winds!") && said.matches(['.', '?']).count() <= 1,
        limit: 64,
    },
    Manner {
        name: "one-sentence",
        fix: |plain| format!("{plain}."),
        follows: |said| said.ends_with('.') && !said.contains('\n') && said.matches(['.', '?', '!']).count() == 1,
        limit: 64,
    },
];

/// What came of a manner.
pub struct Outcome {
    /// How many of the eight openings follow it.
    pub followed: usize,
    /// The loss of own answers to ordinary questions in nats a token, before and after.
    pub loss: [f64; 2],
    /// Steps of the lesson.
    pub steps: u64,
    /// How long the lesson took.
    pub took: Duration,
    /// What was said to the openings.
    pub said: Vec<String>,
}

/// Own greedy answers to the ordinary questions, of at most `tokens` each.
pub fn ordinary(mynah: &Mynah, tokens: usize) -> Result<Vec<Example>> {
    let mut talk = mynah.generation().sampling(Sampling::greedy()).context(CONTEXT).limit(tokens).talk()?;
    let template = talk.template().clone();
    let reader = Reader {
        tokenizer: mynah.tokenizer(),
        template: Some(&template),
        ctx: CONTEXT,
        parse_special: false,
        options: Options::default(),
        limits: Limits::default(),
    };
    let mut answer = |question: &&str| {
        talk.clear();
        let said = talk.say(question)?.finish()?;
        own(&reader, question, Answer { text: &said.text, ended: said.ended() })
    };
    ORDINARY.iter().map(&mut answer).collect()
}

/// The mean loss of the targets of rows, in nats a token.
pub fn loss(mynah: &Mynah, stack: &Stack, rows: &[Example]) -> Result<f64> {
    let mut session = Session::new(mynah.model(), SessionConfig { context: CONTEXT, ..SessionConfig::default() })?;
    session.replace(stack.clone())?;
    let (mut nats, mut n) = (0.0, 0);
    for row in rows {
        session.truncate(0);
        session.feed_each(&row.tokens[..row.tokens.len() - 1], &mut |i, logits| {
            if row.mask[i + 1] {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = logits.iter().map(|v| f64::from(v - most).exp()).sum();
                nats += sum.ln() - f64::from(logits[row.tokens[i + 1] as usize] - most);
                n += 1;
            }
        })?;
    }
    Ok(nats / n as f64)
}

/// Corrects five answers, learns, and asks the other openings.
pub fn teach(mynah: &Mynah, manner: &Manner, settings: &LearnSettings, ordinary: &[Example]) -> Result<Outcome> {
    let folder = tempfile::tempdir().expect("a folder for the adapter");
    let mut talk = mynah.generation().sampling(Sampling::greedy()).context(CONTEXT).limit(48).talk()?;
    let mut feedback = Feedback::open(&mut talk, folder.path().join("mine.mynah"), &Spec::new("lora"))?;
    let before = loss(mynah, talk.stack(), ordinary)?;
    for (question, plain) in MARKED {
        talk.clear();
        talk.say(question)?.finish()?;
        feedback.better(&mut talk, &(manner.fix)(plain))?;
    }
    let (start, mut learning) = (Instant::now(), feedback.learn(&talk, settings)?);
    for event in &mut learning {
        if let LearnEvent::Step(report) = event? {
            eprintln!("step {} loss {:.3} {:?}", report.step, report.loss, report.rewards.map(|r| r.margin));
        }
    }
    let (took, learnt) = (start.elapsed(), learning.finish().expect("steps were done"));
    learnt.attach(&mut talk)?;
    let mut said = Vec::new();
    for question in OPENINGS {
        said.push(talk.aside(&[Message::new("user", question)], manner.limit)?.finish()?.text.trim().to_string());
    }
    let followed = said.iter().filter(|text| (manner.follows)(text)).count();
    let loss = [before, loss(mynah, talk.stack(), ordinary)?];
    Ok(Outcome { followed, loss, steps: learnt.steps, took, said })
}

#[allow(dead_code)] // the tests call the parts
fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mynah = match args.next() {
        Some(model) => Mynah::open(model)?,
        None => Mynah::embedded()?,
    };
    let which = args.next();
    let ordinary = ordinary(&mynah, 64)?;
    for manner in MANNERS.iter().filter(|m| which.as_deref().is_none_or(|name| name == m.name)) {
        let Outcome { followed, loss, steps, took, said } =
            teach(&mynah, manner, &LearnSettings::default(), &ordinary)?;
        let more = 100.0 * (loss[1] / loss[0] - 1.0);
        println!(
            "{:12} {followed} of 8 openings follow it; ordinary answers {:.4} → {:.4} ({more:+.1} %); {steps} steps, {:.0} s",
            manner.name,
            loss[0],
            loss[1],
            took.as_secs_f64()
        );
        for text in said {
            println!("             {text:?}");
        }
    }
    Ok(())
}
