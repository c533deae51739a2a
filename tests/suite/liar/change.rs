//! Whole files, changed: every truncation, every single byte with every other value, and every field of the binary ones with
//! every extreme. Each is a load or an error; nothing panics or reserves more than it may.

use super::container::{ADAPTER, CHECKPOINT, CONTAINER, HEAD, checkpoint, seal};
use super::{Fields, Parser, allowed, container, data, gguf, peft, tokenizer};
use crate::alloc::largest;
use std::time::{Duration, Instant};

/// What became of the changes of a kind: loads and errors.
type Counts = [usize; 2];

struct Report {
    name: String,
    bytes: usize,
    cut: Counts,
    changed: Counts,
    lies: Counts,
    slowest: (Duration, String),
    /// The largest reservation over all, and the largest by the bytes of its file.
    reserved: usize,
    took: Duration,
}

/// How the bytes of a change are made into a file again.
type Mend = fn(Vec<u8>) -> Vec<u8>;

fn every(name: &str, parser: &Parser, good: &[u8], fields: Option<Fields>, mend: Mend) -> Report {
    // What is made once, such as the model, is made now.
    (parser.read)(mend(good.to_vec())).ok();
    // Those that sync to the disk or continue a run take too long for all values: every single bit then.
    let slow = ["feedback", "checkpoint, sealed again"].contains(&name);
    let begin = Instant::now();
    let mut report = Report {
        name: name.into(),
        bytes: good.len(),
        cut: [0; 2],
        changed: [0; 2],
        lies: [0; 2],
        slowest: Default::default(),
        reserved: 0,
        took: Duration::ZERO,
    };
    let read = |report: &mut Report, bytes: Vec<u8>, what: &dyn Fn() -> String| {
        let (bytes, start) = (mend(bytes), Instant::now());
        let allowed = allowed(bytes.len());
        let (result, reserved) = largest(|| (parser.read)(bytes));
        let took = start.elapsed();
        assert!(reserved <= allowed, "{name}, {}: {reserved} bytes reserved at once", what());
        report.reserved = report.reserved.max(reserved);
        if took > report.slowest.0 {
            report.slowest = (took, what());
        }
        if let Err(e) = &result {
            let said = e.to_string();
            assert!(!said.chars().any(char::is_control) && said.len() < 2000, "{name}, {}: {said:?}", what());
        }
        usize::from(result.is_err())
    };
    assert_eq!(
        read(&mut report, good.to_vec(), &|| "whole".into()),
        0,
        "{name}: {:?}",
        (parser.read)(mend(good.to_vec()))
    );
    for n in 0..good.len() {
        let which = read(&mut report, good[..n].to_vec(), &|| format!("cut to {n}"));
        report.cut[which] += 1;
    }
    for at in 0..good.len() {
        for value in (0..=255).filter(|value| *value != good[at] && (!slow || (value ^ good[at]).is_power_of_two())) {
            let mut bad = good.to_vec();
            bad[at] = value;
            let which = read(&mut report, bad, &|| format!("byte {at} = {value}"));
            report.changed[which] += 1;
        }
    }
    for (what, bytes) in fields.iter().flat_map(Fields::lies) {
        let which = read(&mut report, bytes, &|| what.clone());
        report.lies[which] += 1;
    }
    report.took = begin.elapsed();
    report
}

#[test]
fn every_truncation_and_every_changed_byte() {
    type Job = Box<dyn FnOnce() -> Report + Send>;
    let whole: Mend = |bytes| bytes;
    let plain = |name: &'static str, parser: &'static Parser, good: Vec<u8>, fields: Option<Fields>, mend: Mend| {
        Box::new(move || every(name, parser, &good, fields, mend)) as Job
    };
    let binary = |name, parser, fields: Fields, mend| plain(name, parser, fields.bytes.clone(), Some(fields), mend);
    static TENSORS: Parser = Parser {
        name: "tensors of a PEFT directory",
        read: |tensors| (peft::PEFT.read)(peft::joined(peft::CONFIG.as_bytes(), &tensors)),
    };
    static CONFIG: Parser = Parser {
        name: "configuration of a PEFT directory",
        read: |config| (peft::PEFT.read)(peft::joined(&config, &peft::Directory::new().tensors().bytes)),
    };
    let head = container::small().fields();
    let mut jobs = vec![
        binary("GGUF", &gguf::GGUF, gguf::small(), whole),
        plain("GGUF of a tokenizer", &tokenizer::TOKENIZER, tokenizer::small(), None, whole),
        binary("safetensors", &peft::SAFETENSORS, peft::Directory::new().tensors(), whole),
        binary("PEFT: tensors", &TENSORS, peft::Directory::new().tensors(), whole),
        plain("PEFT: configuration", &CONFIG, peft::CONFIG.into(), None, whole),
        binary("container", &CONTAINER, head.clone(), whole),
        binary("container, sealed again", &CONTAINER, head.clone(), seal),
        plain("head of a container", &HEAD, container::small_head(), None, whole),
        binary("adapter, sealed again", &ADAPTER, container::Adapter::tiny().fields(), seal),
        plain("checkpoint", &CHECKPOINT, checkpoint(), None, whole),
        plain("checkpoint, sealed again", &CHECKPOINT, checkpoint(), None, seal),
    ];
    jobs.extend(data::small().map(|(parser, good)| plain(parser.name, parser, good, None, whole)));
    // The longest last, so that the two threads end together.
    let (names, jobs) = (jobs.len(), std::sync::Mutex::new(jobs));
    let work = || {
        let mut done = Vec::new();
        while let Some(job) = { jobs.lock().unwrap().pop() } {
            done.push(job());
        }
        done
    };
    let reports: Vec<Report> = std::thread::scope(|s| {
        let all = [s.spawn(work), s.spawn(work)];
        all.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(reports.len(), names);
    println!(
        "| file | bytes | cut: loads, errors | byte changed: loads, errors | field lies: loads, errors | slowest | most reserved | all |"
    );
    for r in reports {
        let counts = |[loads, errors]: Counts| format!("{loads}, {errors}");
        println!(
            "| {} | {} | {} | {} | {} | {:?} ({}) | {} | {:.1?} |",
            r.name,
            r.bytes,
            counts(r.cut),
            counts(r.changed),
            counts(r.lies),
            r.slowest.0,
            r.slowest.1,
            r.reserved,
            r.took
        );
        assert!(r.slowest.0 < Duration::from_secs(1), "{}: {:?}", r.name, r.slowest);
        // What has a checksum of everything loads only as it is.
        if ["container", "checkpoint"].contains(&&*r.name) {
            assert_eq!([r.cut[0], r.changed[0], r.lies[0]], [0; 3], "{}", r.name);
        }
    }
}

/// Two bytes at once, and whole fields of extreme values, wherever they stand.
#[test]
fn eight_bytes_anywhere() {
    let good = gguf::small().bytes;
    for at in 0..good.len() - 8 {
        for value in [0, 1, 0xffff_ffff, 1 << 31, 1 << 32, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX - 31, u64::MAX] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let bound = allowed(bad.len());
            let (_, reserved) = largest(|| (gguf::GGUF.read)(bad));
            assert!(reserved <= bound, "{value} at {at}: {reserved} bytes reserved at once");
        }
    }
}
