//! Density ratios: embeddings of prompts, and the weights of what was not liked.

use crate::survive::Place;
use crate::tiny;
use mynah::adapter::{self, Spec};
use mynah::model::{CacheType, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::train::density::Classifier;
use mynah::train::{Config, Example, Trainer, objective};
use std::fs;

fn trainer(threads: usize) -> Trainer {
    let model = tiny::model("llama", 3, true, threads);
    let adapter = adapter::create(&Spec::default(), &model.base([0; 32])).unwrap();
    let config = Config { objective: objective::Spec::new("bco"), ..Config::default() };
    Trainer::adapter(&model, adapter, config).unwrap()
}

#[test]
fn an_embedding_is_the_mean_of_the_prompts_hidden_states() {
    let mut trainer = trainer(1);
    let of = |trainer: &mut Trainer, prompt: &[u32]| trainer.embed(&Example::completion(prompt, &[5, 6])).unwrap();
    let embedding = of(&mut trainer, &[1, 9, 4]);
    let length: f32 = embedding.iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert_eq!(trainer.embed(&Example::completion(&[1, 9, 4], &[8])).unwrap(), embedding, "the completion is not seen");
    for threads in [2, 3] {
        assert_eq!(of(&mut self::trainer(threads), &[1, 9, 4]), embedding, "{threads} threads");
    }
    // The output matrix makes logits of the hidden state of each position, so of their sum the sum of the logits.
    let model = trainer.model().clone();
    let config =
        SessionConfig { precision: Precision::F32, context: 8, cache: CacheType::F32, ..SessionConfig::default() };
    let mut session = Session::new(&model, config).unwrap();
    let mut sums = vec![0.0; model.weights.vocab()];
    for token in [1, 9, 4] {
        let logits = session.feed(&[token]).unwrap();
        sums.iter_mut().zip(logits).for_each(|(sum, z)| *sum += z);
    }
    let (head, width) = (model.weights.head(), embedding.len());
    let mut rows = vec![0.0; head.rows * width];
    (model.compute.kernels.decode)(head, 0..head.rows, 0..width, &mut rows);
    let made: Vec<f32> = rows.chunks(width).map(|w| w.iter().zip(&embedding).map(|(w, e)| w * e).sum()).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let cosine = dot(&made, &sums) / (dot(&made, &made) * dot(&sums, &sums)).sqrt();
    assert!(cosine > 0.99999, "{cosine}");

    let none = trainer.embed(&Example::new(vec![1, 2], vec![false; 2])).unwrap_err().to_string();
    assert!(none.contains("the example has no target token"), "{none}");
}

#[test]
fn prompts_that_are_liked_more_make_dislikes_weigh_more() {
    let mut trainer = trainer(2);
    // Prompts of two kinds: of one 7 of 8 completions are liked, of the other 1 of 8.
    let rows: Vec<Example> = (0..16u32)
        .map(|i| Example::completion(&[1, if i < 8 { 3 } else { 11 }, i], &[5]).judged((i % 8 == 0) != (i < 8)))
        .collect();
    let known: Vec<Vec<f32>> = rows.iter().map(|e| trainer.embed(e).unwrap()).collect();
    let samples: Vec<_> = known.iter().zip(&rows).map(|(x, e)| (&x[..], e.good.unwrap())).collect();
    let classifier = Classifier::fit(&samples).unwrap();
    let ratio = |i: usize| classifier.ratio(&known[i]);
    assert!(ratio(0) > 1.2 && (8..16).all(|i| ratio(i) < 1.0), "{:?}", (0..16).map(ratio).collect::<Vec<_>>());
}

#[test]
fn the_command_weighs_goes_on_and_refuses() {
    let place = Place::new();
    let row = |i: usize| {
        let (kind, liked) = if i.is_multiple_of(2) { ("Rain at Gull Rock", i != 4) } else { ("A parrot", i == 3) };
        format!("{{\"prompt\": \"{kind} on day {i}.\", \"completion\": \" Tea and soup.\", \"label\": {liked}}}\n")
    };
    fs::write(place.path("thumbs.jsonl"), (0..16).map(row).collect::<String>()).unwrap();
    let line = "train -m base.gguf -d thumbs.jsonl --objective bco --batch 4 --steps 6 --lr 1e-3 --eval-fraction 0.2";
    let said = place.says(&format!("{line} --density-ratios -o whole"), 0);
    let weights = said.split("disliked rows is multiplied by ").nth(1).expect(&said);
    let bounds: Vec<f32> = weights.split(' ').filter_map(|w| w.trim_end_matches(',').parse().ok()).take(2).collect();
    assert!(bounds[0] < 0.9 && bounds[1] > 1.1, "{said}");
    place.says(&format!("{line} -o plain"), 0);
    assert!(place.read("whole") != place.read("plain"), "weights change what is learnt");
    place.says(&format!("{line} --density-ratios -o parts --checkpoints saved --max-steps 3"), 0);
    place.says("train --resume saved", 0);
    assert!(place.read("whole") == place.read("parts"), "a run that paused ends with the same bytes");

    let said = place.says("train -m base.gguf -d notes.txt -o x --density-ratios", 2);
    assert!(said.contains("--density-ratios: they are for completions that were liked or not; sft is not"), "{said}");
    fs::write(place.path("liked.jsonl"), (0..16).step_by(2).filter(|i| *i != 4).map(row).collect::<String>()).unwrap();
    let said = place.says(&line.replace("thumbs", "liked").replace(" --eval", " -o x --density-ratios --eval"), 2);
    assert!(said.contains("are of liked completions; some of both are needed"), "{said}");
}
