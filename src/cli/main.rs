//! The command `mynah`: the library's public names behind options, files and a terminal.
//!
//! Results go to standard output, everything for eyes to standard error. Exit status 0 is success, 1 a failure, 2 wrong
//! use, 130 and 143 that it was asked to stop (128 and the signal), 141 that the reader of its output had gone.

mod args;
mod bench;
mod chat;
mod convert;
mod data;
#[cfg(feature = "base")]
mod demo;
mod digests;
mod doctor;
mod embed;
mod eval;
mod folder;
mod inspect;
mod load;
mod logits;
mod memory;
mod merge;
mod meter;
mod methods;
mod models;
mod names;
mod out;
mod pack;
mod paths;
mod plot;
mod rewrite;
mod run;
mod share;
mod signals;
mod tokens;
mod train;
mod verify;

use args::Command;
use std::process::ExitCode;
use train::Line;

/// What a command that did not fail says of itself.
pub enum Outcome {
    /// All done.
    Done,
    /// Stopped by Ctrl-C or another signal, with what was done so far in safety.
    Interrupted,
}

/// What to try, for who types the name alone. A test runs these lines.
const HELLO: &str = if cfg!(feature = "base") {
    "\
mynah teaches a language model on the device it runs on. Three lines to try:

  mynah demo         train the built-in model on sample notes, in half a minute
  mynah chat         talk with the built-in model
  mynah doctor       what this machine can do

With a model of your own, a GGUF file: mynah doctor -m model.gguf shows how much memory it needs.
mynah --help lists all commands.
"
} else {
    "\
mynah teaches a language model on the device it runs on. Three lines to try:

  mynah doctor -m model.gguf                              what a model, a GGUF file, takes on this machine
  mynah run -m model.gguf -p 'Once upon a time'           continue a text
  mynah train -m model.gguf -d notes.txt -o mine.mynah    teach it your notes

mynah --help lists all commands.
"
};

fn command() -> anyhow::Result<Outcome> {
    if std::env::args_os().len() <= 1 {
        out::print(HELLO)?;
        return Ok(Outcome::Done);
    }
    let Line { cli, options, resumed } = Line::read()?;
    match &cli.command {
        #[cfg(feature = "base")]
        Command::Demo(a) => demo::demo(a, cli.json),
        Command::Run(a) => run::run(a, cli.json),
        Command::Chat(a) => chat::chat(a, cli.json),
        Command::Train(a) => train::train(a, options, resumed, cli.json),
        Command::Plan(a) => train::plan(a, cli.json),
        Command::Data(a) => data::data(a, cli.json),
        Command::Eval(a) => eval::eval(a, cli.json),
        Command::Pack(a) => pack::pack(a, cli.json),
        Command::Convert(a) => convert::convert(a, cli.json),
        Command::Quantize(a) => rewrite::quantize(a, cli.json),
        Command::Bake(a) => rewrite::bake(a, cli.json),
        Command::Merge(a) => merge::merge(a, cli.json),
        Command::Embed(a) => embed::embed(a, cli.json),
        Command::Logits(a) => logits::logits(a, cli.json),
        Command::Tokenize(a) => tokens::tokenize(a, cli.json),
        Command::Detokenize(a) => tokens::detokenize(a, cli.json),
        Command::Inspect(a) => inspect::inspect(a, cli.json),
        Command::Verify(a) => verify::verify(a, cli.json),
        Command::Share(a) => share::share(a, cli.json),
        Command::Receive(a) => share::receive(a, cli.json),
        Command::Models => models::models(cli.json),
        Command::Methods(a) => methods::methods(a, cli.json),
        Command::Doctor(a) => doctor::doctor(a, cli.json),
        Command::Bench(a) => bench::bench(a, cli.json),
    }
}

fn main() -> ExitCode {
    memory::share_arena();
    signals::name_cut_files();
    ExitCode::from(status(command))
}

/// What a command's end is to the shell, with what must be said of it.
fn status(command: impl FnOnce() -> anyhow::Result<Outcome> + std::panic::UnwindSafe) -> u8 {
    // A panic, of a worker too, has said where it was: files are whole, and the status is that of a failure.
    let done = std::panic::catch_unwind(command);
    match done.unwrap_or_else(|_| Err(anyhow::anyhow!("this is a fault of the program; please report it"))) {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Interrupted) => meter::status(),
        // Whoever read our output has seen enough: the status is that of a program which the signal for this has ended.
        Err(e) if out::is_closed_pipe(&e) => 141,
        Err(e) => {
            out::say(&format!("mynah: {}", out::why(&e)));
            match e.downcast_ref::<args::Usage>() {
                Some(_) => {
                    out::say("`mynah --help` and `mynah COMMAND --help` explain the options.");
                    2
                }
                None => 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mynah::kernel::Pool;

    #[test]
    fn a_panic_of_a_worker_ends_with_the_status_of_a_failure() {
        let pool = Pool::new(3);
        let command = |at: Option<usize>| {
            let pool = pool.clone();
            move || {
                pool.run(64, &|part, _| assert!(Some(part) != at, "a fault in part {part}"));
                Ok(Outcome::Done)
            }
        };
        for part in [0, 17, 63] {
            assert_eq!(status(std::panic::AssertUnwindSafe(command(Some(part)))), 1);
        }
        // The threads are there still.
        assert_eq!(status(std::panic::AssertUnwindSafe(command(None))), 0);
    }
}
