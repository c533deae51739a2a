//! `mynah tokenize` and `mynah detokenize`.

use crate::args::{Detokenize, Tokenize, setting};
use crate::{Outcome, load, out};
use mynah::text::{Decode, Encode};
use serde_json::json;

pub fn tokenize(args: &Tokenize, json: bool) -> anyhow::Result<Outcome> {
    let tokenizer = load::tokenizer(&args.model)?;
    let options = Encode { add_special: args.options.add_special, parse_special: args.options.parse_special };
    let ids = tokenizer.encode(&args.text, &options)?;
    if json {
        out::print_json(&json!({ "ids": ids }))?;
    } else {
        let words: Vec<_> = ids.iter().map(u32::to_string).collect();
        out::print(&(words.join(" ") + "\n"))?;
    }
    Ok(Outcome::Done)
}

pub fn detokenize(args: &Detokenize, json: bool) -> anyhow::Result<Outcome> {
    let tokenizer = load::tokenizer(&args.model)?;
    let options = Decode { unparse_special: args.parse_special, ..Decode::default() };
    let bytes = setting(tokenizer.decode(&args.ids, &options))?;
    if json {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        out::print_json(&json!({ "hex": hex, "text": String::from_utf8_lossy(&bytes) }))?;
    } else {
        out::print_bytes(&bytes)?;
        out::print("\n")?;
    }
    Ok(Outcome::Done)
}
