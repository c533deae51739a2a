//! Draws `docs/picture.svg`, the picture of the README: `cargo run --release --example picture -- docs/picture.svg`.
//!
//! Cards bring their own background and arrows are grey, so it is readable on light and on dark pages.

use std::fmt::Write;

const WIDTH: u32 = 800;
const HEIGHT: u32 = 236;
/// Size of the first line of a card, and of the others, in pixels.
const LINE: [u32; 2] = [15, 12];

/// A card: its corner and size, colours of paper and edge, whether its first line names a file or a command, its lines.
struct Card {
    at: [u32; 2],
    size: [u32; 2],
    colours: [&'static str; 2],
    code: bool,
    lines: &'static [&'static str],
}

/// What is read, what works, what is made, where it goes.
const YOURS: [&str; 2] = ["#dbeafe", "#3b82f6"];
const WORK: [&str; 2] = ["#fef3c7", "#f59e0b"];
const MADE: [&str; 2] = ["#dcfce7", "#22c55e"];
const PLACES: [&str; 2] = ["#f3e8ff", "#a855f7"];

const CARDS: &[Card] = &[
    Card {
        at: [10, 20],
        size: [178, 84],
        colours: YOURS,
        code: true,
        lines: &["model.gguf", "4-bit weights, 92 MB", "mapped, never changed"],
    },
    Card {
        at: [10, 132],
        size: [178, 84],
        colours: YOURS,
        code: true,
        lines: &["notes.txt", "your own text", "never leaves the device"],
    },
    Card {
        at: [240, 76],
        size: [150, 84],
        colours: WORK,
        code: true,
        lines: &["mynah train", "on the CPU, offline", "minutes, 200 MB"],
    },
    Card {
        at: [442, 76],
        size: [150, 84],
        colours: MADE,
        code: true,
        lines: &["notes.mynah", "the adapter", "55 kB with NOLA"],
    },
    Card { at: [660, 20], size: [130, 56], colours: PLACES, code: false, lines: &["phone", "in an app"] },
    Card { at: [660, 90], size: [130, 56], colours: PLACES, code: false, lines: &["web page", "WebAssembly"] },
    Card { at: [660, 160], size: [130, 56], colours: PLACES, code: false, lines: &["board", "Arm Linux"] },
];

/// From card to card.
const ARROWS: &[[usize; 2]] = &[[0, 2], [1, 2], [2, 3], [3, 4], [3, 5], [3, 6]];

/// What the picture says, for who does not see it.
const TITLE: &str = "model.gguf, mapped and never changed, and notes.txt go into mynah train, which makes notes.mynah, \
                     55 kB with NOLA; that file goes to a phone, a web page or a board.";

/// The picture as a file.
pub fn svg() -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\" text-anchor=\"middle\">\n\
         <title>{TITLE}</title>\n\
         <defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#7d8590\"/></marker></defs>\n"
    );
    for [from, to] in ARROWS.iter().map(|pair| pair.map(|i| &CARDS[i])) {
        let [x, y] = [from.at[0] + from.size[0] + 4, from.at[1] + from.size[1] / 2];
        let [end_x, end_y] = [to.at[0] - 4, to.at[1] + to.size[1] / 2];
        let middle = (x + end_x) / 2;
        let _ = writeln!(
            out,
            "<path d=\"M{x} {y}C{middle} {y} {middle} {end_y} {end_x} {end_y}\" fill=\"none\" stroke=\"#7d8590\" \
             stroke-width=\"2\" marker-end=\"url(#head)\"/>"
        );
    }
    for Card { at: [x, y], size: [width, height], colours: [paper, edge], code, lines } in CARDS {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"{paper}\" \
             stroke=\"{edge}\" stroke-width=\"2\"/>"
        );
        let step = 20;
        let mut base = y + height / 2 + 5 - step * (lines.len() as u32 - 1) / 2;
        for (i, line) in lines.iter().enumerate() {
            let family =
                if *code && i == 0 { " font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\"" } else { "" };
            let weight = if i == 0 { " font-weight=\"bold\"" } else { "" };
            let size = LINE[usize::from(i > 0)];
            let middle = x + width / 2;
            let _ = writeln!(
                out,
                "<text x=\"{middle}\" y=\"{base}\" font-size=\"{size}\" fill=\"#1f2937\"{family}{weight}>{line}</text>"
            );
            base += step;
        }
    }
    out + "</svg>\n"
}

fn main() -> std::io::Result<()> {
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, svg()),
        None => {
            print!("{}", svg());
            Ok(())
        }
    }
}
