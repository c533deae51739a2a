//! A template as instructions that pay for what they do.
//!
//! The engine charges fuel for instructions and for the values that they make, but not for all the work that they do:
//! comparing two long texts or looking one up costs as much as comparing two numbers; values nested deep by a loop
//! overflow the stack where they are printed or dropped; a list may hold itself. So each instruction that works on whole
//! values is exchanged for one of [`super::guard`], and what is stored is looked at before.

use super::guard;
use crate::error::{Error, Result};
use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, machinery};
use std::collections::{BTreeMap, BTreeSet};
use std::prelude::v1::*;
use std::sync::Arc;

/// Deepest nesting of blocks: each costs a lookup of a variable time, and the parser stack.
const BLOCKS: usize = 32;
/// Deepest nesting of brackets.
const BRACKETS: usize = 24;
/// Most operators, filters and subscripts that may apply to each other.
const OPERATORS: usize = 128;
/// Longest name, in bytes: names are compared at each use.
const NAME: usize = 256;
/// Most different attributes that a template sets: they are listed where a namespace is looked at.
const ATTRIBUTES: usize = 256;

/// A template that can be run.
pub(super) struct Program<'a> {
    main: Instructions<'a>,
    blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl<'a> Program<'a> {
    /// # Errors
    /// `Limit` for what is nested too deep, `Corrupt` for what is no template or has what templates of chats may not.
    pub fn new(source: &'a str) -> Result<Program<'a>> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(super::refused)?;
        check_nesting(source, &syntax)?;
        let config = TemplateConfig { syntax_config: syntax, default_auto_escape: Arc::new(|_| AutoEscape::None) };
        let compiled = CompiledTemplate::new("chat", source, &config).map_err(super::refused)?;
        if !compiled.blocks.is_empty() {
            return Err(unknown("block", 0));
        }
        Ok(Program { main: guarded(&compiled.instructions)?, blocks: BTreeMap::new() })
    }

    /// The output. The engine has the filters and tests of [`guard::install`].
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run(&self, engine: &Environment, context: Value) -> core::result::Result<String, minijinja::Error> {
        let mut text = String::new();
        let mut out = machinery::make_string_output(&mut text);
        machinery::eval(engine, &self.main, context, &self.blocks, &mut out, AutoEscape::None)?;
        Ok(text)
    }
}

fn at_line(what: &str, line: usize) -> String {
    if line == 0 { what.into() } else { format!("{what} (line {line})") }
}

fn unknown(what: &str, line: usize) -> Error {
    Error::corrupt(at_line(&format!("chat template: templates of chats have no {what}"), line), 0)
}

fn limit(what: &str, line: usize, asked: usize, allowed: usize) -> Error {
    Error::limit(at_line(&format!("{what} in the chat template"), line), asked as u64, allowed as u64)
}

/// Holds what the parser and the compiler recurse on to limits, since neither has one that small stacks bear.
fn check_nesting(source: &str, syntax: &SyntaxConfig) -> Result<()> {
    // Of each open block its branches, since the parser nests them; and of each open bracket its operators.
    let (mut blocks, mut levels): (Vec<usize>, Vec<usize>) = (Vec::new(), vec![0]);
    // The word of a tag, if it has begun, and whether it assigns.
    let (mut word, mut begins, mut assigns) = ("", false, false);
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token.map_err(super::refused)?;
        let line = span.start_line as usize;
        if let Token::Ident(name) = &token
            && name.len() > NAME
        {
            return Err(limit("bytes of a name", line, name.len(), NAME));
        }
        match &token {
            Token::BlockStart => (word, begins, assigns) = ("", true, false),
            Token::Ident(name) if begins => (word, begins) = (name, false),
            Token::Assign if levels.len() == 1 => assigns = true,
            Token::BlockEnd => {
                match word {
                    "for" | "if" | "with" | "filter" | "autoescape" | "macro" | "call" => blocks.push(1),
                    "set" if !assigns => blocks.push(1),
                    "elif" => blocks.last_mut().into_iter().for_each(|branches| *branches += 1),
                    word if word.starts_with("end") => drop(blocks.pop()),
                    _ => {}
                }
                levels = vec![0];
            }
            Token::VariableEnd => levels = vec![0],
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen => {
                levels.last_mut().into_iter().for_each(|operators| *operators += 1);
                levels.push(0);
            }
            Token::BracketClose | Token::ParenClose | Token::BraceClose => drop(levels.pop()),
            // What stands beside each other does not nest.
            Token::Comma => levels.last_mut().into_iter().for_each(|operators| *operators = 0),
            Token::Ident("and" | "or" | "not" | "in" | "is" | "if" | "else")
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::FloorDiv
            | Token::Pow
            | Token::Mod
            | Token::Dot
            | Token::Tilde
            | Token::Pipe
            | Token::Eq
            | Token::Ne
            | Token::Gt
            | Token::Gte
            | Token::Lt
            | Token::Lte => levels.last_mut().into_iter().for_each(|operators| *operators += 1),
            _ => {}
        }
        let open: usize = blocks.iter().sum();
        if open > BLOCKS {
            return Err(limit("nested blocks and branches", line, open, BLOCKS));
        }
        if levels.len() > BRACKETS + 1 {
            return Err(limit("nested brackets", line, levels.len() - 1, BRACKETS));
        }
        let operators: usize = levels.iter().sum();
        if operators > OPERATORS {
            return Err(limit("nested operators", line, operators, OPERATORS));
        }
    }
    Ok(())
}

/// The same instructions with those that pay.
fn guarded<'a>(plain: &Instructions<'a>) -> Result<Instructions<'a>> {
    let all = || (0..).map_while(|at| Some((at, plain.get(at)?)));
    let mut attributes = BTreeSet::new();
    let (mut groups, mut places, mut count) = (Vec::new(), Vec::new(), 0u32);
    for (at, instruction) in all() {
        let line = plain.get_line(at).unwrap_or(0);
        if let Instruction::SetAttr(name) = instruction {
            attributes.insert(*name);
            if attributes.len() > ATTRIBUTES {
                return Err(limit("attributes", line, attributes.len(), ATTRIBUTES));
            }
        }
        let group = guard(instruction).map_err(|what| unknown(what, line))?;
        places.push(count);
        count += group.len() as u32;
        groups.push((group, line));
    }
    places.push(count);
    let mut out = Instructions::new(plain.name(), plain.source());
    for (group, line) in groups {
        for mut instruction in group {
            match &mut instruction {
                Instruction::Iterate(to)
                | Instruction::Jump(to)
                | Instruction::JumpIfFalse(to)
                | Instruction::JumpIfFalseOrPop(to)
                | Instruction::JumpIfTrueOrPop(to)
                | Instruction::BuildMacro(_, to, _) => *to = places.get(*to as usize).copied().unwrap_or(count),
                _ => {}
            }
            out.add_with_line(instruction, line as u16);
        }
    }
    Ok(out)
}

/// What takes the place of an instruction, or the name of what templates may not do.
fn guard<'a>(plain: &Instruction<'a>) -> core::result::Result<Vec<Instruction<'a>>, &'static str> {
    use Instruction::*;
    let filter = |name, args| ApplyFilter(name, Some(args), !0);
    let test = |name| PerformTest(name, Some(2), !0);
    Ok(match plain {
        Eq => vec![test("eq")],
        Ne => vec![test("ne")],
        Lt => vec![test("lt")],
        Lte => vec![test("le")],
        Gt => vec![test("gt")],
        Gte => vec![test("ge")],
        In => vec![test("in")],
        StringConcat => vec![filter(guard::CONCAT, 2)],
        GetItem => vec![filter(guard::ITEM, 2)],
        Instruction::Slice => vec![filter(guard::SLICE, 4)],
        BuildMap(pairs) => match u16::try_from(pairs * 2) {
            Ok(args) => vec![filter(guard::MAP, args)],
            Err(_) => return Err("dictionaries of that size"),
        },
        Add | Mul => vec![filter(guard::EAGER, 1), Swap, filter(guard::EAGER, 1), Swap, plain.clone()],
        StoreLocal(_) => vec![filter(guard::STORE, 1), plain.clone()],
        // The namespace is on top of the value.
        SetAttr(_) => vec![Swap, filter(guard::KEEP, 1), Swap, plain.clone()],
        PushLoop(flags) if flags & 2 != 0 => return Err("recursive loops"),
        PushLoop(_) => vec![filter(guard::EACH, 1), plain.clone()],
        CompareAndPreserve(_) => return Err("chains of comparisons"),
        MergeKwargs(_) => return Err("unpacked keyword arguments"),
        CallMethod("changed", _) => return Err("loop.changed"),
        // The first argument is the loop. The engine divides by the number of the others.
        CallMethod("cycle", args) if args.is_none_or(|args| args < 2) => return Err("loop.cycle without items"),
        other => vec![other.clone()],
    })
}
