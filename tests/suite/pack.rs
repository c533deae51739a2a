//! Small files: what is trained through a codec is what the file holds, sizes that were asked for are met, and `mynah pack`.

use crate::shared::{needs_shared, shared};
use mynah::Mynah;
use mynah::adapter::{self, KINDS, Kind, Provenance, Spec, compress, parse_targets};
use mynah::app::Settings;
use mynah::bytes::{Bytes, Limits, map};
use mynah::container::codec::{CODECS, Codec};
use mynah::gguf::Gguf;
use mynah::knob::Value as Setting;
use mynah::rng::Random;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn embedded() -> Mynah {
    Mynah::with(
        Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap(),
        mynah::kernel::Compute { kernels: mynah::kernel::best(), pool: mynah::kernel::Pool::new(2) },
    )
    .unwrap()
}

/// Parameters in the file are those of the last step, and what follows from these follows from those.
#[test]
fn a_file_holds_what_was_trained() {
    let mynah = embedded();
    let codec = |name: &str| Some(compress::Spec::new(name));
    let rows = [
        ("uni", None, "levels"),
        ("uni", Some(compress::Spec::new("levels").with("bits", 4)), "levels"),
        ("nola", codec("levels"), "levels"),
        ("lora", codec("ternary"), "ternary"),
        ("lora", codec("q8"), "q8"),
        ("lora", codec("q4"), "q4"),
        ("lora", codec("sparse"), "sparse"),
        ("dora", codec("sparse-q8"), "sparse-q8"),
        ("ia3", codec("f16"), "f16"),
        ("prompt", codec("masks"), "masks"),
    ];
    for (kind, codec, wanted) in rows {
        let change = |s: &mut Settings| (s.codec, s.held_out) = (codec, Some(0.0));
        let setup = mynah.lesson(Spec::new(kind)).steps(4).context(32).settings(change);
        let mut lesson = setup.text(mynah::base::NOTES).unwrap();
        for event in &mut lesson {
            event.unwrap();
        }
        let bytes = lesson.to_bytes().unwrap();
        let info = adapter::info(bytes.clone().into(), &Limits::default()).unwrap();
        assert_eq!(info.head.text("codec").unwrap(), wanted, "{kind}");
        let read = mynah.adapter(bytes.clone()).unwrap();
        let trained = lesson.adapter().unwrap();
        assert!(read.params() == trained.params(), "{kind} through {wanted}: the file holds other values");
        // Saved without a word about codecs, it is no larger.
        let again = adapter::to_bytes(&*read, mynah.base(), &info.provenance.unwrap()).unwrap();
        assert!(again.len() <= bytes.len(), "{kind} through {wanted}: {} of {} bytes", again.len(), bytes.len());
        assert!(mynah.adapter(again).unwrap().params() == read.params());
    }
}

/// Bytes of a file beside its values.
fn around(mynah: &Mynah, spec: &Spec) -> usize {
    let mut a = adapter::create(spec, mynah.base()).unwrap();
    a.params_mut().iter_mut().enumerate().for_each(|(i, p)| *p += if i % 3 == 0 { 0.25 } else { -0.25 });
    let bytes = adapter::to_bytes_as(&*a, mynah.base(), &Default::default(), "f16").unwrap();
    bytes.len() - 2 * a.params().len()
}

#[needs_shared]
#[test]
fn little_stands_beside_the_values() {
    let model = Mynah::open(shared().join("models/SmolLM2-135M-Instruct.Q4_0.gguf")).unwrap();
    for mynah in [embedded(), model] {
        for kind in KINDS {
            let spent = around(&mynah, &Spec { seed: u64::from(u32::MAX), ..Spec::new(kind.name) });
            // The names of settings that are no words of the format take their letters.
            assert!(spent <= 144, "{}: {spent} bytes beside the values", kind.name);
        }
        let all = Spec { targets: parse_targets("all").unwrap(), ..Spec::new("uni") };
        assert!(around(&mynah, &all) <= 120, "{}", around(&mynah, &all));
    }
}

fn mynah(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn good(args: &[&str]) -> String {
    let out = mynah(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(good(&[args, &["--json"]].concat()).lines().last().unwrap()).unwrap()
}

fn refused(args: &[&str], status: i32, word: &str) {
    let out = mynah(args);
    let said = String::from_utf8_lossy(&out.stderr).replace('\n', " ");
    assert!(out.status.code() == Some(status) && said.contains(word), "{args:?}: {:?} {said}", out.status);
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// The person's own folder, with a text and a LoRA of it.
fn taught() -> (tempfile::TempDir, impl Fn(&str) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let at = move |name: &str| path.join(name).to_str().unwrap().to_string();
    std::fs::write(at("notes.txt"), mynah::base::NOTES).unwrap();
    let train = ["train", "-d", &at("notes.txt"), "-o", &at("lora.mynah"), "--steps", "24", "--rank", "4"];
    good(&[&train[..], &["--held-out", "0", "--ctx", "64"]].concat());
    (dir, at)
}

#[test]
fn pack_makes_the_file_that_was_asked_for() {
    let (_dir, at) = taught();
    let (whole, out) = (at("lora.mynah"), at("small.mynah"));
    let mut sizes = Vec::new();
    for codec in CODECS {
        let got = json(&["pack", &whole, "-o", &out, "--force", "--bare", "--codec", codec.name]);
        let head = adapter::info(map::read(Path::new(&out), 1 << 20).unwrap().into(), &Limits::default()).unwrap().head;
        assert_eq!(head.text("codec").unwrap(), codec.name);
        assert_eq!(
            (got["bytes"].as_u64().unwrap(), got["bytes_before"].as_u64()),
            (size(Path::new(&out)), Some(size(Path::new(&whole))))
        );
        sizes.push((codec.name, size(Path::new(&out))));
    }
    let of = |name: &str| sizes.iter().find(|(codec, _)| *codec == name).unwrap().1;
    assert!(
        of("f32") > of("f16") && of("f16") > of("q8") && of("q8") > of("q4") && of("q4") > of("ternary"),
        "{sizes:?}"
    );
    // A fifth of the values in 0.94 bits each (ComPEFT): 17 times smaller than 16.
    let ratio = of("f16") as f64 / of("ternary") as f64;
    assert!((16.0..18.0).contains(&ratio), "{ratio}");

    // Without data the smallest that rounds little of what changed: much of A is still as it was drawn.
    let got = json(&["pack", &whole, "-o", &out, "--force"]);
    let rounding = |name: &str| {
        let way = got["ways"].as_array().unwrap().iter().find(|way| way["codec"] == name).unwrap();
        (way["rounding"].as_f64().unwrap(), way["bytes"].as_u64().unwrap())
    };
    assert!(rounding(got["codec"].as_str().unwrap()).0 <= 1e-3, "{got}");
    assert!(rounding("f16").0 < rounding("q8").0 && rounding("q8").0 < rounding("q4").0, "{got}");
    // A size is met, by fewer changes if need be.
    for most in [40_000u64, 6_000, 900] {
        let got = json(&["pack", &whole, "-o", &out, "--force", "--max-bytes", &most.to_string()]);
        let bytes = size(Path::new(&out));
        assert!(bytes <= most && bytes * 10 > most * 7, "{most}: {got}");
        good(&["run", "-a", &out, "-p", "The keeper", "-n", "2"]);
    }
    let pack = ["pack", &whole, "-o", &out];
    refused(&pack, 2, "--force replaces it");
    refused(&["pack", &whole, "-o", &whole, "--force"], 2, "would overwrite");
    refused(&[&pack[..], &["--force", "--max-bytes", "20"]].concat(), 1, "train --bytes 20");
    refused(&[&pack[..], &["--force", "--codec", "q8", "--bits", "3"]].concat(), 2, "--bits is for --codec levels");
    refused(&[&pack[..], &["--force", "--density", "0"]].concat(), 2, "density");
    refused(&["pack", &at("notes.txt"), "-o", &out, "--force"], 1, "not an adapter");
}

#[test]
fn pack_measures_what_is_lost() {
    let (_dir, at) = taught();
    let (whole, out, text) = (at("lora.mynah"), at("small.mynah"), at("notes.txt"));
    let pack = ["pack", &whole, "-o", &out, "--force", "--eval", &text, "--ctx", "64"];
    let got = json(&pack);
    let ways = got["ways"].as_array().unwrap();
    assert!(ways.len() > 20, "{}", ways.len());
    let [base, before, after] = ["loss_of_base", "loss_before", "loss"].map(|key| got[key].as_f64().unwrap());
    assert!(before < base && (base - after) >= 0.98 * (base - before), "{got}");
    assert!(size(Path::new(&out)) * 2 < size(Path::new(&whole)), "{got}");
    // The frontier goes down, and every way is measured.
    let on: Vec<&Value> = ways.iter().filter(|way| way["frontier"] == true).collect();
    assert!(on.windows(2).all(|w| w[0]["loss"].as_f64() > w[1]["loss"].as_f64()));
    assert!(ways.iter().all(|way| way["kept"].is_number() && way["loss"].is_number()));
    let said = good(&[&pack[..], &["--max-bytes", "4k"]].concat());
    assert!(said.contains("kept") && said.contains('●') && said.contains("written"), "{said}");
    assert!(size(Path::new(&out)) <= 4096);
    std::fs::write(at("other.txt"), "zzz qqq xxx jjj kkk vvv www yyy zzz qqq xxx jjj").unwrap();
    let other = mynah(&["pack", &whole, "-o", &out, "--force", "--eval", &at("other.txt"), "--codec", "q8"]);
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.success() || said.contains("does not lower the loss"), "{said}");
}

#[test]
fn training_for_a_size_meets_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("notes.txt"), mynah::base::NOTES).unwrap();
    let out = at("out.mynah");
    let begin = ["train", "-d", &at("notes.txt"), "-o", &out, "--force", "--steps", "6", "--ctx", "64"];
    for (options, kind, most) in [
        (&["--bytes", "20k"] as &[&str], "lora", 20_480),
        (&["--bytes", "2953"], "nola", 2953),
        (&["--bytes", "1000"], "nola", 1000),
        (&["--bytes", "300"], "uni", 300),
        (&["--bytes", "1000", "--method", "uni"], "uni", 1000),
        (&["--bytes", "2953", "--codec", "levels", "--bits", "4"], "nola", 2953),
        // Few changes of the smallest size.
        (&["--bytes", "1500", "--method", "lora"], "lora", 1500),
        (&["--bytes", "5k", "--method", "nola", "--codec", "levels", "--bits", "4"], "nola", 5120),
        (&["--bytes", "20k", "--method", "lora"], "lora", 20_480),
        (&["--bytes", "60k", "--method", "bottleneck"], "bottleneck", 61_440),
    ] {
        let args = [&begin[..], options].concat();
        let ran = mynah(&args);
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.contains(&format!("{kind}, ")), "{args:?}: {said}");
        let bytes = size(Path::new(&out));
        assert!(bytes <= most && bytes * 10 > most * 7, "{options:?}: {bytes} bytes");
        assert_eq!(json(&["inspect", &out])["kind"], kind);
    }
    let with = |more: &[&'static str]| [&begin[..], more].concat();
    refused(&with(&["--bytes", "100"]), 2, "smallest file of uni takes");
    refused(&with(&["--bytes", "400", "--method", "ia3", "--codec", "levels"]), 2, "no size to choose");
    refused(&with(&["--bytes", "2k", "--method", "full"]), 2, "--bytes");
    // It goes on where it was paused, with the same file.
    let whole = std::fs::read(&out).unwrap();
    let last = ["--bytes", "60k", "--method", "bottleneck", "--checkpoints", &at("saved"), "--max-steps", "2"];
    good(&[&begin[..], &last].concat());
    good(&["train", "--resume", &at("saved")]);
    assert!(std::fs::read(&out).unwrap() == whole);
}

/// Every codec has a compressor of its name, and `by_name` finds it.
#[test]
fn codecs_and_compressors_have_the_same_names() {
    let names = |all: Vec<&str>| all.into_iter().map(String::from).collect::<Vec<_>>();
    assert_eq!(
        names(CODECS.iter().map(|c| c.name).collect()),
        names(compress::COMPRESSORS.iter().map(|c| c.name).collect())
    );
    assert!(CODECS.iter().all(|c| Codec::by_name(c.name).is_ok()));
}

/// However training ends, the file fits, and has not much less than it may.
#[test]
fn files_have_the_size_that_was_asked_for() {
    let mynah = embedded();
    let (base, mut tried) = (mynah.base(), 0);
    for name in KINDS.iter().map(|kind| kind.name).chain([Spec::AUTO]) {
        for bytes in [600, 2_953, 20_000, 300_000] {
            let (spec, codec) = match adapter::budget::fit(&Spec::new(name), None, base, bytes, &|_| true) {
                Ok(fitted) => fitted,
                Err(e) => {
                    assert!(e.to_string().contains("smallest") || e.to_string().contains("no size"), "{e}");
                    continue;
                }
            };
            let kind = Kind::by_name(&spec.kind).unwrap();
            let mut a = adapter::create(&spec, base).unwrap();
            let mut random = Random::new(1, name, "trained");
            let mut noise = || (0..4).map(|_| random.next_f32() - 0.5).sum::<f32>();
            a.params_mut().iter_mut().for_each(|p| *p += noise());
            let origin = Provenance { objective: "next token".into(), steps: 80, ..Provenance::default() };
            a.prepare(&mynah.model().compute, mynah.model()).unwrap();
            let left = a.outcome().map(|left| adapter::to_bytes_as(left, base, &origin, "f32").unwrap());
            let mut a = left.map_or(a, |left| mynah.adapter(left).unwrap());
            let file = adapter::file::packed(&mut *a, base, &origin, &codec).unwrap();
            assert!(file.len() <= bytes, "{name} of {bytes}: {} bytes, {codec:?}", file.len());
            // Some are as large as they can be, and of some the next size, which may be far from this one, does not fit.
            let largest = kind.size.is_some_and(|knob| {
                let more = |n: u64| {
                    let spec = spec.clone().with(knob.name, n + 1);
                    adapter::budget::bytes(&spec, &codec, base).map_or(true, |most| most > bytes)
                };
                // Where there are more than the model has weights, it has them all.
                let all = |n: u64| n > a.params().len() as u64;
                matches!(spec.values.get(knob.name), Some(Setting::Whole(n)) if more(*n) || kind.name == "sparse" && all(*n))
            });
            let half = codec.values.get("density").is_some_and(|d| matches!(d, Setting::Real(d) if *d > 0.49));
            let whole = ["f16", "q8", "q4"].contains(&&*codec.kind) || bytes == 600 || largest || half;
            assert!(whole || file.len() * 10 >= bytes * 7, "{name} of {bytes}: only {} bytes", file.len());
            tried += 1;
        }
    }
    assert!(tried > 25, "{tried}");
    // Of what grows the largest file is told.
    let f16 = compress::Spec::new("f16");
    let growing = Spec::new("increlora");
    let largest = (Kind::by_name("increlora").unwrap().shape)(&growing, base).unwrap().size.params;
    let told = adapter::budget::bytes(&growing, &f16, base).unwrap();
    assert!(told >= 2 * largest && told < 2 * largest + 2048, "{told} bytes for {largest} numbers");
    // Whatever the size, levels go with what starts at zero.
    let levels = Some(compress::Spec::new("levels"));
    assert_eq!(adapter::budget::fit(&Spec::new(Spec::AUTO), levels, base, 300_000, &|_| true).unwrap().0.kind, "nola");
    // What a memory is not enough for is passed over; if it is for none, the plan says so.
    let afford = |memory: &dyn Fn(&Spec) -> bool| {
        adapter::budget::fit(&Spec::new(Spec::AUTO), None, base, 300_000, memory).unwrap().0.kind
    };
    assert_eq!(afford(&|_| true), "lora");
    assert_eq!(afford(&|spec| spec.kind != "lora"), "nola");
    assert_eq!(afford(&|_| false), "lora");
}
