//! Adapters that are changed in a conversation: `/adapter` and `/detach`.

use crate::args::{Chat, OtherBase, setting};
use crate::load::{self, split_scale};
use crate::out;
use crate::paths;
use mynah::adapter::Stack;
use mynah::app::{Shelf, Source, Talk};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Other sets of adapters whose reading of the conversation is kept, for who changes back.
const KEPT: usize = 2;

/// What is attached, by the names that it was given by.
pub struct Adapters<'a> {
    shelf: Shelf,
    other: &'a OtherBase,
    names: Vec<(PathBuf, f32)>,
    json: bool,
}

impl<'a> Adapters<'a> {
    pub fn open(args: &'a Chat, talk: &mut Talk, json: bool) -> anyhow::Result<Adapters<'a>> {
        let names = args.model.adapters.iter().map(|name| split_scale(name).map(|(path, s)| (path.into(), s)));
        let names = names.collect::<anyhow::Result<_>>()?;
        talk.keep_read(if args.learn { 0 } else { KEPT });
        Ok(Adapters { shelf: talk.mynah().shelf(), other: &args.model.other, names, json })
    }

    /// Attaches an adapter on top, or gives one that is attached another strength. Its file is read again if it has changed.
    pub fn attach(&mut self, talk: &mut Talk, name: &str) -> anyhow::Result<()> {
        let (path, strength) = split_scale(name)?;
        let path = Path::new(path);
        crate::names::check(path, crate::names::What::Adapter)?;
        let other = self.other;
        let ready = self.shelf.get_with(path, |mynah, _: Source| load::ready(mynah, path, other, out::say))?;
        let mut stack: Stack = talk.stack().clone();
        let here = self.names.iter().position(|(name, _)| paths::same(name, path));
        match here {
            Some(which) => setting(stack.swap(which, ready, strength))?,
            None => setting(stack.push(ready, strength))?,
        }
        talk.replace(stack)?;
        match here {
            Some(which) => self.names[which].1 = strength,
            None => self.names.push((path.into(), strength)),
        }
        self.shelf.tidy();
        self.list()
    }

    /// Takes an adapter off, or all of them.
    pub fn detach(&mut self, talk: &mut Talk, name: &str) -> anyhow::Result<()> {
        if name.is_empty() {
            talk.detach()?;
            self.names.clear();
        } else {
            let which = self.names.iter().position(|(here, _)| paths::same(here, Path::new(name)));
            let Some(which) = which else {
                anyhow::bail!("{}: not attached; /adapter lists what is", out::name(Path::new(name)))
            };
            let mut stack = talk.stack().clone();
            stack.remove(which)?;
            talk.replace(stack)?;
            self.names.remove(which);
        }
        self.shelf.tidy();
        self.list()
    }

    /// Shows what is attached.
    pub fn list(&self) -> anyhow::Result<()> {
        if self.json {
            let row =
                |(path, strength): &(PathBuf, f32)| json!({ "file": path.to_string_lossy(), "strength": strength });
            return out::print_json(&json!({ "adapters": self.names.iter().map(row).collect::<Vec<_>>() }));
        }
        if self.names.is_empty() {
            out::say("(no adapter: the model alone speaks)");
        }
        for (path, strength) in &self.names {
            out::say(&format!("({}, strength {strength})", out::name(path)));
        }
        Ok(())
    }
}
