//! A conversation: its turns, the session that has read them, and the answers.

use super::complete::{Generation, Piece, Said};
use super::{IntoReady, Mynah};
use crate::adapter::Stack;
use crate::decode::{Finish, Generator, Sample, Sampler, Sampling, Stop};
use crate::error::{Error, Result};
use crate::model::{Session, Snapshot};
use crate::text::chat::{ASSISTANT, Message, Template};
use crate::train::feedback::Answer;
use std::prelude::v1::*;

/// Positions of a conversation where nothing is said.
const CONTEXT: usize = 4096;
/// Most tokens of an answer where nothing is said.
const LIMIT: usize = 512;
/// This part of the context, at most, is kept free for an answer.
const ROOM: usize = 4;

const SYSTEM: &str = "system";
const USER: &str = "user";

impl Mynah {
    /// A conversation with the usual settings. It follows the chat template of the model's file; where that has none, turns are
    /// lines that begin with `User:` and `Assistant:`. A template that shows the date has to be told it, by [`Talk::at`].
    ///
    /// # Errors
    /// Those of [`Generation::talk`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// let mynah = mynah::Mynah::embedded()?;
    /// let mut talk = mynah.talk()?;
    /// for piece in talk.say("Tell me a story about a bear.")? {
    ///     print!("{}", piece?);
    /// }
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn talk(&self) -> Result<Talk> {
        self.generation().talk()
    }
}

impl Generation {
    /// A conversation with these settings.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used; those of [`Mynah::template`] and [`Generation::session`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::decode::Sampling;
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let short = mynah.generation().context(256).limit(20).sampling(Sampling::greedy());
    /// let mut talk = short.talk()?.system("Answer in one sentence.");
    /// assert_eq!(talk.context(), 256);
    /// # let _ = talk.say("Hello!")?;
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn talk(&self) -> Result<Talk> {
        let mynah = self.mynah.clone();
        let most = mynah.model.hparams.context;
        let context = self.context.unwrap_or(CONTEXT).min(most);
        Sampler::new(&self.sampling)?;
        let template = match mynah.template()? {
            Some(template) => template,
            None => Template::plain(&mynah.tokenizer)?,
        };
        let session = self.session(context)?;
        Ok(Talk {
            stack: self.stack.clone(),
            sampling: self.sampling.clone(),
            limit: self.limit.unwrap_or(LIMIT),
            stop: self.stop.clone(),
            session: Some(session),
            running: None,
            messages: Vec::new(),
            read: Vec::new(),
            kept: Vec::new(),
            most_kept: 0,
            dropped: Vec::new(),
            others: Vec::new(),
            said: None,
            asked: 0,
            answered: 0,
            ended: true,
            context,
            template,
            mynah,
        })
    }
}

/// A conversation with a model.
///
/// It keeps all turns, reads only what is new of them, and leaves the oldest out when there is no room for them any more. What
/// is drawn follows from the seed, from how many questions were asked, and from how many answers there were to the last of
/// them. It borrows nothing: it can live in a struct and move to another thread.
///
/// [`Talk::say`] gives an answer as an iterator that borrows the conversation. A program that cannot hold such a borrow takes
/// the same in steps: [`Talk::ask`], then [`Talk::step`] until there is no piece any more.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, text::chat::Message};
///
/// let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
/// talk.say("Tell me a story about a bear.")?.finish()?;
/// talk.say("And then?")?.finish()?;
/// let roles: Vec<&str> = talk.messages().iter().map(|m: &Message| m.role.as_str()).collect();
/// assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
/// # }
/// # Ok(()) }
/// ```
pub struct Talk {
    mynah: Mynah,
    template: Template,
    /// Gone only while an answer is made.
    session: Option<Session>,
    running: Option<Box<Running>>,
    stack: Stack,
    context: usize,
    /// All turns, the system's first if there is one.
    messages: Vec<Message>,
    /// What the session has read, so that only what is new is read.
    read: Vec<u32>,
    /// What was read with other adapters, and which tokens that were, the latest last; and how many of them are kept.
    kept: Vec<(Snapshot, Vec<u32>)>,
    most_kept: usize,
    sampling: Sampling,
    limit: usize,
    stop: Stop,
    /// Questions asked, and answers to the last of them: what is drawn follows from both.
    asked: u64,
    answered: u64,
    /// Whether the last answer came to an end by itself.
    ended: bool,
    /// Earlier answers to the last question, and whether they came to an end.
    others: Vec<(String, bool)>,
    /// Turns that the last question had no room for.
    dropped: Vec<Message>,
    said: Option<Said>,
}

/// An answer that is being made.
struct Running {
    generator: Generator<Sample<Session>>,
    speech: Speech,
    /// All that is read before the answer.
    tokens: Vec<u32>,
    /// The turns that it answers.
    messages: Vec<Message>,
    said: Said,
    then: Then,
    over: bool,
}

/// What becomes of an answer.
#[derive(Clone, Copy)]
enum Then {
    /// It is the last turn.
    Turn,
    /// The same, and the answer before it gives way.
    Again,
    /// It is no part of the conversation.
    Aside,
}

impl Talk {
    /// The same, begun with what the system says, in the place of what it said before.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut talk = mynah.generation().limit(12).talk()?.system("Answer in one sentence.");
    /// talk.say("Hello!")?.finish()?;
    /// assert_eq!(talk.messages()[0].role, "system");
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn system(mut self, text: impl Into<String>) -> Talk {
        self.set_system(Some(&text.into()));
        self
    }

    /// Sets what the system says from now on, in the place of what it said before; none takes it away. The turns stay.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
    /// talk.say("Hello!")?.finish()?;
    /// talk.set_system(Some("Answer in one sentence."));
    /// assert_eq!(talk.messages().len(), 3);
    /// talk.set_system(None);
    /// assert_eq!(talk.messages()[0].content, "Hello!");
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn set_system(&mut self, text: Option<&str>) {
        self.end();
        self.messages.retain(|m| m.role != SYSTEM);
        if let Some(text) = text {
            self.messages.insert(0, Message::new(SYSTEM, text));
        }
    }

    /// The same with the template of another conversation.
    #[cfg(feature = "std")]
    pub(super) fn templated(self, template: &Template) -> Talk {
        Talk { template: template.clone(), ..self }
    }

    /// The same for templates that show the date: `seconds` since 1970 in the time zone to show.
    pub fn at(self, seconds: i64) -> Talk {
        Talk { template: self.template.clone().at(seconds), ..self }
    }

    /// The same with what the system says put in front of the first question, for chat templates that refuse a system's turn
    /// or do not show it: [`Template::check_system`] says whether this one does.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut talk = mynah.generation().limit(12).talk()?;
    /// if talk.template().check_system().is_err() {
    ///     talk = talk.merge_system(true);
    /// }
    /// talk.system("Answer in one sentence.").say("Hello!")?.finish()?;
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn merge_system(self, merge: bool) -> Talk {
        Talk { template: self.template.clone().merge_system(merge), ..self }
    }

    /// Most tokens of the conversation.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The template that makes tokens of turns.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The model that speaks.
    pub fn mynah(&self) -> &Mynah {
        &self.mynah
    }

    /// Whether the model's file has a chat template of its own.
    pub fn has_template(&self) -> bool {
        self.template.stop().is_none()
    }

    /// A handle that ends an answer from any thread. It is reset when a new answer begins.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// How answers are drawn from now on.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used; then nothing changes.
    pub fn set_sampling(&mut self, sampling: Sampling) -> Result<()> {
        Sampler::new(&sampling)?;
        self.sampling = sampling;
        Ok(())
    }

    /// Attaches an adapter on top of those that are attached: a path, bytes, or one that is ready. 1 is its strength as
    /// trained, 0 changes nothing. What was said so far stays, and is read again.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`] and [`Session::attach`].
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let mut talk = mynah.talk()?;
    /// talk.attach("notes.mynah", 1.0)?;
    /// talk.attach("style.mynah", 0.5)?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn attach(&mut self, adapter: impl IntoReady, strength: f32) -> Result<()> {
        let mut stack = self.stack.clone();
        stack.push(adapter.into_ready(&self.mynah)?, strength)?;
        self.replace(stack)
    }

    /// Attaches what a stack holds in the place of what is attached; an empty one leaves the model alone.
    ///
    /// # Errors
    /// Those of [`Session::replace`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Stack};
    /// # let mynah = Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
    /// lesson.next().transpose()?;
    /// let mut talk = mynah.generation().limit(8).talk()?;
    /// talk.attach(lesson.to_bytes()?, 1.0)?;
    /// let taught = talk.stack().clone();
    /// talk.replace(Stack::new())?; // the model alone
    /// assert!(talk.stack().is_empty());
    /// talk.replace(taught)?; // and back
    /// assert_eq!(talk.stack().all().len(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn replace(&mut self, stack: Stack) -> Result<()> {
        self.end();
        let Some(session) = &mut self.session else { unreachable!("no answer is made") };
        if session.stack().same(&stack) {
            return Ok(());
        }
        let before = self.kept.iter().position(|(then, _)| then.stack().same(&stack)).map(|at| self.kept.remove(at));
        if self.most_kept > 0 && session.position() > 0 {
            self.kept.push((session.snapshot(), self.read.clone()));
        }
        self.read.clear();
        let replaced = session.replace(stack.clone());
        if replaced.is_ok() {
            self.stack = stack;
        }
        if let (Ok(()), Some((then, read))) = (&replaced, before) {
            session.restore(&then)?;
            self.read = read;
        }
        self.forget_read();
        replaced
    }

    /// Removes all adapters. What was said so far stays, and is read again.
    ///
    /// # Errors
    /// Those of [`Talk::replace`].
    pub fn detach(&mut self) -> Result<()> {
        self.replace(Stack::new())
    }

    /// Keeps what was read with up to `stacks` other sets of adapters, so that who changes back need not read it again. It takes the
    /// memory of what was read. A set is told from others by the very adapters and their strengths; usually none is kept.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Stack};
    /// # let mynah = Mynah::embedded()?;
    /// # let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
    /// # lesson.next().transpose()?;
    /// let mut talk = mynah.generation().limit(8).talk()?;
    /// talk.keep_read(1);
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// talk.attach(lesson.to_bytes()?, 1.0)?; // all of it is read again
    /// talk.say("And then?")?.finish()?;
    /// talk.detach()?; // the first question was read before
    /// talk.say("And then?")?.finish()?;
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn keep_read(&mut self, stacks: usize) {
        self.most_kept = stacks;
        self.forget_read();
    }

    /// Leaves the latest of what is kept.
    fn forget_read(&mut self) {
        let more = self.kept.len().saturating_sub(self.most_kept);
        self.kept.drain(..more);
    }

    /// What is attached.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let talk = mynah.talk()?;
    /// assert!(talk.stack().is_empty()); // the model alone speaks
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// All turns, the system's first if there is one. An answer that is being made is not among them yet. Where the template
    /// opens a thought for the model, the answer's turn may begin with that: see [`Template::answer`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
    /// let answer = talk.say("Hello!")?.finish()?;
    /// assert_eq!(talk.messages()[0].content, "Hello!");
    /// assert_eq!(talk.messages()[1].content, answer.text);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Continues another conversation, one that was saved for example, in the place of this. Its last answer is taken for one
    /// that came to its end.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut talk = mynah.talk()?;
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// let saved = talk.messages().to_vec();
    /// let mut again = mynah.talk()?;
    /// again.set_messages(saved);
    /// assert_eq!(again.last(), talk.last());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.clear();
        self.asked = messages.iter().filter(|m| m.role == USER).count() as u64;
        self.messages = messages;
        self.ended = true;
    }

    /// Forgets all turns but the system's.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut talk = mynah.generation().limit(12).talk()?.system("Be brief.");
    /// talk.say("Hello!")?.finish()?;
    /// talk.clear();
    /// assert_eq!(talk.messages().len(), 1); // what the system said
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn clear(&mut self) {
        self.end();
        self.messages.retain(|m| m.role == SYSTEM);
        self.others.clear();
        self.dropped.clear();
        (self.asked, self.answered) = (0, 0);
    }

    /// The last answer.
    pub fn last(&self) -> Option<Answer<'_>> {
        let last = self.messages.last().filter(|m| m.role == ASSISTANT)?;
        Some(Answer { text: &last.content, ended: self.ended })
    }

    /// What was said before the last answer.
    pub fn before(&self) -> &[Message] {
        self.messages.split_last().map_or(&[], |(_, before)| before)
    }

    /// Earlier answers to the last question, which gave way to another.
    pub fn others(&self) -> impl Iterator<Item = Answer<'_>> {
        self.others.iter().map(|(text, ended)| Answer { text, ended: *ended })
    }

    /// Forgets earlier answers to the last question.
    #[cfg(feature = "std")]
    pub(super) fn forget_others(&mut self) {
        self.others.clear();
    }

    /// The oldest turns, which the last question left no room for; they are no part of the conversation any more.
    pub fn dropped(&self) -> &[Message] {
        &self.dropped
    }

    /// What the last answer was made of, with its tokens: one of the conversation or one aside.
    pub fn said(&self) -> Option<&Said> {
        self.said.as_ref()
    }

    /// Puts `text` in the place of the last answer, if there is one.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
    /// assert!(!talk.correct("A bear slept.")); // there is no answer yet
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// assert!(talk.correct("A bear slept."));
    /// assert_eq!(talk.last().unwrap().text, "A bear slept."); // the model reads it as its own
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn correct(&mut self, text: impl Into<String>) -> bool {
        self.end();
        let Some(last) = self.messages.last_mut().filter(|m| m.role == ASSISTANT) else { return false };
        last.content = text.into();
        self.ended = true;
        true
    }

    /// Says `text`; the answer, piece by piece. When there is no room for all turns and an answer, the oldest are left out:
    /// [`Talk::dropped`] has them. To drop the answer early is to end it: what was said stays in the conversation.
    ///
    /// # Errors
    /// `Limit` if there is no room for `text` alone; those of [`Template::tokens`]. After an error, of a piece too, it is as
    /// if nothing was said.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mut talk = mynah::Mynah::embedded()?.talk()?;
    /// for piece in talk.say("Tell me a story about an owl.")? {
    ///     print!("{}", piece?);
    /// }
    /// let whole = talk.say("And then?")?.finish()?; // without looking at pieces
    /// assert_eq!(talk.last().unwrap().text, whole.text);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn say(&mut self, text: &str) -> Result<Reply<'_>> {
        self.ask(text)?;
        Ok(Reply { talk: self })
    }

    /// Another answer to what was said last, in the place of the one that is there.
    ///
    /// # Errors
    /// `Invalid` if there is no answer yet; those of [`Talk::say`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
    /// let first = talk.say("Tell me a story about a bear.")?.finish()?;
    /// let second = talk.regenerate()?.finish()?; // drawn anew
    /// assert_eq!(talk.messages().len(), 2);
    /// assert_eq!(talk.last().unwrap().text, second.text);
    /// assert_eq!(talk.others().next().unwrap().text, first.text);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn regenerate(&mut self) -> Result<Reply<'_>> {
        self.ask_again()?;
        Ok(Reply { talk: self })
    }

    /// An answer to other turns, of at most `limit` tokens, which is no part of the conversation. It is drawn by the seed
    /// alone, so the same turns have the same answer as long as nothing else is attached.
    ///
    /// # Errors
    /// Those of [`Talk::say`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::text::chat::Message;
    /// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
    /// let title = [Message::new("user", "A title for a story about a bear?")];
    /// let said = talk.aside(&title, 6)?.finish()?;
    /// assert!(said.ids.len() <= 6 && talk.messages().is_empty());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn aside(&mut self, messages: &[Message], limit: usize) -> Result<Reply<'_>> {
        self.end();
        let mut messages = messages.to_vec();
        self.fit(&mut messages)?;
        self.begin(messages, self.sampling.seed, limit.min(self.limit), Then::Aside)?;
        Ok(Reply { talk: self })
    }

    /// Says `text`; [`Talk::step`] then gives the answer. This and what follows is [`Talk::say`] for programs that cannot hold
    /// an iterator, such as those that return to an event loop behind every piece.
    ///
    /// # Errors
    /// Those of [`Talk::say`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// struct Page { talk: mynah::app::Talk }
    /// let mut page = Page { talk: mynah::Mynah::embedded()?.talk()? };
    /// page.talk.ask("Tell me a story about an owl.")?;
    /// while let Some(piece) = page.talk.step()? {
    ///     print!("{piece}");
    /// }
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn ask(&mut self, text: &str) -> Result<()> {
        self.end();
        let mut messages = self.messages.clone();
        messages.push(Message::new(USER, text));
        self.dropped = self.fit(&mut messages)?;
        self.asked += 1;
        self.answered = 0;
        self.begin(messages, self.seed(), self.limit, Then::Turn)
    }

    /// The same for [`Talk::regenerate`].
    ///
    /// # Errors
    /// Those of [`Talk::regenerate`].
    pub fn ask_again(&mut self) -> Result<()> {
        self.end();
        if self.last().is_none() {
            return Err(Error::invalid("conversation", "there is no answer yet"));
        }
        self.answered += 1;
        self.begin(self.before().to_vec(), self.seed(), self.limit, Then::Again)
    }

    /// The next piece of an answer; none at its end, or if there is none.
    ///
    /// # Errors
    /// Those of [`Session::feed`] and [`Sampler::pick`]. It is as if nothing was said then.
    pub fn step(&mut self) -> Result<Option<Piece>> {
        let Some(running) = &mut self.running else { return Ok(None) };
        match running.next() {
            Ok(Some(piece)) => Ok(Some(piece)),
            Ok(None) => {
                self.end();
                Ok(None)
            }
            Err(e) => {
                self.leave();
                Err(e)
            }
        }
    }

    /// Ends an answer, if one is being made: what was said so far becomes a turn.
    pub fn end(&mut self) {
        let Some((said, mut messages, then)) = self.leave() else { return };
        if let Then::Turn | Then::Again = then {
            match self.last().map(|last| (last.text.to_string(), last.ended)) {
                Some(last) if matches!(then, Then::Again) => self.others.push(last),
                _ => self.others.clear(),
            }
            self.ended = said.ended();
            messages.push(self.template.answer(&self.mynah.tokenizer, &messages, &said.text));
            self.messages = messages;
        }
        self.said = Some(said);
    }

    /// Takes the session back from an answer.
    fn leave(&mut self) -> Option<(Said, Vec<Message>, Then)> {
        let running = *self.running.take()?;
        let Running { mut generator, speech, tokens, messages, mut said, then, .. } = running;
        said.text += &generator.rest();
        speech.end(&mut said.text);
        let session = generator.into_decoder().into_predictor();
        self.read = tokens;
        self.read.extend(&said.ids);
        self.read.truncate(session.position());
        self.session = Some(session);
        Some((said, messages, then))
    }

    /// What the next answer is drawn by.
    fn seed(&self) -> u64 {
        self.sampling.seed.wrapping_add(self.asked.wrapping_sub(1)).wrapping_add(self.answered << 32)
    }

    /// Begins an answer to `messages`.
    fn begin(&mut self, messages: Vec<Message>, seed: u64, limit: usize, then: Then) -> Result<()> {
        self.said = None;
        let tokens = self.template.tokens(&self.mynah.tokenizer, &messages, true)?;
        let sampler = Sampler::new(&self.sampling.clone().seed(seed))?;
        // The last token is always read again: its logits are wanted.
        let same =
            self.read.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len().saturating_sub(1));
        let Some(mut session) = self.session.take() else { unreachable!("no answer is made") };
        // Where the session cannot go back so far, all of it is read again.
        let same = session.truncate(same);
        self.stop.reset();
        let (new, tokenizer) = (&tokens[same..], &self.mynah.tokenizer);
        let said = Said { ids: Vec::new(), text: String::new(), prompt_tokens: new.len(), finish: Finish::Stopped };
        let sample = Sample::new(session, sampler, new, tokenizer.eos_ids(), self.stop.clone());
        let generator = Generator::over(sample, tokenizer).limit(limit);
        let speech = Speech::new(self.template.stop());
        self.running = Some(Box::new(Running { generator, speech, tokens, messages, said, then, over: false }));
        Ok(())
    }

    /// Leaves the oldest turns out until the conversation has room for an answer; those.
    fn fit(&self, messages: &mut Vec<Message>) -> Result<Vec<Message>> {
        let free = self.limit.min(self.context / ROOM).max(1);
        let first = messages.iter().take_while(|m| m.role == SYSTEM).count();
        let mut dropped = Vec::new();
        loop {
            let tokens = self.template.tokens(&self.mynah.tokenizer, &*messages, true)?.len();
            if tokens + free <= self.context {
                return Ok(dropped);
            }
            // A turn is a question and its answer.
            let next = messages.iter().skip(first + 1).position(|m| m.role == USER);
            let Some(next) = next else {
                let allowed = self.context.saturating_sub(free) as u64;
                return Err(Error::limit("tokens of the conversation", tokens as u64, allowed));
            };
            dropped.extend(messages.drain(first..=first + next));
        }
    }
}

impl Running {
    fn next(&mut self) -> Result<Option<Piece>> {
        if self.over {
            return Ok(None);
        }
        if self.speech.over {
            self.said.finish = Finish::StopText;
            self.over = true;
            return Ok(None);
        }
        if let Some(id) = self.generator.next_token()? {
            let text = self.generator.text(id);
            self.said.ids.push(id);
            self.said.text += &text;
            let text = self.speech.hear(&text);
            return Ok(Some(Piece { id: Some(id), text }));
        }
        self.over = true;
        self.said.finish = self.generator.finish().unwrap_or(Finish::Stopped);
        let rest = self.generator.rest();
        self.said.text += &rest;
        let text = self.speech.rest(&rest);
        Ok((!text.is_empty()).then_some(Piece { id: None, text }))
    }
}

/// An answer as it comes: an iterator of its pieces. Joined they are the answer; of a model without a chat template the white
/// space behind it is no part of it.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
/// let mut reply = talk.say("Tell me a story about a bear.")?;
/// let first = reply.next().transpose()?; // a piece at a time
/// let said = reply.end()?; // enough: this is the answer
/// assert!(first.is_some() && said.ids.len() <= 1);
/// assert_eq!(talk.last().unwrap().text, said.text);
/// # }
/// # Ok(()) }
/// ```
#[must_use = "to drop an answer is to end it"]
pub struct Reply<'a> {
    talk: &'a mut Talk,
}

impl Reply<'_> {
    /// The oldest turns, which there was no room for.
    pub fn dropped(&self) -> &[Message] {
        &self.talk.dropped
    }

    /// A handle that ends the answer from any thread.
    pub fn stopper(&self) -> Stop {
        self.talk.stopper()
    }

    /// The rest at once; all of the answer.
    ///
    /// # Errors
    /// Those of [`Talk::step`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mut talk = mynah::Mynah::embedded()?.generation().limit(12).talk()?;
    /// let said = talk.say("Tell me a story about a bear.")?.finish()?;
    /// assert!(said.ids.len() <= 12);
    /// assert_eq!(talk.last().unwrap().text, said.text);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn finish(self) -> Result<Said> {
        while self.talk.step()?.is_some() {}
        self.end()
    }

    /// The answer as far as it has come, which is where it ends.
    ///
    /// # Errors
    /// `Invalid` if a piece was an error: then there is no answer.
    pub fn end(self) -> Result<Said> {
        self.talk.end();
        self.talk.said.clone().ok_or_else(|| Error::invalid("answer", "there is none"))
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        self.talk.step().transpose()
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        self.talk.end();
    }
}

/// Text of an answer as it comes, up to what ends it.
struct Speech {
    stop: Option<&'static str>,
    text: String,
    shown: usize,
    over: bool,
}

impl Speech {
    fn new(stop: Option<&'static str>) -> Speech {
        Speech { stop, text: String::new(), shown: 0, over: false }
    }

    /// Adds what a token says; what may be shown of it. The beginning of what would end the answer waits.
    fn hear(&mut self, text: &str) -> String {
        let Some(stop) = self.stop else { return text.into() };
        self.text += text;
        if self.shown == 0 {
            self.text = self.text.trim_start().into();
        }
        let end = match self.text.find(stop) {
            Some(at) => {
                self.over = true;
                at
            }
            None => {
                let begun = (1..stop.len()).rev().find(|&n| self.text.ends_with(&stop[..n]));
                self.text.len() - begun.unwrap_or(0)
            }
        };
        let now = self.text[self.shown.min(end)..end].into();
        self.shown = end.max(self.shown);
        now
    }

    /// What waited, once nothing follows but `text`.
    fn rest(&mut self, text: &str) -> String {
        if self.stop.is_none() {
            return text.into();
        }
        self.text += text;
        let rest = self.text[self.shown..].trim_end().to_string();
        self.shown = self.text.len();
        rest
    }

    /// Leaves of an answer's text what belongs to it.
    fn end(&self, text: &mut String) {
        let Some(stop) = self.stop else { return };
        if let Some(at) = text.find(stop) {
            text.truncate(at);
        }
        *text = text.trim().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_before_the_next_turn() {
        let mut speech = Speech::new(Some("\nUser:"));
        let shown: Vec<String> = [" Yes", ".\n", "U", "Boat\nUs", "er: and"].map(|t| speech.hear(t)).into();
        assert_eq!(shown, ["Yes", ".", "", "\nUBoat", ""]);
        let mut text = String::from(" Yes.\nUBoat\nUser: and");
        speech.end(&mut text);
        assert!(speech.over && text == "Yes.\nUBoat");
        assert_eq!(Speech::new(None).hear(" \nUser:"), " \nUser:");
    }

    #[test]
    fn what_waited_comes_at_the_end() {
        let mut speech = Speech::new(Some("\nUser:"));
        assert_eq!([speech.hear("Yes.\nUs"), speech.rest("\u{fffd}\n")], ["Yes.", "\nUs\u{fffd}"]);
        let mut plain = Speech::new(None);
        assert_eq!([plain.hear("Yes.\nUs"), plain.rest("\n")], ["Yes.\nUs", "\n"]);
    }
}
