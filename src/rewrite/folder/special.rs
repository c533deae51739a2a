//! Tokens with a role, which of them are added to texts, and the chat template. The rules are those of llama.cpp's converter,
//! but tokens of the configuration are compared by their spelling, however that is written.

use super::Texts;
use super::config::Keys;
use crate::gguf::Value;
use crate::text::Json;
use std::prelude::v1::*;

/// Roles of tokens: their names in configurations and here, in the order of files.
const ROLES: [[&str; 2]; 9] = [
    ["bos", "bos"],
    ["eos", "eos"],
    ["unk", "unknown"],
    ["sep", "seperator"],
    ["pad", "padding"],
    ["cls", "cls"],
    ["mask", "mask"],
    ["eot", "eot"],
    ["eom", "eom"],
];

/// Roles whose tokens can be added to texts.
const ADDED: [&str; 3] = ["bos", "eos", "sep"];

/// What is known of the roles.
#[derive(Default)]
struct Roles<'a> {
    /// Spellings of tokens.
    texts: Vec<(&'static str, &'a str)>,
    /// Whether they are added.
    adds: Vec<(&'static str, bool)>,
}

impl<'a> Roles<'a> {
    fn text(&self, role: &str) -> Option<&'a str> {
        self.texts.iter().find(|(name, _)| *name == role).map(|(_, text)| *text)
    }

    fn is(&self, roles: &[&str], text: &str) -> bool {
        roles.iter().any(|role| self.text(role) == Some(text))
    }

    fn name(&mut self, role: &'static str, text: Option<&'a str>) {
        let Some(text) = text else { return };
        match self.texts.iter_mut().find(|(name, _)| *name == role) {
            Some(known) => known.1 = text,
            None => self.texts.push((role, text)),
        }
    }

    fn add(&mut self, role: &'static str, add: bool) {
        match self.adds.iter_mut().find(|(name, _)| *name == role) {
            Some(known) => known.1 = add,
            None => self.adds.push((role, add)),
        }
    }

    fn add_unless_known(&mut self, role: &'static str, add: bool) {
        if self.adds.iter().all(|(name, _)| *name != role) {
            self.adds.push((role, add));
        }
    }

    /// What a step that handles ids in the end says.
    fn processor(&mut self, step: &'a Json) {
        match step.get("type").and_then(Json::text) {
            Some("ByteLevel") => ["bos", "eos"].into_iter().for_each(|role| self.add_unless_known(role, false)),
            Some("RobertaProcessing") => {
                ADDED.into_iter().for_each(|role| self.add(role, true));
                for (role, instead) in [("cls", "bos"), ("sep", "eos")] {
                    if self.text(role).is_none() {
                        let own = step.get(role).and_then(Json::list).and_then(|pair| pair.first()?.text());
                        self.name(role, own.or_else(|| self.text(instead)));
                    }
                }
            }
            Some("TemplateProcessing") => self.template(step),
            _ => {}
        }
    }

    /// A template says what stands around a text and between two.
    fn template(&mut self, step: &'a Json) {
        let list = |key: &str| step.get(key).and_then(Json::list).unwrap_or_default();
        let named = |part: Option<&'a Json>, kind: &str| part?.get(kind)?.get("id")?.text();
        let (single, mut pair) = (list("single"), list("pair"));
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = named(single.first(), "SpecialToken");
            last = named(single.last(), "SpecialToken");
        }
        if let Some(text) = first {
            if !self.is(&["bos", "cls"], text) {
                ["bos", "cls"].into_iter().filter(|r| self.text(r).is_none()).collect::<Vec<_>>().into_iter().for_each(
                    |r| {
                        self.name(r, Some(text));
                    },
                );
            }
            self.add("bos", self.is(&["bos", "cls"], text));
        }
        if let Some(text) = last {
            if self.text("eos") != Some(text) {
                // What ended texts before ends turns, or else messages.
                let role = ["eot", "eom"].into_iter().find(|role| self.text(role).is_none());
                if let Some(role) = role {
                    self.name(role, self.text("eos"));
                }
                self.name("eos", Some(text));
            }
            self.add("eos", true);
        }
        if first.is_some() && named(pair.first(), "SpecialToken") == first {
            pair = pair.get(1..).unwrap_or_default();
        }
        if last.is_some() && named(pair.last(), "SpecialToken") == last {
            pair = pair.get(..pair.len().saturating_sub(1)).unwrap_or_default();
        }
        if let [a, between @ .., b] = pair
            && !between.is_empty()
            && (named(Some(a), "Sequence"), named(Some(b), "Sequence")) == (Some("A"), Some("B"))
        {
            let parts =
                |part: &'a Json| named(Some(part), "SpecialToken").is_some_and(|text| self.is(&["sep", "eos"], text));
            let (one, two) = (between.first().is_some_and(parts), between.get(1).is_some_and(parts));
            let add = one && last.is_none() || between.len() == 2 && two;
            self.add("sep", add);
            if add && self.text("sep").is_none() {
                self.name("sep", self.text("eos"));
            }
        }
    }
}

/// The spelling of a role's token.
fn token_of<'a>(config: &'a Json, role: &str) -> Option<&'a str> {
    let token = config.get(&format!("{role}_token"))?;
    token.text().or_else(|| token.get("content").and_then(Json::text))
}

/// Sets what is known of special tokens. `limit`: the number of tokens, where others are left out.
pub(super) fn special(texts: &Texts, config: &Json, limit: Option<u64>, head: &mut Keys) {
    let (tokenizer, own) = (&texts.tokenizer, &texts.tokenizer_config);
    let mut roles = Roles::default();
    ROLES.iter().take(7).for_each(|[role, _]| roles.name(role, token_of(own, role)));
    if *tokenizer != Json::Null {
        for (role, instead) in [("bos", "cls"), ("eos", "sep")] {
            if roles.text(role).is_none() {
                roles.name(role, roles.text(instead));
            }
        }
        let all = tokenizer.get("post_processor").filter(|p| **p != Json::Null);
        match all.and_then(|p| p.get("processors")).and_then(Json::list) {
            Some(steps) => steps.iter().for_each(|step| roles.processor(step)),
            None => all.into_iter().for_each(|step| roles.processor(step)),
        }
    }
    let added = tokenizer.get("added_tokens").and_then(Json::list).unwrap_or_default();
    let id_of = |text: &str| {
        let token = added.iter().find(|token| token.get("content").and_then(Json::text) == Some(text));
        token.and_then(|token| token.get("id")).and_then(Json::whole)
    };
    let by_name = ROLES.iter().map(|[role, name]| {
        let known = roles.text(role).filter(|_| *own != Json::Null);
        (*name, known.and_then(id_of))
    });
    let text = config.get("text_config");
    let by_number = ROLES.iter().filter(|[role, _]| !role.starts_with("eo") || *role == "eos").map(|[role, name]| {
        let key = format!("{role}_token_id");
        let id = config.get(&key).filter(|id| **id != Json::Null).or_else(|| text.and_then(|text| text.get(&key)));
        (*name, id.and_then(Json::whole))
    });
    let mut written = Vec::new();
    for (name, id) in by_name.chain(by_number) {
        let id = id.filter(|id| limit.is_none_or(|n| *id < n)).and_then(|id| u32::try_from(id).ok());
        if let Some(id) = id.filter(|_| !written.contains(&name)) {
            written.push(name);
            // The converter knows no key for it.
            if name != "cls" {
                head.set(format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
    }
    for role in ROLES.iter().map(|[role, _]| *role) {
        if let Some(Json::Bool(add)) = own.get(&format!("add_{role}_token")) {
            roles.add_unless_known(role, *add);
        }
    }
    for (role, add) in roles.adds.iter().filter(|(role, _)| ADDED.contains(role)) {
        head.set(format!("tokenizer.ggml.add_{role}_token"), *add);
    }
    templates(texts, head);
    let mut flags = [None; 2];
    normalizer(tokenizer.get("normalizer"), &mut flags);
    for (name, flag) in ["lowercase", "strip_accents"].into_iter().zip(flags) {
        if let Some(flag) = flag {
            head.set(format!("tokenizer.ggml.normalizer.{name}"), flag);
        }
    }
}

/// The chat templates: one, or several with names.
fn templates(texts: &Texts, head: &mut Keys) {
    let own = texts.tokenizer_config.get("chat_template").filter(|template| **template != Json::Null);
    let several = own.and_then(Json::list).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    let mut usual = own.and_then(Json::text).or(texts.template.as_deref().filter(|_| own.is_none()));
    for choice in several {
        let of = |key: &str| choice.get(key).and_then(Json::text);
        let (Some(name), Some(template)) = (of("name").filter(|name| !name.is_empty()), of("template")) else {
            continue;
        };
        if name == "default" {
            usual = Some(template);
            continue;
        }
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        head.set(format!("tokenizer.chat_template.{name}"), template);
        names.push(name);
    }
    if !names.is_empty() {
        head.set("tokenizer.chat_templates", Value::from(&names[..]));
    }
    if let Some(template) = usual {
        head.set("tokenizer.chat_template", template);
    }
}

/// Whether texts are made lower case, and accents taken away, where that is said.
fn normalizer(step: Option<&Json>, flags: &mut [Option<bool>; 2]) {
    let Some(step) = step else { return };
    let [lowercase, strip] = flags;
    let flag = |key: &str| if let Some(Json::Bool(flag)) = step.get(key) { Some(*flag) } else { None };
    match step.get("type").and_then(Json::text) {
        Some("Lowercase") => *lowercase = Some(true),
        Some("StripAccents") => *strip = Some(true),
        Some("BertNormalizer") => {
            *lowercase = flag("lowercase").or(*lowercase);
            *strip = flag("strip_accents").or(*strip);
        }
        Some("Sequence") => {
            let steps = step.get("normalizers").and_then(Json::list).unwrap_or_default();
            steps.iter().for_each(|step| normalizer(Some(step), flags));
        }
        _ => {}
    }
}
