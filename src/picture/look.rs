//! Pictures to the bytes of their codes.

use super::finder::{corners, finders};
use super::grid;
use super::page::Page;
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use image::imageops;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use std::io::Cursor;
use std::prelude::v1::*;

/// Pixels that are looked at first: of a larger picture a smaller one is made, and itself looked at if that shows nothing.
const USUAL: f64 = 4e6;
/// Most bytes of a decoded pixel: four channels of 8 bits.
const PIXEL: u64 = 4;
/// Parts of a picture's longer side over which its light is a mean.
const PARTS: u32 = 12;
/// Most triples of finder patterns between which a grid is looked for, and most grids that are read.
const LOOKS: usize = 2_000;
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
    let found = smaller(&grey).map(|small| look(small, limits)).unwrap_or_default();
    Ok(if found.payloads.is_empty() { look(grey, limits) } else { found })
}

/// A picture of no more pixels than are looked at first; none if there are no more.
fn smaller(grey: &GrayImage) -> Option<GrayImage> {
    let (w, h) = grey.dimensions();
    let by = (f64::from(w) * f64::from(h) / USUAL).sqrt().ceil() as u32;
    (by > 1).then(|| imageops::thumbnail(grey, w.div_ceil(by), h.div_ceil(by)))
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
        ImageError::Limits(_) => {
            let allowed = limits.pixels.saturating_mul(PIXEL);
            Error::limit("bytes to decode a picture, at the least", allowed.saturating_add(1), allowed)
        }
        other => Error::corrupt(format!("the picture cannot be decoded: {}", printable(&other.to_string())), 0),
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
    for triple in corners(&finders).into_iter().take(LOOKS) {
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
