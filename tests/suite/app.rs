//! The page of a program: lessons end in the bytes of the command's, whatever interrupts them.

use crate::survive::Place;
use mynah::adapter::{Spec, Stack};
use mynah::app::{Checkpoints, Data, Ended, Method, Settings, Setup, Work};
use mynah::base::NOTES;
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Pool};
use mynah::model::ActType;
use mynah::nn::linear::Precision;
use mynah::train::activation_cache::{Memory, Store};
use mynah::train::objective::Spec as Objective;
use mynah::train::{Checkpoint, Example, Recompute, Schedule, optim};
use mynah::{Error, Event, Lesson, Mynah};
use std::fs;

fn mynah() -> Mynah {
    let file = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    Mynah::with(file, Compute { kernels: kernel::best(), pool: Pool::new(2) }).unwrap()
}

/// Liked and disliked completions of prompts of two kinds.
fn verdicts() -> String {
    let row = |i: usize| {
        let (kind, liked) = if i.is_multiple_of(2) { ("Rain at Gull Rock", i != 4) } else { ("A parrot", i == 3) };
        format!("{{\"prompt\": \"{kind} on day {i}.\", \"completion\": \" Tea and soup.\", \"label\": {liked}}}\n")
    };
    (0..14).map(row).collect()
}

fn pairs() -> String {
    let row = |i| {
        let rest = r#""chosen": " Tea.", "rejected": " Soup, and then a walk."}"#;
        format!("{{\"prompt\": \"Gull Rock on day {i}.\", {rest}\n")
    };
    (0..8).map(row).collect()
}

/// All events until the end; none may be an error.
fn finish(lesson: &mut Lesson) -> Vec<Event> {
    lesson.map(|event| event.unwrap()).collect()
}

/// Every option of the command is a setting of the library, and both end in the same bytes.
#[test]
fn lessons_end_in_the_bytes_of_the_command() {
    let place = Place::new();
    let mynah = mynah();
    fs::write(place.path("thumbs.jsonl"), verdicts()).unwrap();
    fs::write(place.path("pairs.jsonl"), pairs()).unwrap();
    place.says("train -m base.gguf -d notes.txt -o first --ctx 64 --rank 2 --steps 3", 0);
    type Change = fn(&mut Settings);
    let runs: &[(&str, &str, Method, Change)] = &[
        (
            "notes.txt",
            "--method nola --basis 8 --batch 2 --eval-fraction 0.1 --eval-every 3 --patience 9 --seed 3",
            Spec { seed: 3, ..Spec::new("nola") }.with("basis", 8).into(),
            |s| {
                (s.batch, s.held_out, s.eval_every, s.patience) = (2, Some(f64::from(0.1f32)), Some(3), Some(9));
                s.seed = 3;
            },
        ),
        (
            "notes.txt",
            "--rank 2 --accumulate 2 --warmup 2 --schedule linear --clip 0.5 --order given --lr 0.002 --layers 3-",
            Spec { layers: Some((3..mynah.base().layers()).collect()), ..Spec::new("lora") }.with("rank", 2).into(),
            |s| {
                (s.accumulate, s.warmup, s.schedule, s.clip) = (2, 2, Schedule::Linear, 0.5);
                (s.shuffle, s.lr) = (false, Some(0.002));
            },
        ),
        ("notes.txt", "--method full --act-type bf16 --optimizer adamw --weight-decay 0.5", "full".into(), |s| {
            s.act_type = ActType::Bf16;
            s.optimizer = optim::Spec::new("adamw").with("weight decay", 0.5);
        }),
        (
            "notes.txt",
            "--fast --dropout 0.1 --recompute all --targets q,v",
            {
                let targets = mynah::adapter::parse_targets("q,v").unwrap();
                Spec { targets, ..Spec::new("lora") }.into()
            },
            |s| (s.precision, s.dropout, s.recompute) = (Precision::Int8, Some(0.1), Recompute::All),
        ),
        ("notes.txt", "--method ia3 --zeroth 2 --zeroth-eps 0.01", "ia3".into(), |s| s.zeroth = Some((2, 0.01))),
        ("notes.txt", "--init first", mynah.adapter(place.path("first")).unwrap().into(), |_| ()),
        ("pairs.jsonl", "--objective dpo --beta 0.3 --pack --batch 3", "lora".into(), |s| {
            s.objective = Objective::new("dpo").with("beta", 0.3);
            (s.pack, s.batch) = (true, 3);
        }),
        ("thumbs.jsonl", "--objective bco --density-ratios --batch 4 --eval-fraction 0.2", "lora".into(), |s| {
            s.objective = Objective::new("bco");
            (s.density_ratios, s.batch, s.held_out) = (true, 4, Some(f64::from(0.2f32)));
        }),
    ];
    for (data, options, method, change) in runs {
        place.says(&format!("train -m base.gguf -d {data} -o out --force --log log --ctx 64 --steps 6 {options}"), 0);
        let method = match method {
            Method::Fresh(spec) => spec.clone().into(),
            Method::Given(_) => mynah.adapter(place.path("first")).unwrap().into(),
            Method::Weights => Method::Weights,
        };
        let setup = mynah.lesson(method).context(64).steps(6).settings(change);
        let data = setup.read(data, &place.read(data)).unwrap();
        let mut lesson = setup.draft(data).unwrap().begin().unwrap();
        finish(&mut lesson);
        assert_eq!(lesson.ended(), Some(Ended::Done), "{options}");
        assert!(lesson.to_bytes().unwrap() == place.read("out"), "{options}");
        assert!(lesson.history().log.as_bytes() == place.read("log"), "{options}");
        fs::remove_file(place.path("thumbs.jsonl.reference")).ok();
        fs::remove_file(place.path("pairs.jsonl.reference")).ok();
    }
}

#[test]
fn an_adapter_beneath_and_kept_activations_are_as_in_the_command() {
    let place = Place::new();
    let mynah = mynah();
    place.says("train -m base.gguf -d notes.txt -o first --ctx 64 --rank 2 --steps 3", 0);
    place.says("train -m base.gguf -d notes.txt -o out --ctx 64 --steps 3 -a first:0.5 --method nola", 0);
    let setup = mynah.lesson("nola").context(64).steps(3);
    let mut lesson = setup.on(mynah.ready(place.path("first")).unwrap(), 0.5).unwrap().text(NOTES).unwrap();
    finish(&mut lesson);
    assert!(lesson.to_bytes().unwrap() == place.read("out"));

    place.says(
        "train -m base.gguf -d notes.txt -o out --force --ctx 64 --steps 3 --layers 3- --activation-cache cache",
        0,
    );
    let spec = Spec { layers: Some((3..mynah.base().layers()).collect()), ..Spec::new("lora") };
    let setup = mynah.lesson(spec).context(64).steps(3);
    let open = |blocks| {
        assert_eq!(blocks, 3);
        Ok(Box::new(Memory::new(1 << 20)) as Box<dyn Store>)
    };
    let mut lesson = setup.activation_cache(open).text(NOTES).unwrap();
    finish(&mut lesson);
    assert!(lesson.to_bytes().unwrap() == place.read("out"));
    // Where the first block is trained there is nothing to cache.
    let lesson = mynah.lesson("lora").activation_cache(|_| Ok(Box::new(Memory::new(1 << 20)))).text(NOTES);
    assert!(matches!(lesson, Err(Error::Invalid { what, .. }) if what == "activation cache"));
}

/// Changes the settings of a lesson.
type Change = Box<dyn Fn(Setup) -> Setup>;

/// A few lessons with a bit of everything: a name, settings, what is trained, data.
fn lessons(mynah: &Mynah) -> Vec<(&'static str, Change, Method, String)> {
    let nola = |setup: Setup| {
        setup.steps(5).batch(2).held_out(0.2).settings(|s| (s.eval_every, s.patience) = (Some(2), Some(8)))
    };
    let bco = |setup: Setup| {
        let setup = setup.steps(4).batch(4).held_out(0.2).objective(Objective::new("bco"));
        setup.settings(|s| s.density_ratios = true)
    };
    let dpo = |setup: Setup| setup.steps(3).objective(Objective::new("dpo"));
    let given = mynah.adapter(first(mynah)).unwrap();
    let notes = || NOTES[..900].to_string();
    vec![
        ("nola", Box::new(nola), "nola".into(), notes()),
        ("bco", Box::new(bco), "lora".into(), verdicts()),
        ("dpo", Box::new(dpo), "lora".into(), pairs()),
        ("full", Box::new(|setup| setup.steps(3)), "full".into(), notes()),
        ("full dpo", Box::new(dpo), "full".into(), pairs()),
        ("given", Box::new(|setup| setup.steps(3)), given.into(), notes()),
    ]
}

/// An adapter that has learnt something, as a file.
fn first(mynah: &Mynah) -> Vec<u8> {
    let mut lesson = mynah.lesson("lora").context(32).steps(2).text(&NOTES[..300]).unwrap();
    finish(&mut lesson);
    lesson.to_bytes().unwrap()
}

fn begin(setup: Setup, data: &str) -> Result<Lesson, Error> {
    let setup = setup.context(32);
    let data = setup.read("data", data.as_bytes())?;
    setup.draft(data)?.begin()
}

#[test]
fn a_pause_after_any_event_changes_no_byte() {
    let mynah = mynah();
    for (name, settings, method, data) in lessons(&mynah) {
        let again = |setup: &dyn Fn() -> Setup| begin(settings(setup()), &data).unwrap();
        let fresh = || match &method {
            Method::Fresh(spec) => mynah.lesson(spec.clone()),
            Method::Given(_) => mynah.lesson(mynah.adapter(first(&mynah)).unwrap()),
            Method::Weights => mynah.lesson(Method::Weights),
        };
        let mut whole = again(&fresh);
        let events = finish(&mut whole).len();
        let (bytes, log, last) = (whole.to_bytes().unwrap(), &whole.history().log, whole.checkpoint().unwrap());
        let mut resumed = 0;
        for pause in 0..=events {
            let mut lesson = again(&fresh);
            for _ in 0..pause {
                lesson.next().unwrap().unwrap();
            }
            let Ok(saved) = lesson.checkpoint() else {
                assert_eq!(lesson.upcoming(), Some(Work::Weigh), "{name} after {pause} events");
                continue;
            };
            drop(lesson);
            // What was trained comes from the checkpoint, or is made again by the caller.
            let by_caller = || {
                let saved = Checkpoint::read(saved.clone().into(), &Limits::default()).unwrap();
                fresh().resume(saved)
            };
            let own = || mynah.resume(saved.clone()).unwrap();
            for setup in [&own as &dyn Fn() -> Setup, &by_caller] {
                let mut lesson = again(setup);
                finish(&mut lesson);
                assert!(lesson.to_bytes().unwrap() == bytes, "{name} after {pause} events");
                assert_eq!(&lesson.history().log, log, "{name} after {pause} events");
                assert!(lesson.checkpoint().unwrap() == last, "{name} after {pause} events");
                resumed += 1;
            }
        }
        assert!(resumed > 6, "{name}");
    }
}

#[test]
fn another_lesson_is_refused_with_all_differences() {
    let mynah = mynah();
    let setup = || mynah.lesson("lora").steps(4);
    let mut lesson = begin(setup(), NOTES).unwrap();
    while lesson.history().steps() < 2 {
        lesson.next().unwrap().unwrap();
    }
    let saved = lesson.checkpoint().unwrap();
    let changes = |setup: Setup, data: &str| match begin(setup, data) {
        Err(Error::Changed(changes)) => changes.into_iter().map(|c| c.what).collect::<Vec<_>>(),
        other => panic!("{:?}", other.err()),
    };
    let resume = || mynah.resume(saved.clone()).unwrap();
    assert_eq!(changes(resume().steps(5).rate(0.1), NOTES), ["learning rate", "steps"]);
    assert_eq!(changes(resume().steps(4).batch(2), &NOTES[1..]), ["data", "rows of a batch", "rows to learn"]);
    let other = mynah.lesson(Spec::new("lora").with("rank", 3)).steps(4);
    let read = || Checkpoint::read(saved.clone().into(), &Limits::default()).unwrap();
    assert_eq!(changes(other.resume(read()), NOTES), ["rank"]);
    assert!(begin(resume().steps(4), NOTES).is_ok());
    assert!(mynah.resume(saved[..saved.len() / 2].to_vec()).is_err());
}

#[test]
fn events_come_in_order() {
    let mynah = mynah();
    let setup = mynah.lesson("lora").steps(5).batch(4).held_out(0.2).objective(Objective::new("bco"));
    let setup = setup.settings(|s| (s.density_ratios, s.eval_every) = (true, Some(2)));
    let mut lesson = begin(setup, &verdicts()).unwrap();
    let (all, held_out) = (lesson.rows().len() + lesson.held_out().len(), lesson.held_out().len());
    let mut order = Vec::new();
    while let Some(work) = lesson.upcoming() {
        let event = lesson.next().unwrap().unwrap();
        order.push(match event {
            Event::Progress { work: at, done, total } => {
                assert!(at == work && done <= total);
                format!("{at:?} {done}/{total}")
            }
            Event::Weighed(ratios) => format!("weighed {}", ratios.rows),
            Event::Evaluated { step, loss, .. } => {
                assert!(work == Work::Evaluate && loss.is_finite());
                format!("evaluated {step}")
            }
            Event::Step(report) => {
                assert_eq!(work, Work::Step);
                format!("step {}", report.step)
            }
            other => panic!("{other:?}"),
        });
    }
    assert!(lesson.next().is_none() && lesson.next().is_none());
    assert_eq!(lesson.ended(), Some(Ended::Done));
    // Of rows that are held out and liked no weight follows.
    let liked = |e: &&Example| e.good == Some(true);
    let weighed = all - lesson.held_out().iter().filter(liked).count();
    let mut wanted: Vec<String> = (1..=weighed).map(|i| format!("Weigh {i}/{weighed}")).collect();
    let disliked = verdicts().matches("false").count();
    wanted.push(format!("weighed {disliked}"));
    wanted.extend((1..=all).map(|i| format!("Reference {i}/{all}")));
    for step in 0..=5 {
        if step > 0 {
            wanted.push(format!("step {step}"));
        }
        if [0, 2, 4, 5].contains(&step) {
            wanted.extend((1..held_out).map(|i| format!("Evaluate {i}/{held_out}")));
            wanted.push(format!("evaluated {step}"));
        }
    }
    assert_eq!(order, wanted);
    let steps: Vec<u64> = lesson.history().held_out.iter().map(|at| at.0).collect();
    assert_eq!(steps, [0, 2, 4, 5]);
}

#[test]
fn patience_ends_early_with_the_best() {
    let mynah = mynah();
    let setup = || {
        let setup = mynah.lesson("lora").steps(60).batch(2).held_out(0.2).rate(0.05).patience(2);
        setup.settings(|s| (s.eval_every, s.schedule) = (Some(2), Schedule::Constant))
    };
    let mut lesson = begin(setup(), NOTES).unwrap();
    let (mut best, mut file) = (None, Vec::new());
    while let Some(event) = lesson.next() {
        if let Event::Evaluated { step, best: true, .. } = event.unwrap() {
            (best, file) = (Some(step), lesson.encode().unwrap());
        }
    }
    assert_eq!(lesson.ended(), Some(Ended::Early));
    assert_eq!((lesson.history().best().map(|b| b.0), lesson.history().waited()), (best, 2));
    assert_eq!(lesson.history().steps(), best.unwrap() + 4);
    assert!(lesson.to_bytes().unwrap() == file && lesson.encode().unwrap() != file);
    let why = mynah.lesson("lora").held_out(0.0).patience(2).text(NOTES).err().unwrap();
    assert!(matches!(&why, Error::Invalid { what, .. } if what == "patience"), "{why}");
}

#[test]
fn lessons_stop_where_they_are_told_to() {
    let mynah = mynah();
    let mut lesson = begin(mynah.lesson("lora").steps(50), NOTES).unwrap();
    while lesson.history().steps() < 3 {
        lesson.next().unwrap().unwrap();
    }
    lesson.cancel();
    assert!(lesson.upcoming().is_none() && lesson.next().is_none());
    assert_eq!((lesson.ended(), lesson.history().steps()), (Some(Ended::Cancelled), 3));
    let saved = lesson.checkpoint().unwrap();
    let mut lesson = begin(mynah.resume(saved).unwrap().steps(50), NOTES).unwrap();
    assert_eq!(lesson.history().steps(), 3);
    // From another thread, while steps are done.
    let (stop, (send, hear)) = (lesson.stopper(), std::sync::mpsc::channel());
    let mut other = Some(std::thread::spawn(move || {
        hear.recv().unwrap();
        stop.pull();
    }));
    while let Some(event) = lesson.next() {
        event.unwrap();
        if lesson.history().steps() == 6 {
            send.send(()).unwrap();
            other.take().unwrap().join().unwrap();
        }
    }
    assert_eq!((lesson.ended(), lesson.history().steps()), (Some(Ended::Cancelled), 6));
}

#[test]
fn steps_that_are_not_finite_are_discarded() {
    let mynah = mynah();
    let setup = mynah.lesson("full").steps(50).rate(1000.0);
    let setup = setup.settings(|s| (s.clip, s.schedule) = (0.0, Schedule::Constant));
    let mut lesson = begin(setup, NOTES).unwrap();
    let discarded = |event: &Event| match event {
        Event::Discarded { error, rows } => {
            assert!(error.to_string().contains("the step was discarded") && rows.rows.len() == 1, "{error} {rows}");
            true
        }
        _ => false,
    };
    let count = finish(&mut lesson).iter().filter(|event| discarded(event)).count();
    assert_eq!((count, lesson.ended()), (3, Some(Ended::Failed)));
    assert_eq!(lesson.history().discarded, 3);
}

#[test]
fn what_cannot_be_learnt_is_a_typed_error() {
    let mynah = mynah();
    let invalid = |lesson: Result<Lesson, Error>| match lesson.err().unwrap() {
        Error::Invalid { what, why } => (what, why),
        other => panic!("{other}"),
    };
    let lora = || mynah.lesson("lora");
    assert_eq!(invalid(lora().text("")).0, "data");
    assert_eq!(invalid(lora().context(1).text(NOTES)).0, "context");
    assert_eq!(invalid(lora().held_out(1.0).text(NOTES)).0, "evaluation fraction");
    assert_eq!(invalid(lora().steps(0).text(NOTES)).0, "steps");
    let (what, why) = invalid(lora().objective(Objective::new("dpo")).lines(verdicts().as_bytes()));
    assert!(what == "data" && why.contains("line 1 is not"), "{what}: {why}");
    let (what, why) = invalid(lora().settings(|s| s.density_ratios = true).text(NOTES));
    assert!(what == "density ratios" && why.contains("sft is not"), "{what}: {why}");
    assert_eq!(invalid(mynah.lesson(Spec { layers: Some(vec![0]), ..Spec::new("prompt") }).text(NOTES)).0, "layers");
    let ready = mynah.ready(first(&mynah)).unwrap();
    assert_eq!(invalid(mynah.lesson("full").on(ready, 1.0).unwrap().text(NOTES)).0, "adapter");
    assert!(matches!(mynah.lesson("lore").text(NOTES).err(), Some(Error::Unsupported { .. })));
    assert!(matches!(lora().lines(b"{\"text\": 1}").err(), Some(Error::File { .. })));
    // A bound that cannot be kept says what would be needed; a draft says what would fit.
    let needed = match lora().memory(1 << 20).text(NOTES).err() {
        Some(Error::Limit { asked, allowed, .. }) => (asked, allowed),
        other => panic!("{other:?}"),
    };
    assert!(needed.0 > needed.1 && needed.1 == 1 << 20, "{needed:?}");
    let refusal = lora().memory(1 << 20).plan(0).unwrap().unwrap_err();
    assert!(refusal.least.total() > 1 << 20);
    assert!(lora().plan(0).unwrap().unwrap().total() > refusal.least.total() / 2);
    // Nothing that a caller gives may take the name of what a lesson notes itself.
    let lesson = lora().text(NOTES).unwrap();
    for name in ["log", "best", "reference", "", "UPPER", "much-too-long-a-name"] {
        assert!(lesson.checkpoint_with(&[(name, b"")]).is_err(), "{name}");
    }
}

#[test]
fn folders_keep_lessons() {
    let mynah = mynah();
    let dir = tempfile::tempdir().unwrap();
    let (folder, setup) = (dir.path().join("saved"), |setup: Setup| setup.steps(6).held_out(0.2));
    let mut whole = begin(setup(mynah.lesson("lora")), NOTES).unwrap();
    finish(&mut whole);
    let mut lesson = begin(setup(mynah.lesson("lora")), NOTES).unwrap();
    let mut saved = Checkpoints::open(&folder, 2).unwrap();
    while lesson.history().steps() < 5 {
        lesson.next().unwrap().unwrap();
        saved.save_if_due(&lesson).unwrap();
    }
    let steps = saved.folder().steps().unwrap();
    assert!(steps.starts_with(&[4, 2]), "{steps:?}");
    drop((lesson, saved));
    // A folder stands for the newest checkpoint in it, and for the adapter in that.
    let mut lesson = begin(setup(mynah.resume(&folder).unwrap()), NOTES).unwrap();
    assert_eq!(lesson.history().steps(), 4);
    assert!(mynah.ready(folder.join("checkpoint-4.mynah")).is_ok());
    finish(&mut lesson);
    assert!(lesson.to_bytes().unwrap() == whole.to_bytes().unwrap());
    let file = dir.path().join("notes.mynah");
    lesson.save(&file).unwrap();
    assert!(fs::read(&file).unwrap() == whole.to_bytes().unwrap());
    Checkpoints::open(&folder, 2).unwrap().remove().unwrap();
    assert!(!folder.exists());
    assert!(mynah.resume(&folder).is_err());
}

#[test]
fn known_references_are_not_computed_again() {
    let mynah = mynah();
    let setup = || mynah.lesson("lora").steps(2).objective(Objective::new("dpo"));
    let mut lesson = begin(setup(), &pairs()).unwrap();
    assert_eq!((lesson.needs_reference(), lesson.missing_reference()), (true, 8));
    lesson.next().unwrap().unwrap();
    assert_eq!(lesson.missing_reference(), 7);
    finish(&mut lesson);
    let (file, bytes) = (lesson.reference_file(), lesson.to_bytes().unwrap());
    let mut lesson = begin(setup(), &pairs()).unwrap();
    lesson.fill_reference(file.clone()).unwrap();
    assert_eq!((lesson.missing_reference(), lesson.upcoming()), (0, Some(Work::Step)));
    finish(&mut lesson);
    assert!(lesson.to_bytes().unwrap() == bytes);
    let mut other = begin(setup(), &pairs().replace("walk", "swim")).unwrap();
    assert!(matches!(other.fill_reference(file), Err(Error::Mismatch { .. })));
    assert_eq!(other.missing_reference(), 8);
}

#[test]
fn what_a_program_holds_can_be_moved_and_kept() {
    fn send<T: Send + 'static>(_: &T) {}
    struct App {
        mynah: Mynah,
        lesson: Option<Lesson>,
    }
    let mut app = App { mynah: mynah(), lesson: None };
    app.lesson = Some(app.mynah.lesson("lora").steps(2).examples(vec![Example::all(vec![1, 2, 3])]).unwrap());
    send(&app);
    let ended = std::thread::spawn(move || {
        let mut lesson = app.lesson.take().unwrap();
        lesson.by_ref().for_each(|event| _ = event.unwrap());
        (lesson.ended(), app.mynah.ready(lesson.to_bytes().unwrap()).is_ok(), lesson.into_adapter().is_some())
    });
    assert_eq!(ended.join().unwrap(), (Some(Ended::Done), true, true));
    let _ = (Stack::new(), Data::new(Vec::new()));
}
