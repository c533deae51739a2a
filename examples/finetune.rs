//! Load, teach, save, attach, talk: the main job through the library.
//!
//! `cargo run --release --example finetune -- MODEL.gguf NOTES.txt OUT.mynah`, or with no argument on the embedded base.

use mynah::{Event, Mynah};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mynah, notes) = match &args[..] {
        [model, notes, ..] => (Mynah::open(model)?, std::fs::read_to_string(notes)?),
        _ => (Mynah::embedded()?, mynah::base::NOTES.to_string()),
    };
    let out = args.get(2).map_or_else(|| std::env::temp_dir().join("notes.mynah"), PathBuf::from);

    let mut lesson = mynah.lesson("nola").steps(20).text(&notes)?;
    for event in &mut lesson {
        if let Event::Step(step) = event? {
            println!("step {:2}  loss {:.3}", step.step, step.loss);
        }
    }
    lesson.save(&out)?;
    println!("{} has {} bytes", out.display(), std::fs::metadata(&out)?.len());

    let mut talk = mynah.talk()?;
    talk.attach(&out, 1.0)?;
    for piece in talk.say("Tell me a story about the parrot of Gull Rock.")? {
        print!("{}", piece?);
    }
    println!();
    Ok(())
}
