//! The page of a program: continuations, conversations, and what is learnt from marks.

use mynah::adapter::{Spec, Stack};
use mynah::app::{Feedback, LearnEvent, LearnSettings, Mark};
use mynah::base::MODEL;
use mynah::bytes::{Bytes, Limits};
use mynah::decode::{Finish, Generator, Sample, Sampler, Sampling, Stop};
use mynah::gguf::{Gguf, Writer};
use mynah::kernel::{self, Compute, Pool};
use mynah::model::{Session, SessionConfig};
use mynah::text::chat::Message;
use mynah::{Completion, Error, Mynah, Reply, Talk};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

const BEAR: &str = "Tell me a story about a bear.";

fn compute() -> Compute {
    Compute { kernels: kernel::best(), pool: Pool::new(2) }
}

fn mynah() -> Mynah {
    Mynah::with(Gguf::parse(Bytes::from_static(MODEL), &Limits::default()).unwrap(), compute()).unwrap()
}

/// The embedded model with another chat template, or without one.
fn with_template(source: Option<&str>) -> Mynah {
    let bytes = file_with_template(source);
    Mynah::with(Gguf::parse(bytes.into(), &Limits::default()).unwrap(), compute()).unwrap()
}

/// Its file.
pub fn file_with_template(source: Option<&str>) -> Vec<u8> {
    let file = Gguf::parse(Bytes::from_static(MODEL), &Limits::default()).unwrap();
    let mut other = Writer::new();
    for (key, value) in file.pairs().filter(|(key, _)| *key != "tokenizer.chat_template") {
        other.set(key, value.clone());
    }
    if let Some(source) = source {
        other.set("tokenizer.chat_template", source);
    }
    for tensor in file.tensors() {
        other.tensor(&*tensor.name, tensor.dims(), tensor.format, file.data(tensor).unwrap());
    }
    other.finish().unwrap()
}

/// The command in a folder, with lines to read; its JSON.
fn command(folder: &Path, args: &str, lines: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.args(args.split(' ')).arg("--json").current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{args}");
    String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Tokens of the answers among such lines.
fn ids(events: &[Value]) -> Vec<Vec<u32>> {
    let ids = |answer: &Value| answer.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    events.iter().filter_map(|event| event.get("ids")).map(ids).collect()
}

/// An answer to these turns from nothing but a session and a sampler.
fn oracle(mynah: &Mynah, stack: &Stack, turns: &[Message], sampling: Sampling, limit: usize) -> Vec<u32> {
    let template = mynah.template().unwrap().unwrap();
    let tokens = template.tokens(mynah.tokenizer(), turns, true).unwrap();
    let config = SessionConfig { context: 512, ..SessionConfig::default() };
    let mut session = Session::new(mynah.model(), config).unwrap();
    for attached in stack.all() {
        session.attach(attached.adapter.clone(), attached.strength).unwrap();
    }
    let sampler = Sampler::new(&sampling).unwrap();
    let sample = Sample::new(session, sampler, &tokens, mynah.tokenizer().eos_ids(), Stop::new());
    let mut generator = Generator::over(sample, mynah.tokenizer()).limit(limit);
    std::iter::from_fn(|| generator.next_token().unwrap()).collect()
}

/// Lets a reply come to its end.
fn whole(reply: mynah::Result<Reply>) -> Vec<u32> {
    reply.unwrap().finish().unwrap().ids
}

/// A few bytes of an adapter that changes what is said.
fn adapter(mynah: &Mynah, seed: u64) -> Vec<u8> {
    let setup = mynah.lesson("lora").steps(2).context(48).rate(0.02).seed(seed);
    let mut lesson = setup.text("The parrot of Gull Rock drinks its tea at four, and then it sings.").unwrap();
    (&mut lesson).for_each(|event| drop(event.unwrap()));
    lesson.to_bytes().unwrap()
}

#[test]
fn a_continuation_is_that_of_the_command_and_comes_in_pieces() {
    let mynah = mynah();
    let sampling = Sampling::default().with("temp", 1.1).seed(9);
    let generation = mynah.generation().sampling(sampling.clone()).limit(40);
    let mut text = generation.complete("The lighthouse").unwrap();
    let pieces: Vec<_> = (&mut text).map(|piece| piece.unwrap()).collect();
    let said = text.said().clone();
    let joined: String = pieces.iter().map(ToString::to_string).collect();
    assert_eq!((joined, pieces.iter().filter_map(|p| p.id).collect()), (said.text.clone(), said.ids.clone()));
    assert!(text.next().is_none() && said.ids.len() <= 40 && said.ids.len() > 4);
    assert_eq!(text.cost().tokens as usize, said.prompt_tokens + said.ids.len() - usize::from(!said.ended()));
    let words = ["run", "-p", "The lighthouse", "-n", "40", "--temp", "1.1", "--seed", "9", "--json"];
    let out = Command::new(env!("CARGO_BIN_EXE_mynah")).args(words).output().unwrap();
    let last: Value = serde_json::from_str(String::from_utf8(out.stdout).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(ids(std::slice::from_ref(&last)), std::slice::from_ref(&said.ids));
    assert_eq!((&last["text"], &last["prompt_tokens"]), (&said.text.clone().into(), &said.prompt_tokens.into()));

    // The end of the model's own, passed over.
    let greedy = mynah.generation().sampling(Sampling::greedy()).context(200);
    let whole = greedy.clone().limit(190).complete("Up at four").unwrap().finish().unwrap();
    let on = greedy.clone().limit(190).ignore_eos(true).complete("Up at four").unwrap().finish().unwrap();
    assert!(whole.ended() && on.ids.len() > whole.ids.len() && on.ids.starts_with(&whole.ids));
    assert_eq!(on.finish, if on.ids.len() == 190 { Finish::Length } else { Finish::Context });
    let full = greedy.clone().context(12).limit(100).ignore_eos(true).complete("Up at four").unwrap().finish().unwrap();
    assert_eq!((full.finish, full.prompt_tokens + full.ids.len()), (Finish::Context, 13));

    let long = greedy.clone().context(3).complete("Up at four, and down at five.").err().unwrap();
    assert!(matches!(long, Error::Limit { allowed: 3, asked: 4.., .. }), "{long}");
    assert!(matches!(greedy.complete_tokens(&[]).err().unwrap(), Error::Invalid { .. }));
    let mut wrong = greedy.complete_tokens(&[u32::MAX]).unwrap();
    assert!(wrong.next().unwrap().is_err() && wrong.next().is_none() && wrong.said().ids.is_empty());
}

#[test]
fn draws_follow_from_the_seed_the_question_and_the_attempt() {
    let (mynah, folder) = (mynah(), tempfile::tempdir().unwrap());
    let sampling = Sampling::default().seed(5);
    let generation = mynah.generation().sampling(sampling.clone()).context(512).limit(30);
    let mut talk = generation.talk().unwrap().system("Short.");
    let mut wanted = Vec::new();
    let mut check = |talk: &Talk, got: &[u32], seed: u64| {
        let want = oracle(&mynah, &Stack::new(), talk.before(), sampling.clone().seed(seed), 30);
        assert_eq!(got, want, "{:?}", talk.messages());
        wanted.push(want);
    };
    let first = whole(talk.say(BEAR));
    check(&talk, &first, 5);
    let again = whole(talk.regenerate());
    check(&talk, &again, 5 + (1 << 32));
    assert_ne!(first, again);
    assert_eq!(talk.others().count(), 1);
    let third = whole(talk.regenerate());
    check(&talk, &third, 5 + (2 << 32));
    assert_eq!((talk.others().count(), talk.messages().len()), (2, 3));
    let next = whole(talk.say("And then?"));
    check(&talk, &next, 6);
    assert_eq!((talk.others().count(), talk.messages().len()), (0, 5));

    // What is no part of the conversation changes nothing of it.
    let messages = talk.messages().to_vec();
    let aside = whole(talk.aside(&messages[..2], 12));
    assert_eq!(aside, oracle(&mynah, &Stack::new(), &messages[..2], sampling.clone(), 12));
    assert_eq!(talk.messages(), messages);
    let saved = messages.clone();
    let more = whole(talk.say("Who was there?"));
    check(&talk, &more, 7);
    let mut other = generation.talk().unwrap();
    other.set_messages(saved);
    assert_eq!(whole(other.say("Who was there?")), more);
    talk.clear();
    assert_eq!((talk.messages().len(), whole(talk.say(BEAR))), (1, first));

    let lines = [BEAR, "/regenerate", "/regenerate", "And then?", "Who was there?"];
    let heard = command(folder.path(), "chat --seed 5 --ctx 512 -n 30 --system Short.", &lines);
    assert_eq!(ids(&heard), wanted);
}

#[test]
fn pieces_join_to_the_answer_and_an_early_end_keeps_what_was_said() {
    let mynah = mynah();
    let generation = mynah.generation().sampling(Sampling::greedy()).context(512).limit(150);
    let mut talk = generation.talk().unwrap();
    let joined: String = talk.say(BEAR).unwrap().map(|piece| piece.unwrap().text).collect();
    assert_eq!((talk.last().unwrap().text, talk.last().unwrap().ended), (&*joined, true));
    assert_eq!(talk.said().unwrap().text, joined);

    // Dropped behind the third piece.
    let mut cut = generation.talk().unwrap();
    let few: String = cut.say(BEAR).unwrap().take(3).map(|piece| piece.unwrap().text).collect();
    assert_eq!((cut.last().unwrap().text, cut.last().unwrap().ended), (&*few, false));
    assert!(joined.starts_with(&few) && few.len() < joined.len());
    assert_eq!((cut.said().unwrap().finish, cut.said().unwrap().ids.len()), (Finish::Stopped, 3));
    assert_eq!(cut.messages(), [Message::new("user", BEAR), Message::new("assistant", &*few)]);
    // What comes next knows what was said, and no more.
    let next = whole(cut.say("And then?"));
    assert_eq!(next, oracle(&mynah, &Stack::new(), cut.before(), Sampling::greedy(), 150));
    // The same in steps, without a borrow.
    let mut steps = generation.talk().unwrap();
    steps.ask(BEAR).unwrap();
    let mut text = String::new();
    while let Some(piece) = steps.step().unwrap() {
        assert!(steps.messages().is_empty());
        text += &piece.text;
    }
    assert_eq!((text, steps.messages().len()), (joined, 2));
    assert!(steps.correct("A bear slept.") && steps.last().unwrap().text == "A bear slept.");
    let next = whole(steps.say("And then?"));
    assert_eq!(steps.before()[1], Message::new("assistant", "A bear slept."));
    assert_eq!(next, oracle(&mynah, &Stack::new(), steps.before(), Sampling::greedy(), 150));
    assert!(generation.talk().unwrap().regenerate().is_err());
}

/// What a program's own struct may hold.
struct App {
    talk: Talk,
    text: Option<Completion>,
}

#[test]
fn another_thread_ends_an_answer() {
    // At such a temperature the end is as likely as any token.
    let wild = Sampling::plain().with("temp", 100.0);
    let generation = mynah().generation().sampling(wild).context(512).limit(400);
    let app = App { talk: generation.talk().unwrap(), text: None };
    let (said, heard) = mpsc::channel();
    let (stop, other) = (app.talk.stopper(), app.talk.stopper());
    let speaker = std::thread::spawn(move || {
        let mut app = app;
        let mut finishes = Vec::new();
        for _ in 0..6 {
            for piece in app.talk.say(BEAR).unwrap() {
                piece.unwrap();
                said.send(()).unwrap();
                // The other thread's turn: it pulls before the next piece is asked for.
                while !other.pulled() {
                    std::thread::yield_now();
                }
            }
            finishes.push((app.talk.said().unwrap().clone().finish, app.talk.said().unwrap().ids.len()));
            app.talk.clear();
        }
        let mut text = app.talk.mynah().generation().limit(50).complete("Up").unwrap();
        text.stopper().pull();
        assert!(text.next().is_none());
        app.text = Some(text);
        (finishes, app.text.unwrap().said().finish)
    });
    while heard.recv().is_ok() {
        stop.pull();
    }
    let (finishes, text) = speaker.join().unwrap();
    assert_eq!(text, Finish::Stopped);
    assert!(finishes.iter().filter(|f| **f == (Finish::Stopped, 1)).count() >= 4, "{finishes:?}");
}

#[test]
fn adapters_are_attached_with_strengths() {
    let mynah = mynah();
    let [one, two] = [1, 2].map(|seed| adapter(&mynah, seed));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.mynah");
    fs::write(&path, &one).unwrap();
    let generation = mynah.generation().sampling(Sampling::greedy()).context(512).limit(24);
    let mut talk = generation.talk().unwrap();
    let plain = whole(talk.say(BEAR));
    talk.attach(&path, 0.75).unwrap();
    talk.attach(mynah.ready(two.clone()).unwrap(), -1.5).unwrap();
    let changed = whole(talk.regenerate());
    let mut stack = Stack::new();
    stack.push(mynah.ready(one.clone()).unwrap(), 0.75).unwrap();
    stack.push(mynah.ready(two.clone()).unwrap(), -1.5).unwrap();
    assert_eq!(changed, oracle(&mynah, &stack, talk.before(), Sampling::greedy(), 24));
    assert_ne!(changed, plain);
    // Set up with them from the beginning it is the same, and a strength of 0 changes nothing.
    let with = generation.clone().attach(one.clone(), 0.75).unwrap().attach(two.clone(), -1.5).unwrap();
    assert_eq!(whole(with.talk().unwrap().say(BEAR)), changed);
    assert_eq!(whole(generation.clone().attach(two, 0.0).unwrap().talk().unwrap().say(BEAR)), plain);
    let strengths: Vec<f32> = talk.stack().all().iter().map(|a| a.strength).collect();
    assert_eq!(strengths, [0.75, -1.5]);
    talk.replace(Stack::new()).unwrap();
    assert_eq!(whole(talk.regenerate()), plain);
    assert!(talk.attach(folder.path().join("none"), 1.0).is_err() && talk.attach(one, f32::NAN).is_err());
    assert!(talk.stack().is_empty());
    assert_eq!(whole(talk.regenerate()), plain);
}

#[test]
fn the_oldest_turns_go_openly_and_what_is_too_long_is_refused() {
    let mynah = mynah();
    let generation = mynah.generation().sampling(Sampling::greedy()).context(128).limit(40);
    let mut talk = generation.talk().unwrap().system("Short.");
    let mut gone = Vec::new();
    for turn in 0..6 {
        let reply = talk.say(&format!("Tell me story {turn} about a bear.")).unwrap();
        gone.extend(reply.dropped().to_vec());
        reply.finish().unwrap();
    }
    assert!(gone.len() >= 4 && gone.len() % 2 == 0, "{gone:?}");
    assert_eq!(
        (&*gone[0].content, &*gone[2].content),
        ("Tell me story 0 about a bear.", "Tell me story 1 about a bear.")
    );
    assert_eq!((talk.messages()[0].role.as_str(), talk.messages().len() + gone.len()), ("system", 13));
    let (before, last) = (talk.messages().to_vec(), talk.last().unwrap().text.to_string());
    let long = talk.say(&"a bear and an owl and ".repeat(60)).err().unwrap();
    assert!(matches!(long, Error::Limit { allowed: 96, asked: 97.., .. }), "{long}");
    assert_eq!((talk.messages(), talk.last().unwrap().text), (&before[..], &*last));
}

/// What is learnt of a marked answer is what the template shows of it: with the thought, where the template shows that of the
/// last turn, behind the same tokens that the model read.
#[test]
fn marks_teach_what_the_template_shows_of_thoughts() {
    const ANSWER: &str = "Add them.\n</think>\n\nFour.";
    let template = |content: &str, prompt: &str| {
        format!(
            "{{% for m in messages %}}{{% set c = m.content %}}{{% if m.role == 'assistant' %}}{content}<A>{{{{ c }}}}\
             {{{{ eos_token }}}}{{% else %}}<U>{{{{ c }}}}{{% endif %}}{{% endfor %}}\
             {{% if add_generation_prompt %}}<A>{prompt}{{% endif %}}"
        )
    };
    let drops = "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}";
    let drops_earlier = &drops.replace("in c %}", "in c and not loop.last %}");
    let splits = "{% set r = '' %}{% if '</think>' in c %}\
        {% set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}\
        {% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}\
        {% if loop.last %}{% set c = '<think>\n' + r + '\n</think>\n\n' + c %}{% endif %}";
    let open = "<think>\n";
    let said = |thought: &str| format!("{thought}\n</think>\n\nFour.");
    // How the turn begins, what is learnt of it, and whether that stands behind all that the model read.
    for (name, source, begins, learnt, behind) in [
        ("drops", template(drops, open), "", "\n\nFour.".to_string(), false),
        ("shows the last", template(drops_earlier, open), open, said("Add them."), true),
        ("splits", template(splits, open), "", said("Add them."), true),
        ("splits, and opens nothing", template(splits, ""), "", said("<think>\nAdd them."), true),
        ("knows no thoughts", template("", open), open, said("Add them."), true),
        ("shut", template(drops, "<think>\n\n</think>\n\n"), "", "\n\nFour.".into(), false),
    ] {
        let mynah = with_template(Some(&source));
        let (tokenizer, folder) = (mynah.tokenizer(), tempfile::tempdir().unwrap());
        // What it says does not end by itself.
        let wild = Sampling::plain().with("temp", 100.0);
        let mut talk = mynah.generation().sampling(wild).context(512).limit(12).talk().unwrap();
        let mut feedback = Feedback::open(&mut talk, folder.path().join("mine.mynah"), &Spec::new("lora")).unwrap();
        let targets = |row: &mynah::train::Example| {
            let ids = row.tokens.iter().zip(&row.mask).filter(|(_, m)| **m);
            String::from_utf8(ids.flat_map(|(id, _)| tokenizer.token_bytes(*id)).copied().collect()).unwrap()
        };
        let end = String::from_utf8(tokenizer.token_bytes(tokenizer.eos().unwrap()).to_vec()).unwrap();

        // Answers with thoughts, of which the earlier one is what the template leaves of it.
        let mut messages = Vec::new();
        for asked in ["2 and 2?", "And again?"] {
            messages.push(Message::new("user", asked));
            let turn = talk.template().answer(tokenizer, &messages, ANSWER);
            assert_eq!(turn.content, format!("{begins}{ANSWER}"), "{name}");
            messages.push(turn);
        }
        talk.set_messages(messages);
        let read = talk.template().tokens(tokenizer, talk.before(), true).unwrap();
        feedback.good(&mut talk).unwrap();
        let marks = feedback.rows(&talk);
        let row = &marks.examples[0];
        assert_eq!(targets(row), format!("{learnt}{end}"), "{name}");
        let first = row.mask.iter().position(|m| *m).unwrap();
        assert_eq!(row.tokens[..first] == read[..], behind, "{name}");

        // An answer that was cut off, in its thought where one was opened: what was read and said, without an end.
        talk.clear();
        let said = talk.say(BEAR).unwrap().finish().unwrap();
        assert!(!said.text.is_empty() && !said.ended(), "{name}");
        let read = talk.template().tokens(tokenizer, talk.before(), true).unwrap();
        feedback.bad(&mut talk).unwrap();
        let marks = feedback.rows(&talk);
        let row = marks.examples.last().unwrap();
        assert!(marks.left_out.is_empty() && row.good == Some(false), "{name}");
        if !name.starts_with("splits") && name != "shut" {
            let first = row.mask.iter().position(|m| *m).unwrap();
            assert_eq!((&row.tokens[..first], targets(row)), (&read[..], said.text), "{name}");
        }
    }
}

#[test]
fn models_without_a_template_talk_in_lines() {
    let mynah = with_template(None);
    let wild = Sampling::plain().with("temp", 1.5);
    let mut talk = mynah.generation().sampling(wild).context(256).limit(30).talk().unwrap();
    assert!(!talk.has_template());
    for turn in 0..4 {
        let text: String = talk.say(BEAR).unwrap().map(|piece| piece.unwrap().text).collect();
        let said = talk.said().unwrap();
        assert_eq!((text.trim_end(), talk.messages().len()), (&*said.text, 2 * turn + 2));
        assert!(!said.text.contains("\nUser:"));
    }
}

/// Goes through a lesson; how many of its events were which.
fn learn(learning: &mut mynah::app::Learning) -> [usize; 4] {
    let mut counts = [0; 4];
    for event in learning {
        let which = match event.unwrap() {
            LearnEvent::Assessed => 0,
            LearnEvent::Step(_) => 1,
            LearnEvent::Measured => 2,
            LearnEvent::Answered => 3,
        };
        counts[which] += 1;
    }
    counts
}

#[test]
fn marks_teach_what_is_kept_and_undo_gives_the_bytes_back() {
    let (mynah, folder, other) = (mynah(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("mine.mynah");
    let mut talk = mynah.generation().sampling(Sampling::default().seed(3)).talk().unwrap();
    let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora")).unwrap();
    let fresh = fs::read(&path).unwrap();
    assert!(feedback.created() && feedback.bytes() == fresh && talk.stack().all().len() == 1);
    assert!(feedback.good(&mut talk).is_err(), "there is no answer yet");
    let settings = LearnSettings { passes: 3, seed: 3, ..LearnSettings::default() };
    assert!(feedback.learn(&talk, &settings).is_err(), "nor a mark");
    let first = whole(talk.say(BEAR));
    let refused = talk.last().unwrap().text.to_string();
    whole(talk.regenerate());
    assert_eq!(feedback.mark(&mut talk, Mark::Good).unwrap(), 0);
    whole(talk.say("And then?"));
    assert_eq!(feedback.better(&mut talk, "No.").unwrap(), 0);
    assert_eq!(feedback.better(&mut talk, "A bear slept.").unwrap(), 1);
    assert_eq!((talk.last().unwrap().text, talk.others().count()), ("A bear slept.", 0));
    assert_eq!((feedback.marks(), feedback.new_marks()), (2, 2));
    // The second is in a conversation, and once more without it.
    let rows = feedback.rows(&talk).examples;
    assert_eq!(rows.iter().map(|e| e.line.unwrap()).collect::<Vec<_>>(), [1, 2, 2]);
    assert!(rows[2].tokens.len() < rows[1].tokens.len() && rows[2].targets() == rows[1].targets());
    let line: Value = serde_json::from_slice(feedback.journal().lines().next().unwrap()).unwrap();
    assert_eq!(line["rejected"][0]["content"], *refused);
    assert_eq!(feedback.last_prompt().unwrap(), talk.before());

    let mut learning = feedback.learn(&talk, &settings).unwrap();
    let (_, most) = learning.progress();
    let [assessed, steps, measured, answered] = learn(&mut learning);
    assert_eq!((assessed, steps, measured, answered, learning.progress()), (4, 3, 6, 20, (most, most)));
    let learnt = learning.finish().unwrap();
    assert_eq!((learnt.objective, learnt.marks, learnt.steps as usize), ("marks", 2, steps));
    assert!(learnt.loss[1] < learnt.loss[0] && learnt.ordinary[0] > 0.0, "{:?}", learnt.loss);
    assert!(learnt.divergence[0] == 0.0 && learnt.divergence[1] > 0.0);
    // Nothing has changed yet, then only what speaks.
    assert!(fs::read(&path).unwrap() == fresh && feedback.new_marks() == 2);
    learnt.attach(&mut talk).unwrap();
    talk.clear();
    let after = whole(talk.say(BEAR));
    feedback.attach(&mut talk).unwrap();
    talk.clear();
    assert_eq!(whole(talk.say(BEAR)), first);
    feedback.keep(&learnt).unwrap();
    let [marks, before] = Feedback::files(&path);
    assert!(fs::read(&path).unwrap() == learnt.bytes() && fs::read(&before).unwrap() == fresh);
    assert_eq!(feedback.new_marks(), 0);

    // The command notes the same, and learns the same.
    let script = [BEAR, "/regenerate", "/good", "And then?", "/fix No.", "/fix A bear slept.", "/learn", "keep"];
    command(other.path(), "chat --seed 3 -a mine.mynah --learn --passes 3", &script);
    let [theirs, _] = Feedback::files(other.path().join("mine.mynah"));
    assert_eq!(fs::read(theirs).unwrap(), fs::read(&marks).unwrap());
    assert!(fs::read(other.path().join("mine.mynah")).unwrap() == learnt.bytes());

    // In memory it is the same, and goes on from what was kept.
    let marked = fs::read(&marks).unwrap();
    let mut other = mynah.generation().talk().unwrap();
    let mut held = Feedback::in_memory(&mut other, Some(fresh.clone()), marked.clone(), &Spec::new("lora")).unwrap();
    assert!(held.path().is_none() && !held.created() && held.new_marks() == 2 && held.journal().text() == marked);
    let mut learning = held.learn(&other, &settings).unwrap();
    learn(&mut learning);
    held.keep(&learning.finish().unwrap()).unwrap();
    assert!(held.bytes() == learnt.bytes() && held.new_marks() == 0);
    assert!(held.undo(&mut other).unwrap() && held.bytes() == fresh);
    assert!(held.undo(&mut other).unwrap() && held.bytes() == learnt.bytes());
    held.forget(1).unwrap();
    assert!(held.journal().lines().eq(marked.split(|b| *b == b'\n').skip(1).take(1)));
    assert!(Feedback::in_memory(&mut other, None, b"{}".to_vec(), &Spec::new("lora")).is_err(), "no line end");

    assert!(feedback.undo(&mut talk).unwrap());
    assert!(fs::read(&path).unwrap() == fresh && fs::read(&before).unwrap() == learnt.bytes());
    talk.clear();
    assert_eq!(whole(talk.say(BEAR)), first);
    assert!(feedback.undo(&mut talk).unwrap() && fs::read(&path).unwrap() == learnt.bytes());
    talk.clear();
    assert_eq!(whole(talk.say(BEAR)), after);

    // Stopped before the first step nothing was learnt; behind it, what one step did.
    feedback.bad(&mut talk).unwrap();
    let mut none = feedback.learn(&talk, &settings).unwrap();
    none.stopper().pull();
    assert_eq!((learn(&mut none)[1], none.finish().is_none()), (0, true));
    let mut one = feedback.learn(&talk, &settings).unwrap();
    while !matches!(one.next().unwrap().unwrap(), LearnEvent::Step(_)) {}
    one.stopper().pull();
    assert!(one.steps_left() && learn(&mut one)[1] == 0);
    assert_eq!(one.finish().unwrap().steps, 1);
    assert!(fs::read(&path).unwrap() == learnt.bytes());
    // The file is the adapter wherever it is read, and a second program may not write beside it.
    assert!(mynah.ready(&path).unwrap().changes_something());
    let mut second = mynah.talk().unwrap();
    assert!(Feedback::open(&mut second, &path, &Spec::new("lora")).is_err() && second.stack().is_empty());
    drop(feedback);
    let again = Feedback::open(&mut second, &path, &Spec::new("nola")).unwrap();
    assert!(!again.created() && again.new_marks() == 1);
}
