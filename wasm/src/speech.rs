//! Text that comes piece by piece.

use crate::error::{error, options};
use mynah::app::{Piece, Said};
use mynah::decode::Finish;
use mynah::text::chat::Message;
use mynah::{Completion, app};
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

/// A text that is being continued.
#[wasm_bindgen]
pub struct Text(Completion);

impl Text {
    pub(crate) fn new(completion: Completion) -> Text {
        Text(completion)
    }
}

#[wasm_bindgen]
impl Text {
    /// The text of the next token, which is empty if it ends inside a character; nothing at the end.
    pub fn piece(&mut self) -> Result<Option<String>, JsValue> {
        text(self.0.next().transpose())
    }

    /// What was said so far, as JSON.
    pub fn said(&self) -> String {
        said(self.0.said())
    }
}

/// A conversation.
#[wasm_bindgen]
pub struct Talk(app::Talk);

impl Talk {
    pub(crate) fn new(talk: app::Talk) -> Talk {
        Talk(talk)
    }
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[wasm_bindgen]
impl Talk {
    /// Begins an answer to messages, as JSON, of which the last one is the user's. What was read of them before is not read again.
    pub fn ask(&mut self, messages: &str) -> Result<(), JsValue> {
        let turns: Vec<Turn> = serde_json::from_str(messages).map_err(options)?;
        let mut turns: Vec<Message> = turns.into_iter().map(|turn| Message::new(turn.role, turn.content)).collect();
        let Some(last) = turns.pop().filter(|last| last.role == "user") else {
            return Err(error(mynah::Error::invalid("messages", "the last one is to be the user's")));
        };
        self.0.set_messages(turns);
        self.0.ask(&last.content).map_err(error)
    }

    /// The next piece of the answer; nothing at its end.
    pub fn piece(&mut self) -> Result<Option<String>, JsValue> {
        text(self.0.step())
    }

    /// Ends the answer: what was said so far becomes a turn.
    pub fn end(&mut self) {
        self.0.end();
    }

    /// What was said, as JSON; nothing before an answer has ended.
    pub fn said(&self) -> Option<String> {
        self.0.said().map(said)
    }

    /// Turns that there was no room for.
    pub fn dropped(&self) -> usize {
        self.0.dropped().len()
    }
}

fn text(piece: mynah::Result<Option<Piece>>) -> Result<Option<String>, JsValue> {
    Ok(piece.map_err(error)?.map(|piece| piece.text))
}

fn said(said: &Said) -> String {
    let finish = match said.finish {
        Finish::Eos(_) | Finish::StopText => "stop",
        Finish::Stopped => "cancelled",
        _ => "length",
    };
    json!({ "text": said.text, "ids": said.ids, "promptTokens": said.prompt_tokens, "finish": finish }).to_string()
}
