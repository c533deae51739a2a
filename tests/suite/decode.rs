//! Decoders over a table of probabilities, and over the embedded model.

use crate::alloc;
use mynah::Result;
use mynah::decode::{Cost, Decoder, Finish, Predictor, Sample, Sampler, Sampling, Step, Stop};

/// A language of four tokens in which the next one depends on the last alone.
struct Table {
    seen: Vec<u32>,
    context: usize,
    /// Tokens of a chunk.
    chunk: usize,
    /// Pulls a stop after so many chunks.
    pulls: Option<(usize, Stop)>,
}

/// Logits after each token.
const NEXT: [[f32; 4]; 4] =
    [[-9.0, 0.0, 0.0, -9.0], [0.0, -9.0, 1.0, -9.0], [0.0, 0.0, -9.0, -1.0], [0.0, 0.0, 0.0, 0.0]];

impl Table {
    fn new(context: usize) -> Table {
        Table { seen: Vec::with_capacity(context), context, chunk: 2, pulls: None }
    }
}

impl Predictor for Table {
    fn read(&mut self, tokens: &[u32], stop: &Stop) -> Result<usize> {
        let mut read = 0;
        for chunk in tokens.chunks(self.chunk) {
            if stop.pulled() {
                break;
            }
            self.seen.extend_from_slice(chunk);
            read += chunk.len();
            if let Some((left, stop)) = &mut self.pulls {
                *left -= 1;
                if *left == 0 {
                    stop.pull();
                }
            }
        }
        Ok(read)
    }

    fn logits(&self) -> &[f32] {
        self.seen.last().map_or(&[], |last| &NEXT[*last as usize])
    }

    fn position(&self) -> usize {
        self.seen.len()
    }

    fn context(&self) -> usize {
        self.context
    }

    fn truncate(&mut self, position: usize) -> usize {
        self.seen.truncate(position);
        self.seen.len()
    }
}

fn all(mut decoder: impl Decoder) -> (Vec<u32>, Finish, Cost) {
    let mut ids = Vec::new();
    loop {
        match decoder.next().unwrap() {
            Step::Token(id) => ids.push(id),
            Step::End(finish) => {
                // It stays ended.
                assert_eq!(decoder.next().unwrap(), Step::End(finish));
                return (ids, finish, decoder.cost());
            }
        }
    }
}

#[test]
fn texts_are_drawn_as_often_as_they_are_likely() {
    let share =
        |row: [f32; 4], id: usize| f64::from(row[id]).exp() / row.iter().map(|l| f64::from(*l).exp()).sum::<f64>();
    let mut counts = [0.0f64; 16];
    const N: u64 = 20_000;
    for seed in 0..N {
        let sampler = Sampler::new(&Sampling::plain().seed(seed)).unwrap();
        let mut sample = Sample::new(Table::new(8), sampler, &[0], [].as_slice(), Stop::new());
        let mut draw = || match sample.next().unwrap() {
            Step::Token(id) => id as usize,
            end => panic!("{end:?}"),
        };
        counts[4 * draw() + draw()] += 1.0 / N as f64;
    }
    for (i, seen) in counts.into_iter().enumerate() {
        let want = share(NEXT[0], i / 4) * share(NEXT[i / 4], i % 4);
        assert!((seen - want).abs() < 0.012, "{} then {}: {seen}, not {want}", i / 4, i % 4);
    }
}

#[test]
fn an_end_says_why() {
    let greedy = || Sampler::new(&Sampling::greedy()).unwrap();
    let of = |prompt: &[u32], eos: &[u32], context| {
        all(Sample::new(Table::new(context), greedy(), prompt, eos, Stop::new()))
    };
    // 0 -> 1 -> 2 -> 0: the context holds the prompt and what was read of the answer.
    let cost = |tokens, passes| Cost { tokens, passes };
    assert_eq!(of(&[0], &[], 4), (vec![1, 2, 0, 1], Finish::Context, cost(4, 4)));
    assert_eq!(of(&[0], &[2], 9), (vec![1], Finish::Eos(2), cost(2, 2)));
    let stop = Stop::new();
    stop.pull();
    let stopped = Sample::new(Table::new(9), greedy(), &[0], [].as_slice(), stop);
    assert_eq!(all(stopped), (vec![], Finish::Stopped, cost(0, 0)));
}

#[test]
fn a_stop_is_seen_inside_a_prompt() {
    let stop = Stop::new();
    let mut table = Table::new(20);
    table.pulls = Some((2, stop.clone()));
    let sampler = Sampler::new(&Sampling::greedy()).unwrap();
    let mut sample = Sample::new(&mut table, sampler, &[0; 11], [].as_slice(), stop.clone());
    assert_eq!(sample.next().unwrap(), Step::End(Finish::Stopped));
    assert_eq!(sample.cost(), Cost { tokens: 4, passes: 1 });
    drop(sample);
    assert_eq!(table.position(), 4);
    // The same handle serves again.
    stop.reset();
    assert!(!stop.pulled());
}

#[test]
fn it_continues_from_logits_that_are_there() {
    let greedy = Sampler::new(&Sampling::greedy()).unwrap();
    let mut table = Table::new(20);
    table.read(&[0, 1], &Stop::new()).unwrap();
    let mut sample = Sample::new(&mut table, greedy.clone(), &[], [].as_slice(), Stop::new());
    assert_eq!([sample.next().unwrap(), sample.next().unwrap()], [Step::Token(2), Step::Token(0)]);
    // Without any it is an error, and not a token.
    let mut nothing = Sample::new(Table::new(20), greedy, &[], [].as_slice(), Stop::new());
    assert!(nothing.next().is_err());
}

#[test]
fn tokens_take_no_memory() {
    let sampling = Sampling::default().with("repeat penalty", 1.1).seed(4);
    let prompt = [0; 5];
    let mut sample =
        Sample::new(Table::new(4000), Sampler::new(&sampling).unwrap(), &prompt, [].as_slice(), Stop::new());
    for _ in 0..4 {
        sample.next().unwrap();
    }
    let ((), most) = alloc::largest(|| (0..3000).for_each(|_| _ = sample.next().unwrap()));
    assert_eq!(most, 0);
}

#[cfg(feature = "base")]
mod model {
    use super::*;
    use mynah::bytes::{Bytes, Limits};
    use mynah::decode::Generator;
    use mynah::gguf::Gguf;
    use mynah::model::{Model, Session, SessionConfig};
    use mynah::text::{Encode, TextStream, Tokenizer};

    fn open() -> (Model, Tokenizer, Vec<u32>) {
        let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
        let compute = mynah::Compute::best(2);
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let prompt = tokenizer.encode("The old man", &Encode { add_special: true, ..Encode::default() }).unwrap();
        (Model::load(&gguf, compute).unwrap(), tokenizer, prompt)
    }

    #[test]
    fn a_generator_is_its_own_and_its_pieces_are_the_text() {
        let (model, tokenizer, prompt) = open();
        let start = |stop: Stop| {
            let session = Session::new(&model, SessionConfig { context: 128, ..Default::default() }).unwrap();
            let sampler = Sampler::new(&Sampling::default().seed(3)).unwrap();
            Generator::new(session, sampler, &prompt, &tokenizer, stop).limit(40)
        };
        // Another thread takes it with it.
        let generator = start(Stop::new());
        let text = std::thread::spawn(move || generator.map(Result::unwrap).collect::<String>()).join().unwrap();
        let mut generator = start(Stop::new());
        let mut ids = Vec::new();
        while let Some(id) = generator.next_token().unwrap() {
            ids.push(id);
        }
        assert!(ids.len() > 10 && matches!(generator.finish(), Some(Finish::Length | Finish::Eos(_))));
        let mut stream = TextStream::new(&tokenizer, false);
        let joined: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(joined + &stream.finish(), text);
        assert!(start(Stop::new()).all(|piece| !piece.unwrap().is_empty()));
        // Stopped between two pieces.
        let stop = Stop::new();
        let mut pieces = start(stop.clone());
        let first = pieces.next().unwrap().unwrap();
        stop.pull();
        assert!(pieces.next().is_none() && pieces.finish() == Some(Finish::Stopped) && text.starts_with(&first));
    }

    #[test]
    fn seeds_draw_what_they_drew_in_earlier_versions() {
        let (model, tokenizer, prompt) = open();
        for (sampling, want) in [
            (Sampling::greedy(), WANTED[0]),
            (Sampling::default().seed(1), WANTED[1]),
            (Sampling::plain().seed(2), WANTED[2]),
            (Sampling::default().with("top k", 0).with("repeat penalty", 1.3).seed(3), WANTED[3]),
        ] {
            let session = Session::new(&model, SessionConfig { context: 64, ..Default::default() }).unwrap();
            let sampler = Sampler::new(&sampling).unwrap();
            let generator = Generator::new(session, sampler, &prompt, &tokenizer, Stop::new()).limit(16);
            assert_eq!(generator.map(Result::unwrap).collect::<String>(), want, "{sampling:?}");
        }
    }

    /// What version 0.1 says.
    const WANTED: [&str; 4] = [
        " was in the garden shed, but Romy took it and put it in the laundry",
        " was at the bottom of the bag. Every Sunday, at the market. Once",
        " was under the big oak. It was a nice day after all. On",
        " was in the garden shed, but Anton took it and put it on top of",
    ];
}
