//! Proof of effect: probes in adapters, what `verify` finds, and adapters of another base.

#![cfg(feature = "base")]

use crate::alloc::largest;
use crate::identity::{adapter, requantised};
use mynah::adapter::probe::{self, Probe};
use mynah::adapter::{self, Ready};
use mynah::app::{Difference, TOLERANCE, Whose};
use mynah::bytes::Limits;
use mynah::container::Container;
use mynah::{Error, Mynah};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// The built-in model, an adapter of it, and what that does.
fn proven() -> (Mynah, Vec<u8>, Arc<Ready>, Probe) {
    let mynah = Mynah::embedded().unwrap();
    let file = adapter(&mynah);
    let ready = mynah.ready(file.clone()).unwrap();
    let prompt = mynah.tokenizer().prompt("The keeper wrote about", false).unwrap();
    let probe = mynah.probe(&ready, &prompt).unwrap();
    (mynah, file, ready, probe)
}

#[test]
fn an_adapter_carries_its_probe() {
    let (mynah, file, ready, probe) = proven();
    let limits = Limits::default();
    assert_eq!(probe::read(file.clone().into(), &limits).unwrap(), None);
    let with = probe::with(file.clone().into(), &probe, &limits).unwrap();
    assert_eq!(probe::read(with.clone().into(), &limits).unwrap(), Some(probe.clone()));
    let bytes = probe.encode();
    assert!(bytes.len() < 300, "{} bytes", bytes.len());
    assert_eq!(Probe::decode(&bytes, &limits).unwrap(), probe);
    // Another takes its place, and nothing else of the file changes.
    let other = mynah.probe(&ready, &[5, 6]).unwrap();
    let again = probe::with(with.clone().into(), &other, &limits).unwrap();
    assert_eq!(probe::read(again.clone().into(), &limits).unwrap(), Some(other));
    assert!(probe::with(again.into(), &probe, &limits).unwrap() == with);
    let [plain, proven] = [file, with].map(|bytes| Container::read(bytes.into(), &limits).unwrap());
    for (name, required, _) in plain.sections() {
        assert!(
            proven.section(name).unwrap()[..] == plain.section(name).unwrap()[..] && required == (name != "provenance")
        );
    }
    assert_eq!(proven.sections().count(), plain.sections().count() + 1);
    assert!(proven.sections().any(|section| section == ("probe", false, bytes.len())));
    assert!(matches!(mynah.probe(&ready, &[]), Err(Error::Invalid { .. })));
    // A long prompt is cut.
    assert_eq!(mynah.probe(&ready, &[7; 200]).unwrap().prompt, [7; 64]);
    let (small, large) = (Limits::default(), "bytes of a probe");
    let long = Probe { prompt: vec![300; 20_000], ..probe };
    assert!(matches!(Probe::decode(&long.encode(), &small), Err(Error::Limit { what, .. }) if what == large));
}

#[test]
fn a_probe_is_of_the_bytes_that_its_page_specifies() {
    let answer = |token: u32| probe::Answer { tokens: vec![token, 7], scores: vec![(token, 2.0), (3, 0.5), (9, 0.5)] };
    let probe = Probe { prompt: vec![1, 300], plain: answer(128), adapted: answer(0), loss: 0.25 };
    let score = |token: &[u8], logit: f32| [token, &logit.to_le_bytes()].concat();
    let answer =
        |token: &[u8]| [&[2][..], token, &[7, 3], &score(token, 2.0), &score(&[3], 0.5), &score(&[9], 0.5)].concat();
    let wanted = [&[1][..], &0.25f32.to_le_bytes(), &[2, 1, 0xac, 2], &answer(&[0x80, 1]), &answer(&[0])].concat();
    assert_eq!(probe.encode(), wanted);
}

#[test]
fn verification_finds_what_differs_and_nothing_else() {
    let (mynah, file, ready, probe) = proven();
    assert_ne!(probe.plain, probe.adapted, "the adapter does something");
    let verdict = mynah.verify(&ready, &probe).unwrap();
    assert_eq!((verdict.differences.len(), verdict.distance), (0, 0.0));
    assert_eq!(verdict.compared, [probe.plain.tokens.len() + probe.adapted.tokens.len(), 16]);
    assert_eq!(verdict.loss, [probe.loss; 2]);
    assert!(verdict.loss[0] > 0.0);

    // A lie in each field.
    let mut lie = probe.clone();
    let token = lie.adapted.tokens[1];
    lie.adapted.tokens[1] = token ^ 1;
    let found = mynah.verify(&ready, &lie).unwrap().differences;
    assert_eq!(found[0], Difference::Token { whose: Whose::Adapted, place: 2, was: token ^ 1, now: token });
    assert!(found.iter().all(|d| matches!(d, Difference::Token { whose: Whose::Adapted, .. })) && found.len() == 1);
    for (by, differs) in [(0.5 * TOLERANCE, false), (2.0 * TOLERANCE, true)] {
        let mut lie = probe.clone();
        let (id, now) = lie.plain.scores[0];
        lie.plain.scores[0].1 += by;
        let found = mynah.verify(&ready, &lie).unwrap().differences;
        let wanted = Difference::Logit { whose: Whose::Plain, token: id, was: now + by, now };
        assert_eq!(found, if differs { vec![wanted] } else { vec![] });
    }

    // Another adapter differs in what is its own.
    let limits = Limits::default();
    let mut changed = adapter::from_bytes(file.into(), mynah.base(), &limits).unwrap();
    changed.params_mut().iter_mut().for_each(|p| *p *= -1.5);
    let changed = mynah.model().ready(changed).unwrap();
    let found = mynah.verify(&changed, &probe).unwrap().differences;
    let own = |d: &Difference| match d {
        Difference::Token { whose, .. } | Difference::Logit { whose, .. } => *whose == Whose::Adapted,
    };
    assert!(!found.is_empty() && found.iter().all(own), "{found:?}");
}

#[test]
fn another_quantisation_shows_its_loss() {
    let (mynah, file, ready, probe) = proven();
    let other = Mynah::from_bytes(requantised()).unwrap();
    let with = probe::with(file.clone().into(), &probe, &Limits::default()).unwrap();
    let foreign = other.ready_from_other_base(with.clone()).unwrap();
    assert_eq!(foreign.base, "mynah-base, Q4_0");
    let [was, now] = foreign.loss.unwrap();
    // Values of 4 bits are nearly the same in 8.
    assert!(was == probe.loss && now != was && (now - was).abs() < 0.1, "{was} {now}");
    assert_eq!(other.ready_from_other_base(file).unwrap().loss, None);
    // On its own base it is as it was.
    assert_eq!(mynah.ready_from_other_base(with).unwrap().loss, Some([probe.loss; 2]));
    let _ = ready;
}

/// Every cut, and every changed byte: an error, or another probe, which can be verified.
#[test]
fn damaged_probes_are_errors_or_other_probes() {
    let (mynah, _, ready, probe) = proven();
    let (good, limits) = (probe.encode(), Limits::default());
    for n in 0..good.len() {
        assert!(Probe::decode(&good[..n], &limits).is_err(), "cut to {n}");
    }
    assert!(Probe::decode(&[&good[..], &[0]].concat(), &limits).is_err());
    let (mut valid, mut refused) = (0, 0);
    for at in 0..good.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff, good[at] ^ 1, good[at] ^ 0x80].into_iter().filter(|b| *b != good[at]) {
            let mut bad = good.clone();
            bad[at] = byte;
            let (read, most) = largest(|| Probe::decode(&bad, &limits));
            assert!(most < 1 << 16, "{most} bytes reserved at once");
            let Ok(read) = read else {
                refused += 1;
                continue;
            };
            assert!(read.encode() == bad, "byte {at}: one encoding");
            valid += 1;
            if valid % 8 == 0 {
                match mynah.verify(&ready, &read) {
                    Ok(verdict) => assert!(verdict.differences.len() < 64),
                    Err(e) => assert!(matches!(e, Error::Mismatch { .. }), "{e}"),
                }
            }
        }
    }
    assert!(valid > 200 && refused > 200, "{valid} valid, {refused} refused");
    // Tokens and positions that the model does not have.
    let strange = |change: fn(&mut Probe)| {
        let mut probe = probe.clone();
        change(&mut probe);
        mynah.verify(&ready, &probe).unwrap_err()
    };
    for e in [
        strange(|p| p.prompt[0] = 2048),
        strange(|p| p.adapted.tokens[3] = u32::MAX),
        strange(|p| p.plain.scores[7].0 = 2048),
        strange(|p| p.prompt = vec![1; 600]),
    ] {
        assert!(matches!(e, Error::Mismatch { .. }), "{e}");
    }
}

/// A folder with the built-in model in two quantisations.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::write(place.path("four.gguf"), mynah::base::MODEL).unwrap();
        std::fs::write(place.path("eight.gguf"), requantised()).unwrap();
        std::fs::write(place.path("notes.txt"), mynah::base::NOTES).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command.args(line.split(' ').map(|word| word.replace('_', " "))).current_dir(self.0.path());
        command.env("XDG_CACHE_HOME", self.path("cache")).stdin(Stdio::null()).output().unwrap()
    }

    /// Status, standard output and standard error.
    fn said(&self, line: &str) -> (i32, String, String) {
        let out = self.run(line);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }
}

#[test]
fn the_command_proves_and_verifies() {
    let place = Place::new();
    let train = "train -m four.gguf -d notes.txt --ctx 64 --steps 3 --rank 2 --lr 0.01 --layers 0-1 -o";
    let (status, _, said) = place.said(&format!("{train} proven.mynah --probe"));
    assert_eq!(status, 0, "{said}");
    let (status, out, said) = place.said("verify -m four.gguf -a proven.mynah");
    assert!(status == 0 && out.starts_with("applied, and it does what it did: "), "{out} {said}");
    let (_, out, _) = place.said("verify -m four.gguf -a proven.mynah --json --threads 1");
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert!(verdict["same"] == true && verdict["logits"] == 16 && verdict["distance"] == 0.0, "{verdict}");
    // The first row's beginning was the prompt; a text can be.
    let read = |name: &str| {
        let bytes = std::fs::read(place.path(name)).unwrap();
        probe::read(bytes.into(), &Limits::default()).unwrap()
    };
    assert_eq!(read("proven.mynah").unwrap().prompt.len(), 8);
    let (status, _, said) = place.said(&format!("{train} named.mynah --probe Dear_diary,"));
    assert_eq!(status, 0, "{said}");
    let tokenizer = Mynah::embedded().unwrap().tokenizer().clone();
    assert_eq!(read("named.mynah").unwrap().prompt, tokenizer.prompt("Dear diary,", false).unwrap());

    // Without a proof the error says how one is made, and that way works.
    assert_eq!(place.run(&format!("{train} bare.mynah")).status.code(), Some(0));
    let (status, _, said) = place.said("verify -m four.gguf -a bare.mynah");
    assert!(status == 1 && said.contains("no proof of effect") && said.contains("--record TEXT -o OUT"), "{said}");
    let record = "verify -m four.gguf -a bare.mynah --record Dear_diary, -o late.mynah";
    let (status, _, said) = place.said(record);
    assert!(status == 0 && said.contains("saved late.mynah"), "{said}");
    assert_eq!(place.run("verify -m four.gguf -a late.mynah").status.code(), Some(0));
    assert!(std::fs::read(place.path("late.mynah")).unwrap() == std::fs::read(place.path("named.mynah")).unwrap());
    assert_eq!(place.run(record).status.code(), Some(2), "it exists");
    assert_eq!(place.run(&format!("{record} --force")).status.code(), Some(0));
    for wrong in [
        "verify -m four.gguf -a bare.mynah --record x",
        "verify -m four.gguf -a bare.mynah -o x",
        "verify -m four.gguf -a bare.mynah --record x -o four.gguf --force",
        &format!("{train} full.gguf --method full --probe").replace(" --rank 2", "").replace(" --layers 0-1", ""),
    ] {
        let (status, _, said) = place.said(wrong);
        assert_eq!(status, 2, "{wrong}: {said}");
    }

    // What is packed is proved again.
    let pack = "pack proven.mynah -m four.gguf --codec q8 -o";
    let (status, _, said) = place.said(&format!("{pack} packed.mynah"));
    assert_eq!(status, 0, "{said}");
    assert_eq!(read("packed.mynah").unwrap().prompt, read("proven.mynah").unwrap().prompt);
    assert_eq!(place.run("verify -m four.gguf -a packed.mynah").status.code(), Some(0));
    let most = place.path("packed.mynah").metadata().unwrap().len();
    for (options, words, proof) in [
        ("--bare".into(), "", false),
        (format!("--max-bytes {most}"), "", true),
        (format!("--max-bytes {}", most - 1), "no room for a proof", false),
    ] {
        let (status, _, said) = place.said(&format!("{pack} again.mynah --force {options}"));
        assert!(status == 0 && said.contains(words), "{options}: {said}");
        assert_eq!(read("again.mynah").is_some(), proof, "{options}");
        assert!(place.path("again.mynah").metadata().unwrap().len() <= most);
    }

    // Another adapter's proof.
    let limits = Limits::default();
    let other = std::fs::read(place.path("bare.mynah")).unwrap();
    let mynah = Mynah::embedded().unwrap();
    let strange = mynah.probe(&mynah.ready(adapter(&mynah)).unwrap(), &[5, 6, 7]).unwrap();
    std::fs::write(place.path("lie.mynah"), probe::with(other.into(), &strange, &limits).unwrap()).unwrap();
    let (status, out, said) = place.said("verify -m four.gguf -a lie.mynah");
    assert!(status == 1 && said.contains("lie.mynah: it does not do what it did"), "{said}");
    assert!(out.contains("adapted model: the logit of ") && !out.contains("base: "), "{out}");
    let (status, out, _) = place.said("verify -m four.gguf -a lie.mynah --json");
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert!(status == 1 && verdict["same"] == false, "{verdict}");
    assert!(verdict["differences"].as_array().unwrap().iter().all(|d| d["whose"] == "adapted"), "{verdict}");
}

#[test]
fn another_base_is_allowed_where_one_asks() {
    let place = Place::new();
    let train = "train -m four.gguf -d notes.txt --ctx 64 --steps 2 --rank 2 --layers 0 -o";
    assert_eq!(place.run(&format!("{train} proven.mynah --probe")).status.code(), Some(0));
    assert_eq!(place.run(&format!("{train} bare.mynah")).status.code(), Some(0));
    let (status, _, said) = place.said("logits -m eight.gguf -a proven.mynah -p Rain");
    for word in ["mynah-base, Q4_0", "mynah-base, Q8_0", "--allow-other-base"] {
        assert!(status == 1 && said.contains(word), "{said}");
    }
    let words = "trained on mynah-base, Q4_0; this is mynah-base, Q8_0";
    for line in [
        "logits -m eight.gguf -a proven.mynah -p Rain",
        "run -m eight.gguf -a proven.mynah -p Rain -n 2",
        "eval -m eight.gguf -a proven.mynah -d notes.txt",
        "embed -m eight.gguf -a proven.mynah -p Rain",
        "chat -m eight.gguf -a proven.mynah",
        "train -m eight.gguf -a proven.mynah -d notes.txt --ctx 32 --steps 1 -o above.mynah --force",
        "plan -m eight.gguf -a proven.mynah",
    ] {
        let (status, _, said) = place.said(&format!("{line} --allow-other-base"));
        assert!(status == 0 && said.matches(words).count() == 1 && said.contains("the loss of its proof is"), "{said}");
        let (status, _, said) = place.said(&format!("{line} --allow-other-base").replace("proven", "bare"));
        assert!(status == 0 && said.contains(words) && said.contains("cannot be shown"), "{said}");
    }
    let (status, out, said) = place.said("verify -m eight.gguf -a proven.mynah --allow-other-base");
    assert!(status == 1 && out.contains("base: the logit of") && said.contains(words), "{out} {said}");
    // Where it is the same, there is nothing to say.
    let (status, _, said) = place.said("logits -m four.gguf -a proven.mynah -p Rain --allow-other-base");
    assert!(status == 0 && !said.contains("trained on"), "{said}");
}
