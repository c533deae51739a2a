//! The page of a program that uses the library: open a model, teach it, keep what was learnt, let it speak.
//!
//! ```
//! # fn main() -> mynah::Result<()> {
//! # #[cfg(all(feature = "base", feature = "chat"))] {
//! use mynah::{Event, Mynah};
//!
//! let mynah = Mynah::embedded()?; // or Mynah::open("smollm2.gguf")?
//! let mut lesson = mynah.lesson("nola").steps(3).text(mynah::base::NOTES)?;
//! for event in &mut lesson {
//!     if let Event::Step(step) = event? {
//!         println!("{} {:.3}", step.step, step.loss);
//!     }
//! }
//! let learnt = lesson.to_bytes()?; // or lesson.save("notes.mynah")?
//! let mut talk = mynah.talk()?;
//! talk.attach(learnt, 1.0)?;
//! for piece in talk.say("Dear diary,")? {
//!     print!("{}", piece?);
//! }
//! # }
//! # Ok(()) }
//! ```
//!
//! A lesson has three stages. [`Mynah::lesson`] begins a [`Setup`]: what is trained, and the settings. Data make a [`Draft`]
//! of it, which can be planned; and that becomes the [`Lesson`], an iterator that does a unit of work a call.
//! [`Setup::text`] and its like go through all of them at once. [`Mynah::resume`] continues from a checkpoint.
//!
//! | what | how it is made | what it is |
//! | --- | --- | --- |
//! | [`Lesson`] | [`Mynah::lesson`], [`Mynah::resume`] | an adapter or a model that is trained: an iterator of events |
//! | [`Completion`] | [`Mynah::complete`], [`Generation`] | a text that is continued: an iterator of pieces |
//! | [`Verdict`] | [`Mynah::verify`] | whether an adapter does what the probe in its file says |
//! | vectors | [`Mynah::embed`], [`Embedding`] | one vector a text |
//! | [`Merging`] | [`Mynah::merge`] | several adapters that become one |
//! | [`Shelf`] | [`Mynah::shelf`] | adapters that are read once and attached often |
//! | `Talk` | `Mynah::talk`, `Generation::talk` | a conversation; its answers are iterators of pieces (`chat`) |
//! | `Feedback` | `Feedback::open` | marks of answers, and an adapter that learns from them (`chat` and `std`) |
//!
//! The rooms above have all the parts; this one has the order in which a program usually needs them, and the defaults.
//! It prints nothing, has no clock, and leaves every loop to its caller.

#[cfg(feature = "std")]
mod checkpoints;
mod complete;
mod data;
mod draft;
mod embed;
#[cfg(all(feature = "chat", feature = "std"))]
mod feedback;
mod history;
mod lesson;
mod merge;
mod method;
mod output;
mod prepare;
mod settings;
mod setup;
mod shelf;
#[cfg(feature = "chat")]
mod talk;
mod verify;

#[cfg(feature = "std")]
pub use checkpoints::Checkpoints;
pub use complete::{Completion, Generation, Piece, Said};
pub use data::{Data, RowNames};
pub use draft::Draft;
pub use embed::Embedding;
#[cfg(all(feature = "chat", feature = "std"))]
pub use feedback::{Feedback, LearnEvent, LearnSettings, Learning, Learnt, Mark, Noted};
pub use history::History;
pub use lesson::{DISCARDS, Ended, Event, Lesson, Work};
pub use merge::Merging;
pub use method::Method;
pub use prepare::Ratios;
pub use settings::Settings;
pub use setup::Setup;
pub use shelf::Shelf;
#[cfg(feature = "chat")]
pub use talk::{Reply, Talk};
pub use verify::{Difference, Foreign, TOLERANCE, Verdict, Whose};

use crate::adapter::{self, Adapter, Base, Fit, Ready};
#[cfg(feature = "std")]
use crate::bytes::map::Io;
use crate::bytes::{Bytes, Limits};
use crate::error::Result;
use crate::gguf::Gguf;
use crate::kernel::{self, Compute, Pool};
use crate::model::Model;
use crate::text::Tokenizer;
#[cfg(feature = "chat")]
use crate::text::chat::Template;
use crate::train::Checkpoint;
#[cfg(feature = "std")]
use std::path::{Path, PathBuf};
use std::prelude::v1::*;
use std::sync::Arc;

/// What is computed once, when somebody first asks for it. All clones share it where there is a standard library.
#[cfg(feature = "std")]
type Once = Arc<std::sync::OnceLock<Base>>;
#[cfg(not(feature = "std"))]
type Once = core::cell::OnceCell<Base>;

/// A model, with everything that its file gives.
///
/// A clone shares all weights, so it costs nothing. What is made from a `Mynah` holds clones of what it needs and borrows
/// nothing: it can live in a struct and move to another thread.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::Mynah;
///
/// let mynah = Mynah::embedded()?;
/// let same = mynah.clone(); // the weights are there once
/// let other = std::thread::spawn(move || same.complete("The lighthouse")?.finish());
/// let (here, there) = (mynah.complete("The lighthouse")?.finish()?, other.join().unwrap()?);
/// assert_eq!(here, there); // same prompt, same seed, same text
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Mynah {
    gguf: Gguf,
    tokenizer: Arc<Tokenizer>,
    model: Model,
    base: Once,
}

impl Mynah {
    /// The same with the model as it is for contexts of that many positions: see [`Model::at_context`].
    #[cfg(all(feature = "chat", feature = "std"))]
    fn at_context(&self, positions: usize) -> Mynah {
        Mynah { model: self.model.at_context(positions), ..self.clone() }
    }

    /// Opens a GGUF file, or all parts of a model that is split if the file is one of them. It is mapped, so weights are
    /// read when they are first used. Computes on all cores that the process may use, with the fastest kernels or those
    /// that `MYNAH_BACKEND` names.
    ///
    /// # Errors
    /// `Io` from the system; those of [`Mynah::with`]. They name the file.
    ///
    /// ```no_run
    /// let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn open(path: impl AsRef<Path>) -> Result<Mynah> {
        Mynah::load(path, Io::Map)
    }

    /// The same with the file mapped, or read whole into memory: then nothing that happens to it later matters, which is
    /// for files on networks, or that others write to.
    ///
    /// # Errors
    /// Those of [`Mynah::open`]; `Memory` if there is not enough for a copy.
    ///
    /// ```no_run
    /// let mynah = mynah::Mynah::load("smollm2.gguf", mynah::bytes::map::Io::Read)?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn load(path: impl AsRef<Path>, io: Io) -> Result<Mynah> {
        let path = path.as_ref();
        let load = || Mynah::with(Gguf::load(path, io, &Limits::default())?, compute()?);
        load().map_err(|e| e.in_file(path.to_string_lossy()))
    }

    /// From the bytes of a GGUF file in memory.
    ///
    /// # Errors
    /// Those of [`Mynah::with`].
    ///
    /// ```
    /// # #[cfg(feature = "base")] {
    /// let file: Vec<u8> = mynah::base::MODEL.to_vec();
    /// let mynah = mynah::Mynah::from_bytes(file)?;
    /// # }
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Mynah> {
        Mynah::with(Gguf::parse(bytes.into(), &Limits::default())?, compute()?)
    }

    /// The small model that ships with the library.
    ///
    /// # Errors
    /// Those of [`Mynah::with`], which do not happen with this file.
    ///
    /// ```
    /// let mynah = mynah::Mynah::embedded()?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "base")]
    pub fn embedded() -> Result<Mynah> {
        Mynah::from_bytes(Bytes::from_static(crate::base::MODEL))
    }

    /// From a file that was read, with the threads and kernels of the caller's choice.
    ///
    /// # Errors
    /// Those of [`Gguf::check_model`], [`Tokenizer::from_gguf`] and [`Model::load`].
    ///
    /// ```
    /// # #[cfg(feature = "base")] {
    /// use mynah::{bytes::{Bytes, Limits}, gguf::Gguf, kernel::{self, Compute, Pool}};
    ///
    /// let file = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default())?;
    /// let one_thread = Compute { kernels: kernel::best(), pool: Pool::new(1) };
    /// let mynah = mynah::Mynah::with(file, one_thread)?;
    /// # }
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn with(gguf: Gguf, compute: Compute) -> Result<Mynah> {
        gguf.check_model()?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
        let model = Model::load(&gguf, compute)?;
        Ok(Mynah { gguf, tokenizer, model, base: Once::default() })
    }

    /// The file: its metadata and tensors.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let arch = mynah.gguf().require_string("general.architecture")?;
    /// assert!(mynah.gguf().u32(&format!("{arch}.context_length"))?.is_some());
    /// assert!(mynah.gguf().tensor("token_embd.weight").is_some());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Its tokenizer.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::text::{Decode, Encode};
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let ids = mynah.tokenizer().encode("Rain, and tea.", &Encode::default())?;
    /// assert_eq!(mynah.tokenizer().decode(&ids, &Decode::default())?, b"Rain, and tea.");
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Its weights.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::model::{Session, SessionConfig};
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut session = Session::new(mynah.model(), SessionConfig { context: 16, ..Default::default() })?;
    /// let logits = session.feed(&[1, 2, 3])?;
    /// assert_eq!(logits.len(), mynah.tokenizer().vocab_len());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The same with another form of the same model: weights repacked by [`Model::repacked`], for example.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let (repacked, bytes) = mynah.model().repacked(1 << 20)?; // faster to read, in at most 1 MiB
    /// assert!(bytes <= 1 << 20);
    /// let fast = mynah.with_model(repacked);
    /// assert_eq!(fast.base().layers(), mynah.base().layers());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn with_model(&self, model: Model) -> Mynah {
        Mynah { model, ..self.clone() }
    }

    /// What adapters see of the model. The first call reads all weights, for their digest, unless that is
    /// known ([`Model::keeping`]).
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::adapter::{self, Spec};
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let last = mynah.base().layers() - 1;
    /// let spec = Spec { layers: Some(vec![last]), ..Spec::new("lora") };
    /// let adapter = adapter::create(&spec, mynah.base())?;
    /// assert!(!adapter.params().is_empty());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn base(&self) -> &Base {
        self.base.get_or_init(|| self.model.base(self.tokenizer.fingerprint()))
    }

    /// The chat template of the file, if it has one.
    ///
    /// # Errors
    /// Those of [`Template::from_gguf`].
    ///
    /// ```
    /// # #[cfg(feature = "base")] {
    /// let mynah = mynah::Mynah::embedded()?;
    /// let template = mynah.template()?.map(|t| t.at(1_800_000_000)); // for templates that show the date
    /// # let _ = template;
    /// # }
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "chat")]
    pub fn template(&self) -> Result<Option<Template>> {
        Template::from_gguf(&self.gguf, &self.tokenizer)
    }

    /// The same, whose errors come when it is used ([`Template::late`]).
    ///
    /// # Errors
    /// Those of [`Template::late_from_gguf`].
    ///
    /// ```
    /// # #[cfg(feature = "base")] {
    /// let mynah = mynah::Mynah::embedded()?;
    /// assert!(mynah.late_template()?.is_some());
    /// # }
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "chat")]
    pub fn late_template(&self) -> Result<Option<Template>> {
        Template::late_from_gguf(&self.gguf, &self.tokenizer)
    }

    /// An adapter in any form that can be read: our own file, a checkpoint, which stands for the adapter in it, a GGUF
    /// adapter, or a folder of PEFT's or MLX's. It may be one that changes nothing yet.
    ///
    /// # Errors
    /// `Io` from the system; those of [`adapter::restore`], [`adapter::folder::open`] and [`adapter::gguf_adapter::read`].
    /// They name the file, if it is one.
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let adapter = mynah.adapter("notes.mynah")?;
    /// println!("{} with {} parameters", adapter.kind().name, adapter.params().len());
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn adapter(&self, from: impl Into<Source>) -> Result<Box<dyn Adapter>> {
        let limits = Limits::default();
        match from.into() {
            Source::Bytes(bytes) => self.read(bytes, &limits),
            #[cfg(feature = "std")]
            Source::Path(path) => {
                let open = || match path.is_dir() {
                    true => adapter::folder::open(&path, self.base(), &limits),
                    false => self.read(crate::bytes::map::read(&path, limits.file)?.into(), &limits),
                };
                open().map_err(|e| e.in_file(path.to_string_lossy()))
            }
        }
    }

    fn read(&self, bytes: Bytes, limits: &Limits) -> Result<Box<dyn Adapter>> {
        if bytes.starts_with(b"GGUF") {
            let file = Gguf::parse(bytes, limits)?;
            return adapter::gguf_adapter::read(&file, self.base(), limits);
        }
        adapter::restore(held(bytes), self.base(), limits, Fit::Same)
    }

    /// An adapter that can be attached to the model.
    ///
    /// # Errors
    /// Those of [`Mynah::adapter`]; `Invalid` if it changes nothing; those of [`Model::ready`].
    ///
    /// ```no_run
    /// # use mynah::model::{Session, SessionConfig};
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let mut session = Session::new(mynah.model(), SessionConfig::default())?;
    /// session.attach(mynah.ready("notes.mynah")?, 0.5)?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn ready(&self, from: impl Into<Source>) -> Result<Arc<Ready>> {
        let from = from.into();
        let path = from.path();
        let ready = adapter::file::refuse_idle(self.adapter(from)?).and_then(|adapter| self.model.ready(adapter));
        ready.map_err(|e| match path {
            Some(path) => e.in_file(path),
            None => e,
        })
    }
}

/// A checkpoint stands for the adapter in it. What is none, or a damaged one, is left to the reader of adapters, who says what
/// is wrong with it.
fn held(bytes: Bytes) -> Bytes {
    Checkpoint::read(bytes.clone(), &Limits::default()).and_then(|saved| saved.adapter()).unwrap_or(bytes)
}

/// Where an adapter comes from.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(all(feature = "base", feature = "std"))] {
/// # use mynah::{Mynah, app::Source};
/// # let mynah = Mynah::embedded()?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("notes.mynah");
/// let mut lesson = mynah.lesson("lora").steps(1).context(32).text(mynah::base::NOTES)?;
/// lesson.next().transpose()?;
/// lesson.save(&path)?; // "notes.mynah"
/// let from_file = mynah.adapter(Source::Path(path))?; // or mynah.adapter(path)
/// let from_bytes = mynah.adapter(lesson.to_bytes()?)?;
/// assert_eq!(from_file.params(), from_bytes.params());
/// # }
/// # Ok(()) }
/// ```
pub enum Source {
    /// The bytes of a file.
    Bytes(Bytes),
    /// A file or a folder.
    #[cfg(feature = "std")]
    Path(PathBuf),
}

impl Source {
    /// The path, for messages.
    fn path(&self) -> Option<String> {
        match self {
            Source::Bytes(_) => None,
            #[cfg(feature = "std")]
            Source::Path(path) => Some(path.to_string_lossy().into()),
        }
    }

    /// The bytes of a file.
    fn bytes(self) -> Result<Bytes> {
        match self {
            Source::Bytes(bytes) => Ok(bytes),
            #[cfg(feature = "std")]
            Source::Path(path) => Ok(crate::bytes::map::read(&path, Limits::DEFAULT.file)?.into()),
        }
    }
}

/// What can be attached: an adapter that is ready, or where one comes from, as for [`Mynah::ready`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
/// lesson.next().transpose()?;
/// let bytes = lesson.to_bytes()?;
/// let ready = mynah.ready(bytes.clone())?; // read once, for many sessions
/// let a = mynah.generation().attach(ready, 1.0)?.limit(4).complete("Rain")?.finish()?;
/// let b = mynah.generation().attach(bytes, 1.0)?.limit(4).complete("Rain")?.finish()?;
/// assert_eq!(a, b);
/// # }
/// # Ok(()) }
/// ```
pub trait IntoReady {
    /// The adapter, ready for the model.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`].
    fn into_ready(self, mynah: &Mynah) -> Result<Arc<Ready>>;
}

impl IntoReady for Arc<Ready> {
    fn into_ready(self, _: &Mynah) -> Result<Arc<Ready>> {
        Ok(self)
    }
}

macro_rules! sources {
    ($($(#[$($of:tt)*])? $from:ty),*) => {
        $($(#[$($of)*])?
        impl IntoReady for $from {
            fn into_ready(self, mynah: &Mynah) -> Result<Arc<Ready>> {
                mynah.ready(self)
            }
        })*
    };
}

sources!(
    Source,
    Bytes,
    Vec<u8>,
    #[cfg(feature = "std")]
    PathBuf,
    #[cfg(feature = "std")]
    &Path,
    #[cfg(feature = "std")]
    &PathBuf,
    #[cfg(feature = "std")]
    &str,
    #[cfg(feature = "std")]
    &String
);

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Source {
        Source::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Source {
        Source::Bytes(bytes.into())
    }
}

#[cfg(feature = "std")]
impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Source {
        Source::Path(path)
    }
}

#[cfg(feature = "std")]
impl From<&Path> for Source {
    fn from(path: &Path) -> Source {
        Source::Path(path.into())
    }
}

#[cfg(feature = "std")]
impl From<&PathBuf> for Source {
    fn from(path: &PathBuf) -> Source {
        Source::Path(path.clone())
    }
}

#[cfg(feature = "std")]
impl From<&str> for Source {
    fn from(path: &str) -> Source {
        Source::Path(path.into())
    }
}

#[cfg(feature = "std")]
impl From<&String> for Source {
    fn from(path: &String) -> Source {
        Source::Path(path.into())
    }
}

/// What computes where the caller does not say.
fn compute() -> Result<Compute> {
    #[cfg(feature = "std")]
    {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Compute { kernels: kernel::from_env()?, pool: Pool::new(cores) })
    }
    #[cfg(not(feature = "std"))]
    Ok(Compute { kernels: kernel::best(), pool: Pool::new(1) })
}
