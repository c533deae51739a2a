//! A lesson, a unit of work a call.

use crate::error::error;
use mynah::Event;
use mynah::app::{self, Draft};
use mynah::train::plan::Plan;
use serde_json::json;
use wasm_bindgen::prelude::*;

/// An adapter that is being taught: first a plan of it, then the lesson itself.
#[wasm_bindgen]
pub struct Lesson {
    draft: Option<Draft>,
    lesson: Option<mynah::Lesson>,
    plan: String,
}

impl Lesson {
    pub(crate) fn new(mut draft: Draft, notes: Vec<String>, memory: Option<usize>) -> mynah::Result<Lesson> {
        let (rows, held_out, tokens, steps) =
            (draft.rows().len(), draft.held_out().len(), draft.tokens(), draft.steps());
        let epochs = draft.epochs();
        let plan: Plan = match draft.plan(0)? {
            Ok(plan) => plan,
            Err(refusal) => {
                let least = refusal.least.total() as u64;
                let memory = memory.unwrap_or(usize::MAX) as u64;
                return Err(mynah::Error::limit("bytes of memory for the lesson", least, memory));
            }
        };
        let plan = json!({
            "rows": rows,
            "heldOut": held_out,
            "tokens": tokens,
            "steps": steps,
            "epochs": epochs,
            "bytes": plan.total(),
            "notes": notes,
        });
        Ok(Lesson { draft: Some(draft), lesson: None, plan: plan.to_string() })
    }
}

#[wasm_bindgen]
impl Lesson {
    /// Rows, steps and bytes of memory, as JSON.
    pub fn plan(&self) -> String {
        self.plan.clone()
    }

    /// Does a unit of work and says what it was, as JSON; nothing at the end. `seconds` are those that the last step took.
    pub fn next(&mut self, seconds: f64) -> Result<Option<String>, JsValue> {
        if let Some(draft) = self.draft.take() {
            self.lesson = Some(draft.begin().map_err(error)?);
        }
        let Some(lesson) = &mut self.lesson else { return Ok(None) };
        if seconds > 0.0 {
            lesson.add_seconds(seconds);
        }
        let Some(event) = lesson.next().transpose().map_err(error)? else { return Ok(None) };
        Ok(Some(
            match event {
                Event::Progress { work, done, total } => {
                    json!({ "type": "progress", "work": format!("{work:?}").to_lowercase(), "done": done, "total": total })
                }
                Event::Evaluated { step, loss, best } => {
                    json!({ "type": "evaluated", "step": step, "loss": loss, "best": best })
                }
                Event::Step(report) => json!({
                    "type": "step",
                    "step": report.step,
                    "steps": lesson.steps(),
                    "loss": report.loss,
                    "rate": report.lr,
                    "tokens": report.tokens,
                }),
                Event::Discarded { error, rows } => {
                    json!({ "type": "discarded", "why": error.to_string(), "rows": rows.to_string() })
                }
                Event::Weighed(_) => json!({ "type": "weighed" }),
                _ => json!({ "type": "other" }),
            }
            .to_string(),
        ))
    }

    /// The losses so far, and how it has ended, as JSON.
    pub fn history(&self) -> String {
        let Some(lesson) = &self.lesson else { return "{}".into() };
        let history = lesson.history();
        json!({
            "steps": history.steps(),
            "losses": history.losses,
            "heldOut": history.held_out,
            "best": history.best(),
            "tokensPerSecond": history.tokens_per_second(),
            "ended": lesson.ended().map(app::Ended::name),
        })
        .to_string()
    }

    /// What was learnt so far, as the bytes of an adapter's file: with rows held out, the state of their lowest loss.
    #[wasm_bindgen(js_name = toBytes)]
    pub fn to_bytes(&self) -> Result<Vec<u8>, JsValue> {
        self.begun()?.to_bytes().map_err(error)
    }

    /// Everything that is needed to go on later, with the same data and settings.
    pub fn checkpoint(&self) -> Result<Vec<u8>, JsValue> {
        self.begun()?.checkpoint().map_err(error)
    }
}

impl Lesson {
    fn begun(&self) -> Result<&mynah::Lesson, JsValue> {
        self.lesson.as_ref().ok_or_else(|| error(mynah::Error::invalid("lesson", "no step was done yet")))
    }
}
