//! The path beside the frozen blocks: what its training holds, and that it starts as the base.

use crate::alloc;
use crate::tiny::{self, Sketch};
use mynah::adapter::{self, Spec, Stack};
use mynah::model::{ARCHES, Model, Session, SessionConfig};
use mynah::train::plan::{Plan, Rows, Run, Subject};
use mynah::train::{Config, Example, Recompute, Trainer};

const BATCH: usize = 8;
const LEN: usize = 61;

fn examples() -> Vec<Example> {
    let example = |i: usize| Example::all((0..LEN).map(|t| ((i * 5 + t * 3) % tiny::VOCAB) as u32).collect());
    (0..BATCH).map(example).collect()
}

fn model(layers: usize) -> Model {
    let llama = ARCHES.iter().find(|arch| arch.name == "llama").unwrap();
    Sketch { layers, ..Sketch::new(llama, 7, true) }.model(1)
}

fn spec() -> Spec {
    Spec::new("side").with("size", 4)
}

fn config(recompute: Recompute) -> Config {
    Config { steps: 2, recompute, ..Config::default() }
}

fn plan(model: &Model, spec: &Spec, recompute: Recompute) -> Plan {
    let (base, beneath, examples) = (model.base([0; 32]), Stack::new(), examples());
    let run = Run {
        beneath: &beneath,
        model,
        subject: Subject::Fresh(spec, &base),
        config: config(recompute),
        rows: Rows::of(&(0..BATCH).map(|i| vec![i]).collect::<Vec<_>>(), &examples),
        batch: BATCH,
        step: BATCH,
        checkpoints: false,
        best: false,
        activation_cache: false,
        held: 0,
    };
    run.plan().unwrap()
}

#[test]
fn a_new_one_is_the_base_to_the_bit() {
    let model = model(3);
    let tokens: Vec<u32> = (0..12).collect();
    let mut session = Session::new(&model, SessionConfig { context: 32, ..Default::default() }).unwrap();
    let plain = session.feed(&tokens).unwrap().to_vec();
    let mut session = Session::new(&model, SessionConfig { context: 32, ..Default::default() }).unwrap();
    let new = adapter::create(&spec(), &model.base([0; 32])).unwrap();
    session.attach(model.ready(new).unwrap(), 1.0).unwrap();
    assert!(session.feed(&tokens).unwrap() == plain);
}

#[test]
fn no_activation_of_a_block_is_planned() {
    let model = model(6);
    let side = plan(&model, &spec(), Recompute::None);
    assert_eq!((side.saved, side.blocks), (0, 0));
    assert_eq!(side, plan(&model, &spec(), Recompute::All));
    let lora = Spec::new("lora").with("rank", 1);
    assert!(side.activations < plan(&model, &lora, Recompute::All).activations);
}

/// More blocks take more states, of the width of the path, and more parameters: nothing of the width of the model.
#[test]
#[ignore = "counts the whole process's memory; the next test runs it alone"]
fn only_states_are_held_alone() {
    let examples = examples();
    let held = |layers: usize, recompute: Recompute| {
        let model = model(layers);
        let planned = plan(&model, &spec(), recompute).reserved();
        let base = model.base([0; 32]);
        let ((), peak) = alloc::peak(|| {
            let adapter = adapter::create(&spec(), &base).unwrap();
            let mut trainer = Trainer::adapter(&model, adapter, config(recompute)).unwrap();
            (0..2).for_each(|_| _ = trainer.step(&[&examples]).unwrap());
        });
        eprintln!("{layers} blocks, {recompute:?}: {planned} bytes planned, {peak} held");
        assert!(peak <= planned * 11 / 10 && peak >= planned * 3 / 4, "{planned} planned for {peak}");
        peak
    };
    let [few, many] = [2, 10].map(|layers| held(layers, Recompute::None));
    // A state and its gradient of every row; parameters, gradients and moments.
    let states = 4 * BATCH * (LEN - 1) * 2 * 8;
    let params = 16 * (4 * tiny::WIDTH + 2 * 16 + 8);
    let each = (many - few) / 8;
    // The rest are tables of its places, which are far below the least that a block puts out.
    let output = 4 * BATCH * (LEN - 1) * tiny::WIDTH;
    assert!(each <= states + params + output / 8, "{each} bytes a block for {states} and {params}");
}

#[test]
fn only_states_are_held() {
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["side::only_states_are_held_alone", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    eprintln!("{text}");
    assert!(out.status.success() && text.contains("planned"), "{text}");
}
