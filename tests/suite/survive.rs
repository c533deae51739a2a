//! `mynah train` as a process: killed, interrupted and paused at any moment it ends with the bytes of an undisturbed
//! run, and nothing it had saved is lost. `MYNAH_KILLS=500` kills so often, and `MYNAH_SEED` at other moments.

use crate::tiny::Rng;
use mynah::bytes::Limits;
use mynah::train::folder::Folder;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with the embedded model and its notes.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("base.gguf"), mynah::base::MODEL).unwrap();
        fs::write(dir.path().join("notes.txt"), mynah::base::NOTES).unwrap();
        Place(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command.args(line.split(' ')).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What it says; it must end so.
    pub fn says(&self, line: &str, status: i32) -> String {
        let out = self.run(line);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{line}: {text}");
        text
    }

    pub fn json(&self, line: &str) -> Value {
        let out = self.run(&format!("{line} --json"));
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub fn start(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Steps of which a folder holds a checkpoint, the newest last.
    pub fn saved(&self, folder: &str) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let step = |name: String| name.strip_prefix("checkpoint-")?.strip_suffix(".mynah")?.parse().ok();
        let mut steps: Vec<u64> = names.filter_map(step).collect();
        steps.sort_unstable();
        steps
    }

    fn wait_for_checkpoint(&self, folder: &str) {
        let start = Instant::now();
        while self.saved(folder).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint in {folder}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

const TRAIN: &str = "train -m base.gguf -d notes.txt --ctx 64 --batch 2 --force";
/// A run with a bit of everything, and one that saves at every step.
const RUNS: [&str; 2] = [
    "--method nola --basis 8 --eval-fraction 0.1 --eval-every 4 --patience 9 --steps 30 --save-every 3",
    "--rank 2 --steps 24 --save-every 1 --warmup 3",
];

/// More runs that save: preferences with a reference, all weights, and an adapter in the place of the one that it began from.
const MORE: [&str; 3] = [
    "-d pairs.jsonl --objective dpo --rank 2 --steps 12 --save-every 2",
    "-d notes.txt --method full --steps 6 --save-every 2",
    "-d notes.txt --init IN --steps 12 --save-every 2",
];

/// An environment variable's number.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |n| n.parse().unwrap())
}

/// Leaves a process alone for that long, then kills it. Its exit status, `None` if it was killed.
fn kill_after(mut child: Child, wait: Duration, line: &str) -> Option<i32> {
    let (begun, mut status) = (Instant::now(), None);
    while begun.elapsed() < wait && status.is_none() {
        std::thread::sleep(Duration::from_millis(1));
        status = child.try_wait().unwrap();
    }
    if status.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let ends = [Some(0), None].contains(&output.status.code());
    assert!(ends, "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output.status.code()
}

#[test]
fn a_killed_process_goes_on_and_ends_with_the_same_bytes() {
    let (kills, seed) = (number("MYNAH_KILLS", 16), number("MYNAH_SEED", 26));
    eprintln!("seed {seed}");
    let place = Place::new();
    let pairs = ["Tea?", "Rain?", "The lamp?", "A gull?"];
    let pair =
        |p: &&str| format!("{{\"prompt\": \"{p}\", \"chosen\": \" Yes, at once.\", \"rejected\": \" No soup.\"}}\n");
    fs::write(place.path("pairs.jsonl"), pairs.iter().map(pair).collect::<String>()).unwrap();
    place.says(&format!("{TRAIN} -o in --rank 2 --steps 2"), 0);
    let common = "train -m base.gguf --ctx 64 --batch 2 --force";
    let runs_of =
        RUNS.iter().map(|run| format!("{TRAIN} {run}")).chain(MORE.iter().map(|run| format!("{common} {run}")));
    let all: Vec<String> = runs_of.collect();
    let mut random = Rng(seed);
    let (mut killed, mut runs, mut resumed, mut first) = (0, 0, 0, 0);
    let whole: Vec<Duration> = (0..)
        .zip(&all)
        .map(|(i, line)| {
            let start = Instant::now();
            place.says(&format!("{} -o whole-{i} --log whole-{i}.log", line.replace("IN", "in")), 0);
            start.elapsed()
        })
        .collect();
    while killed < kills || runs < all.len() {
        let i = runs % all.len();
        fs::copy(place.path("in"), place.path("out")).unwrap();
        let start = format!("{} -o out --log log --checkpoints saved", all[i].replace("IN", "out"));
        let mut newest = 0;
        loop {
            let held = place.saved("saved");
            assert!(held.last().is_none_or(|last| *last >= newest), "a checkpoint was lost: {held:?} after {newest}");
            newest = held.last().copied().unwrap_or(newest);
            let line = if held.is_empty() { start.as_str() } else { "train --resume saved" };
            // Mostly within the run, and now and then after its end.
            let wait = whole[i].mul_f64(1.2 * (random.below(1000) as f64 / 1000.0));
            if kill_after(place.start(line), wait, line).is_some() {
                break;
            }
            killed += 1;
            if held.is_empty() { first += 1 } else { resumed += 1 }
        }
        assert!(place.read("out") == place.read(&format!("whole-{i}")), "adapter of run {runs}");
        assert!(place.read("log") == place.read(&format!("whole-{i}.log")), "log of run {runs}");
        let left: Vec<String> =
            fs::read_dir(place.path(".")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.contains(".tmp-")), "left behind: {left:?}");
        for name in ["out", "log"] {
            fs::remove_file(place.path(name)).unwrap();
        }
        fs::remove_dir_all(place.path("saved")).unwrap();
        runs += 1;
    }
    eprintln!("{killed} kills in {runs} runs: {first} before the first checkpoint, {resumed} after one");
    assert!(resumed > 0);
}

#[test]
fn threads_change_no_byte_of_adapter_and_log() {
    let place = Place::new();
    for (i, options) in RUNS.iter().enumerate() {
        for threads in [1, 2, 4] {
            let out = format!("{i}-{threads}");
            place.says(&format!("{TRAIN} {options} --threads {threads} -o {out} --log {out}.log"), 0);
            assert!(place.read(&out) == place.read(&format!("{i}-1")), "{threads} threads: {options}");
            assert!(place.read(&format!("{out}.log")) == place.read(&format!("{i}-1.log")), "{threads}: {options}");
        }
        // A run may change its threads on the way.
        place.says(&format!("{TRAIN} {options} --threads 1 -o o --log o.log --max-steps 7"), 0);
        place.says("train --resume o.checkpoints --threads 4", 0);
        assert!(
            place.read("o") == place.read(&format!("{i}-1"))
                && place.read("o.log") == place.read(&format!("{i}-1.log"))
        );
    }
}

#[test]
fn pauses_damage_and_repeated_options_change_nothing() {
    let place = Place::new();
    let options = RUNS[0];
    place.says(&format!("{TRAIN} {options} -o whole --log whole.log"), 0);
    assert!(!place.path("whole.checkpoints").exists());

    let start = format!("{TRAIN} {options} -o out --log log");
    let text = place.says(&format!("{start} --max-steps 5"), 0);
    assert!(text.contains("paused after step 5 of 30; continue with: mynah train --resume out.checkpoints"), "{text}");
    assert_eq!(place.saved("out.checkpoints"), [3, 5]);
    // What is there is not trampled on.
    let text = place.says(&start, 2);
    assert!(text.contains("mynah train --resume out.checkpoints"), "{text}");
    // Only whole ones count: a process that was killed in its first save left no run behind.
    fs::create_dir(place.path("fresh.checkpoints")).unwrap();
    fs::write(place.path("fresh.checkpoints/checkpoint-3.mynah.tmp-1-0123abcd"), "half").unwrap();
    place.says(&format!("{TRAIN} {options} -o fresh"), 0);
    assert!(place.read("fresh") == place.read("whole") && !place.path("fresh.checkpoints").exists());
    // Everything given again, and a log that somebody wrote into.
    fs::write(place.path("log"), "scribble").unwrap();
    let got = place.json(&format!("{start} --resume out.checkpoints --max-steps 8"));
    assert_eq!((&got["ended"], &got["steps"]), (&"paused".into(), &13.into()));
    // The newest is damaged: the one before is taken.
    assert_eq!(place.saved("out.checkpoints"), [12, 13]);
    let newest = place.path("out.checkpoints/checkpoint-13.mynah");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, &bytes).unwrap();
    let text = place.says("train --resume out.checkpoints --max-steps 1", 0);
    assert!(text.contains("skipped: ") && text.contains("checkpoint-13.mynah: damaged file"), "{text}");
    assert!(text.contains("continues after step 12") && text.contains("paused after step 13"), "{text}");
    fs::write(place.path("out.checkpoints/checkpoint-14.mynah"), &bytes[..middle]).unwrap();
    let text = place.says("train --resume out.checkpoints --max-minutes 0", 0);
    assert!(text.contains("incomplete") && text.contains("paused after step 13"), "{text}");
    fs::remove_file(place.path("log")).unwrap();
    place.says("train --resume out.checkpoints", 0);
    assert!(place.read("out") == place.read("whole") && place.read("log") == place.read("whole.log"));
    assert!(!place.path("out.checkpoints").exists(), "the run has ended");
    assert!(place.says("train --resume out.checkpoints", 2).contains("no such folder"));
    fs::create_dir(place.path("out.checkpoints")).unwrap();
    assert!(place.says("train --resume out.checkpoints", 2).contains("holds no checkpoint"));

    // A folder that was asked for stays, and a run that has ended ends again.
    place.says(&format!("{start} --checkpoints saved"), 0);
    assert_eq!(place.saved("saved").last(), Some(&30));
    fs::remove_file(place.path("out")).unwrap();
    place.says("train --resume saved", 0);
    assert!(place.read("out") == place.read("whole"));
    for step in place.saved("saved") {
        fs::write(place.path(&format!("saved/checkpoint-{step}.mynah")), "x").unwrap();
    }
    assert!(place.says("train --resume saved", 1).contains("checkpoints can be read"));
}

#[test]
fn a_result_that_cannot_be_written_is_in_a_checkpoint() {
    let place = Place::new();
    let line = format!("{TRAIN} --steps 60 --save-every 5");
    place.says(&format!("{line} -o whole"), 0);
    let child = place.start(&format!("{line} -o out"));
    place.wait_for_checkpoint("out.checkpoints");
    fs::create_dir(place.path("out")).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("a directory") && text.contains("mynah train --resume out.checkpoints -o FILE"), "{text}");
    assert_eq!(place.saved("out.checkpoints"), [55, 60]);
    place.says("train --resume out.checkpoints -o elsewhere", 0);
    assert!(place.read("elsewhere") == place.read("whole"));
}

#[test]
fn another_run_is_refused_with_all_differences() {
    let place = Place::new();
    place.says(&format!("{TRAIN} -o out --steps 6 --max-steps 3"), 0);
    let before = fs::read(place.path("out.checkpoints/checkpoint-3.mynah")).unwrap();
    fs::write(place.path("other.txt"), "Something else entirely, and more than once. ".repeat(9)).unwrap();
    let text = place.says("train --resume out.checkpoints -d other.txt --lr 0.1 --epochs 9 --rank 3", 1);
    for word in [
        "this is not the run that was saved:\n",
        "\n  learning rate was 0.0005, now 0.1\n",
        "\n  rank was 8, now 3\n",
        "\n  data was ",
        "\n  steps was 6, now ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(fs::read(place.path("out.checkpoints/checkpoint-3.mynah")).unwrap() == before);
    // What does not decide the result may change: where things go, and how often they are saved.
    fs::rename(place.path("base.gguf"), place.path("moved.gguf")).unwrap();
    let text = place.says("train --resume out.checkpoints", 1);
    assert!(text.contains("base.gguf"), "{text}");
    place.says("train --resume out.checkpoints -m moved.gguf -o elsewhere --save-every 2 --log log", 0);
    assert_eq!(fs::read_to_string(place.path("log")).unwrap().lines().count(), 6);
    assert!(place.path("elsewhere").exists());
    assert!(
        place.says("train --resume out.checkpoints --checkpoints other -m moved.gguf", 2).contains("--checkpoints")
    );
}

#[test]
fn a_run_that_began_from_an_adapter_goes_on_without_it() {
    let place = Place::new();
    place.says(&format!("{TRAIN} -o first --steps 3"), 0);
    let first = place.read("first");
    place.says(&format!("{TRAIN} -o whole --init first --steps 6"), 0);
    // The output takes the place of what it began from.
    place.says(&format!("{TRAIN} -o first --init first --steps 6 --max-steps 2"), 0);
    assert!(place.read("first") != first);
    place.says("train --resume first.checkpoints --max-steps 1", 0);
    fs::remove_file(place.path("first")).unwrap();
    place.says("train --resume first.checkpoints --max-steps 1", 0);
    let text = place.says("train --resume first.checkpoints --init whole", 1);
    assert!(text.contains("adapter at the start was "), "{text}");
    place.says("train --resume first.checkpoints --init first", 0);
    assert!(place.read("first") == place.read("whole"));
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let place = Place::new();
    let options = "--method full --steps 200 --save-every 20";
    place.says(&format!("{TRAIN} {options} -o whole --log whole.log"), 0);
    let child = place.start(&format!("{TRAIN} {options} -o out --log log --checkpoints kept"));
    place.wait_for_checkpoint("kept");
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{text}");
    let (_, how) = text.split_once("continue with: mynah ").unwrap();
    assert!(place.path("out").exists(), "what was learnt so far is there");
    place.says(how.lines().next().unwrap(), 0);
    assert!(place.read("out") == place.read("whole") && place.read("log") == place.read("whole.log"));
}

#[cfg(unix)]
#[test]
fn a_second_interrupt_ends_at_once_and_leaves_the_last_checkpoint() {
    let place = Place::new();
    let line = format!("{TRAIN} --accumulate 400 --steps 50 -o out --checkpoints saved --save-every 1");
    let child = place.start(&line);
    place.wait_for_checkpoint("saved");
    let start = Instant::now();
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(100));
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{text}");
    assert!(text.contains("continue with: mynah train --resume saved"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let folder = Folder::open(Path::new(&place.path("saved"))).unwrap();
    let newest = folder.newest(&Limits::default(), |e| panic!("{e}")).unwrap().unwrap();
    assert!(newest.step() >= 1 && newest.step() < 50);
}

#[test]
fn training_ends_early_with_the_best() {
    let place = Place::new();
    let line = format!("{TRAIN} --eval-fraction 0.2 --eval-every 2 --schedule constant --lr 0.05");
    let got = place.json(&format!("{line} --steps 60 --patience 2 -o early --checkpoints saved"));
    assert_eq!(got["ended"], "early");
    let (best, steps) = (got["best_step"].as_u64().unwrap(), got["steps"].as_u64().unwrap());
    assert_eq!(steps, best + 4, "two looks after the best");
    assert!(place.saved("saved").contains(&best) && place.saved("saved").contains(&steps));
    // A checkpoint does for the adapter in it.
    let kept = format!("saved/checkpoint-{best}.mynah");
    assert_eq!(place.json(&format!("inspect {kept}"))["kind"], "lora");
    let loss =
        |adapter: &str| place.json(&format!("eval -m base.gguf -d notes.txt --ctx 64 -a {adapter}"))["loss"].clone();
    assert!((loss(&kept).as_f64().unwrap() - loss("early").as_f64().unwrap()).abs() < 1e-3, "halves apart");
    // It is the adapter of that step, as a run that pauses there has it.
    place.says(&format!("{line} --steps 60 --patience 2 -o paused --max-steps {best}"), 0);
    assert!(place.read("early") == place.read("paused"));
    assert_eq!(place.json("inspect early")["provenance"]["steps"], best);
    assert!(place.says(&format!("{TRAIN} --held-out 0 --patience 2 -o x"), 2).contains("--held-out"));
}

#[test]
fn steps_that_are_not_finite_are_discarded_and_named() {
    let place = Place::new();
    let line = format!("{TRAIN} --method full --lr 1000 --clip 0 --schedule constant --steps 50 -o out");
    let text = place.says(&line, 1);
    assert!(text.contains("the step was discarded (lines "), "{text}");
    assert!(text.contains("3 steps in a row were discarded"), "{text}");
    // Rows of a file of lines are named by these; an empty one counts too.
    let rows = (0..6).map(|i| format!("{{\"text\": \"The {i} birds sing.\"}}\n")).collect::<String>();
    fs::write(place.path("rows.jsonl"), format!("\n{rows}")).unwrap();
    let line = line.replace("notes.txt", "rows.jsonl").replace("--batch 2", "--batch 6 --order given");
    let text = place.says(&line.replace("-o out", "-o other"), 1);
    assert!(text.contains("the step was discarded (lines 2, 3, 4, 5, 6, 7)"), "{text}");
}
