//! Lines from a person or a pipe.

use crate::{meter, out};
use anyhow::Context;
use mynah::bytes::Limits;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal, Read, StdinLock};

/// Where lines come from.
pub enum Input {
    /// A person, who can edit them and see what was typed before.
    Terminal(Box<DefaultEditor>),
    /// A file, a pipe or another program.
    Pipe(StdinLock<'static>),
}

impl Input {
    /// Standard input.
    pub fn open() -> anyhow::Result<Input> {
        let stdin = std::io::stdin();
        Ok(match stdin.is_terminal() && std::io::stdout().is_terminal() {
            true => Input::Terminal(Box::new(DefaultEditor::new().context("the terminal")?)),
            false => Input::Pipe(stdin.lock()),
        })
    }

    /// Whether a person types.
    pub fn terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// A line, or several where all but the last end with a backslash; none at the end.
    pub fn line(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        let mut text = String::new();
        let mut prompt = prompt;
        while let Some(line) = self.one(prompt)? {
            match line.strip_suffix('\\') {
                Some(line) => text += &format!("{line}\n"),
                None => return Ok(Some(text + &line)),
            }
            prompt = "… ";
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn one(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        match self {
            Input::Terminal(editor) => match meter::idly(|| editor.readline(prompt)) {
                Ok(line) => {
                    editor.add_history_entry(&line).ok();
                    Ok(Some(line))
                }
                Err(ReadlineError::Interrupted) => {
                    out::say("(Ctrl-D or /exit ends)");
                    Ok(Some(String::new()))
                }
                Err(ReadlineError::Eof) => Ok(None),
                Err(e) => Err(e).context("the terminal"),
            },
            Input::Pipe(stdin) => {
                let (mut line, most) = (Vec::new(), Limits::default().line);
                let n = meter::idly(|| stdin.take(most + 1).read_until(b'\n', &mut line)).context("standard input")?;
                Limits::check("bytes of a line", n as u64, most)?;
                // Some programs mark a text's beginning.
                let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let text = String::from_utf8(line.to_vec()).context("standard input is not UTF-8")?;
                Ok(Some(text).filter(|_| n > 0))
            }
        }
    }
}
