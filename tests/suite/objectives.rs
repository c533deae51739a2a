//! Objectives against the numbers of TRL and of the authors (`golden/peft/d_preference`), and what a trainer makes of them.

use crate::peft::{close, config, floats, golden, ints, json, numbers, open_lora};
use crate::shared::{needs_shared, shared};
use crate::tiny::{self, Rng, VOCAB};
use mynah::adapter;
use mynah::knob::Values;
use mynah::train::objective::{self, Case, LossTerm, OBJECTIVES, Score, Shape, Spec, Totals};
use mynah::train::{Config, Example, Gradient, Schedule, Trainer, Zeroth};
use safetensors::SafeTensors;
use serde_json::Value;

#[path = "../../examples/prefer/course.rs"]
mod course;

/// Relative to what is compared, and to 1 where that is less.
fn near(name: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{name}: {got} for {want}");
}

/// The name of a golden loss as a spec of ours.
fn spec(name: &str, h: &Value) -> Spec {
    // Of each golden name our own, and which of its numbers is which of ours.
    let (kind, numbers): (&str, &[(&'static str, &str)]) = match name {
        "dpo_sigmoid" => ("dpo", &[]),
        "cdpo_sigmoid_smoothed" => ("cdpo", &[("label smoothing", "label_smoothing")]),
        "robust_dpo" => ("robust", &[("label smoothing", "label_smoothing")]),
        "exo_pair" => ("exo_pair", &[("label smoothing", "label_smoothing")]),
        "ipo_avg" => ("ipo", &[("beta", "tau")]),
        "ipo_sum" => ("ipo_sum", &[("beta", "tau")]),
        "simpo" => ("simpo", &[("gamma", "gamma")]),
        "cpo" => ("cpo", &[("nll", "cpo_alpha")]),
        "cpo_preference_part" => ("cpo", &[]),
        "orpo" | "orpo_odds_part" => ("orpo", &[("beta", "lambda_")]),
        "asft" | "asft_beta" => ("asft", &[("nll", "ce"), ("lambda", "lambda_")]),
        "kto" | "kto_weighted" => {
            ("kto", &[("desirable weight", "desirable_weight"), ("undesirable weight", "undesirable_weight")])
        }
        "discopop" => ("discopop", &[("gamma", "tau")]),
        "poft" => ("poft", &[("gamma", "gamma")]),
        same => (same, &[]),
    };
    let mut values = Values::new();
    for (ours, theirs) in [("beta", "beta")].iter().chain(numbers) {
        if let Some(number) = h[*theirs].as_f64() {
            values.set(ours, number);
        }
    }
    if ["cpo_preference_part", "orpo_odds_part"].contains(&name) {
        values.set("nll", 0.0);
    }
    Spec { kind: kind.into(), values }
}

/// Pairs of the golden inputs; for verdicts first all chosen, then all rejected completions.
fn cases(inputs: &Value, shape: Shape) -> (Vec<Case>, Totals) {
    let get = |key: &str| if inputs[key].is_null() { Vec::new() } else { numbers(&inputs[key]) };
    let n = get("policy_chosen").len();
    let at = |key: &str, i: usize| get(key).get(i).copied().unwrap_or(1.0);
    let score = |which: &str, i: usize| Score {
        logp: at(&format!("policy_{which}"), i),
        len: at(&format!("len_{which}"), i),
        reference: at(&format!("reference_{which}"), i),
    };
    let case = |answer: Score, other: Option<Score>, good: bool, i: usize| Case {
        weight: 1.0,
        answer,
        other,
        good,
        own: false,
        prompt: Score { logp: at("prompt_logp_of_chosen_rows", i), len: at("len_prompt", i), reference: 0.0 },
    };
    let list: Vec<Case> = match shape {
        Shape::Contrast | Shape::Mixed => unreachable!("these references have neither passages nor mixtures"),
        Shape::Completion => (0..n)
            .map(|i| {
                let mut answer = score("chosen", i);
                let aligned = inputs["aligned_llm_avg_logp"].as_array().unwrap();
                let sum: f64 = aligned.iter().map(|model| numbers(model)[i]).sum();
                answer.reference = sum / aligned.len() as f64 * answer.len;
                case(answer, None, true, i)
            })
            .collect(),
        Shape::Pair => (0..n).map(|i| case(score("chosen", i), Some(score("rejected", i)), true, i)).collect(),
        Shape::Verdict => {
            let kl = |i| (!inputs["policy_kl"].is_null()).then(|| score("kl", i));
            let good = (0..n).map(|i| case(score("chosen", i), kl(i), true, i));
            good.chain((0..n).map(|i| case(score("rejected", i), None, false, i))).collect()
        }
    };
    let totals = Totals {
        cases: list.len() as f64,
        tokens: list.iter().map(|c| c.answer.len).sum(),
        prompt_tokens: list.iter().map(|c| c.prompt.len).sum(),
    };
    (list, totals)
}

/// The gradients of the mean by chosen and by rejected completions.
fn gradients(terms: &[LossTerm], shape: Shape) -> [Vec<f64>; 2] {
    match shape {
        Shape::Verdict => {
            let (chosen, rejected) = terms.split_at(terms.len() / 2);
            [chosen, rejected].map(|half| half.iter().map(|g| g.answer).collect())
        }
        _ => [terms.iter().map(|g| g.answer).collect(), terms.iter().map(|g| g.other).collect()],
    }
}

#[needs_shared]
#[test]
fn values_and_gradients_are_those_of_the_references() {
    let shared = shared();
    let all = json(&shared.join("golden/peft/d_preference/losses.json"));
    let mut compared = 0;
    for which in ["typical", "extreme"] {
        let inputs = &all["cases"][which]["inputs"];
        for (name, want) in all["cases"][which]["losses"].as_object().unwrap() {
            // Some sources overflow on the extreme inputs and have no numbers there.
            let Some(losses) = want["losses"].as_array().filter(|l| l.iter().all(|v| v.is_number())) else {
                assert_eq!(which, "extreme", "{name}");
                continue;
            };
            let spec = spec(name, &want["hyper_parameters"]);
            let (kind, settings) = spec.row().unwrap();
            let (cases, totals) = cases(inputs, kind.shape);
            let terms = (kind.create)(&settings).evaluate(&totals, &cases);
            let mean: f64 = terms.iter().map(|g| g.loss).sum();
            near(&format!("{which} {name} mean"), mean, want["mean"].as_f64().unwrap(), 1e-9);
            // Likelihood terms are one for the batch, and sorted losses belong to no pair.
            if !["cpo", "orpo", "aot", "aot_pair"].contains(&name.as_str()) {
                for (i, (g, l)) in terms.iter().zip(losses).enumerate() {
                    near(&format!("{which} {name} {i}"), g.loss * totals.cases, l.as_f64().unwrap(), 1e-9);
                }
            }
            let [chosen, rejected] = gradients(&terms, kind.shape);
            for (key, got) in [("grad_policy_chosen", chosen), ("grad_policy_rejected", rejected)] {
                for (i, (g, w)) in got.iter().zip(numbers(&want[key])).enumerate() {
                    near(&format!("{which} {name} {key} {i}"), *g, w, 1e-9);
                }
            }
            compared += 1;
        }
    }
    assert!(compared >= 45, "{compared} losses were compared");
}

#[needs_shared]
#[test]
fn the_shift_of_bco_follows_its_batches_and_can_be_restored() {
    let shared = shared();
    let all = json(&shared.join("golden/peft/d_preference/losses.json"));
    for (kind, pick) in [("bco", None), ("bco_pair", Some("bco_pair"))] {
        let (kind, settings) = Spec::new(kind).row().unwrap();
        let mut objective = (kind.create)(&settings);
        for (i, batch) in all["bco"]["batches"].as_array().unwrap().iter().enumerate() {
            let want = pick.map_or(batch, |key| &batch[key]);
            let (cases, totals) = cases(&batch["inputs"], kind.shape);
            // What goes on from saved state goes on in every bit.
            let mut other = (kind.create)(&settings);
            other.restore(&objective.state()).unwrap();
            let terms = objective.evaluate(&totals, &cases);
            assert_eq!(other.evaluate(&totals, &cases), terms);
            near("mean", terms.iter().map(|g| g.loss).sum(), want["mean"].as_f64().unwrap(), 1e-9);
            for (g, l) in terms.iter().zip(numbers(&want["losses"])) {
                near("loss", g.loss * totals.cases, l, 1e-9);
            }
            let [chosen, rejected] = gradients(&terms, kind.shape);
            for (key, got) in [("grad_policy_chosen", chosen), ("grad_policy_rejected", rejected)] {
                for (g, w) in got.iter().zip(numbers(&want[key])) {
                    near(&format!("{} batch {i} {key}", kind.name), *g, w, 1e-9);
                }
            }
            if kind.shape == Shape::Verdict {
                near("shift", terms[0].against, want["delta_after_update"].as_f64().unwrap(), 1e-9);
            }
        }
        assert!((kind.create)(&settings).restore(&[]).is_err());
    }
}

/// Every row's derivatives against differences of its loss.
#[test]
fn derivatives_agree_with_differences() {
    for kind in OBJECTIVES {
        let (_, settings) = Spec::new(kind.name).row().unwrap();
        let mut rng = Rng(3);
        let mut score = |len: f64| Score {
            logp: -len * (1.2 + 0.4 * rng.unit() as f64),
            len,
            reference: -len * (1.2 + 0.4 * rng.unit() as f64),
        };
        let cases: Vec<Case> = (0..4)
            .map(|i| Case {
                weight: 0.5 + 0.5 * i as f64,
                answer: score(5.0),
                other: (kind.shape == Shape::Pair || kind.shape == Shape::Mixed && i < 2 || kind.mismatched)
                    .then(|| score(8.0)),
                good: i % 2 == 0,
                own: kind.shape == Shape::Mixed && i == 3,
                prompt: score(3.0),
            })
            .collect();
        let totals = Totals { cases: 4.0, tokens: 20.0, prompt_tokens: 12.0 };
        let terms = (kind.create)(&settings).evaluate(&totals, &cases);
        // The shift of BCO and the divergence of KTO have no gradient; they are held by moving all of one kind at once.
        if ["kto", "bco", "bco_balanced", "bco_pair", "marks"].contains(&kind.name) {
            continue;
        }
        let loss =
            |cases: &[Case]| (kind.create)(&settings).evaluate(&totals, cases).iter().map(|g| g.loss).sum::<f64>();
        for i in 0..cases.len() {
            let moved = |change: &dyn Fn(&mut Case, f64)| {
                let at = |by: f64| {
                    let mut cases = cases.clone();
                    change(&mut cases[i], by);
                    loss(&cases)
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            };
            let answer = moved(&|c, by| c.answer.logp += by);
            near(&format!("{} answer", kind.name), terms[i].answer, answer, 1e-7);
            let other = moved(&|c, by| c.other.iter_mut().for_each(|o| o.logp += by));
            near(&format!("{} other", kind.name), terms[i].other, other, 1e-7);
            let prompt = moved(&|c, by| c.prompt.logp += by);
            near(&format!("{} prompt", kind.name), terms[i].prompt, if kind.prompts { prompt } else { 0.0 }, 1e-7);
        }
    }
}

#[needs_shared]
#[test]
fn lora_by_dpo_simpo_and_orpo_is_that_of_the_references() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let file = std::fs::read(dir.join("d_preference/e2e_lora/grads.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    let width = t.tensor("input_ids").unwrap().shape()[1];
    let [ids, mask, labels] = ["input_ids", "attention_mask", "labels"].map(|name| ints(&t, name));
    let rows = crate::peft::examples(&ids, &mask, &labels, width);
    let mut pairs: Vec<Example> = (0..3).map(|i| rows[i].clone().over(rows[i + 3].clone())).collect();
    let result = json(&dir.join("d_preference/e2e_lora/result.json"));
    for kind in ["dpo", "simpo", "orpo"] {
        let want = &result["kinds"][kind];
        let trainer = |steps: u64, clip: f32| {
            let config = Config { objective: Spec::new(kind), ..config(1e-3, clip, steps) };
            Trainer::adapter(&model, open_lora(&dir, &model), config).unwrap()
        };
        let mut first = trainer(1, 0.0);
        first.fill_reference_logps(&mut pairs).unwrap();
        if kind == "dpo" {
            let sums = numbers(&result["sums"]["reference"]);
            for (i, pair) in pairs.iter().enumerate() {
                near("reference", pair.reference.unwrap(), sums[i], 1e-5);
                near("reference", pair.other.as_ref().unwrap().reference.unwrap(), sums[i + 3], 1e-5);
            }
        }
        let report = first.step(&[&pairs]).unwrap();
        near(&format!("{kind} loss"), report.loss, want["mean_f64"].as_f64().unwrap(), 1e-5);
        near(&format!("{kind} norm"), report.grad_norm, want["grad_norm"].as_f64().unwrap(), 1e-4);
        if kind == "dpo" {
            for slot in open_lora(&dir, &model).low_rank().unwrap().0.slots() {
                let name = format!("dpo/base_model.model.model.layers.{}.{}", slot.site.layer, slot.site.role.hf());
                close(&name, &first.grads()[slot.a()], &floats(&t, &format!("{name}.lora_A.weight")));
                let plain = format!("{name}.lora_B.weight");
                let gguf = format!("{plain}::gguf");
                let want = floats(&t, if t.tensor(&gguf).is_ok() { &gguf } else { &plain });
                let (rank, out) = (slot.rank, slot.shape[1]);
                let transposed: Vec<f32> = (0..rank * out).map(|i| want[i % out * rank + i / out]).collect();
                close(&plain, &first.grads()[slot.b()], &transposed);
            }
        }
        let mut run = trainer(20, 1.0);
        let losses = numbers(&want["trajectory"]["losses"]);
        for (i, want) in losses.iter().enumerate() {
            let loss = run.step(&[&pairs]).unwrap().loss;
            assert!((loss - want).abs() < 1e-4, "{kind} step {i}: {loss} for {want}");
        }
        // Pairs in micro-batches, with gradients accumulated, are the same step.
        let mut parts = trainer(1, 0.0);
        let report = parts.step(&[&pairs[..1], &pairs[1..]]).unwrap();
        near(&format!("{kind} loss in parts"), report.loss, want["mean_f64"].as_f64().unwrap(), 1e-5);
        close(kind, parts.grads(), first.grads());
    }
}

/// Pairs of random completions, with verdicts and mismatched ones as an objective wants them.
fn rows(kind: &objective::Kind) -> Vec<Example> {
    let mut rng = Rng(8);
    let mut tokens = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.below(VOCAB) as u32).collect() };
    let pairs: Vec<Example> = (0..4)
        .map(|i| {
            let prompt = tokens(3 + i);
            Example::completion(&prompt, &tokens(5)).over(Example::completion(&prompt, &tokens(4 + i)))
        })
        .collect();
    match kind.shape {
        Shape::Pair => pairs,
        Shape::Mixed => {
            let own = Example { other: None, ..pairs[0].clone() };
            let judged = objective::unpair(pairs[1..2].to_vec());
            pairs[2..].iter().cloned().chain(judged).chain([own]).collect()
        }
        Shape::Completion => pairs.into_iter().map(|e| Example { other: None, ..e }).collect(),
        Shape::Contrast => {
            let passage = |e: &Example| Example::completion(&e.other.as_ref().unwrap().tokens, &[]);
            pairs.iter().map(|e| Example { other: None, ..e.clone() }.finding(vec![passage(e)])).collect()
        }
        Shape::Verdict => {
            let mut rows = objective::unpair(pairs);
            if kind.mismatched {
                objective::mismatch(&mut rows, 64).unwrap();
            }
            rows
        }
    }
}

fn trainer(kind: &str, config: Config) -> Trainer {
    let model = tiny::model("llama", 12, true, 2);
    let spec = adapter::Spec { seed: 4, ..adapter::Spec::default() }.with("rank", 3);
    let adapter = adapter::create(&spec, &model.base([0; 32])).unwrap();
    Trainer::adapter(&model, adapter, Config { objective: Spec::new(kind), ..config }).unwrap()
}

#[test]
fn every_objective_teaches_and_says_what_it_lacks() {
    for kind in OBJECTIVES {
        let mut t = trainer(kind.name, Config { lr: 2e-2, steps: 30, ..Config::default() });
        let mut rows = rows(kind);
        if kind.reference {
            let why = t.step(&[&rows]).unwrap_err().to_string();
            assert!(why.contains("reference"), "{}: {why}", kind.name);
        }
        t.fill_reference_logps(&mut rows).unwrap();
        let first = t.assess(&rows).unwrap();
        let reports: Vec<_> = (0..30).map(|_| t.step(&[&rows[..2], &rows[2..]]).unwrap()).collect();
        let last = t.assess(&rows).unwrap();
        assert!(last.loss < first.loss, "{}: loss {} to {}", kind.name, first.loss, last.loss);
        if !matches!(kind.shape, Shape::Completion | Shape::Mixed) {
            let rewards = last.rewards.unwrap();
            assert!(rewards.accuracy > 0.9, "{}: {rewards:?}", kind.name);
            assert!(rewards.margin > reports[0].rewards.unwrap().margin, "{}: {rewards:?}", kind.name);
            let bare = Example { other: None, good: None, passages: Vec::new(), ..rows[0].clone() };
            let why = t.step(&[&[bare]]).unwrap_err().to_string();
            assert!(why.contains(kind.name) && why.contains(kind.shape.describe()), "{why}");
        }
        // With the adapter at rest, pairs are as likely as under the reference.
        if ["dpo", "ln_dpo", "robust", "cdpo", "aot_pair"].contains(&kind.name) {
            assert!((first.loss - std::f64::consts::LN_2).abs() < 1e-12, "{}: {}", kind.name, first.loss);
        }
    }
}

#[test]
fn a_discarded_step_leaves_the_objective_as_it_was() {
    let mut t = trainer("bco", Config { steps: 10, ..Config::default() });
    let mut rows = rows(t_kind("bco"));
    t.fill_reference_logps(&mut rows).unwrap();
    t.step(&[&rows]).unwrap();
    let owned = |t: &Trainer| format!("{:?}", t.objective().state());
    let before = owned(&t);
    let mut bad = rows.clone();
    bad[1].tokens[0] = VOCAB as u32;
    assert!(t.step(&[&rows[2..], &bad]).is_err());
    assert_eq!(owned(&t), before);
    t.assess(&rows).unwrap();
    assert_eq!(owned(&t), before);
}

fn t_kind(name: &str) -> &'static objective::Kind {
    objective::Kind::by_name(name).unwrap()
}

#[test]
fn weights_scale_the_part_of_an_example() {
    for kind in ["sft", "dpo", "bco"] {
        let config = Config { lr: 1e-3, clip: 0.0, steps: 1, schedule: Schedule::Constant, ..Config::default() };
        let grads = |weights: [f32; 2]| {
            let mut t = trainer(kind, config.clone());
            let mut rows: Vec<Example> = rows(t_kind(kind))[..2].to_vec();
            rows.iter_mut().zip(weights).for_each(|(r, w)| r.weight = Some(w));
            t.fill_reference_logps(&mut rows).unwrap();
            t.step(&[&rows]).unwrap();
            t.grads().to_vec()
        };
        let (first, second, both) = (grads([2.0, 0.0]), grads([0.0, 0.5]), grads([2.0, 0.5]));
        let sum: Vec<f32> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
        close(kind, &both, &sum);
    }
}

#[test]
fn estimated_gradients_point_the_way_of_true_ones() {
    for kind in ["sft", "dpo", "kto", "bco"] {
        let config = Config { clip: 0.0, steps: 40, ..Config::default() };
        let mut exact = trainer(kind, config.clone());
        let mut rows = rows(t_kind(kind));
        exact.fill_reference_logps(&mut rows).unwrap();
        let want = exact.step(&[&rows]).unwrap();
        let zeroth = Zeroth { directions: 400, eps: 2e-3, seed: 1 };
        let estimate = |zeroth: Zeroth| {
            let mut t = trainer(kind, Config { gradient: Gradient::Zeroth(zeroth), ..config.clone() });
            let report = t.step(&[&rows[..1], &rows[1..]]).unwrap();
            (report, t.grads().to_vec())
        };
        let (report, got) = estimate(zeroth);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        let cosine = dot(&got, exact.grads()) / (dot(&got, &got) * dot(exact.grads(), exact.grads())).sqrt();
        // With D directions of P parameters the cosine is about √(D / (D + P)).
        let expected = (400.0 / (400.0 + got.len() as f64)).sqrt();
        assert!((cosine - expected).abs() < 0.12, "{kind}: cosine {cosine}, expected {expected}");
        assert!((report.loss - want.loss).abs() < 1e-2, "{kind}: loss {} for {}", report.loss, want.loss);
        assert!(estimate(zeroth) == (report, got.clone()), "{kind}: the same seed, another result");
        assert!(estimate(Zeroth { seed: 2, ..zeroth }).1 != got, "{kind}: another seed, the same result");
    }
    // A step moves the adapter by the optimiser alone: what was moved to look is back.
    let config = Config { lr: 3e-3, steps: 200, gradient: Gradient::Zeroth(Zeroth::default()), ..Config::default() };
    let mut t = trainer("sft", config);
    let rows = rows(t_kind("sft"));
    let before = t.assess(&rows).unwrap().loss;
    for _ in 0..200 {
        t.step(&[&rows]).unwrap();
    }
    let after = t.assess(&rows).unwrap().loss;
    assert!(after < before - 0.1, "loss {before} to {after}");
}

/// The claim of `examples/prefer`, with fewer steps.
#[test]
fn a_preference_for_short_answers_is_learnt() {
    let speaker = course::Speaker::new(2).unwrap();
    let data = speaker.data().unwrap();
    let (before, _) = speaker.length(None).unwrap();
    for objective in ["dpo", "bco", "kto"] {
        let run = speaker.teach(&data, objective, 20).unwrap();
        let accuracy = run.accuracy.last().unwrap().1;
        eprintln!("{objective}: {before:.1} to {:.1} tokens, held-out accuracy {accuracy:.2}", run.length);
        assert!(accuracy >= 0.9, "{objective}: held-out accuracy {accuracy}");
        assert!(run.length < 0.7 * before, "{objective}: {before} tokens before, {} after", run.length);
        assert!(run.losses.last() < run.losses.first(), "{objective}: {:?}", run.losses);
        assert!(!run.says.is_empty());
    }
}
