//! What a lesson trains.

use super::Mynah;
use super::settings::Settings;
use crate::adapter::{self, Adapter, Kind, Spec, Stack, compress};
use crate::error::{Error, Result};
use crate::knob::Value;
use crate::nn::linear::Precision;
use crate::train::{optim, plan};
use std::prelude::v1::*;

/// What is trained.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, adapter::Spec, app::Method};
///
/// assert!(matches!(Method::from("full"), Method::Weights));
/// assert!(matches!(Method::from("lora"), Method::Fresh(_))); // the same as Spec::new("lora")
/// let mynah = Mynah::embedded()?;
/// let mut first = mynah.lesson(Spec::new("lora").with("rank", 4)).steps(1).context(32).text(mynah::base::NOTES)?;
/// first.next().transpose()?;
/// let further = mynah.lesson(mynah.adapter(first.to_bytes()?)?); // trained further, with other data
/// assert!(matches!(further.method(), Method::Given(_)));
/// # }
/// # Ok(()) }
/// ```
pub enum Method {
    /// A fresh adapter.
    Fresh(Spec),
    /// An adapter that is there already, trained further.
    Given(Box<dyn Adapter>),
    /// All weights of the model, in `f32`.
    Weights,
}

impl Method {
    /// What training all weights is called.
    pub const WEIGHTS: &str = "full";

    /// The kind of the adapter, or [`Method::WEIGHTS`].
    pub fn name(&self) -> &str {
        match self {
            Method::Fresh(spec) => &spec.kind,
            Method::Given(adapter) => adapter.kind().name,
            Method::Weights => Method::WEIGHTS,
        }
    }

    /// The learning rate where nothing is said.
    pub fn rate(name: &str) -> f32 {
        Kind::by_name(name).map_or(1e-3, |kind| kind.rate)
    }

    /// The codec of training where nothing is said.
    pub(super) fn codec(&self) -> Option<compress::Spec> {
        Kind::by_name(self.name()).ok()?.codec.map(compress::Spec::new)
    }

    /// What would be trained, for a plan.
    pub(super) fn subject<'a>(&'a self, mynah: &'a Mynah) -> plan::Subject<'a> {
        match self {
            Method::Fresh(spec) => plan::Subject::Fresh(spec, mynah.base()),
            Method::Given(adapter) => plan::Subject::Adapter(adapter.as_ref()),
            Method::Weights => plan::Subject::Weights(mynah.base()),
        }
    }

    /// The adapter's shape, if one is trained.
    pub(super) fn shape(&self, mynah: &Mynah) -> Result<Option<adapter::Shape>> {
        Ok(match self {
            Method::Fresh(spec) => Some((Kind::by_name(&spec.kind)?.shape)(spec, mynah.base())?),
            Method::Given(adapter) => Some(adapter.shape().clone()),
            Method::Weights => None,
        })
    }

    /// # Errors
    /// `Invalid` for settings that what is trained has no use for.
    pub(super) fn check(&self, mynah: &Mynah, settings: &Settings, beneath: &Stack) -> Result<()> {
        match self {
            Method::Fresh(spec) => {
                let kind = Kind::by_name(&spec.kind)?;
                if kind.targets.is_empty() && !spec.targets.is_empty() {
                    return Err(Error::invalid("targets", format!("{} changes no linear layers", kind.name)));
                }
                let inside = |shape: &adapter::Shape| shape.slots.iter().any(|slot| slot.place.layer().is_some());
                if spec.layers.is_some() && !self.shape(mynah)?.is_some_and(|shape| inside(&shape)) {
                    return Err(Error::invalid("layers", format!("{} is in no block", kind.name)));
                }
                Ok(())
            }
            Method::Given(_) => Ok(()),
            Method::Weights => {
                let ratio = settings.optimizer.values.get(optim::RATIO.name);
                if ratio.is_some_and(|ratio| *ratio != Value::Real(1.0)) {
                    return Err(Error::invalid(optim::RATIO.name, "it is for adapters: of all weights none is a B"));
                }
                if !beneath.is_empty() {
                    return Err(Error::invalid("adapter", "none can be beneath where the base itself is trained"));
                }
                if settings.precision == Precision::Int8 {
                    return Err(Error::invalid("precision", "int8 is for adapters: all weights are trained in f32"));
                }
                Ok(())
            }
        }
    }
}

/// A name of [`adapter::KINDS`], with the usual settings of that kind, or [`Method::WEIGHTS`].
impl From<&str> for Method {
    fn from(name: &str) -> Method {
        if name == Method::WEIGHTS { Method::Weights } else { Method::Fresh(Spec::new(name)) }
    }
}

impl From<Spec> for Method {
    fn from(spec: Spec) -> Method {
        Method::Fresh(spec)
    }
}

impl From<Box<dyn Adapter>> for Method {
    fn from(adapter: Box<dyn Adapter>) -> Method {
        Method::Given(adapter)
    }
}
