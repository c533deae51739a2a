//! The patterns in three corners of a code: a dark square in a light ring in a dark ring.

use super::page::{Page, Point};
use std::prelude::v1::*;

/// Widths of what a line through the pattern crosses, in modules: dark, light, dark, light, dark.
const WIDTHS: [f64; 5] = [1.0, 1.0, 3.0, 1.0, 1.0];
/// Modules of its side.
const MODULES: f64 = 7.0;
/// Modules from the centre after which it has certainly ended.
const REACH: f64 = 8.0;
/// Most patterns that are remembered while a picture is searched, and that are used: those that most rows showed. A code has
/// three, and what looks like one by chance is seen in few rows.
const REMEMBERED: usize = 512;
const USED: usize = 48;

/// A finder pattern.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finder {
    /// The centre.
    pub centre: Point,
    /// Pixels of a module, along a row of the picture.
    module: f64,
    /// Rows that showed it.
    rows: f64,
}

impl Finder {
    /// Pixels from the centre after which it has certainly ended.
    pub fn reach(&self) -> f64 {
        REACH * self.module
    }
}

/// The patterns of a picture.
pub(super) fn finders(page: &Page) -> Vec<Finder> {
    let mut found: Vec<Finder> = Vec::new();
    for (y, row) in page.rows().enumerate() {
        let (mut runs, mut last) = ([0.0; 5], false);
        // A light pixel after the last ends what is dark there.
        for (x, dark) in row.chain([false]).enumerate() {
            if dark == last {
                runs[4] += 1.0;
                continue;
            }
            if last && let Some(module) = module(&runs) {
                // The middle of the run before the two last, whose pixels end before this one.
                let x = x as f64 - 0.5 - runs[4] - runs[3] - runs[2] / 2.0;
                found = with(found, checked(page, Point { x, y: y as f64 }, REACH * module));
            }
            runs.rotate_left(1);
            runs[4] = 1.0;
            last = dark;
        }
    }
    found.sort_by(|a, b| b.rows.total_cmp(&a.rows));
    found.truncate(USED);
    found
}

/// The size of a module, if runs of pixels have the widths of the pattern.
fn module(runs: &[f64; 5]) -> Option<f64> {
    let module = runs.iter().sum::<f64>() / MODULES;
    let fits = |(run, width): (&f64, f64)| (run - width * module).abs() < 0.5 * width * module;
    (module >= 1.0 && runs.iter().zip(WIDTHS).all(fits)).then_some(module)
}

/// The pattern whose centre is near a place.
fn checked(page: &Page, near: Point, reach: f64) -> Option<Finder> {
    let (down, across) = (Point { x: 0.0, y: 1.0 }, Point { x: 1.0, y: 0.0 });
    let (centre, tall) = cross(page, near, down, reach)?;
    let (centre, module) = cross(page, centre, across, reach)?;
    let (centre, _) = cross(page, centre, down, reach)?;
    (tall / module < 2.0 && module / tall < 2.0).then_some(Finder { centre, module, rows: 1.0 })
}

/// With one more: the mean of its place where it was known.
fn with(mut found: Vec<Finder>, new: Option<Finder>) -> Vec<Finder> {
    let Some(new) = new else { return found };
    let near = |old: &&mut Finder| new.centre.from(old.centre).length() < 2.0 * old.module;
    let full = found.len() >= REMEMBERED;
    match found.iter_mut().find(near) {
        Some(old) => {
            old.rows += 1.0;
            old.centre = old.centre.moved(new.centre.from(old.centre), 1.0 / old.rows);
            old.module += (new.module - old.module) / old.rows;
        }
        None if full => {}
        None => found.push(new),
    }
    found
}

/// Walks through a pattern along `way`, of length 1, for at most `reach` pixels each way: the middle of what is crossed, and the
/// size of a module that way.
pub(super) fn cross(page: &Page, from: Point, way: Point, reach: f64) -> Option<(Point, f64)> {
    let (ahead, behind) = (arm(page, from, way, reach)?, arm(page, from, way, -reach)?);
    let runs =
        [behind[2] - behind[1], behind[1] - behind[0], behind[0] + ahead[0], ahead[1] - ahead[0], ahead[2] - ahead[1]];
    Some((from.moved(way, (ahead[2] - behind[2]) / 2.0), module(&runs)?))
}

/// How far it is to the end of the dark square, of the light ring and of the dark ring; back if `reach` is negative.
fn arm(page: &Page, from: Point, way: Point, reach: f64) -> Option<[f64; 3]> {
    /// Pixels of a step.
    const STEP: f64 = 0.25;
    let (mut ends, mut gone) = ([0.0; 3], 0.0);
    for (end, dark) in ends.iter_mut().zip([true, false, true]) {
        while page.dark(from.moved(way, gone * reach.signum())) == dark {
            gone += STEP;
            if gone > reach.abs() {
                return None;
            }
        }
        *end = gone - STEP / 2.0;
    }
    Some(ends)
}

/// Triples of patterns that may be the corners of a code: top left, top right, bottom left. Those first that look most like it.
pub(super) fn corners(finders: &[Finder]) -> Vec<[usize; 3]> {
    let mut found: Vec<(f64, [usize; 3])> = Vec::new();
    for (a, at) in finders.iter().enumerate() {
        for (b, right) in finders.iter().enumerate().filter(|(b, _)| *b != a) {
            for (c, down) in finders.iter().enumerate().filter(|(c, _)| *c != a && *c != b) {
                found.extend(skew([at, right, down]).map(|skew| (skew, [a, b, c])));
            }
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.into_iter().map(|(_, triple)| triple).collect()
}

/// How far three patterns are from a right angle with equal sides and modules; none if they are no code's, or mirrored.
fn skew([at, right, down]: [&Finder; 3]) -> Option<f64> {
    let (p, q) = (right.centre.from(at.centre), down.centre.from(at.centre));
    let (long, tall) = (p.length(), q.length());
    let turn = (p.x * q.y - p.y * q.x) / (long * tall);
    let angle = ((p.x * q.x + p.y * q.y) / (long * tall)).abs();
    let (sides, modules) = ((long / tall).ln().abs(), [right, down].map(|other| (other.module / at.module).ln().abs()));
    let skew = angle + sides + modules[0] + modules[1];
    (turn > 0.5 && angle < 0.5 && sides < 0.5 && modules.iter().all(|m| *m < 0.7)).then_some(skew)
}
