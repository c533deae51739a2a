//! `mynah train --objective`: every row of the table from the command line, the data it takes, and going on.

use crate::survive::Place;
use crate::tiny::Rng;
use mynah::bytes::Limits;
use mynah::container::Container;
use mynah::train::objective::{OBJECTIVES, Shape};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const TRAIN: &str = "train -m base.gguf --rank 2 --ctx 64 --batch 4 --lr 2e-3 --force";

fn prompt(i: usize) -> String {
    format!("{} on day {i}.", ["Rain at Gull Rock", "A parrot", "Soup with carrots", "A ship"][i % 4])
}

fn pairs(n: usize) -> String {
    let row = |i| json!({ "prompt": prompt(i), "chosen": " Tea.", "rejected": " Tea and soup, and a kipper for the parrot." });
    (0..n).map(|i| row(i).to_string() + "\n").collect()
}

fn verdicts(n: usize) -> String {
    let row = |i: usize| {
        let liked = i % 3 != 1;
        json!({ "prompt": prompt(i), "completion": if liked { " Tea." } else { " Soup, and then a walk." }, "label": liked })
    };
    (0..n).map(|i| row(i).to_string() + "\n").collect()
}

/// Queries with what they should find, and what they should not.
fn queries(n: usize) -> String {
    let row = |i: usize| {
        let positive = format!("{} was here.", ["The parrot", "A storm", "Old Finn"][i % 3]);
        match i % 2 {
            0 => json!({ "query": prompt(i), "positive": positive, "negative": ["Soup.", "A walk."] }),
            _ => json!({ "query": prompt(i), "positive": positive, "negative": "A walk." }),
        }
    };
    (0..n).map(|i| row(i).to_string() + "\n").collect()
}

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("pairs.jsonl"), pairs(12)).unwrap();
    fs::write(place.path("thumbs.jsonl"), verdicts(12)).unwrap();
    fs::write(place.path("queries.jsonl"), queries(12)).unwrap();
    place
}

#[test]
fn every_objective_learns_from_the_command_line() {
    let place = place();
    for kind in OBJECTIVES {
        let data = match kind.shape {
            Shape::Completion => "liked.jsonl",
            Shape::Pair | Shape::Mixed => "pairs.jsonl",
            Shape::Verdict => "thumbs.jsonl",
            Shape::Contrast => "queries.jsonl",
        };
        let liked: String = verdicts(12).lines().filter(|l| !l.contains("false")).map(|l| format!("{l}\n")).collect();
        let aligned = |line: &str| line.replace("\"label\":true", "\"label\":true,\"aligned\":[-3.0,-2.0]") + "\n";
        let liked = if kind.name == "poft" { liked.lines().map(aligned).collect() } else { liked };
        fs::write(place.path("liked.jsonl"), liked).unwrap();
        let out = format!("{}.out", kind.name);
        let line = format!("{TRAIN} -d {data} --objective {} --epochs 8 -o {out}", kind.name);
        let got = place.json(&format!("{line} --log log"));
        let [first, last] = ["loss_first", "loss_last"].map(|key| got[key].as_f64().unwrap());
        assert!(first.is_finite() && last < first, "{}: {first} → {last}", kind.name);
        assert_eq!(
            place.json(&format!("inspect {out}"))["provenance"]["objective"],
            match kind.name {
                "sft" => "next token",
                name => name,
            }
        );
        // What the base makes of the data is computed once, and changes nothing where it is read again.
        let kept = place.path(&format!("{data}.reference"));
        assert_eq!(kept.exists(), kind.reference && kind.name != "poft", "{}", kind.name);
        place.says(&line.replace(&out, "again"), 0);
        assert!(place.read("again") == place.read(&out), "{}", kind.name);
        fs::remove_file(kept).ok();
    }
}

#[test]
fn options_reach_the_objective_or_are_refused() {
    let place = place();
    let line = format!("{TRAIN} --lr 2e-4 -d pairs.jsonl --steps 3 -o").replacen(" --lr 2e-3", "", 1);
    let bytes = |options: &str| {
        place.says(&format!("{line} x {options}"), 0);
        place.read("x")
    };
    for (objective, options) in [
        ("dpo", ["--beta 0.5", "--nll 0.2"]),
        ("cdpo", ["--beta 0.5", "--label-smoothing 0.3"]),
        ("simpo", ["--gamma 1.5", "--beta 3"]),
        ("asft", ["--lambda 0.5", "--nll 0.5"]),
        ("kto", ["--desirable-weight 2", "--undesirable-weight 0.5"]),
        ("bco", ["--beta 0.5", "--zeroth 2"]),
    ] {
        let plain = bytes(&format!("--objective {objective}"));
        for option in options {
            assert!(bytes(&format!("--objective {objective} {option}")) != plain, "{objective} {option}");
        }
    }
    for (options, status, words) in [
        ("--objective sft --beta 0.1", 2, "beta: 0.1, and sft has none"),
        ("--objective dpo --gamma 1", 2, "gamma: 1, and dpo has none"),
        ("--objective dpo --beta 0", 2, "beta: 0"),
        ("--objective cdpo --label-smoothing 0.7", 2, "label smoothing: 0.7"),
        ("--objective dop", 2, "possible values: sft, poft, dpo"),
        ("--objective dpo --beta much", 2, "much"),
    ] {
        let said = place.says(&format!("{line} x {options}"), status);
        assert!(said.contains(words), "{options}: {said}");
    }
}

#[test]
fn shapes_of_data_mean_the_same() {
    let place = place();
    let chat = |role: &str, text: &str| json!({ "role": role, "content": text });
    let rows = |row: &dyn Fn(usize) -> Value| (0..6).map(|i| row(i).to_string() + "\n").collect::<String>();
    let (good, bad) = (|| chat("assistant", "Tea."), || chat("assistant", "Tea and soup and more."));
    let apart = rows(&|i| json!({ "prompt": [chat("user", &prompt(i))], "chosen": [good()], "rejected": [bad()] }));
    let whole = |i, end| json!([chat("user", &prompt(i)), end]);
    let implied = rows(&|i| json!({ "chosen": whole(i, good()), "rejected": whole(i, bad()) }));
    let verdicts = rows(&|i| json!({ "prompt": [chat("user", &prompt(i))], "completion": [good()], "label": true }))
        .lines()
        .zip(rows(&|i| json!({ "prompt": [chat("user", &prompt(i))], "completion": [bad()], "label": false })).lines())
        .map(|(good, bad)| format!("{good}\n{bad}\n"))
        .collect::<String>();
    let learn = |data: &str, objective: &str| {
        fs::write(place.path("d.jsonl"), data).unwrap();
        let said = place.says(&format!("{TRAIN} -d d.jsonl -o x --steps 4 --order given --objective {objective}"), 0);
        // Provenance names the data: of the adapter only the parameters are compared.
        let said = said.lines().find(|l| l.contains("; loss ")).unwrap_or_default().to_string();
        (said.split("; ").nth(1).unwrap().to_string(), params(&place.read("x")))
    };
    assert!(learn(&apart, "dpo") == learn(&implied, "dpo"));
    assert!(learn(&apart, "bco") == learn(&verdicts, "bco"), "a pair is two verdicts");
    assert!(learn(&apart, "bco") != learn(&verdicts.replace("true", "false"), "bco"));
    // A weight of 0 is as if the row were not there, but for the mean over all.
    let spoilt = apart.replacen("\"prompt\"", "\"weight\":0.0,\"prompt\"", 1);
    assert!(learn(&apart, "dpo") != learn(&spoilt, "dpo"));
}

fn params(file: &[u8]) -> Vec<u8> {
    let container = Container::read(file.to_vec().into(), &Limits::default()).unwrap();
    container.require("params").unwrap().to_vec()
}

#[test]
fn rows_that_do_not_fit_are_named_by_file_and_line() {
    let place = place();
    let (pair, verdict) = (pairs(1), verdicts(1));
    for (rows, objective, status, words) in [
        (format!("{pair}\n{verdict}"), "dpo", 2, "line 3 is not"),
        (format!("{verdict}{pair}{}", verdict.replace(",\"label\":true", "")), "bco", 2, "line 3 is not"),
        (format!("{pair}{verdict}"), "simpo", 2, "line 2 is not"),
        (pair.clone(), "sft", 2, "line 1 is not"),
        (verdict.replace("true", "\"yes\""), "kto", 1, "d.jsonl: line 1: label"),
        (pair.replace("rejected", "refused"), "dpo", 1, "d.jsonl: line 1: row: keys"),
        (pair.replace("\" Tea.\"", "[]"), "dpo", 1, "d.jsonl: line 1: chosen"),
        (pair.replacen('{', "{\"weight\":-1,", 1), "dpo", 1, "d.jsonl: line 1: weight: -1"),
        (verdict.clone(), "kto", 2, "at least two"),
    ] {
        fs::write(place.path("d.jsonl"), &rows).unwrap();
        let said = place.says(&format!("{TRAIN} -d d.jsonl -o x --steps 2 --objective {objective}"), status);
        assert!(said.contains(words), "{objective} {words}: {said}");
        assert!(!place.path("x").exists());
    }
}

/// One bad row does not refuse the others, and neither does a file that was cut off.
#[test]
fn bad_rows_are_left_out_and_named() {
    let place = place();
    let (pair, verdict) = (pairs(1), verdicts(1));
    for (rows, objective, words) in [
        (format!("{}{}", verdicts(3), verdict.replace("true", "\"yes\"")), "kto", "line 4: label"),
        (format!("{pair}{}", pair.replace("rejected", "refused")), "dpo", "line 2: row: keys"),
        (format!("{}{pair}", pair.replacen('{', "{\"weight\":-1,", 1)), "dpo", "line 1: weight: -1"),
        (format!("{pair}not JSON\n"), "dpo", "line 2: JSON: expected ident at column 2"),
        (format!("{pair}{}", &pair[..pair.len() / 2]), "dpo", "line 2: JSON: EOF"),
    ] {
        fs::write(place.path("d.jsonl"), &rows).unwrap();
        let said = place.says(&format!("{TRAIN} -d d.jsonl -o x --steps 2 --objective {objective}"), 0);
        assert!(said.contains("1 row is left out") && said.contains(words), "{objective} {words}: {said}");
        fs::remove_file(place.path("x")).unwrap();
    }
}

#[test]
fn bco_goes_on_with_its_shift() {
    let place = place();
    for (name, extra) in [("bco", ""), ("bco_balanced", " --density-ratios"), ("bco_pair", ""), ("kto", "")] {
        let data = if name == "bco_pair" { "pairs.jsonl" } else { "thumbs.jsonl" };
        let line = format!("{TRAIN} -d {data} --objective {name}{extra} --steps 9 --eval-fraction 0.2 --eval-every 2");
        place.says(&format!("{line} -o whole --log whole.log"), 0);
        place.says(&format!("{line} -o out --log log --checkpoints saved --max-steps 1"), 0);
        while place.says("train --resume saved --max-steps 1", 0).contains("paused") {}
        assert!(place.read("out") == place.read("whole") && place.read("log") == place.read("whole.log"), "{name}");
        fs::remove_dir_all(place.path("saved")).unwrap();
        for step in [1, 4, 8] {
            place.says(&format!("{line} -o out --log log --checkpoints saved --max-steps {step}"), 0);
            place.says("train --resume saved", 0);
            assert!(place.read("out") == place.read("whole") && place.read("log") == place.read("whole.log"), "{name}");
            fs::remove_dir_all(place.path("saved")).unwrap();
        }
    }
    // The shift is in the checkpoint, and every step moves it.
    let line = format!("{TRAIN} -d thumbs.jsonl --objective bco --steps 9 -o out --checkpoints saved --save-every 1");
    place.says(&line, 0);
    let steps = place.saved("saved");
    let shift = |step: &u64| {
        let file = place.read(&format!("saved/checkpoint-{step}.mynah"));
        let container = Container::read(file.into(), &Limits::default()).unwrap();
        ["g.mean", "g.count"].map(|name| container.require(name).unwrap().to_vec())
    };
    let [before, after] = [&steps[steps.len() - 2], &steps[steps.len() - 1]].map(shift);
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
}

#[test]
fn bco_survives_kills() {
    let place = place();
    let line = format!("{TRAIN} -d thumbs.jsonl --objective bco --steps 60 --save-every 1");
    let begun = std::time::Instant::now();
    place.says(&format!("{line} -o whole --log whole.log"), 0);
    let whole = begun.elapsed();
    let (mut random, mut killed) = (Rng(4), 0);
    while killed < 8 {
        loop {
            let resumes = !place.saved("saved").is_empty();
            let start = format!("{line} -o out --log log --checkpoints saved");
            let mut child = place.start(if resumes { "train --resume saved" } else { &start });
            std::thread::sleep(whole.mul_f64(random.below(900) as f64 / 1000.0).max(Duration::from_millis(5)));
            if child.try_wait().unwrap().is_some_and(|status| status.success()) {
                break;
            }
            child.kill().unwrap();
            killed += i32::from(!child.wait().unwrap().success());
        }
        assert!(place.read("out") == place.read("whole") && place.read("log") == place.read("whole.log"));
        fs::remove_dir_all(place.path("saved")).unwrap();
    }
}
