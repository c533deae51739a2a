//! A lesson, a unit of work a call.

use crate::error::error;
use mynah::app::{self, Draft, LearnEvent, Learning, Learnt};
use mynah::train::plan::Plan;
use mynah::{Error, Event};
use serde_json::json;
use wasm_bindgen::prelude::*;

/// An adapter that is being taught: first a plan of it, then the lesson itself.
#[wasm_bindgen]
pub struct Lesson {
    work: Work,
    plan: String,
}

/// What is taught from.
enum Work {
    /// Rows that were not yet touched.
    Draft(Box<Draft>),
    Rows(Box<mynah::Lesson>),
    Marks(Box<Marks>),
    /// Marks, learnt; nothing if no step was done.
    Learnt(Option<Box<Learnt>>, Vec<f32>),
    /// An error ended it.
    Broken,
}

/// A lesson from marks, and its losses.
struct Marks {
    learning: Learning,
    losses: Vec<f32>,
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
        Ok(Lesson { work: Work::Draft(Box::new(draft)), plan: plan.to_string() })
    }

    /// From marks: [`app::Feedback`].
    pub(crate) fn of_marks(learning: Learning, marks: usize) -> Lesson {
        let plan = json!({
            "rows": marks,
            "heldOut": 0,
            "steps": learning.steps(),
            "work": learning.progress().1,
            "notes": [],
        });
        let losses = Vec::new();
        Lesson { work: Work::Marks(Box::new(Marks { learning, losses })), plan: plan.to_string() }
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
        self.work(seconds).map_err(error)
    }

    /// The losses so far, and how it has ended, as JSON.
    pub fn history(&self) -> String {
        match &self.work {
            Work::Rows(lesson) => {
                let history = lesson.history();
                json!({
                    "steps": history.steps(),
                    "losses": history.losses,
                    "heldOut": history.held_out,
                    "best": history.best(),
                    "tokensPerSecond": history.tokens_per_second(),
                    "ended": lesson.ended().map(app::Ended::name),
                })
            }
            Work::Marks(marks) => {
                json!({ "steps": marks.losses.len(), "losses": marks.losses, "heldOut": [], "ended": null })
            }
            Work::Learnt(learnt, losses) => json!({
                "steps": losses.len(),
                "losses": losses,
                "heldOut": [],
                "ended": "done",
                "marks": learnt.as_ref().map(|l| json!({
                    "marks": l.marks,
                    "loss": l.loss,
                    "agreement": l.agreement,
                    "divergence": l.divergence,
                    "ordinary": l.ordinary,
                })),
            }),
            Work::Draft(_) | Work::Broken => json!({}),
        }
        .to_string()
    }

    /// What was learnt so far, as the bytes of an adapter's file: with rows held out, the state of their lowest loss; from marks
    /// once it is over.
    #[wasm_bindgen(js_name = toBytes)]
    pub fn to_bytes(&self) -> Result<Vec<u8>, JsValue> {
        match &self.work {
            Work::Rows(lesson) => lesson.to_bytes(),
            Work::Learnt(Some(learnt), _) => Ok(learnt.bytes().to_vec()),
            _ => Err(untaught()),
        }
        .map_err(error)
    }

    /// Everything that is needed to go on later, with the same data and settings.
    pub fn checkpoint(&self) -> Result<Vec<u8>, JsValue> {
        match &self.work {
            Work::Rows(lesson) => lesson.checkpoint(),
            Work::Marks(_) | Work::Learnt(..) => {
                Err(Error::unsupported("checkpoint", "one of a lesson from marks; it is short, and begins anew"))
            }
            _ => Err(untaught()),
        }
        .map_err(error)
    }
}

fn untaught() -> Error {
    Error::invalid("lesson", "no step was done yet")
}

impl Lesson {
    fn work(&mut self, seconds: f64) -> mynah::Result<Option<String>> {
        self.work = match core::mem::replace(&mut self.work, Work::Broken) {
            Work::Draft(draft) => Work::Rows(Box::new(draft.begin()?)),
            work => work,
        };
        let said = match &mut self.work {
            Work::Rows(lesson) => {
                if seconds > 0.0 {
                    lesson.add_seconds(seconds);
                }
                lesson.next().transpose()?.map(|event| of_rows(event, lesson.steps()))
            }
            Work::Marks(marks) => marks.learning.next().transpose()?.map(|event| marks.heard(event)),
            _ => None,
        };
        if said.is_none() {
            self.work = match core::mem::replace(&mut self.work, Work::Broken) {
                Work::Marks(marks) => Work::Learnt(marks.learning.finish().map(Box::new), marks.losses),
                work => work,
            };
        }
        Ok(said.map(|said| said.to_string()))
    }
}

fn of_rows(event: Event, steps: u64) -> serde_json::Value {
    match event {
        Event::Progress { work, done, total } => {
            json!({ "type": "progress", "work": format!("{work:?}").to_lowercase(), "done": done, "total": total })
        }
        Event::Evaluated { step, loss, best } => {
            json!({ "type": "evaluated", "step": step, "loss": loss, "best": best })
        }
        Event::Step(report) => step(report, steps),
        Event::Discarded { error, rows } => {
            json!({ "type": "discarded", "why": error.to_string(), "rows": rows.to_string() })
        }
        Event::Weighed(_) => json!({ "type": "weighed" }),
        _ => json!({ "type": "other" }),
    }
}

fn step(report: mynah::train::Report, steps: u64) -> serde_json::Value {
    json!({
        "type": "step",
        "step": report.step,
        "steps": steps,
        "loss": report.loss,
        "rate": report.lr,
        "tokens": report.tokens,
    })
}

impl Marks {
    fn heard(&mut self, event: LearnEvent) -> serde_json::Value {
        let (done, total) = self.learning.progress();
        let work = match event {
            LearnEvent::Step(report) => {
                self.losses.push(report.loss as f32);
                return step(report, self.learning.steps());
            }
            LearnEvent::Answered => "answered",
            LearnEvent::Assessed => "assessed",
            LearnEvent::Measured => "measured",
        };
        json!({ "type": "progress", "work": work, "done": done, "total": total })
    }
}
