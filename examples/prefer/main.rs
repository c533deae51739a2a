//! Short answers are better than long ones: DPO, BCO and KTO teach the embedded model so, from its own answers.
//!
//! `cargo run --release --example prefer`; other objectives by name, `-- simpo ipo`. A story of the model's has four
//! sentences or five. Pairs are made of two stories to one question, the better cut behind its first sentence; a third
//! of the questions is held out. Printed are the loss and the held-out accuracy of the implicit reward over the steps,
//! and how long answers to held-out questions are before and after.

mod course;

use course::{Course, Fallible, Speaker};
use std::time::Instant;

const STEPS: u64 = 40;

fn main() -> Fallible<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names = if names.is_empty() { ["dpo", "bco", "kto"].map(String::from).to_vec() } else { names };
    let start = Instant::now();
    let speaker = Speaker::new(2)?;
    let data = speaker.data()?;
    let (before, says) = speaker.length(None)?;
    println!("{} pairs, {} of them held out", data.train.len() + data.held_out.len(), data.held_out.len());
    println!("before: answers of {before:.1} tokens, such as: {says}\n");
    let runs: Vec<Course> = names.iter().map(|n| speaker.teach(&data, n, STEPS)).collect::<Fallible<_>>()?;

    println!("{:>12} {}", "step", names.iter().map(|n| format!("{n:>18}")).collect::<String>());
    for (i, (step, _)) in runs[0].accuracy.iter().enumerate() {
        print!("{step:>12} ");
        for run in &runs {
            let losses = &run.losses[step.saturating_sub(5) as usize..(*step as usize).max(1)];
            let loss = losses.iter().sum::<f64>() / losses.len() as f64;
            print!("{:>18}", format!("{loss:.3} {:>4.0} %", 100.0 * run.accuracy[i].1));
        }
        println!();
    }
    println!("{:>12} {}", "", "      loss held out".repeat(runs.len()));
    for (name, run) in names.iter().zip(&runs) {
        println!("\n{name:>12}: {before:.1} tokens before, {:.1} after, such as: {}", run.length, run.says);
    }
    println!("\n{:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
