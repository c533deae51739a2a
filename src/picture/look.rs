//! Pictures to the bytes of their codes.

use super::finder::{corners, finders};
use super::grid;
use super::page::Page;
use crate::bytes::Limits;
use crate::error::{Error, Result};
use image::imageops;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use std::io::Cursor;
use std::prelude::v1::*;

/// Pixels that are looked at first: of a larger picture a smaller one is made, and itself looked at if that shows nothing.
const USUAL: u32 = 4_000_000;
/// Most bytes of a decoded pixel: four channels of 8 bits.
const PIXEL: u64 = 4;
/// Parts of a picture's longer side over which its light is a mean.
const PARTS: u32 = 12;
/// Most triples of finder patterns whose grids are read.
const TRIES: usize = 64;

/// What is in a picture.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The bytes of its codes.
    pub payloads: Vec<Vec<u8>>,
    /// Codes that were seen and could not be read.
    pub unread: usize,
}

/// Finds the codes in a PNG or JPEG file: turned by any angle, scaled, seen from the side.
///
/// # Errors
/// `Unsupported` for another kind of file, `Corrupt` for a damaged one, `Limit` for one with more bytes or pixels than `limits`
/// allow. That there is no code is no error.
pub fn read(picture: &[u8], limits: &Limits) -> Result<Found> {
    let grey = grey(picture, limits)?;
    let mut small = None;
    while let [w, h] = small.as_ref().unwrap_or(&grey).dimensions().into()
        && w.saturating_mul(h) > USUAL
    {
        small = Some(imageops::thumbnail(small.as_ref().unwrap_or(&grey), w.div_ceil(2), h.div_ceil(2)));
    }
    let found = small.map(|small| look(small, limits)).unwrap_or_default();
    Ok(if found.payloads.is_empty() { look(grey, limits) } else { found })
}

/// The picture in grey.
fn grey(file: &[u8], limits: &Limits) -> Result<GrayImage> {
    Limits::check("bytes of a picture", file.len() as u64, limits.picture)?;
    let format = match image::guess_format(file) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        Ok(other) => return Err(Error::unsupported("picture", format!("{other:?}; save it as PNG or JPEG"))),
        Err(_) => return Err(Error::unsupported("picture", "it is neither PNG nor JPEG")),
    };
    let damaged = |e: ImageError| match e {
        ImageError::Limits(_) => Error::limit("bytes of a decoded picture", u64::MAX, limits.pixels.saturating_mul(PIXEL)),
        other => Error::corrupt(format!("the picture cannot be decoded: {other}"), 0),
    };
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(limits.pixels.saturating_mul(PIXEL));
    reader.limits(bounds);
    let decoder = reader.into_decoder().map_err(damaged)?;
    let (w, h) = decoder.dimensions();
    Limits::check("pixels of a picture", u64::from(w).saturating_mul(h.into()), limits.pixels)?;
    let bytes = decoder.total_bytes();
    Limits::check("bytes of a decoded picture", bytes, limits.pixels.saturating_mul(PIXEL))?;
    Ok(DynamicImage::from_decoder(decoder).map_err(damaged)?.into_luma8())
}

/// The codes of a picture.
fn look(grey: GrayImage, limits: &Limits) -> Found {
    let page = Page::new(grey, PARTS);
    let finders = finders(&page);
    let mut found = Found::default();
    let mut used: Vec<[usize; 3]> = Vec::new();
    let mut seen: Vec<[usize; 3]> = Vec::new();
    let mut tries = 0;
    for triple in corners(&finders) {
        let taken = |all: &[[usize; 3]]| all.iter().flatten().any(|i| triple.contains(i));
        if taken(&used) || tries == TRIES || found.payloads.len() as u64 >= limits.codes {
            continue;
        }
        let Some(grid) = grid::locate(&page, triple.map(|i| finders.get(i).copied().unwrap_or_default())) else {
            continue;
        };
        tries = tries.saturating_add(1);
        match grid.read(&page) {
            Some(payload) => {
                found.payloads.push(payload);
                used.push(triple);
            }
            None if !taken(&seen) => seen.push(triple),
            None => {}
        }
    }
    found.unread = seen.iter().filter(|triple| !used.iter().flatten().any(|i| triple.contains(i))).count();
    found
}
