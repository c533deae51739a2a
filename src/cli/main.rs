//! The command `mynah`: the library's public names behind options, files and a terminal.
//!
//! Results go to standard output, everything for eyes to standard error. Exit status 0 is success, 1 a failure, 2 wrong
//! use, 130 an interruption.

mod args;
mod bench;
mod chat;
mod data;
#[cfg(feature = "base")]
mod demo;
mod embed;
mod eval;
mod inspect;
mod load;
mod logits;
mod meter;
mod models;
mod out;
mod paths;
mod plot;
mod run;
mod tokens;
mod train;

use args::Command;
use std::process::ExitCode;
use train::Line;

/// What a command that did not fail says of itself.
pub enum Outcome {
    /// All done.
    Done,
    /// Stopped by Ctrl-C, with what was done so far in safety.
    Interrupted,
}

fn command() -> anyhow::Result<Outcome> {
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
        Command::Embed(a) => embed::embed(a, cli.json),
        Command::Logits(a) => logits::logits(a, cli.json),
        Command::Tokenize(a) => tokens::tokenize(a, cli.json),
        Command::Detokenize(a) => tokens::detokenize(a, cli.json),
        Command::Inspect(a) => inspect::inspect(a, cli.json),
        Command::Models => models::models(cli.json),
        Command::Bench(a) => bench::bench(a, cli.json),
    }
}

fn main() -> ExitCode {
    match command() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        // Whoever read our output has seen enough.
        Err(e) if out::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            out::say(&format!("mynah: {}", out::why(&e)));
            match e.downcast_ref::<args::Usage>() {
                Some(_) => {
                    out::say("`mynah --help` and `mynah COMMAND --help` explain the options.");
                    ExitCode::from(2)
                }
                None => ExitCode::FAILURE,
            }
        }
    }
}
