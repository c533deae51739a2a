//! Options that are generated from the library's tables: the row, and its settings. A new row or setting becomes an option,
//! with help and an entry in checkpoints, without a change here.

use super::*;
use clap::builder::TypedValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use mynah::adapter::KINDS;
use mynah::adapter::compress::{self, COMPRESSORS};
use mynah::adapter::merge::MERGES;
use mynah::knob::{self, Domain, Setting, Values};
use mynah::train::objective::OBJECTIVES;
use mynah::train::optim::OPTIMIZERS;
use std::marker::PhantomData;

/// The method that is no adapter: all weights.
pub const FULL: &str = "full";

/// The data of a row that a command line needs.
#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub knobs: &'static [Setting],
}

/// A table whose rows are values of an option.
pub trait Table: Clone + 'static {
    /// The option.
    const FLAG: &'static str;
    /// Its help.
    const ABOUT: &'static str;
    /// The default; of codecs, what a setting belongs to where none is named.
    const DEFAULT: &'static str;
    /// What the help calls the default, if that is not it.
    const USUAL: Option<&'static str> = None;
    /// The heading of its options in the help text.
    const HEADING: &'static str;
    /// Options that are listed among the common ones instead.
    const COMMON: &'static [&'static str] = &[];
    /// An option that all of these require.
    const NEEDS: Option<&'static str> = None;

    fn rows() -> Vec<Row>;
}

/// What `train` can train: the kinds of adapters, and all weights.
#[derive(Clone)]
pub struct Methods;

impl Table for Methods {
    const FLAG: &'static str = "method";
    const ABOUT: &'static str = "What is trained";
    const DEFAULT: &'static str = "lora";
    const HEADING: &'static str = ADAPTER;
    const COMMON: &'static [&'static str] = &["method", "rank"];

    fn rows() -> Vec<Row> {
        let full = Row { name: FULL, about: "all weights, for small models", knobs: &[] };
        Kinds::rows().into_iter().chain([full]).collect()
    }
}

/// The kinds of adapters, for `chat --learn`.
#[derive(Clone)]
pub struct Kinds;

impl Table for Kinds {
    const FLAG: &'static str = "method";
    const ABOUT: &'static str = "Kind of adapter to create";
    const DEFAULT: &'static str = "lora";
    const HEADING: &'static str = LEARNING;
    const NEEDS: Option<&'static str> = Some("learn");

    fn rows() -> Vec<Row> {
        KINDS.iter().map(|k| Row { name: k.name, about: k.about, knobs: k.knobs }).collect()
    }
}

/// The objectives.
#[derive(Clone)]
pub struct Objectives;

impl Table for Objectives {
    const FLAG: &'static str = "objective";
    const ABOUT: &'static str = "Training objective";
    const DEFAULT: &'static str = "sft";
    const HEADING: &'static str = OBJECTIVE;

    fn rows() -> Vec<Row> {
        OBJECTIVES.iter().map(|k| Row { name: k.name, about: k.about, knobs: k.knobs }).collect()
    }
}

/// The optimizers.
#[derive(Clone)]
pub struct Optimizers;

impl Table for Optimizers {
    const FLAG: &'static str = "optimizer";
    const ABOUT: &'static str = "Optimiser";
    const DEFAULT: &'static str = "adamw";
    const HEADING: &'static str = OPTIMISER;

    fn rows() -> Vec<Row> {
        OPTIMIZERS.iter().map(|k| Row { name: k.name, about: k.about, knobs: k.knobs }).collect()
    }
}

/// What names no codec.
const AUTO: &str = "auto";

/// The codecs that an adapter is trained through.
#[derive(Clone)]
pub struct Codecs;

impl Table for Codecs {
    const FLAG: &'static str = "codec";
    const ABOUT: &'static str =
        "Train through the values that this codec holds, so that a small file is what was trained";
    const DEFAULT: &'static str = "levels";
    const USUAL: Option<&'static str> = Some(AUTO);
    const HEADING: &'static str = ADAPTER;

    fn rows() -> Vec<Row> {
        codecs("levels for uni, and with --bytes what fits; none for others")
    }
}

/// The codecs that an adapter is packed with.
#[derive(Clone)]
pub struct PackCodecs;

impl Table for PackCodecs {
    const FLAG: &'static str = "codec";
    const ABOUT: &'static str = "How values are stored";
    const DEFAULT: &'static str = "levels";
    const USUAL: Option<&'static str> = Some(AUTO);
    const HEADING: &'static str = ADAPTER;

    fn rows() -> Vec<Row> {
        codecs("the best of all")
    }
}

/// How adapters are merged.
#[derive(Clone)]
pub struct Merges;

impl Table for Merges {
    const FLAG: &'static str = "method";
    const ABOUT: &'static str = "How they are merged";
    const DEFAULT: &'static str = "sum";
    const HEADING: &'static str = MERGING;

    fn rows() -> Vec<Row> {
        MERGES.iter().map(|k| Row { name: k.name, about: k.about, knobs: k.knobs }).collect()
    }
}

fn codecs(auto: &'static str) -> Vec<Row> {
    let auto = Row { name: AUTO, about: auto, knobs: &[] };
    let all = COMPRESSORS.iter().map(|k| Row { name: k.name, about: k.about, knobs: k.knobs });
    core::iter::once(auto).chain(all).collect()
}

impl<T: Table> Choice<T> {
    /// The codec, if one was named, or a setting that only codecs have.
    pub fn spec(&self) -> Option<compress::Spec> {
        let given = self.named().is_some_and(|name| name != AUTO) || self.values.iter().next().is_some();
        given.then(|| compress::Spec { kind: self.kind().into(), values: self.values.clone() })
    }
}

/// The default learning rate.
pub fn rate(method: &str) -> f32 {
    KINDS.iter().find(|k| k.name == method).map_or(1e-3, |k| k.rate)
}

/// Help for the learning rate.
pub fn rates<T: Table>() -> String {
    let rates: Vec<String> = T::rows().iter().map(|row| format!("{} {:e}", row.name, rate(row.name))).collect();
    format!("Peak learning rate [default: {}]", rates.join(", "))
}

/// A row of a table, with the given settings.
#[derive(Clone)]
pub struct Choice<T> {
    kind: Option<String>,
    /// The given settings.
    pub values: Values,
    table: PhantomData<T>,
}

impl<T: Table> Choice<T> {
    /// The row that was named, if any.
    pub fn named(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The row.
    pub fn kind(&self) -> &str {
        self.named().unwrap_or(T::DEFAULT)
    }

    /// # Errors
    /// `Usage` for a setting that cannot be used, or that the row does not have, with the rows that have it.
    pub fn check(&self) -> anyhow::Result<()> {
        let kind = self.kind();
        let row = T::rows().into_iter().find(|row| row.name == kind);
        let Err(e) = knob::resolve(kind, row.map_or(&[], |row| row.knobs), &self.values) else { return Ok(()) };
        let owners = |name| owners::<T>(name).into_iter().map(|(owner, _)| owner).collect::<Vec<_>>();
        let stray = self.values.iter().map(|(name, _)| (name, owners(name))).find(|(_, all)| !all.contains(&kind));
        let hint = stray.map_or(String::new(), |(name, all)| {
            format!("; --{} is for --{} {}", name.replace(' ', "-"), T::FLAG, all.join(", "))
        });
        Err(Usage::error(format!("{e}{hint}")))
    }
}

/// The option of a knob.
pub fn flag(knob: &Knob) -> String {
    knob.name.replace(' ', "-")
}

/// The knobs of all rows, each once.
pub fn knobs<T: Table>() -> Vec<&'static Knob> {
    let mut all: Vec<&'static Knob> = Vec::new();
    for setting in T::rows().iter().flat_map(|row| row.knobs) {
        if !all.iter().any(|k| k.name == setting.knob.name) {
            all.push(setting.knob);
        }
    }
    all
}

/// Whether an option belongs to the table but not to its row `kind`.
pub fn lacks<T: Table>(kind: &str, option: &str) -> bool {
    let has = |knobs: &[Setting]| knobs.iter().any(|u| flag(u.knob) == option);
    let (mut known, mut here) = (false, false);
    for row in T::rows() {
        known |= has(row.knobs);
        here |= row.name == kind && has(row.knobs);
    }
    known && !here
}

/// Rows that have a knob, with its defaults there.
fn owners<T: Table>(name: &str) -> Vec<(&'static str, &'static Value)> {
    let default = |row: &Row| row.knobs.iter().find(|u| u.knob.name == name).map(|u| (row.name, &u.value));
    T::rows().iter().filter_map(default).collect()
}

/// The help of a knob: what it does, which rows have it if few or all but few do, and its default.
fn help<T: Table>(knob: &Knob) -> String {
    let (owners, rows) = (owners::<T>(knob.name), T::rows());
    let mut text = knob.about.to_string();
    let lacking: Vec<&str> =
        rows.iter().map(|row| row.name).filter(|name| !owners.iter().any(|(owner, _)| owner == name)).collect();
    let names: Vec<&str> = owners.iter().map(|(name, _)| *name).collect();
    match (names.len(), lacking.len()) {
        (_, 0) => {}
        (1..=4, _) => text += &format!(" ({})", names.join(", ")),
        (_, 1 | 2) => text += &format!(" (all but {})", lacking.join(", ")),
        _ => {}
    }
    if let Domain::Switch = knob.domain {
        return text;
    }
    // The most common default, then the others.
    let times = |value: &Value| owners.iter().filter(|(_, v)| *v == value).count();
    let Some((_, most)) = owners.iter().rev().max_by_key(|(_, value)| times(value)) else { return text };
    let others: Vec<String> = owners.iter().filter(|(_, v)| v != most).map(|(name, v)| format!("{name} {v}")).collect();
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    text + &format!(" [default: {most}{others}]")
}

/// The help of a setting: what it does, and its default.
pub fn setting_help(setting: &Setting) -> String {
    match setting.knob.domain {
        Domain::Switch => setting.knob.about.into(),
        _ => format!("{} [default: {}]", setting.knob.about, setting.value),
    }
}

fn arg<T: Table>(knob: &'static Knob) -> Arg {
    let arg = setting_arg(knob, help::<T>(knob), heading::<T>(knob.name));
    match T::NEEDS {
        Some(needed) => arg.requires(needed),
        None => arg,
    }
}

/// The option that sets a knob.
pub fn setting_arg(knob: &'static Knob, help: String, heading: &'static str) -> Arg {
    let arg = Arg::new(knob.name).long(flag(knob)).help(help).help_heading(heading);
    match knob.domain {
        Domain::Switch => arg.action(ArgAction::SetTrue),
        Domain::Word(names) => arg
            .value_name(knob.metavar)
            .value_parser(PossibleValuesParser::new(names()).map(|name| Value::from(&*name))),
        Domain::Real { .. } => arg.value_name(knob.metavar).value_parser(parse(knob, "not a number")),
        Domain::Whole { .. } => arg.value_name(knob.metavar).value_parser(parse(knob, "not a whole number")),
    }
}

/// The knobs that a command line sets.
pub fn given(knobs: impl IntoIterator<Item = &'static Knob>, matches: &ArgMatches) -> Values {
    let mut values = Values::new();
    for knob in knobs {
        if matches.value_source(knob.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        match knob.domain {
            Domain::Switch => _ = values.set(knob.name, matches.get_flag(knob.name)),
            _ => matches.get_one::<Value>(knob.name).into_iter().for_each(|v| _ = values.set(knob.name, v.clone())),
        }
    }
    values
}

/// Parses a value. The library checks bounds, with a message that names the setting; negative numbers that are outside of
/// them are refused here, since a setting may have no room for their sign.
fn parse(
    knob: &'static Knob,
    otherwise: &'static str,
) -> impl Fn(&str) -> Result<Value, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = knob.domain.parse(text);
        let fits = |value: &Value| !text.starts_with('-') || knob.domain.take(value).is_some();
        value.filter(fits).ok_or_else(|| match text.parse::<f64>() {
            Ok(_) if text.starts_with('-') => format!("it must be {}", knob.domain),
            _ => otherwise.into(),
        })
    }
}

fn heading<T: Table>(name: &str) -> &'static str {
    if T::COMMON.contains(&name) { COMMON } else { T::HEADING }
}

impl<T: Table> Args for Choice<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let values = rows(T::rows().into_iter().map(|row| (row.name, row.about)));
        let kind = Arg::new(T::FLAG).long(T::FLAG).value_name("NAME").value_parser(values);
        let about = format!("{} [default: {}]", T::ABOUT, T::USUAL.unwrap_or(T::DEFAULT));
        let kind = kind.help(about).help_heading(heading::<T>(T::FLAG));
        let kind = if let Some(needed) = T::NEEDS { kind.requires(needed) } else { kind };
        command.arg(kind).args(knobs::<T>().into_iter().map(arg::<T>))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<T: Table> FromArgMatches for Choice<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = given(knobs::<T>(), matches);
        Ok(Choice { kind: matches.get_one::<String>(T::FLAG).cloned(), values, table: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
