//! Filters, tests and functions that pay, before they work, for what they are about to look at or to make.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters, functions, tests};
use std::prelude::v1::*;

pub(super) const CONCAT: &str = "mynah_concat";
pub(super) const ITEM: &str = "mynah_item";
pub(super) const SLICE: &str = "mynah_slice";
pub(super) const MAP: &str = "mynah_map";
pub(super) const EAGER: &str = "mynah_eager";
pub(super) const STORE: &str = "mynah_store";
pub(super) const KEEP: &str = "mynah_keep";
pub(super) const EACH: &str = "mynah_each";

type Outcome<T> = core::result::Result<T, Error>;

/// Deepest nesting of a value that is stored, and of one that is looked at: it is built in one expression of stored ones.
const STORED: usize = 64;
const SEEN: usize = 160;
/// Most entries of a namespace: it lists them wherever it is looked at.
const ENTRIES: u64 = 256;
/// Deepest indentation of one level of JSON.
const INDENT: i64 = 16;
/// Bytes that cost one unit.
pub(super) const PER_UNIT: u64 = 64;

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// What a look at a whole value costs.
#[derive(Clone, Copy)]
struct Cost {
    /// How much more than reading it a byte costs.
    byte: u64,
    /// Bytes written for each level of nesting.
    level: u64,
}

const READ: Cost = Cost { byte: 1, level: 0 };
/// Escapes make a text longer, and it is copied.
const WRITE: Cost = Cost { byte: 4, level: 0 };
const SPLIT: Cost = Cost { byte: 32, level: 0 };

/// Pays for all of a value, nested ones as often as they occur, `times` over; says what it paid.
fn pay(state: &State, value: &Value, cost: Cost, times: u64) -> Outcome<u64> {
    fn walk(state: &State, value: &Value, cost: Cost, times: u64, depth: usize) -> Outcome<u64> {
        if depth > SEEN {
            return Err(wrong(format!("values are nested more than {SEEN} deep")));
        }
        let size = value.as_str().map_or(8, str::len).max(value.as_bytes().map_or(0, <[u8]>::len)) as u64;
        let units = (1 + (size * cost.byte + depth as u64 * cost.level) / PER_UNIT).saturating_mul(times);
        state.consume_fuel(units)?;
        let mut paid = units;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    paid += walk(state, &item, cost, times, depth + 1)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    paid += walk(state, &key, cost, times, depth + 1)?;
                    paid += walk(state, &value.get_item(&key)?, cost, times, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(paid)
    }
    walk(state, value, cost, times, 0)
}

/// Whether a value holds others.
fn holds(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

/// How many items a value has.
fn items(value: &Value) -> u64 {
    if holds(value) { value.len().unwrap_or(0) as u64 } else { 0 }
}

/// Pays for comparing two values.
fn pay_for_both(state: &State, a: &Value, b: &Value) -> Outcome<()> {
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => state.consume_fuel(a.len().min(b.len()) as u64 / PER_UNIT),
        _ if holds(a) && holds(b) => pay(state, a, READ, 1).and(pay(state, b, READ, 1)).map(|_| ()),
        _ => Ok(()),
    }
}

/// A list in the place of an iterator, so that iterators are not nested.
fn eager(state: &State, value: Value) -> Outcome<Value> {
    if value.kind() != ValueKind::Iterable {
        return Ok(value);
    }
    let mut list = Vec::new();
    for item in value.try_iter()?.checked() {
        state.consume_fuel(1)?;
        list.push(item?);
    }
    Ok(Value::from(list))
}

/// Whether it is a dictionary or a list, and not an object of the engine, which may change later and hold what holds it.
fn is_data(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => true,
        ValueKind::Map => value.as_object().is_some_and(|object| object.type_name().contains("IndexMap")),
        ValueKind::Plain => false,
        _ => true,
    }
}

/// What takes the place of a value that is to be stored inside another: lists that of iterators; nothing if it can stay.
fn changed(state: &State, value: &Value, depth: usize) -> Outcome<Option<Value>> {
    if !is_data(value) {
        return Err(wrong("a namespace, loop or macro cannot be stored in another value"));
    }
    if depth > STORED {
        return Err(wrong(format!("values are nested more than {STORED} deep")));
    }
    let (mut list, mut pairs, mut same) = (Vec::new(), Vec::new(), value.kind() != ValueKind::Iterable);
    let mut keep = |item: &Value| -> Outcome<Value> {
        state.consume_fuel(1)?;
        let other = changed(state, item, depth + 1)?;
        same &= other.is_none();
        Ok(other.unwrap_or_else(|| item.clone()))
    };
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()?.checked() {
                list.push(keep(&item?)?);
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                pairs.push((keep(&key)?, keep(&value.get_item(&key)?)?));
            }
        }
        _ => {}
    }
    Ok(match value.kind() {
        _ if same => None,
        ValueKind::Map => Some(Value::from_pairs(pairs)),
        _ if value.is_tuple() => Some(Value::from(Tuple::from(list))),
        _ => Some(Value::from(list)),
    })
}

fn keep(state: &State, value: Value) -> Outcome<Value> {
    Ok(changed(state, &value, 0)?.unwrap_or(value))
}

/// A value that a variable may have: also an object of the engine.
fn store(state: &State, value: Value) -> Outcome<Value> {
    if holds(&value) && is_data(&value) { keep(state, value) } else { Ok(value) }
}

fn concat(state: &State, a: &Value, b: &Value) -> Outcome<Value> {
    pay(state, a, WRITE, 1)?;
    pay(state, b, WRITE, 1)?;
    Ok(Value::from(match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => [a, b].concat(),
        _ => format!("{a}{b}"),
    }))
}

fn item(state: &State, value: &Value, key: &Value) -> Outcome<Value> {
    pay(state, key, READ, 1)?;
    if value.kind() == ValueKind::Iterable {
        return eager(state, value.clone())?.get_item(key);
    }
    value.get_item(key)
}

/// Slices as Python's.
fn slice(state: &State, value: &Value, start: Value, stop: Value, step: Value) -> Outcome<Value> {
    let number = |value: Value| if value.is_none() { Ok(None) } else { i64::try_from(value).map(Some) };
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?.unwrap_or(1));
    if step == 0 {
        return Err(wrong("cannot slice by step size of 0"));
    }
    fn cut<T: Clone>(all: &[T], start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<T> {
        let len = all.len() as i64;
        // Where slices begin at the latest and end at the earliest differs with their direction.
        let (least, most) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let clamp = |at: i64| if at < 0 { at.saturating_add(len).max(least) } else { at.min(most) };
        let (first, last) = if step > 0 { (0, len) } else { (len - 1, -1) };
        let (mut at, stop) = (start.map_or(first, clamp), stop.map_or(last, clamp));
        let mut out = Vec::new();
        while (step > 0 && at < stop) || (step < 0 && at > stop) {
            out.extend(usize::try_from(at).ok().and_then(|at| all.get(at)).cloned());
            at = at.saturating_add(step);
        }
        out
    }
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 * 8 / PER_UNIT)?;
            let chars: Vec<char> = text.chars().collect();
            Ok(Value::from(cut(&chars, start, stop, step).into_iter().collect::<String>()))
        }
        ValueKind::Undefined | ValueKind::None => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Seq | ValueKind::Iterable => {
            state.consume_fuel(items(value) / 2)?;
            let list: Vec<Value> = eager(state, value.clone())?.try_iter()?.collect();
            let list = cut(&list, start, stop, step);
            Ok(if value.is_tuple() { Value::from(Tuple::from(list)) } else { Value::from(list) })
        }
        kind => Err(wrong(format!("value of type {kind} cannot be sliced"))),
    }
}

/// Lines with spaces before them.
fn indent(state: &mut State, args: Rest<ValueOrKwargs>) -> Outcome<Value> {
    let args = args.into_values();
    if let [text, width, ..] = &args[..] {
        let named = if width.is_kwargs() { width.get_attr("width")? } else { width.clone() };
        let width = named.as_i64().unwrap_or(0).max(0) as u64;
        let lines = text.as_str().map_or(1, |text| 1 + text.matches('\n').count()) as u64;
        state.consume_fuel(lines.saturating_mul(width) / PER_UNIT)?;
    }
    args.iter().try_for_each(|arg| pay(state, arg, WRITE, 1).map(|_| ()))?;
    Value::from_function(filters::indent).call(state, &args)
}

fn map(state: &State, parts: Rest<Value>) -> Outcome<Value> {
    let mut pairs = Vec::with_capacity(parts.len() / 2);
    for pair in parts.chunks_exact(2) {
        if let [key, value] = pair {
            pay(state, key, READ, 1)?;
            pairs.push((key.clone(), value.clone()));
        }
    }
    Ok(Value::from_pairs(pairs))
}

fn is_in(state: &State, value: &Value, container: &Value) -> Outcome<bool> {
    if container.is_undefined() {
        return Ok(false);
    }
    if let Some(text) = container.as_str() {
        state.consume_fuel(text.len() as u64 / PER_UNIT)?;
        return Ok(match value.as_str() {
            Some(part) => text.contains(part),
            None => {
                pay(state, value, WRITE, 1)?;
                text.contains(&value.to_string())
            }
        });
    }
    match container.kind() {
        ValueKind::Map => {
            pay(state, value, READ, 1)?;
            Ok(container.as_object().is_some_and(|map| map.get_value(value).is_some()))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in container.try_iter()? {
                state.consume_fuel(1)?;
                pay_for_both(state, &item, value)?;
                if item == *value {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        ValueKind::Plain => Ok(false),
        _ => Err(wrong("cannot perform a containment check on this value")),
    }
}

/// The arguments of a function that makes a dictionary or namespace, with what may be stored in one.
fn entries(state: &State, args: &[Value]) -> Outcome<Vec<Value>> {
    let entry = |arg: &Value| {
        if arg.kind() != ValueKind::Map {
            return Ok(arg.clone());
        }
        let mut pairs = Vec::new();
        for key in arg.try_iter()? {
            pay(state, &key, READ, 1)?;
            pairs.push((key.clone(), keep(state, arg.get_item(&key)?)?));
        }
        Ok(match arg.is_kwargs() {
            true => Kwargs::from_iter(pairs.into_iter().map(|(key, value)| (key.to_string(), value))).into(),
            false => Value::from_pairs(pairs),
        })
    };
    args.iter().map(entry).collect()
}

fn namespace(state: &mut State, args: Rest<ValueOrKwargs>) -> Outcome<Value> {
    let args = args.into_values();
    if args.iter().any(|arg| items(arg) > ENTRIES) {
        return Err(wrong(format!("a namespace of more than {ENTRIES} entries")));
    }
    let args = entries(state, &args)?;
    Value::from_function(functions::namespace).call(state, &args)
}

fn dict(state: &mut State, args: Rest<ValueOrKwargs>) -> Outcome<Value> {
    let args = args.into_values();
    let args = entries(state, &args)?;
    Value::from_function(functions::dict).call(state, &args)
}

/// What a filter looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Nothing but a size.
    Size,
    /// Each item.
    Items,
    /// All that is nested.
    All,
    /// All that is nested, as often as sorting needs.
    Sort,
    /// A text, of which each byte may become an item.
    Split,
}

/// Pays for a filter's work on its arguments.
fn pay_for_filter(state: &State, work: Work, args: &[Value]) -> Outcome<()> {
    let Some((first, rest)) = args.split_first() else { return Ok(()) };
    let count = items(first);
    let rounds = match work {
        Work::Sort => 65 - u64::from(count.leading_zeros()),
        _ => 1,
    };
    match work {
        Work::Size => {}
        Work::Items => state.consume_fuel(count / 2)?,
        Work::All | Work::Sort => drop(pay(state, first, WRITE, rounds)?),
        Work::Split => drop(pay(state, first, SPLIT, 1)?),
    }
    // An attribute is looked up in each item, a separator written behind it, and characters sought in a text.
    let times = if work == Work::Size { 1 } else { (count + 1).saturating_mul(rounds) };
    for arg in rest {
        pay(state, arg, READ, times)?;
    }
    Ok(())
}

/// Gives an engine everything that a [`super::program::Program`] calls, and takes away what does not pay.
pub(super) fn install(engine: &mut Environment) {
    let filters: [(&'static str, Work, Value); 42] = [
        ("abs", Work::All, Value::from_function(filters::abs)),
        ("attr", Work::Size, Value::from_function(filters::attr)),
        ("batch", Work::Items, Value::from_function(filters::batch)),
        ("bool", Work::Items, Value::from_function(filters::bool)),
        ("capitalize", Work::All, Value::from_function(filters::capitalize)),
        ("count", Work::Size, Value::from_function(filters::length)),
        ("d", Work::Size, Value::from_function(filters::default)),
        ("default", Work::Size, Value::from_function(filters::default)),
        ("dictsort", Work::Sort, Value::from_function(filters::dictsort)),
        ("e", Work::All, Value::from_function(filters::escape)),
        ("escape", Work::All, Value::from_function(filters::escape)),
        ("first", Work::Size, Value::from_function(filters::first)),
        ("float", Work::All, Value::from_function(filters::float)),
        ("groupby", Work::Sort, Value::from_function(filters::groupby)),
        ("int", Work::All, Value::from_function(filters::int)),
        ("items", Work::Items, Value::from_function(filters::items)),
        ("join", Work::All, Value::from_function(filters::join)),
        ("last", Work::Items, Value::from_function(filters::last)),
        ("length", Work::Size, Value::from_function(filters::length)),
        ("list", Work::Items, Value::from_function(filters::list)),
        ("lower", Work::All, Value::from_function(filters::lower)),
        ("map", Work::Items, Value::from_function(filters::map)),
        ("max", Work::All, Value::from_function(filters::max)),
        ("min", Work::All, Value::from_function(filters::min)),
        ("pprint", Work::All, Value::from_function(filters::pprint)),
        ("reject", Work::Items, Value::from_function(filters::reject)),
        ("rejectattr", Work::Items, Value::from_function(filters::rejectattr)),
        ("reverse", Work::Items, Value::from_function(filters::reverse)),
        ("round", Work::All, Value::from_function(filters::round)),
        ("safe", Work::All, Value::from_function(filters::safe)),
        ("select", Work::Items, Value::from_function(filters::select)),
        ("selectattr", Work::Items, Value::from_function(filters::selectattr)),
        ("slice", Work::Items, Value::from_function(filters::slice)),
        ("sort", Work::Sort, Value::from_function(filters::sort)),
        ("split", Work::Split, Value::from_function(filters::split)),
        ("string", Work::All, Value::from_function(filters::string)),
        ("sum", Work::All, Value::from_function(filters::sum)),
        ("title", Work::All, Value::from_function(filters::title)),
        ("trim", Work::All, Value::from_function(filters::trim)),
        ("unique", Work::Sort, Value::from_function(filters::unique)),
        ("upper", Work::All, Value::from_function(filters::upper)),
        ("format", Work::All, Value::from_function(filters::format)),
    ];
    for (name, work, plain) in filters {
        engine.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| -> Outcome<Value> {
            let mut args = args.into_values();
            pay_for_filter(state, work, &args)?;
            if let Some(first) = args.first_mut() {
                *first = eager(state, first.clone())?;
            }
            plain.call(state, &args)
        });
    }
    // Jinja has none of these.
    for name in ["chain", "zip", "lines"] {
        engine.remove_filter(name);
    }
    engine.remove_global("debug");
    engine.add_filter(CONCAT, concat);
    engine.add_filter(ITEM, item);
    engine.add_filter(SLICE, slice);
    engine.add_filter(MAP, map);
    engine.add_filter(EAGER, eager);
    engine.add_filter(STORE, store);
    engine.add_filter(KEEP, keep);
    engine.add_filter(EACH, |value: Value| value);
    engine.add_filter("indent", indent);
    engine.add_filter("tojson", to_json);
    engine.add_function("namespace", namespace);
    engine.add_function("dict", dict);
    type Comparison = fn(&Value, &Value) -> bool;
    let comparisons: [(&[&'static str], Comparison); 6] = [
        (&["eq", "equalto", "=="], |a, b| a == b),
        (&["ne", "!="], |a, b| a != b),
        (&["lt", "lessthan", "<"], |a, b| a < b),
        (&["le", "<="], |a, b| a <= b),
        (&["gt", "greaterthan", ">"], |a, b| a > b),
        (&["ge", ">="], |a, b| a >= b),
    ];
    for (names, compare) in comparisons {
        for name in names {
            engine.add_test(*name, move |state: &State, a: &Value, b: &Value| {
                pay_for_both(state, a, b).map(|()| compare(a, b))
            });
        }
    }
    engine.add_test("in", is_in);
    let tests = [
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
        ("lower", Value::from_function(tests::is_lower)),
        ("upper", Value::from_function(tests::is_upper)),
    ];
    for (name, plain) in tests {
        engine.add_test(name, move |state: &mut State, args: Rest<ValueOrKwargs>| -> Outcome<Value> {
            let args = args.into_values();
            for arg in &args {
                pay(state, arg, WRITE, 1)?;
            }
            plain.call(state, &args)
        });
    }
    engine.set_formatter(|out, state, value| {
        pay(state, value, WRITE, 1)?;
        escape_formatter(out, state, value)
    });
}

/// JSON as Python writes it with `ensure_ascii=False`.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Outcome<Value> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    // This is the default.
    options.get::<Option<bool>>("ensure_ascii")?;
    let indent = options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    options.assert_all_used()?;
    let spaces = indent.as_ref().and_then(Value::as_i64).unwrap_or(2);
    if !(0..=INDENT).contains(&spaces) {
        return Err(wrong(format!("tojson: an indent of {spaces}; 0 to {INDENT} can be used")));
    }
    let level = if indent.is_some() { spaces as u64 } else { 0 };
    pay(state, value, Cost { byte: 16, level }, 1)?;
    let safe = filters::tojson(value, indent, Kwargs::from_iter(core::iter::empty::<(&str, Value)>()))?;
    let safe = safe.as_str().unwrap_or_default();
    // The engine escapes four characters for HTML.
    let mut out = String::with_capacity(safe.len());
    let mut rest = safe;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (plain, len) = match escape.get(..6) {
            Some("\\u003c") => ("<", 6),
            Some("\\u003e") => (">", 6),
            Some("\\u0026") => ("&", 6),
            Some("\\u0027") => ("'", 6),
            _ => (&escape[..2], 2),
        };
        out.push_str(plain);
        rest = &escape[len..];
    }
    out.push_str(rest);
    Ok(Value::from(out))
}
