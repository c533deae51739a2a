//! A loss curve in braille dots: a line for the training loss, rings for the held-out loss.

/// Cells of the plot; a cell has 2 × 4 dots.
const WIDTH: usize = 60;
const HEIGHT: usize = 12;

/// Bits of the dots of a cell, by column and row.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// The smoothed curve of `losses`, one a step, with held-out losses after given steps.
pub fn curve(losses: &[f64], held_out: &[(u64, f64)]) -> String {
    let smooth = smoothed(losses);
    let values = || smooth.iter().copied().chain(held_out.iter().map(|p| p.1)).filter(|x| x.is_finite());
    let (low, high) = values().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    if smooth.len() < 2 || low > high {
        return String::new();
    }
    let high = high.max(low + 1e-9);
    let row = |loss: f64, rows: usize| ((high - loss) / (high - low) * (rows - 1) as f64).round() as usize;

    let (dots_x, dots_y) = (WIDTH * 2, HEIGHT * 4);
    let mut cells = vec![[0u32; WIDTH]; HEIGHT];
    let at = |x: usize| smooth[x * (smooth.len() - 1) / (dots_x - 1)];
    let mut before = row(at(0), dots_y);
    for x in 0..dots_x {
        let y = row(at(x), dots_y);
        for y in before.min(y)..=before.max(y) {
            cells[y / 4][x / 2] |= DOTS[x % 2][y % 4];
        }
        before = y;
    }
    let mut grid: Vec<Vec<char>> =
        cells.iter().map(|row| row.iter().map(|c| char::from_u32(0x2800 + c).unwrap_or(' ')).collect()).collect();
    for &(step, loss) in held_out.iter().filter(|p| p.1.is_finite()) {
        let x = (step as usize).min(losses.len()) * (WIDTH - 1) / losses.len();
        grid[row(loss, HEIGHT)][x] = '○';
    }

    let mut out = String::new();
    for (y, line) in grid.iter().enumerate() {
        let label = match y {
            0 => format!("{high:8.3}"),
            _ if y == HEIGHT - 1 => format!("{low:8.3}"),
            _ if y == HEIGHT / 2 => "    loss".into(),
            _ => " ".repeat(8),
        };
        out += &format!("{label} ┤{}\n", line.iter().collect::<String>());
    }
    let end = format!("step {}", losses.len());
    out += &format!("{:9}└{}\n{:10}step 1{end:>width$}\n", "", "─".repeat(WIDTH), "", width = WIDTH - 6);
    out + if held_out.is_empty() { "" } else { "          ○ held-out loss\n" }
}

/// Points of (bytes, part kept), bytes in powers of ten.
pub fn frontier(points: &[(f64, f64)]) -> String {
    let x = |bytes: f64| bytes.max(1.0).log10();
    let bounds = |values: &dyn Fn(&(f64, f64)) -> f64| {
        points.iter().map(values).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)))
    };
    let ((left, right), (low, high)) = (bounds(&|p| x(p.0)), bounds(&|p| p.1.max(0.0)));
    if points.len() < 2 || right <= left {
        return String::new();
    }
    let high = high.max(low + 1e-9);
    let mut grid = vec![vec![' '; WIDTH]; HEIGHT];
    for (bytes, kept) in points {
        let column = ((x(*bytes) - left) / (right - left) * (WIDTH - 1) as f64).round() as usize;
        let row = ((high - kept.max(low)) / (high - low) * (HEIGHT - 1) as f64).round() as usize;
        grid[row.min(HEIGHT - 1)][column.min(WIDTH - 1)] = '●';
    }
    let mut out = String::new();
    for (y, line) in grid.iter().enumerate() {
        let label = match y {
            0 => format!("{:6.1} %", high * 100.0),
            _ if y == HEIGHT - 1 => format!("{:6.1} %", low * 100.0),
            _ if y == HEIGHT / 2 => "    kept".into(),
            _ => " ".repeat(8),
        };
        out += &format!("{label} ┤{}\n", line.iter().collect::<String>());
    }
    let [first, last] = [left, right].map(|v| format!("{:.0} bytes", 10f64.powf(v)));
    let width = WIDTH.saturating_sub(first.chars().count());
    out + &format!("{:9}└{}\n{:10}{first}{last:>width$}\n", "", "─".repeat(WIDTH), "")
}

/// The running mean; its window is about a twentieth of the steps.
fn smoothed(losses: &[f64]) -> Vec<f64> {
    let reach = losses.len() / 40;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (0..losses.len()).map(|i| mean(&losses[i.saturating_sub(reach)..(i + reach + 1).min(losses.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_its_axes_and_falls() {
        let losses: Vec<f64> = (0..200).map(|i| 3.0 / (1.0 + i as f64 / 50.0)).collect();
        let text = curve(&losses, &[(0, 3.0), (200, 0.7)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 3);
        assert!(lines[0].contains("3.000 ┤○") && lines[HEIGHT - 1].ends_with('○'), "{text}");
        assert!(lines[HEIGHT + 1].contains("step 1") && lines[HEIGHT + 1].ends_with("step 200"));
    }

    #[test]
    fn odd_input_makes_no_panic() {
        assert_eq!(curve(&[], &[]), "");
        assert_eq!(curve(&[1.0], &[]), "");
        assert!(!curve(&[1.0, 1.0], &[(9, 1.0)]).is_empty());
        curve(&[f64::NAN, 1.0], &[(0, f64::NAN)]);
    }
}
