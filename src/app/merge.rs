//! Adapters into one: what they do to each other, the merge, and its file.

use super::{Mynah, Source};
use crate::adapter::merge::conflict::Look;
use crate::adapter::merge::{self, Conflict, Part, Plan, Spec, Summary};
use crate::adapter::{self, Adapter, Provenance, file};
#[cfg(feature = "std")]
use crate::bytes::map;
use crate::bytes::{Bytes, Limits};
use crate::error::Result;
use crate::kernel::Pool;
use core::ops::Range;
#[cfg(feature = "std")]
use std::path::Path;
use std::prelude::v1::*;

/// Bytes of whole matrices that may be there at once, for more than one thread to have work.
const MATRICES: usize = 256 << 20;

/// Adapters that become one, a few layers a call. Made by [`Mynah::merge`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, adapter::merge::Spec};
///
/// let mynah = Mynah::embedded()?;
/// # let taught = |seed| -> mynah::Result<Vec<u8>> {
/// #     let setup = mynah.lesson("lora").held_out(0.0).steps(1).context(32).seed(seed);
/// #     let mut lesson = setup.text(mynah::base::NOTES)?;
/// #     lesson.next().transpose()?;
/// #     lesson.to_bytes()
/// # };
/// let (facts, style) = (taught(1)?, taught(2)?); // or "facts.mynah" and "style.mynah"
/// let mut merging = mynah.merge(&Spec::new("ties"), [(facts, 1.0), (style, 0.5)])?;
/// while merging.look()? {} // a program may show merging.done()
/// println!("{}", merging.conflicts()[0].advice().why);
/// while merging.step()? {}
/// let file = merging.to_bytes()?; // or merging.save("both.mynah")?
/// assert!(merging.summary()?.kept > 0.5);
/// mynah.ready(file)?;
/// # }
/// # Ok(()) }
/// ```
pub struct Merging {
    mynah: Mynah,
    plan: Plan,
    origin: Provenance,
    looks: Vec<Look>,
    parts: Vec<Part>,
}

impl Mynah {
    /// Merges adapters, each with its weight, as the specification says. Nothing is computed before [`Merging::step`].
    ///
    /// # Errors
    /// Those of [`Mynah::ready`] and [`Plan::new`].
    pub fn merge<S: Into<Source>>(&self, spec: &Spec, sources: impl IntoIterator<Item = (S, f64)>) -> Result<Merging> {
        let (mut all, mut origins) = (Vec::new(), Vec::new());
        for (i, (from, weight)) in sources.into_iter().enumerate() {
            let from = from.into();
            let name = name(&from).unwrap_or_else(|| format!("adapter {}", i + 1));
            origins.push(origin(&from));
            all.push(merge::Source { name, adapter: self.ready(from)?, weight });
        }
        let plan = Plan::new(spec, all)?;
        let ropes: Vec<&str> = origins.iter().flatten().map(|origin| origin.rope.as_str()).collect();
        let origin = Provenance {
            objective: plan.words()?,
            rope: ropes.first().filter(|rope| ropes.iter().all(|r| r == *rope)).copied().unwrap_or_default().into(),
            data: data(&origins),
            base: self.model.name().into(),
            format: self.model.format().into(),
            ..Provenance::default()
        };
        Ok(Merging { mynah: self.clone(), plan, origin, looks: Vec::new(), parts: Vec::new() })
    }
}

/// The last part of a path.
fn name(from: &Source) -> Option<String> {
    let path = from.path()?;
    let last = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next()?;
    Some(last.into())
}

/// Where an adapter comes from, if it is a file of ours that says so.
fn origin(from: &Source) -> Option<Provenance> {
    let bytes: Bytes = match from {
        Source::Bytes(bytes) => bytes.clone(),
        #[cfg(feature = "std")]
        Source::Path(path) => map::read(path, Limits::DEFAULT.file).ok()?.into(),
    };
    adapter::info(super::held(bytes), &Limits::default()).ok()?.provenance
}

/// The digest of all digests of data, if all are known.
fn data(origins: &[Option<Provenance>]) -> String {
    let mut hash = blake3::Hasher::new();
    for origin in origins {
        match origin {
            Some(origin) if !origin.data.is_empty() => _ = hash.update(origin.data.as_bytes()),
            _ => return String::new(),
        }
    }
    hash.finalize().to_hex().as_str().into()
}

impl Merging {
    /// Looks at a few layers more; whether there are others. What was seen is in [`Merging::conflicts`].
    ///
    /// # Errors
    /// None yet.
    pub fn look(&mut self) -> Result<bool> {
        let next = self.next(self.looks.len());
        let plan = &self.plan;
        self.looks.extend(each(&self.mynah.model.compute.pool, next, |place| plan.look(place)));
        Ok(self.looks.len() < self.plan.len())
    }

    /// What every two of the adapters do to each other, as far as it was looked at.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.plan.conflicts(&self.looks)
    }

    /// Merges a few layers more; whether there are others. Methods that need to look at all layers first do so.
    ///
    /// # Errors
    /// Those of [`Plan::merge`].
    pub fn step(&mut self) -> Result<bool> {
        if self.parts.is_empty() && self.plan.looks() {
            if self.looks.len() < self.plan.len() {
                self.look()?;
                return Ok(true);
            }
            self.plan.learn(self.looks.clone());
        }
        let next = self.next(self.parts.len());
        let plan = &self.plan;
        for part in each(&self.mynah.model.compute.pool, next, |place| plan.merge(place)) {
            self.parts.push(part?);
        }
        Ok(self.parts.len() < self.plan.len())
    }

    /// Layers that were looked at, those that were merged, and all.
    pub fn done(&self) -> [usize; 3] {
        [self.looks.len(), self.parts.len(), self.plan.len()]
    }

    /// The merged adapter, not ready yet, and what became of it. What is not merged yet is merged now.
    ///
    /// # Errors
    /// Those of [`Merging::step`] and [`Plan::finish`].
    pub fn adapter(&mut self) -> Result<(Box<dyn Adapter>, Summary)> {
        while self.parts.len() < self.plan.len() {
            self.step()?;
        }
        self.plan.finish(self.parts.clone(), self.mynah.base())
    }

    /// What became of it: [`Merging::adapter`].
    ///
    /// # Errors
    /// Those of [`Merging::adapter`].
    pub fn summary(&mut self) -> Result<Summary> {
        Ok(self.adapter()?.1)
    }

    /// The bytes of its file, with what it was merged from.
    ///
    /// # Errors
    /// Those of [`Merging::adapter`] and [`file::to_bytes`].
    pub fn to_bytes(&mut self) -> Result<Vec<u8>> {
        let (adapter, _) = self.adapter()?;
        file::to_bytes(&*adapter, self.mynah.base(), &self.origin)
    }

    /// Writes its file: the old one or the new one is there, never a part.
    ///
    /// # Errors
    /// Those of [`Merging::to_bytes`]; `Io` from the system.
    #[cfg(feature = "std")]
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        map::replace(path.as_ref(), &self.to_bytes()?)
    }

    /// The places of the next call: one a thread, as far as their matrices have room.
    fn next(&self, from: usize) -> Range<usize> {
        let fit = MATRICES / (size_of::<f32>() * self.plan.largest().max(1));
        let n = self.mynah.model.compute.pool.threads().min(fit).max(1);
        from..(from + n).min(self.plan.len())
    }
}

/// What `f` makes of each place, in order, on all threads.
#[cfg(feature = "std")]
fn each<T: Send>(pool: &Pool, places: Range<usize>, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    use std::sync::{Mutex, PoisonError};
    let made = Mutex::new(Vec::new());
    pool.run(places.len(), &|part, _| {
        let one = f(places.start + part);
        made.lock().unwrap_or_else(PoisonError::into_inner).push((part, one));
    });
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(part, _)| *part);
    made.into_iter().map(|(_, one)| one).collect()
}

#[cfg(not(feature = "std"))]
fn each<T>(_: &Pool, places: Range<usize>, f: impl Fn(usize) -> T) -> Vec<T> {
    places.map(f).collect()
}
