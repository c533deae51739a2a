//! Sessions that fork, go back, and go through the model together: every bit is what it would be alone.

use crate::alloc;
use crate::tiny::{self, Sketch};
use mynah::adapter::{self, KINDS, Ready, Spec};
use mynah::kernel::{Compute, Pool, available};
use mynah::model::cache::PAGE;
use mynah::model::{ARCHES, Arch, CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::rng::Random;
use mynah::train::{Config, Example, Trainer};
use std::sync::Arc;

const CACHES: [CacheType; 3] = [CacheType::F16, CacheType::F32, CacheType::Q8];

fn config(cache: CacheType, context: usize) -> SessionConfig {
    SessionConfig { context, cache, chunk: 7, ..Default::default() }
}

fn tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = tiny::Rng(seed);
    (0..n).map(|_| rng.below(tiny::VOCAB) as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

/// A trained-looking adapter of every kind.
fn adapters(model: &Model) -> Vec<Arc<Ready>> {
    let base = model.base([0; 32]);
    let of = |kind: &adapter::Kind| {
        let mut a = adapter::create(&Spec::new(kind.name), &base).unwrap();
        let mut random = Random::new(5, kind.name, "trained");
        a.params_mut().iter_mut().for_each(|p| *p += 0.3 * (random.next_f32() - 0.5));
        model.ready(a).unwrap()
    };
    // Where all feed-forward layers are experts, nothing stands beside them.
    let beside = |kind: &&&adapter::Kind| {
        !["parallel", "mam"].contains(&kind.name) || model.hparams.blocks.iter().any(|l| l.ff > 0)
    };
    KINDS.iter().filter(beside).map(|kind| of(kind)).collect()
}

/// A model whose context is longer than a page of the cache.
fn long(arch: &str, threads: usize) -> Model {
    let row = ARCHES.iter().find(|a| a.name == arch).unwrap();
    let mut sketch = Sketch::new(row, 3, true);
    sketch.context = 4 * PAGE;
    sketch.model(threads)
}

#[test]
fn a_fork_has_read_what_its_parent_has() {
    for (arch, caches) in [("llama", &CACHES[..]), ("lfm2", &CACHES[..1]), ("qwen35", &CACHES[..1])] {
        forks_have_read(&long(arch, 2), caches);
    }
}

fn forks_have_read(model: &Model, caches: &[CacheType]) {
    let base = adapters(model);
    for &cache in caches {
        // Forks inside a page, at its end and behind it.
        for (i, at) in [1, 5, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 9].into_iter().enumerate() {
            let (prefix, one, other) = (tokens(1, at), tokens(2, 12), tokens(3, PAGE));
            let fresh = || {
                let mut s = Session::new(model, config(cache, 4 * PAGE)).unwrap();
                s.attach(base[i % base.len()].clone(), 0.7).unwrap();
                s
            };
            let alone = |rest: &[u32]| {
                let mut s = fresh();
                s.feed(&prefix).unwrap();
                bits(s.feed(rest).unwrap())
            };
            let mut session = fresh();
            session.feed(&prefix).unwrap();
            let mut fork = session.fork();
            assert_eq!((fork.position(), bits(fork.logits())), (at, bits(session.logits())));
            let mut second = fork.fork();
            // In turns: neither sees what the other writes.
            for (a, b) in one.iter().zip(&other) {
                session.feed(&[*a]).unwrap();
                fork.feed(&[*b]).unwrap();
            }
            fork.feed(&other[one.len()..]).unwrap();
            assert_eq!(bits(session.logits()), alone(&one), "{cache:?} parent, fork at {at}");
            assert_eq!(bits(fork.logits()), alone(&other), "{cache:?} fork at {at}");
            drop(session);
            assert_eq!(bits(second.feed(&one).unwrap()), alone(&one), "{cache:?} fork of a fork at {at}");
        }
    }
}

#[test]
fn a_shared_prefix_is_stored_once() {
    let model = long("llama", 1);
    let mut session = Session::new(&model, config(CacheType::F16, 4 * PAGE)).unwrap();
    session.feed(&tokens(1, 2 * PAGE + 3)).unwrap();
    let page = PAGE * CacheType::F16.bytes(&model.hparams);
    assert_eq!((session.cache_bytes(), session.own_cache_bytes()), (4 * page, 4 * page));
    let mut forks: Vec<Session> = (0..8).map(|_| session.fork()).collect();
    for fork in &mut forks {
        assert_eq!((fork.cache_bytes(), fork.own_cache_bytes()), (3 * page, 0));
        fork.feed(&[1]).unwrap();
        // The page that was begun, and no more.
        assert_eq!((fork.cache_bytes(), fork.own_cache_bytes()), (3 * page, page));
    }
    let ((), most) = alloc::largest(|| drop(session.fork()));
    assert!(most < page / 2, "a fork reserves {most} bytes at once");
}

#[test]
fn a_snapshot_brings_everything_back() {
    ["gemma3", "lfm2", "qwen35", "olmoe"].iter().for_each(|arch| snapshots_bring_everything_back(arch));
}

fn snapshots_bring_everything_back(arch: &str) {
    let model = long(arch, 2);
    let mut session = Session::new(&model, config(CacheType::Q8, 3 * PAGE)).unwrap();
    let (prefix, one, other) = (tokens(1, PAGE + 40), tokens(2, 30), tokens(3, 30));
    session.feed(&prefix).unwrap();
    let (before, logits) = (session.snapshot(), bits(session.logits()));
    assert_eq!(before.position(), prefix.len());
    let first = bits(session.feed(&one).unwrap());
    session.feed(&other).unwrap();
    session.restore(&before).unwrap();
    assert_eq!((session.position(), bits(session.logits())), (prefix.len(), logits.clone()));
    assert_eq!(bits(session.feed(&one).unwrap()), first);
    // Back and forth, and after the text was cut.
    session.truncate(3);
    session.feed(&other).unwrap();
    session.restore(&before).unwrap();
    assert_eq!(bits(session.feed(&one).unwrap()), first);
    // Another session of the same settings takes it, too.
    let mut another = Session::new(&model, config(CacheType::Q8, 3 * PAGE)).unwrap();
    another.restore(&before).unwrap();
    assert_eq!(bits(another.feed(&one).unwrap()), first);

    let why = |session: &mut Session| session.restore(&before).unwrap_err().to_string();
    assert!(why(&mut Session::new(&model, config(CacheType::F16, 3 * PAGE)).unwrap()).contains("settings"));
    assert!(why(&mut Session::new(&long(arch, 1), config(CacheType::Q8, 3 * PAGE)).unwrap()).contains("model"));
    session.attach(adapters(&model)[0].clone(), 1.0).unwrap();
    assert!(why(&mut session).contains("adapters"));
    // What failed has changed nothing.
    assert_eq!(session.position(), 0);
    session.feed(&one).unwrap();
}

#[test]
fn what_was_cut_is_not_answered_from() {
    for arch in ["llama", "gemma3", "lfm2", "qwen35"] {
        let model = long(arch, 2);
        for cache in CACHES {
            let all = tokens(1, 2 * PAGE);
            let mut session = Session::new(&model, config(cache, 3 * PAGE)).unwrap();
            session.feed(&all).unwrap();
            for at in [2 * PAGE - 1, PAGE + 3, PAGE, 40, 1, 0] {
                let left = session.truncate(at);
                assert_eq!((session.position(), session.logits()), (left, &[][..]));
                assert!(
                    left == at || left < at && ["lfm2", "qwen35"].contains(&arch),
                    "{arch} goes back to {left} for {at}"
                );
                session.truncate(at + 5); // is no way back
                assert_eq!(session.position(), left);
                let mut fresh = Session::new(&model, config(cache, 3 * PAGE)).unwrap();
                let rest = tokens(2, 20);
                if at > 0 {
                    fresh.feed(&all[..at]).unwrap();
                }
                let want = bits(fresh.feed(&rest).unwrap());
                let again = [&all[left..at], &rest].concat();
                assert_eq!(bits(session.feed(&again).unwrap()), want, "{arch} {cache:?} at {at}");
                session.truncate(at);
            }
        }
    }
}

/// Sessions of all kinds of adapters, some with none, some with two, read and decode side by side.
fn in_company(model: &Model, cache: CacheType, precision: Precision, kinds: &[Arc<Ready>], vocab: u32, what: &str) {
    let config = SessionConfig { precision, ..config(cache, 40) };
    // Two of each kind and two with none, so that some neighbours have the same adapters and others not.
    let session = |i: usize| {
        let mut s = Session::new(model, config.clone()).unwrap();
        if let Some(adapter) = kinds.get(i / 2) {
            s.attach(adapter.clone(), 0.5 + i as f32 / 10.0).unwrap();
        }
        if i == 5 {
            s.attach(kinds[0].clone(), -0.5).unwrap();
        }
        s
    };
    let count = 2 * kinds.len() + 2;
    let some = |seed: usize, n| tokens(seed as u64, n).into_iter().map(|t| t * 31 % vocab).collect::<Vec<u32>>();
    let texts: Vec<Vec<u32>> = (0..count).map(|i| some(i, 1 + (5 * i) % 13)).collect();
    let after: Vec<Vec<u32>> = (0..count).map(|i| some(99 + i, [1, 1, 1, 0, 2, 6][i % 6])).collect();
    let mut together: Vec<Session> = (0..count).map(session).collect();
    for pieces in [&texts, &after, &after] {
        let mut all: Vec<&mut Session> = together.iter_mut().collect();
        let pieces: Vec<&[u32]> = pieces.iter().map(|p| &p[..]).collect();
        Session::feed_together(&mut all, &pieces).unwrap();
    }
    for (i, got) in together.iter().enumerate() {
        let mut alone = session(i);
        for piece in [&texts[i], &after[i], &after[i]].into_iter().filter(|piece| !piece.is_empty()) {
            alone.feed(piece).unwrap();
        }
        assert_eq!(got.position(), alone.position(), "{what}, session {i}");
        assert_eq!(bits(got.logits()), bits(alone.logits()), "{what}, session {i}");
    }
}

/// Where states are carried along the text, it is gone back to those that are kept.
#[test]
fn a_text_is_cut_where_states_are_kept() {
    let model = long("lfm2", 2);
    let all = tokens(1, 120);
    let rows_before = adapters(&model).into_iter().find(|a| a.shape().needs.rows > 0).unwrap();
    for lead in [None, Some(rows_before)] {
        let new = || {
            let mut s = Session::new(&model, config(CacheType::F16, 2 * PAGE)).unwrap();
            lead.iter().for_each(|a| s.attach(a.clone(), 1.0).unwrap());
            s
        };
        let fresh = |n: usize, rest: &[u32]| {
            let mut s = new();
            s.feed(&[&all[..n], rest].concat()).unwrap();
            bits(s.logits())
        };
        let mut session = new();
        let bytes = session.cache_bytes();
        session.feed(&all[..50]).unwrap();
        all[50..60].iter().for_each(|t| _ = session.feed(&[*t]).unwrap());
        session.feed(&all[60..90]).unwrap();
        for (at, left) in [(90, 90), (89, 60), (60, 60), (59, 50), (50, 50), (49, 0), (1, 0), (0, 0)] {
            let mut cut = session.fork();
            assert_eq!((cut.truncate(at), cut.position()), (left, left), "cut at {at}");
            let mut other = cut.fork();
            let rest = tokens(2, 9);
            assert_eq!(bits(cut.feed(&rest).unwrap()), fresh(left, &rest), "cut at {at}");
            rest.iter().for_each(|t| _ = other.feed(&[*t]).unwrap());
            assert_eq!(bits(other.logits()), bits(cut.logits()), "one by one after {at}");
            let before = cut.snapshot();
            cut.truncate(at.saturating_sub(5));
            cut.restore(&before).unwrap();
            assert_eq!(bits(cut.logits()), bits(other.logits()));
        }
        // States that are kept are counted.
        assert!(session.cache_bytes() > bytes);
        // What is refused changes nothing.
        assert!(session.feed(&[&all[..3], &[tiny::VOCAB as u32][..]].concat()).is_err());
        assert_eq!(session.position(), 90);
        assert_eq!(bits(session.feed(&all[..4]).unwrap()), fresh(90, &all[..4]));
    }
}

#[test]
fn company_changes_no_bit() {
    for arch in ["llama", "qwen3", "gemma3", "lfm2", "qwen35", "qwen2moe", "olmoe"] {
        let row = ARCHES.iter().find(|a| a.name == arch).unwrap();
        let mut sketch = Sketch::new(row, 3, true).full();
        for (format, cache, precision) in
            [("F16", CacheType::F16, Precision::Int8), ("F32", CacheType::Q8, Precision::F32)]
        {
            sketch.format = format.into();
            for (kernels, threads) in available().into_iter().flat_map(|k| [(k, 1), (k, 3)]) {
                let model = sketch.model_on(Compute { kernels, pool: Pool::new(threads) });
                let what = format!("{arch} {format} {cache:?} {} {threads} threads", kernels.name);
                in_company(&model, cache, precision, &adapters(&model), tiny::VOCAB as u32, &what);
            }
        }
    }
}

#[cfg(feature = "base")]
#[test]
fn nor_of_a_quantised_model() {
    use mynah::{bytes::Bytes, bytes::Limits, gguf::Gguf};
    let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    for kernels in available() {
        let model = Model::load(&gguf, Compute { kernels, pool: Pool::new(2) }).unwrap();
        let vocab = model.weights.vocab() as u32;
        in_company(&model, CacheType::F16, Precision::Int8, &adapters(&model)[..3], vocab, kernels.name);
    }
}

#[test]
fn forks_decode_together() {
    let model = long("llama", 2);
    let mut root = Session::new(&model, config(CacheType::F16, 2 * PAGE)).unwrap();
    root.feed(&tokens(1, PAGE + 1)).unwrap();
    let mut forks: Vec<Session> = (0..6).map(|_| root.fork()).collect();
    let texts: Vec<Vec<u32>> = (0..6).map(|i| tokens(10 + i, 9)).collect();
    for step in 0..9 {
        let mut all: Vec<&mut Session> = forks.iter_mut().collect();
        let next: Vec<&[u32]> = texts.iter().map(|t| &t[step..=step]).collect();
        Session::feed_together(&mut all, &next).unwrap();
    }
    for (fork, text) in forks.iter().zip(&texts) {
        let mut alone = root.fork();
        alone.feed(text).unwrap();
        assert_eq!(bits(fork.logits()), bits(alone.logits()));
    }
}

#[test]
fn one_bad_session_stops_all_where_they_stood() {
    let model = tiny::model("llama", 3, true, 1);
    let new = || Session::new(&model, config(CacheType::F16, 20)).unwrap();
    let (mut a, mut b) = (new(), new());
    a.feed(&[1, 2]).unwrap();
    let logits = bits(a.logits());
    for (first, second, word) in [(&[3][..], &[tiny::VOCAB as u32][..], "vocabulary"), (&[3], &[1; 21], "context")] {
        let why = Session::feed_together(&mut [&mut a, &mut b], &[first, second]).unwrap_err().to_string();
        assert!(why.contains(word), "{why}");
        assert_eq!((a.position(), b.position(), bits(a.logits())), (2, 0, logits.clone()));
    }
    assert!(Session::feed_together(&mut [&mut a], &[]).is_err());
    let other = tiny::model("llama", 4, true, 1);
    let mut c = Session::new(&other, config(CacheType::F16, 20)).unwrap();
    assert!(Session::feed_together(&mut [&mut a, &mut c], &[&[1], &[1]]).is_err());
    let f32 = SessionConfig { precision: Precision::F32, ..config(CacheType::F16, 20) };
    let mut d = Session::new(&model, f32).unwrap();
    assert!(Session::feed_together(&mut [&mut a, &mut d], &[&[1], &[1]]).is_err());
    Session::feed_together(&mut [&mut a, &mut b], &[&[], &[]]).unwrap();
    assert_eq!((a.position(), b.position()), (2, 0));
}

#[test]
fn a_prompt_stops_between_chunks() {
    let model = tiny::model("llama", 3, true, 1);
    let mut session = Session::new(&model, config(CacheType::F16, 40)).unwrap();
    let prompt = tokens(1, 30);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    assert_eq!(session.feed_until(&prompt, &stop).unwrap(), 14);
    assert_eq!((session.position(), session.logits()), (14, &[][..]));
    assert_eq!(session.feed_until(&prompt[14..], &|| false).unwrap(), 16);
    let mut whole = Session::new(&model, config(CacheType::F16, 40)).unwrap();
    assert_eq!(bits(session.logits()), bits(whole.feed(&prompt).unwrap()));
}

#[test]
fn a_token_takes_no_memory() {
    for arch in ["llama", "lfm2", "qwen35", "qwen2moe"] {
        [1, 2].iter().for_each(|threads| tokens_take_no_memory(arch, *threads));
    }
}

fn tokens_take_no_memory(arch: &str, threads: usize) {
    let model = long(arch, threads);
    let mut session = Session::new(&model, config(CacheType::F16, 4 * PAGE)).unwrap();
    session.attach(adapters(&model)[0].clone(), 1.0).unwrap();
    let (all, rounds) = (tokens(1, 70), if threads == 1 { 1 } else { 6 });
    session.feed(&all[..41]).unwrap();
    // A thread takes its scratch at its first part of each kind, which may be another thread's for some rounds.
    let mut round = |tokens: &[u32]| alloc::largest(|| tokens.iter().for_each(|t| _ = session.feed(&[*t]).unwrap())).1;
    if threads == 1 {
        round(&all[..1]);
    }
    let most: Vec<usize> = (0..rounds).map(|_| round(&all)).collect();
    assert!(most.contains(&0), "bytes reserved at once while decoding with {arch}: {most:?}");
}

/// Five of six layers see the last 40 positions.
fn windowed(threads: usize) -> Model {
    let keys = vec![("attention.sliding_window", 40u32.into())];
    let arch = Arch::by_name("gemma3").unwrap();
    Sketch { layers: 6, keys, context: 8 * PAGE, ..Sketch::new(arch, 5, true) }.model(threads)
}

#[test]
fn a_window_passes_over_what_it_has_left() {
    let model = windowed(2);
    let text = tokens(1, 7 * PAGE);
    let exact = SessionConfig { precision: Precision::F32, ..config(CacheType::F32, 8 * PAGE) };
    let mut session = Session::new(&model, exact.clone()).unwrap();
    let bytes = session.cache_bytes();
    // The layer that sees all has all pages; the others have those of the window, a page before it, and a pass.
    let row = CacheType::F32.bytes(&model.hparams) / 6;
    assert!(bytes < (8 + 5 * 5) * PAGE * row, "{bytes} bytes, {row} a layer and position");
    let mut nll = 0.0;
    let each = &mut |i: usize, logits: &[f32]| {
        if let Some(next) = text.get(i + 1) {
            let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
            nll += sum.ln() - f64::from(logits[*next as usize]);
        }
    };
    session.feed_each(&text, each).unwrap();
    assert_eq!(session.cache_bytes(), bytes, "pages are used again");
    let mut trainer = Trainer::full(&model, Config::default()).unwrap();
    let row = Example::new(text.clone(), vec![true; text.len()]);
    let want = trainer.assess(&[row]).unwrap();
    assert_eq!(want.n, text.len() as u64 - 1);
    assert!((nll / want.n as f64 - want.loss).abs() < 1e-6, "{} for {}", nll / want.n as f64, want.loss);
}

#[test]
fn there_is_no_way_back_behind_a_window() {
    let model = windowed(1);
    let (text, rest) = (tokens(1, 6 * PAGE + 7), tokens(2, 20));
    let fresh = |at: usize| {
        let mut session = Session::new(&model, config(CacheType::F16, 8 * PAGE)).unwrap();
        if at > 0 {
            session.feed(&text[..at]).unwrap();
        }
        bits(session.feed(&rest).unwrap())
    };
    let mut session = Session::new(&model, config(CacheType::F16, 8 * PAGE)).unwrap();
    session.feed(&text[..PAGE]).unwrap();
    let early = session.snapshot();
    session.feed(&text[PAGE..]).unwrap();
    // Back by as many tokens as are kept beside the window.
    let near = text.len() - PAGE / 2;
    let late = session.snapshot();
    assert_eq!(session.truncate(near), near);
    assert_eq!(bits(session.feed(&rest).unwrap()), fresh(near));
    session.restore(&late).unwrap();
    // A snapshot keeps what it saw.
    session.restore(&early).unwrap();
    assert_eq!(bits(session.feed(&rest).unwrap()), fresh(PAGE));
    session.restore(&late).unwrap();
    assert_eq!(session.truncate(PAGE), 0);
    assert_eq!((session.position(), session.logits()), (0, &[][..]));
    assert_eq!(bits(session.feed(&rest).unwrap()), fresh(0));
}
