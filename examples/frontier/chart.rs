//! Sizes of files and shares of what can be learnt, as a picture.

use std::fmt::Write;

/// A point: the size of a file, and a share for each task.
pub struct Point {
    pub name: String,
    pub bytes: f64,
    pub shares: Vec<f64>,
}

/// Bounds of the picture: of the bytes' logarithm to the base of ten, and of shares.
pub struct Axes {
    pub bytes: [f64; 2],
    pub shares: [f64; 2],
}

impl Default for Axes {
    fn default() -> Axes {
        Axes { bytes: [2.8, 7.0], shares: [0.4, 1.1] }
    }
}

const SIZE: [f64; 2] = [720.0, 400.0];
const EDGE: f64 = 56.0;
const COLOURS: [&str; 3] = ["#2563eb", "#d97706", "#16a34a"];

/// Bytes in powers of ten to the right, shares upwards, a colour a task.
pub fn svg(points: &[Point], tasks: &[&str], axes: &Axes) -> String {
    let [[left, right], [low, high]] = [axes.bytes, axes.shares];
    let x = |bytes: f64| EDGE + (bytes.log10() - left) / (right - left) * (SIZE[0] - 2.0 * EDGE);
    let y = |share: f64| SIZE[1] - EDGE - (share.clamp(low, high) - low) / (high - low) * (SIZE[1] - 2.0 * EDGE);
    let [w, h] = SIZE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    _ = writeln!(out, "<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>");
    for percent in ((low * 100.0).round() as u32..=(high * 100.0).round() as u32).step_by(10) {
        let at = y(f64::from(percent) / 100.0);
        _ = writeln!(out, "<line x1=\"{EDGE}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e5e7eb\"/>", w - EDGE);
        let (x, y) = (EDGE - 6.0, at + 4.0);
        _ = writeln!(out, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{percent} %</text>");
    }
    for (bytes, name) in [(1e3, "1 kB"), (1e4, "10 kB"), (1e5, "100 kB"), (1e6, "1 MB"), (1e7, "10 MB")] {
        _ = writeln!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", x(bytes), h - EDGE + 18.0);
    }
    for (i, task) in tasks.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        _ = writeln!(out, "<text x=\"{}\" y=\"24\" fill=\"{colour}\">● {task}</text>", EDGE + 90.0 * i as f64);
        for point in points {
            let (cx, cy) = (x(point.bytes), y(point.shares[i]));
            let name = &point.name;
            _ = writeln!(
                out,
                "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\" fill=\"{colour}\"><title>{name}</title></circle>"
            );
        }
    }
    out + "</svg>\n"
}
