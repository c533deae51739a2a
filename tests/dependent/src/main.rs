//! A program of another crate: it opens a model, lets it speak, teaches it, is interrupted, goes on where it was, and talks.
//! It ends with an error if anything is not as the library says.

use mynah::app::{Checkpoints, Ended};
use mynah::decode::{Finish, Sampling};
use mynah::{Event, Lesson, Mynah, Talk};
use std::error::Error;
use std::path::{Path, PathBuf};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Fails with a sentence unless something holds.
fn claim(holds: bool, what: impl Into<String>) -> Fallible<()> {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// A folder that goes when the program ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Fallible<Folder> {
        let path = std::env::temp_dir().join(format!("mynah-dependent-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// What an app keeps between the frames of its page: nothing in it borrows.
struct App {
    mynah: Mynah,
    talk: Talk,
}

fn main() -> Fallible<()> {
    let folder = Folder::new()?;
    let model = folder.file("model.gguf");
    std::fs::write(&model, mynah::base::MODEL)?;
    let mynah = Mynah::open(&model)?;

    streams(&mynah)?;
    trains(&mynah, &folder)?;
    resumes(&mynah, &folder)?;
    let app = App { talk: mynah.generation().sampling(Sampling::greedy()).context(512).limit(40).talk()?, mynah };
    // All of it can move to the thread that is allowed to take its time.
    std::thread::scope(|scope| scope.spawn(|| chats(app, &folder)).join().map_err(|_| "the chat panicked")?)?;
    match Mynah::open(folder.file("nowhere.gguf")) {
        Err(e) => claim(e.to_string().contains("nowhere.gguf"), format!("an error that names the file: {e}"))?,
        Ok(_) => return Err("a file that is not there was opened".into()),
    }
    println!("all as it should be");
    Ok(())
}

/// Text comes piece by piece, and the pieces are the text.
fn streams(mynah: &Mynah) -> Fallible<()> {
    let mut text = mynah.generation().limit(24).sampling(Sampling::greedy()).complete("Up at four")?;
    let mut joined = String::new();
    for piece in &mut text {
        let piece = piece?;
        print!("{piece}");
        joined += &piece.text;
    }
    println!();
    claim(joined == text.said().text && !joined.is_empty(), "pieces join to the text")?;
    let mut stopped = mynah.complete("Up at four")?;
    let handle = stopped.stopper();
    stopped.next().transpose()?;
    handle.pull();
    claim(stopped.finish()?.finish == Finish::Stopped, "a handle ends a text")
}

/// The lesson that all of this is about.
fn lesson(mynah: &Mynah) -> mynah::Result<Lesson> {
    mynah.lesson("nola").steps(8).context(64).batch(2).held_out(0.1).seed(7).text(mynah::base::NOTES)
}

/// Progress is shown, and what was learnt is saved.
fn trains(mynah: &Mynah, folder: &Folder) -> Fallible<()> {
    let mut lesson = lesson(mynah)?;
    let (mut steps, mut held_out) = (Vec::new(), Vec::new());
    for event in &mut lesson {
        match event? {
            Event::Step(report) => {
                println!("step {} of 8  loss {:.3}", report.step, report.loss);
                steps.push(report.step);
            }
            Event::Evaluated { loss, .. } => held_out.push(loss),
            Event::Discarded { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    claim(steps == (1..=8).collect::<Vec<u64>>(), "every step is an event")?;
    claim(held_out.first() > held_out.last(), format!("the held-out loss falls: {held_out:?}"))?;
    claim(lesson.ended() == Some(Ended::Done), "the lesson is over")?;
    lesson.save(folder.file("whole.mynah"))?;
    Ok(())
}

/// A lesson on a thread of its own, with checkpoints on the way, that this thread ends behind the third step.
fn interrupted(mynah: &Mynah, saved: &Path) -> Fallible<u64> {
    let mut lesson = lesson(mynah)?;
    let stop = lesson.stopper();
    // A step is told before the next one begins.
    let (tell, told) = std::sync::mpsc::sync_channel(0);
    let worker = std::thread::spawn({
        let saved = saved.to_path_buf();
        move || -> Fallible<u64> {
            let mut checkpoints = Checkpoints::open(saved, 2)?;
            while let Some(event) = lesson.next() {
                if let Event::Step(report) = event? {
                    tell.send(report.step)?;
                    checkpoints.save_if_due(&lesson)?;
                }
            }
            claim(lesson.ended() == Some(Ended::Cancelled), "the lesson was cancelled")?;
            checkpoints.save(&lesson)?;
            Ok(lesson.history().steps())
        }
    });
    while told.recv().is_ok_and(|step| step < 3) {}
    stop.pull();
    // One more may have begun before that was seen.
    told.iter().for_each(drop);
    worker.join().map_err(|_| "the lesson panicked")?
}

/// What was interrupted ends in the same bytes.
fn resumes(mynah: &Mynah, folder: &Folder) -> Fallible<()> {
    let saved = folder.file("checkpoints");
    let done = interrupted(mynah, &saved)?;
    claim((3..=4).contains(&done), format!("cancelled after step {done} of 8"))?;
    let setup = mynah.resume(&saved)?.steps(8).context(64).batch(2).held_out(0.1).seed(7);
    let mut lesson = setup.text(mynah::base::NOTES)?;
    claim(lesson.history().steps() == done, "it goes on where it was")?;
    for event in &mut lesson {
        event?;
    }
    lesson.save(folder.file("resumed.mynah"))?;
    let [whole, resumed] = ["whole.mynah", "resumed.mynah"].map(|name| std::fs::read(folder.file(name)));
    claim(whole? == resumed?, "a resumed lesson ends in the bytes of one that was never stopped")
}

/// Two adapters at their strengths, a conversation that remembers, and an answer that is cut short.
fn chats(mut app: App, folder: &Folder) -> Fallible<()> {
    let mut style = app.mynah.lesson("lora").steps(3).context(48).rate(0.01).text("Ahoy! The tea is hot, ahoy!")?;
    for event in &mut style {
        event?;
    }
    let question = "Tell me a story about the parrot of Gull Rock.";
    let plain = app.talk.say(question)?.finish()?;
    app.talk.attach(folder.file("whole.mynah"), 1.0)?;
    app.talk.attach(style.to_bytes()?, 0.5)?;
    let strengths: Vec<f32> = app.talk.stack().all().iter().map(|a| a.strength).collect();
    claim(strengths == [1.0, 0.5], "both are attached")?;
    app.talk.clear();
    let mut text = String::new();
    for piece in app.talk.say(question)? {
        text += &piece?.text;
    }
    println!("before: {}\nafter: {text}", plain.text);
    claim(text != plain.text, "what was learnt is heard")?;
    let first: Vec<String> = app.talk.say("And then?")?.take(2).map(|p| p.map(|p| p.text)).collect::<Result<_, _>>()?;
    claim(app.talk.last().is_some_and(|a| a.text == first.concat() && !a.ended), "what was said so far stays")?;
    claim(app.talk.messages().len() == 4, "all turns are remembered")?;
    // The same conversation again is the same text, on whatever threads.
    app.talk.clear();
    claim(app.talk.say(question)?.finish()?.text == text, "the same question has the same answer")
}
