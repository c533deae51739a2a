//! A file on its way into memory.

use crate::error::error;
use wasm_bindgen::prelude::*;

/// Room for the bytes of a file, which is written piece by piece: from a stream, or by a reader that writes into memory
/// itself, at `ptr`. [`Model::load`](crate::Model::load) takes it over without a copy.
#[wasm_bindgen]
pub struct File(Vec<u8>);

#[wasm_bindgen]
impl File {
    /// Room for that many bytes. An error with code `memory` if there is no more.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: f64) -> Result<File, JsValue> {
        let refused = || error(mynah::Error::memory("the model", bytes as u64));
        let len = if (0.0..4_294_967_296.0).contains(&bytes) { bytes as usize } else { return Err(refused()) };
        let mut room = Vec::new();
        room.try_reserve_exact(len).map_err(|_| refused())?;
        room.resize(len, 0);
        Ok(File(room))
    }

    /// Its place in memory. Growing memory moves no byte, but makes views of it unusable.
    pub fn ptr(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies bytes to a place.
    pub fn write(&mut self, at: usize, bytes: &js_sys::Uint8Array) -> Result<(), JsValue> {
        let len = bytes.length() as usize;
        let (end, most) = (at.saturating_add(len) as u64, self.0.len() as u64);
        let place = at.checked_add(len).and_then(|end| self.0.get_mut(at..end));
        let place = place.ok_or_else(|| error(mynah::Error::limit("bytes of the file", end, most)))?;
        bytes.copy_to(place);
        Ok(())
    }

    /// The BLAKE3 hash of its bytes, in hexadecimal digits.
    pub fn digest(&self) -> String {
        blake3::hash(&self.0).to_hex().to_string()
    }
}

impl File {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
