//! The modules of a code: where they are in a picture, and what they say.

use super::finder::{Finder, cross};
use super::page::{Page, Point};
use image::{GrayImage, Luma};
use std::prelude::v1::*;

/// Of what a timing pattern says, how much must be right.
const TIMING: f64 = 0.65;
/// Of the contrast of the timing patterns, how much an alignment pattern must have.
const CONTRAST: f64 = 0.4;
/// Contrasts that are this much of the best are as good.
const ALIKE: f64 = 0.97;
/// Modules over which the light around one is a mean.
const NEAR: u32 = 8;

/// Where the modules of a code are.
pub(super) struct Grid {
    /// Modules of a side.
    side: f64,
    map: Map,
}

/// The grid between three finder patterns; none if there are no timing patterns between them.
pub(super) fn locate(page: &Page, [at, right, down]: [Finder; 3]) -> Option<Grid> {
    let (long, g) = modules(page, at, right)?;
    let (tall, h) = modules(page, at, down)?;
    let near = (((long + tall) / 2.0 + 7.0 - 17.0) / 4.0).round();
    // Modules that look larger in one corner than in another may be nearer, or be measured badly.
    let origin = 1.0 - 3.5 * (g + h);
    let depths = [[0.0; 2], [g / origin, h / origin]];
    let mut best: Option<(Timing, f64, Marks)> = None;
    for version in [-2.0, -1.0, 0.0, 1.0, 2.0].map(|by| near + by).into_iter().filter(|v| (1.0..=40.0).contains(v)) {
        let far = side(version) - 3.5;
        let corners = [(3.5, 3.5, at), (far, 3.5, right), (3.5, far, down)];
        let corners = corners.map(|(u, v, finder)| Mark { u, v, at: finder.centre });
        for depth in depths {
            let marks = Marks { depth, corners, others: Vec::new() };
            let timing = timing(page, &marks.map()?, side(version));
            let better = |best: &Timing| (timing.right, timing.contrast) > (best.right, best.contrast);
            if best.as_ref().is_none_or(|(best, ..)| better(best)) {
                best = Some((timing, version, marks));
            }
        }
    }
    let (timing, version, marks) = best.filter(|(timing, ..)| timing.right >= TIMING)?;
    Some(Grid { side: side(version), map: aligned(page, version, marks, timing.contrast * CONTRAST)? })
}

/// Modules of a side.
fn side(version: f64) -> f64 {
    17.0 + 4.0 * version
}

/// Modules from the centre of a finder pattern to that of another, and how much deeper each is than the one before it, as the
/// sizes of modules at both ends say: a line `x = m u / (1 + g u)` begins with modules of `m` and ends with `m / (1 + g u)²`.
fn modules(page: &Page, from: Finder, to: Finder) -> Option<(f64, f64)> {
    let way = to.centre.from(from.centre);
    let unit = Point::default().moved(way, 1.0 / way.length());
    let (_, first) = cross(page, from.centre, unit, from.reach())?;
    let (_, second) = cross(page, to.centre, unit, to.reach())?;
    let modules = way.length() / (first * second).sqrt();
    Some((modules, ((first / second).sqrt() - 1.0) / modules))
}

/// How well the patterns of alternating modules are seen.
struct Timing {
    /// The share that is as it should be.
    right: f64,
    /// How much lighter light modules are than dark ones.
    contrast: f64,
}

fn timing(page: &Page, map: &Map, side: f64) -> Timing {
    let (mut right, mut all, mut contrast) = (0.0, 0.0, 0.0);
    let mut i = 8.0;
    while i < side - 8.0 {
        let dark = i % 2.0 == 0.0;
        for (u, v) in [(i + 0.5, 6.5), (6.5, i + 0.5)] {
            let light = page.light(map.at(u, v));
            right += f64::from(u8::from((light < 0.0) == dark));
            all += 1.0;
            contrast += if dark { -light } else { light };
        }
        i += 1.0;
    }
    Timing { right: right / all, contrast: contrast / (all / 2.0) }
}

/// A place that is known in modules and in pixels.
#[derive(Clone, Copy)]
struct Mark {
    u: f64,
    v: f64,
    at: Point,
}

/// What is known of a grid.
struct Marks {
    /// How fast depth grows with u and v, as the finder patterns say.
    depth: [f64; 2],
    /// The finder patterns.
    corners: [Mark; 3],
    /// Alignment patterns.
    others: Vec<Mark>,
}

/// The map that also meets the alignment patterns with at least some contrast, each looked for where those before it say.
fn aligned(page: &Page, version: f64, mut marks: Marks, contrast: f64) -> Option<Map> {
    let lines = alignment(version);
    let last = side(version) - 6.5;
    let mut centres: Vec<[f64; 2]> = lines.iter().flat_map(|v| lines.iter().map(|u| [*u, *v])).collect();
    centres.retain(|[u, v]| ![[6.5, 6.5], [last, 6.5], [6.5, last]].contains(&[*u, *v]));
    // Those first that lie near the finder patterns.
    centres.sort_by(|a, b| (a[0] + a[1]).total_cmp(&(b[0] + b[1])));
    let mut map = marks.map()?;
    for [u, v] in centres {
        let (coarse, _) = best(page, &map, [u, v], 0.5);
        let (fine, seen) = best(page, &map, coarse, 0.125);
        if seen >= contrast {
            marks.others.push(Mark { u, v, at: map.at(fine[0], fine[1]) });
            map = marks.map()?;
        }
    }
    Some(map)
}

/// Centres of the alignment patterns along a side.
fn alignment(version: f64) -> Vec<f64> {
    if version < 2.0 {
        return Vec::new();
    }
    let lines = (version / 7.0).floor() + 2.0;
    let step = match version {
        32.0 => 26.0,
        _ => ((version * 4.0 + lines * 2.0 + 1.0) / (lines * 2.0 - 2.0)).floor() * 2.0,
    };
    let mut all = vec![6.5];
    let mut at = side(version) - 6.5;
    while all.len() < lines as usize {
        all.push(at);
        at -= step;
    }
    all
}

/// The place near a centre, up to five steps away, that looks most like an alignment pattern, and its contrast. Where modules
/// are large many places look the same: it is the middle of these.
fn best(page: &Page, map: &Map, [u, v]: [f64; 2], step: f64) -> ([f64; 2], f64) {
    let steps = || (-5..=5).map(|i| f64::from(i) * step);
    let places = steps().flat_map(|dv| steps().map(move |du| [u + du, v + dv]));
    let seen: Vec<_> = places.map(|[u, v]| ([u, v], pattern(page, map, u, v))).collect();
    let most = seen.iter().map(|(_, seen)| *seen).fold(f64::MIN, f64::max);
    let like = || seen.iter().filter(|(_, seen)| *seen >= most * ALIKE).map(|(place, _)| place);
    let mean = |of: fn(&[f64; 2]) -> f64| like().map(of).sum::<f64>() / like().count() as f64;
    ([mean(|place| place[0]), mean(|place| place[1])], most)
}

/// The mean of the light ring less that of the dark modules of an alignment pattern.
fn pattern(page: &Page, map: &Map, u: f64, v: f64) -> f64 {
    let mut sum = 0.0;
    for (i, j) in (-2..=2).flat_map(|j: i32| (-2..=2).map(move |i: i32| (i, j))) {
        let light = page.light(map.at(u + f64::from(i), v + f64::from(j)));
        sum += if i.abs().max(j.abs()) == 1 { light / 8.0 } else { -light / 17.0 };
    }
    sum
}

impl Grid {
    /// The bytes that the modules say; none if too many of them are wrong.
    pub fn read(&self, page: &Page) -> Option<Vec<u8>> {
        let side = self.side as u32;
        // The light around a module is that of other modules: what is around the code has no part in it.
        let modules = GrayImage::from_fn(side, side, |x, y| Luma([self.module(page, f64::from(x), f64::from(y))]));
        let modules = Page::new(modules, side.div_ceil(NEAR));
        let dark = |x: usize, y: usize| modules.dark(Point { x: x as f64, y: y as f64 });
        let grid = rqrr::Grid::new(rqrr::SimpleGrid::from_func(side as usize, dark));
        let mut bytes = Vec::new();
        grid.decode_to(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The grey of a module: a mean over its middle.
    fn module(&self, page: &Page, x: f64, y: f64) -> u8 {
        const AT: [[f64; 2]; 5] = [[0.5, 0.5], [0.3, 0.5], [0.7, 0.5], [0.5, 0.3], [0.5, 0.7]];
        let grey: f64 = AT.iter().map(|[dx, dy]| page.grey(self.map.at(x + dx, y + dy))).sum();
        (grey / AT.len() as f64) as u8
    }
}

/// From modules to pixels, as a plane is seen: `x = (a u + b v + c) / (g u + h v + 1)`, `y = (d u + e v + f) / (g u + h v + 1)`.
struct Map([f64; 8]);

impl Map {
    fn at(&self, u: f64, v: f64) -> Point {
        let [a, b, c, d, e, f, g, h] = self.0;
        let depth = g * u + h * v + 1.0;
        Point { x: (a * u + b * v + c) / depth, y: (d * u + e * v + f) / depth }
    }
}

impl Marks {
    /// The map with the least squares at the marks. Alignment patterns between the finder patterns say too little of depth: it
    /// stays what these say until one lies beyond them.
    fn map(&self) -> Option<Map> {
        let between = self.corners.iter().map(|mark| mark.u + mark.v).fold(0.0, f64::max);
        let known = !self.others.iter().any(|mark| mark.u + mark.v > between + 1.0);
        let mut sums = [[0.0; 9]; 8];
        for Mark { u, v, at } in self.corners.iter().chain(&self.others) {
            let depth = if known { 1.0 + self.depth[0] * u + self.depth[1] * v } else { 1.0 };
            let free = if known { 0.0 } else { -1.0 };
            let rows = [
                [*u, *v, 1.0, 0.0, 0.0, 0.0, free * u * at.x, free * v * at.x, depth * at.x],
                [0.0, 0.0, 0.0, *u, *v, 1.0, free * u * at.y, free * v * at.y, depth * at.y],
            ];
            for row in rows {
                for (sum, left) in sums.iter_mut().zip(row) {
                    sum.iter_mut().zip(row).for_each(|(sum, right)| *sum += left * right);
                }
            }
        }
        if known {
            // Nothing else is said of the last two.
            sums[6] = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, self.depth[0]];
            sums[7] = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, self.depth[1]];
        }
        solved(sums).map(Map)
    }
}

/// The solution of eight linear equations: coefficients, and what they make.
fn solved(mut rows: [[f64; 9]; 8]) -> Option<[f64; 8]> {
    for column in 0..rows.len() {
        let at = |row: &[f64; 9]| row.get(column).copied().unwrap_or_default();
        let (pivot, _) = rows.iter().enumerate().skip(column).max_by(|a, b| at(a.1).abs().total_cmp(&at(b.1).abs()))?;
        rows.swap(column, pivot);
        let pivot = *rows.get(column)?;
        if !at(&pivot).is_normal() {
            return None;
        }
        for (i, row) in rows.iter_mut().enumerate() {
            let by = if i == column { 1.0 - 1.0 / at(&pivot) } else { at(row) / at(&pivot) };
            row.iter_mut().zip(pivot).for_each(|(x, pivot)| *x -= by * pivot);
        }
    }
    let values = rows.map(|row| row[8]);
    values.iter().all(|x| x.is_finite()).then_some(values)
}
