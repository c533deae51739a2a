//! Settings of the rows of tables: adapter kinds, objectives, optimisers, stages of sampling.
//!
//! A [`Knob`] defines a setting: its name and its [`Domain`]. Rows share the definition. A [`Setting`] is a knob that a row
//! has, with the row's default. [`Values`] are the values that a user gave, by name; [`resolve`] checks them and fills in
//! the defaults. The options of a command, its help and the facts in files are generated from these.

use crate::container::head::{Field, Head};
use crate::error::{Error, Result, printable};
use core::fmt;
use std::borrow::Cow;
use std::prelude::v1::*;

/// The value of a knob.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Real(f64),
    /// A whole number.
    Whole(u64),
    /// On or off.
    Switch(bool),
    /// One of several names.
    Word(Cow<'static, str>),
}

/// For people: numbers in the shorter notation.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Real(v) if *v != 0.0 && v.is_finite() && !(1e-3..1e7).contains(&v.abs()) => write!(f, "{v:e}"),
            Value::Real(v) => write!(f, "{v}"),
            Value::Whole(v) => write!(f, "{v}"),
            Value::Switch(v) => f.write_str(if *v { "on" } else { "off" }),
            Value::Word(v) => f.write_str(&printable(v)),
        }
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Value::Real(v)
    }
}

/// The number with the shortest decimal text that reads back as `v`: 0.1 stays 0.1, and a cast back gives `v`.
impl From<f32> for Value {
    fn from(v: f32) -> Self {
        Value::Real(v.to_string().parse().unwrap_or(f64::NAN))
    }
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Value::Whole(v)
    }
}

impl From<usize> for Value {
    fn from(v: usize) -> Self {
        Value::Whole(v as u64)
    }
}

impl From<i32> for Value {
    fn from(v: i32) -> Self {
        u64::try_from(v).map_or(Value::Real(f64::from(v)), Value::Whole)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Switch(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Word(Cow::Owned(v.into()))
    }
}

/// The definition of a setting.
pub struct Knob {
    /// Its name, words separated by spaces: `label smoothing` is `--label-smoothing` on a command line.
    pub name: &'static str,
    /// What it does, in a sentence without a full stop.
    pub about: &'static str,
    /// The placeholder of its value in help texts.
    pub metavar: &'static str,
    /// Its possible values.
    pub domain: Domain,
}

/// The possible values of a knob; bounds are included.
pub enum Domain {
    /// A number.
    Real {
        /// The least.
        low: f64,
        /// The most.
        high: f64,
    },
    /// A whole number.
    Whole {
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
    /// On or off.
    Switch,
    /// One of these names.
    Word(fn() -> Vec<&'static str>),
}

impl Domain {
    /// Parses a value, without checking the bounds.
    pub fn parse(&self, text: &str) -> Option<Value> {
        match self {
            Domain::Real { .. } => text.parse().ok().map(Value::Real),
            Domain::Whole { .. } => text.parse().ok().map(Value::Whole),
            Domain::Switch => match text {
                "on" => Some(Value::Switch(true)),
                "off" => Some(Value::Switch(false)),
                _ => None,
            },
            Domain::Word(_) => Some(text.into()),
        }
    }

    /// `value` converted to this domain, if it lies in it. A whole number can be used as a number.
    pub fn take(&self, value: &Value) -> Option<Value> {
        let fits = match (self, value) {
            (Domain::Real { .. }, Value::Whole(v)) => return self.take(&Value::Real(*v as f64)),
            (Domain::Real { low, high }, Value::Real(v)) => (low..=high).contains(&v),
            (Domain::Whole { low, high }, Value::Whole(v)) => (low..=high).contains(&v),
            (Domain::Switch, Value::Switch(_)) => true,
            (Domain::Word(names), Value::Word(v)) => names().iter().any(|name| name == v),
            _ => false,
        };
        fits.then(|| value.clone())
    }
}

/// The possible values, for messages: `1e-6 to 1000`.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Real { low, high } => write!(f, "{} to {}", Value::Real(*low), Value::Real(*high)),
            Domain::Whole { low, high } => write!(f, "{low} to {high}"),
            Domain::Switch => f.write_str("on or off"),
            Domain::Word(names) => f.write_str(&names().join(", ")),
        }
    }
}

/// A knob of a row, with its default.
pub struct Setting {
    /// The knob.
    pub knob: &'static Knob,
    /// Its default.
    pub value: Value,
    /// Whether files of earlier versions are without it: their value is the default.
    pub later: bool,
}

impl Setting {
    /// A setting that came later, and whose default is what was before.
    pub const fn later(mut self) -> Setting {
        self.later = true;
        self
    }

    /// A number with a default.
    pub const fn real(knob: &'static Knob, value: f64) -> Setting {
        Setting { knob, value: Value::Real(value), later: false }
    }

    /// A whole number with a default.
    pub const fn whole(knob: &'static Knob, value: u64) -> Setting {
        Setting { knob, value: Value::Whole(value), later: false }
    }

    /// A switch that is off by default.
    pub const fn off(knob: &'static Knob) -> Setting {
        Setting { knob, value: Value::Switch(false), later: false }
    }

    /// A name with a default.
    pub const fn word(knob: &'static Knob, value: &'static str) -> Setting {
        Setting { knob, value: Value::Word(Cow::Borrowed(value)), later: false }
    }
}

/// Values by the names of their knobs, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(&'static str, Value)>);

impl Values {
    /// No values.
    pub fn new() -> Values {
        Values::default()
    }

    /// These values with `name` set.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Values {
        self.set(name, value);
        self
    }

    /// Sets a value.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, place)) => *place = value,
            None => self.0.push((name, value)),
        }
        self
    }

    /// The value of that name, if it is set.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All values, in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// A number.
    ///
    /// # Panics
    /// If there is no number of that name. The result of [`resolve`] has all settings of its row. All getters below panic
    /// likewise.
    pub fn real(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Value::Real(v)) => *v,
            other => panic!("{name}: a number, not {other:?}"),
        }
    }

    /// A whole number.
    pub fn whole(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Whole(v)) => *v,
            other => panic!("{name}: a whole number, not {other:?}"),
        }
    }

    /// Whether it is on.
    pub fn switch(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::Switch(v)) => *v,
            other => panic!("{name}: on or off, not {other:?}"),
        }
    }

    /// A name.
    pub fn word(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Word(v)) => v,
            other => panic!("{name}: a name, not {other:?}"),
        }
    }

    /// Writes the values as facts of a checkpoint: texts, under their names with `prefix` in front.
    pub fn facts(&self, prefix: &str, facts: &mut Head) {
        for (name, value) in self.iter() {
            let text = match value {
                // Without an exponent: the shortest digits that read back as the same number.
                Value::Real(v) => v.to_string(),
                other => other.to_string(),
            };
            facts.set(&format!("{prefix}{name}"), text);
        }
    }

    /// Writes the values into the head of a file, under their names.
    ///
    /// # Panics
    /// If a number is not finite, which [`resolve`] does not allow.
    pub fn write(&self, head: &mut Head) {
        for (name, value) in self.iter() {
            let field: Field = match value {
                Value::Real(v) => (*v).into(),
                Value::Whole(v) => (*v).into(),
                Value::Switch(v) => u64::from(*v).into(),
                Value::Word(v) => v.as_ref().into(),
            };
            head.set(name, field);
        }
    }

    /// Reads the values that [`Values::write`] wrote for a row with these settings.
    ///
    /// # Errors
    /// `Mismatch` for a value that is missing or has another type; those of [`resolve`].
    pub fn read(row: &str, knobs: &[Setting], head: &Head) -> Result<Values> {
        let mut values = Values::new();
        for Setting { knob, later, .. } in knobs {
            if *later && head.get(knob.name).is_none() {
                continue;
            }
            let value = match knob.domain {
                Domain::Real { .. } => Value::Real(head.real(knob.name)?),
                Domain::Whole { .. } => Value::Whole(head.integer(knob.name)?),
                Domain::Switch => Value::Switch(head.integer(knob.name)? != 0),
                Domain::Word(_) => head.text(knob.name)?.into(),
            };
            values.set(knob.name, value);
        }
        resolve(row, knobs, &values)
    }
}

/// The values of all settings of a row, in their order: the given ones, and the defaults for the rest.
///
/// # Errors
/// `Invalid` for a value outside its domain, or of a setting that the row does not have.
pub fn resolve(row: &str, knobs: &[Setting], given: &Values) -> Result<Values> {
    if let Some((name, value)) = given.iter().find(|(name, _)| !knobs.iter().any(|u| u.knob.name == *name)) {
        return Err(Error::invalid(name, format!("{value}, and {} has none", printable(row))));
    }
    let pick = |setting: &Setting| {
        let Knob { name, domain, .. } = setting.knob;
        let value = match given.get(name) {
            None => setting.value.clone(),
            Some(value) => {
                domain.take(value).ok_or_else(|| Error::invalid(*name, format!("{value}; {domain} can be used")))?
            }
        };
        Ok((*name, value))
    };
    knobs.iter().map(pick).collect::<Result<Vec<_>>>().map(Values)
}

/// Values whose names come from elsewhere: `label_smoothing`, `label-smoothing` and `labelSmoothing` are `label smoothing`.
///
/// # Errors
/// `Invalid` for a name that none of the settings has; it names those that there are. Values are not looked at.
pub fn named<'a>(
    row: &str,
    knobs: impl IntoIterator<Item = &'a Setting> + Clone,
    given: impl IntoIterator<Item = (impl AsRef<str>, Value)>,
) -> Result<Values> {
    let letters = |name: &str| {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect::<String>()
    };
    let mut values = Values::new();
    for (name, value) in given {
        let name = name.as_ref();
        let known = knobs.clone().into_iter().find(|setting| letters(setting.knob.name) == letters(name));
        let Some(setting) = known else {
            let all: Vec<&str> = knobs.clone().into_iter().map(|setting| setting.knob.name).collect();
            let why = match all.is_empty() {
                true => format!("{} has no settings", printable(row)),
                false => format!("{} has {}", printable(row), all.join(", ")),
            };
            return Err(Error::invalid(printable(name), why));
        };
        values.set(setting.knob.name, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    static STRENGTH: Knob =
        Knob { name: "strength", about: "", metavar: "S", domain: Domain::Real { low: 1e-6, high: 1e3 } };
    static TIMES: Knob = Knob { name: "how often", about: "", metavar: "N", domain: Domain::Whole { low: 1, high: 9 } };
    static LOUD: Knob = Knob { name: "loud", about: "", metavar: "", domain: Domain::Switch };
    static TONE: Knob = Knob { name: "tone", about: "", metavar: "T", domain: Domain::Word(|| vec!["low", "high"]) };
    static ROW: &[Setting] =
        &[Setting::real(&STRENGTH, 0.1), Setting::whole(&TIMES, 3), Setting::off(&LOUD), Setting::word(&TONE, "low")];

    #[test]
    fn defaults_stand_where_no_value_is_given() {
        let values = resolve("song", ROW, &Values::new().with("how often", 4).with("loud", true)).unwrap();
        assert_eq!((values.real("strength"), values.whole("how often")), (0.1, 4));
        assert_eq!((values.switch("loud"), values.word("tone")), (true, "low"));
        assert_eq!(resolve("song", ROW, &Values::new().with("strength", 2)).unwrap().real("strength"), 2.0);
        assert_eq!(resolve("song", ROW, &values).unwrap(), values);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let why = |v: Values| resolve("song", ROW, &v).unwrap_err().to_string();
        let new = Values::new;
        assert_eq!(why(new().with("beta", 0.1)), "beta: 0.1, and song has none");
        assert_eq!(why(new().with("strength", 0.0)), "strength: 0; 1e-6 to 1000 can be used");
        assert!(why(new().with("strength", f64::NAN)).contains("NaN"));
        assert_eq!(why(new().with("how often", 10)), "how often: 10; 1 to 9 can be used");
        assert_eq!(why(new().with("how often", -1)), "how often: -1; 1 to 9 can be used");
        assert_eq!(why(new().with("tone", "shrill")), "tone: shrill; low, high can be used");
        assert_eq!(why(new().with("loud", 1)), "loud: 1; on or off can be used");
    }

    #[test]
    fn names_of_elsewhere_are_known() {
        for name in ["how often", "how_often", "how-often", "howOften"] {
            let values = named("song", ROW, [(name, Value::Whole(4))]).unwrap();
            assert_eq!(values.get("how often"), Some(&Value::Whole(4)));
        }
        let e = named("song", ROW, [("beat", Value::Whole(4))]).unwrap_err().to_string();
        assert_eq!(e, "beat: song has strength, how often, loud, tone");
        assert!(named("song", [], [("beat", Value::Whole(4))]).unwrap_err().to_string().contains("has no settings"));
    }

    #[test]
    fn singles_survive() {
        for v in [0.1f32, 1e-8, 0.999, f32::MIN_POSITIVE, f32::MAX, 1.0 / 3.0] {
            let Value::Real(wide) = Value::from(v) else { panic!() };
            assert_eq!((wide as f32, wide.to_string()), (v, v.to_string()));
        }
    }

    #[test]
    fn files_keep_them() {
        let values = resolve("song", ROW, &Values::new().with("loud", true).with("tone", "high")).unwrap();
        let mut head = Head::new();
        values.write(&mut head);
        assert_eq!(Values::read("song", ROW, &head).unwrap(), values);
        head.set("how often", 10u64);
        assert!(Values::read("song", ROW, &head).is_err());
        head.set("how often", "often");
        assert!(Values::read("song", ROW, &head).unwrap_err().to_string().contains("expected integer"));
        let mut facts = Head::new();
        Values::new().with("strength", 1e-6).with("loud", false).facts("song ", &mut facts);
        assert_eq!((facts.text("song strength").unwrap(), facts.text("song loud").unwrap()), ("0.000001", "off"));
    }
}
