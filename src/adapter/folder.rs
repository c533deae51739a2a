//! Folders in which other programs keep adapters: whose they are, and what is in them.

use super::json::Json;
use super::peft::CONFIG;
use super::{Adapter, Base, foreign, mlx, peft};
use crate::bytes::{Limits, map};
use crate::error::Result;
use serde_json::Value;
use std::path::Path;
use std::prelude::v1::*;

/// What is in a folder, read without a base.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Whose adapter it is: `PEFT` or `MLX`.
    pub program: &'static str,
    /// The keys of its configuration that say something.
    pub config: Vec<(String, Value)>,
    /// Names, shapes, types and bytes of its tensors.
    pub tensors: Vec<(String, Vec<u64>, &'static str, usize)>,
}

fn is_mlx(directory: &Path) -> bool {
    directory.join(mlx::WEIGHTS).exists() && directory.join(CONFIG).exists()
}

/// Reads the adapter in a folder of PEFT's or MLX's.
///
/// # Errors
/// Those of [`peft::open`] and [`mlx::open`].
pub fn open(directory: &Path, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    if is_mlx(directory) { mlx::open(directory, base, limits) } else { peft::open(directory, base, limits) }
}

/// Looks at what is in such a folder.
///
/// # Errors
/// `Invalid` for other folders; `Corrupt`, `Limit` and `Unsupported` for such files; `Io` from the system.
pub fn contents(directory: &Path, limits: &Limits) -> Result<Contents> {
    let named = |e: crate::Error| e.in_file(directory.to_string_lossy());
    let mlx = is_mlx(directory);
    if let Some(e) = foreign::folder(directory).filter(|_| !mlx) {
        return Err(named(e));
    }
    let bytes = map::read(&directory.join(CONFIG), limits.json)?;
    // What is too deep or says a key twice is refused here.
    let mut json = Json::new(&bytes, limits)?;
    json.skip().and_then(|_| json.end()).map_err(named)?;
    let config = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(keys)) => keys.into_iter().filter(|(_, value)| says_something(value)).collect(),
        _ => Vec::new(),
    };
    let file = match mlx {
        true => super::safetensors::Safetensors::parse(map::open(&directory.join(mlx::WEIGHTS))?, limits),
        false => peft::weights(directory, limits).map(|(file, _)| file),
    };
    let row = |t: &super::safetensors::Tensor| (t.name.to_string(), t.shape.clone(), t.dtype(), t.bytes());
    let tensors = file.map_err(named)?.tensors().iter().map(row).collect();
    Ok(Contents { program: if mlx { "MLX" } else { "PEFT" }, config, tensors })
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(keys) => !keys.is_empty(),
        Value::Array(values) => !values.is_empty(),
        _ => true,
    }
}
