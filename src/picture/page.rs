//! A picture, and the light in it.

use image::GrayImage;
use image::imageops::{self, FilterType};
use std::prelude::v1::*;

/// What is darker than this much of the light around is dark.
const DARK: f32 = 0.95;

/// A place in a picture, in pixels; the centre of the first pixel is 0, 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
}

impl Point {
    /// This place, moved `by` lengths of `along`.
    pub fn moved(self, along: Point, by: f64) -> Point {
        Point { x: self.x + along.x * by, y: self.y + along.y * by }
    }

    /// The way from another place to this one.
    pub fn from(self, other: Point) -> Point {
        self.moved(other, -1.0)
    }

    /// As a way, its length.
    pub fn length(self) -> f64 {
        self.x.hypot(self.y)
    }
}

/// A grey picture, and the light around each of its pixels.
pub(super) struct Page {
    grey: GrayImage,
    around: GrayImage,
}

impl Page {
    /// The light is a mean over a part of the picture; the longer side has that many parts.
    pub fn new(grey: GrayImage, parts: u32) -> Page {
        let (w, h) = (grey.width().max(1), grey.height().max(1));
        let of = |n: u32| (n.saturating_mul(parts)).div_ceil(w.max(h)).max(1);
        let small = imageops::resize(&grey, of(w), of(h), FilterType::Triangle);
        let around = imageops::resize(&small, w, h, FilterType::Triangle);
        Page { grey, around }
    }

    /// The grey of a place. Outside of the picture all is light.
    pub fn grey(&self, at: Point) -> f64 {
        between(&self.grey, at)
    }

    /// How much lighter a place is than what is around it.
    pub fn light(&self, at: Point) -> f64 {
        between(&self.grey, at) - between(&self.around, at) * f64::from(DARK)
    }

    /// Whether the pixel there is dark.
    pub fn dark(&self, at: Point) -> bool {
        // What is negative becomes 0.
        let [x, y] = [at.x, at.y].map(|x| if x < -0.5 { u32::MAX } else { x.round() as u32 });
        let pixel = |of: &GrayImage| of.get_pixel_checked(x, y).map(|p| p.0[0]);
        matches!((pixel(&self.grey), pixel(&self.around)), (Some(grey), Some(around)) if is_dark(grey, around))
    }

    /// Rows of pixels, and whether they are dark.
    pub fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = bool>> {
        let pair = self.grey.rows().zip(self.around.rows());
        pair.map(|(grey, around)| grey.zip(around).map(|(grey, around)| is_dark(grey.0[0], around.0[0])))
    }
}

/// The grey between pixels.
fn between(picture: &GrayImage, at: Point) -> f64 {
    let pixel = imageops::interpolate_bilinear(picture, at.x as f32, at.y as f32);
    pixel.map_or(f64::from(u8::MAX), |pixel| pixel.0[0].into())
}

fn is_dark(grey: u8, around: u8) -> bool {
    f32::from(grey) < f32::from(around) * DARK
}
