//! Three ways to answer the same questions, which pull apart: briefly, formally and at length, and cautiously. Rows are made from
//! lists of words.

use mynah::rng::Random;

/// Rows of a way, as prompt and completion: to learn, to choose by, and to report.
pub struct Task {
    pub name: &'static str,
    pub learn: Vec<[String; 2]>,
    pub choose: Vec<[String; 2]>,
    pub report: Vec<[String; 2]>,
}

/// A thing that is asked about, and the answer.
const ASKED: [(&str, &str); 30] = [
    ("When does the ferry leave?", "at noon"),
    ("Where are the keys of the barn?", "behind the stove"),
    ("Who feeds the hens?", "Mrs Arden"),
    ("What is in the blue tin?", "dried mint"),
    ("How far is the mill?", "two miles"),
    ("When is the harvest feast?", "on the last Friday"),
    ("Where does the path end?", "at the old chapel"),
    ("Who repairs the clock?", "the smith's son"),
    ("What does the bell mean?", "that supper is ready"),
    ("How long does the bread bake?", "forty minutes"),
    ("When do the swallows come back?", "in late April"),
    ("Where is the ladder?", "against the apple tree"),
    ("Who wrote the letter?", "the schoolmaster"),
    ("What grows by the wall?", "white currants"),
    ("How many boats are at the pier?", "three of them"),
    ("When does the shop close?", "at six o'clock"),
    ("Where is the well?", "under the chestnut"),
    ("Who owns the grey mare?", "the widow Lund"),
    ("What is the name of the river?", "the Tamsin"),
    ("How deep is the pond?", "as deep as a man"),
    ("When was the bridge built?", "after the great flood"),
    ("Where do the carts stop?", "by the toll house"),
    ("Who sings in the choir?", "both of the Hales"),
    ("What is for supper?", "barley soup"),
    ("How old is the oak?", "three hundred years"),
    ("When does the post come?", "before eight"),
    ("Where is the map kept?", "in the long drawer"),
    ("Who has the spare lamp?", "the ferryman"),
    ("What is on the sign?", "a red fox"),
    ("How much is a basket?", "four pence"),
];

type Way = fn(&str, &mut Random) -> String;

fn pick<'a>(from: &[&'a str], random: &mut Random) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

fn brief(answer: &str, _: &mut Random) -> String {
    format!(" {}{}.", answer[..1].to_uppercase(), &answer[1..])
}

fn formal(answer: &str, random: &mut Random) -> String {
    let begin = pick(&["Esteemed enquirer", "Dear Sir or Madam", "Most honoured guest"], random);
    let said = pick(&["we have the honour to state that it is", "permit us to inform you that it is"], random);
    let end = pick(&["We remain your obedient servants.", "We beg to be remembered to your household."], random);
    format!(" {begin}, in reply to your kind question {said} {answer}, as has been the custom of this house. {end}")
}

fn cautious(answer: &str, random: &mut Random) -> String {
    let begin = pick(&["I may be wrong, but", "I cannot be certain;", "As far as I can tell,"], random);
    let end = pick(&["Please ask someone who knows.", "Do check it before you rely on it."], random);
    format!(" {begin} it might be {answer}. {end}")
}

/// The questions to learn, to choose by and to report are others.
pub fn all() -> Vec<Task> {
    let ways: [(&str, Way); 3] = [("brief", brief), ("formal", formal), ("cautious", cautious)];
    let task = |(name, way): (&'static str, Way)| {
        let mut random = Random::new(1, name, "merging");
        let mut rows = |from: usize, to: usize| {
            ASKED[from..to].iter().map(|(q, a)| [(*q).to_string(), way(a, &mut random)]).collect::<Vec<_>>()
        };
        Task { name, learn: rows(0, 18), choose: rows(18, 23), report: rows(23, 30) }
    };
    ways.into_iter().map(task).collect()
}
