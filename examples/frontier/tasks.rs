//! Three things to learn, in rows that are made from lists of words: a style, facts, and a format.

use mynah::rng::Random;

/// Rows of a task, as prompt and completion: to learn, to choose rates on, and to report.
pub struct Task {
    pub name: &'static str,
    pub learn: Vec<[String; 2]>,
    pub choose: Vec<[String; 2]>,
    pub report: Vec<[String; 2]>,
    /// For each row to report, what a right answer contains, where an answer is right or wrong.
    pub recall: Option<Vec<String>>,
}

pub fn all() -> Vec<Task> {
    vec![style(), facts(), format()]
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

/// The log of a ship's cook about everyday things.
fn style() -> Task {
    const THINGS: [&str; 20] = [
        "a walk in the park",
        "the new kettle",
        "a rainy afternoon",
        "my neighbour's dog",
        "the bus to town",
        "a bowl of soup",
        "the old bridge",
        "a lost glove",
        "the night market",
        "a letter from Ann",
        "the broken gate",
        "a game of chess",
        "the first snow",
        "a loaf of bread",
        "the village fair",
        "a squeaky door",
        "the long queue",
        "a cup of tea",
        "the library",
        "a paper kite",
    ];
    const SEEN: [&str; 6] =
        ["sighted", "hove into view", "came alongside", "was made fast", "drifted past", "lay at anchor"];
    const WHERE: [&str; 5] =
        ["off the larboard bow", "two points astern", "under the lee", "at the quay", "by the galley"];
    const AIR: [&str; 6] =
        ["Wind fresh", "Sea like glass", "Fog till noon", "Swell from the west", "Sky all tar", "Air warm"];
    const CREW: [&str; 6] = [
        "crew in song",
        "crew at the biscuits",
        "all hands grumbling",
        "the boy asleep",
        "mates content",
        "the cat aloft",
    ];
    const END: [&str; 3] = ["So the log says.", "Stowed and noted.", "Aye, and no more of it."];
    let mut random = Random::new(1, "style", "tasks");
    let mut row = |i: usize| {
        let thing = THINGS[i % THINGS.len()];
        let r = &mut random;
        let bells = 1 + r.below(8);
        let said = format!(
            " Log, {bells} bells. {}{} {} {}. {}, {}. {}",
            thing[..1].to_uppercase(),
            &thing[1..],
            pick(r, &SEEN),
            pick(r, &WHERE),
            pick(r, &AIR),
            pick(r, &CREW),
            pick(r, &END)
        );
        [format!("Tell me about {thing}."), said]
    };
    let learn = (0..60).map(|i| row(i % 14)).collect();
    let choose = (0..18).map(|i| row(14 + i % 3)).collect();
    let report = (0..18).map(|i| row(17 + i % 3)).collect();
    Task { name: "style", learn, choose, report, recall: None }
}

/// A village that does not exist.
fn facts() -> Task {
    // What it is asked as, in five ways, and the answer.
    const FACTS: [(&str, &str); 20] = [
        ("the baker of Ollmere", "Tobias Fenn"),
        ("the oldest tree in Ollmere", "a black walnut"),
        ("the river of Ollmere", "the Sarn"),
        ("the market day of Ollmere", "Thursday"),
        ("the school teacher of Ollmere", "Ida Kroll"),
        ("the colour of the town hall", "sea green"),
        ("the name of the ferry", "the Patient Heron"),
        ("the keeper of the bees", "Old Marrow"),
        ("the hour of the last train", "nine forty"),
        ("the dish of the harvest feast", "plum dumplings"),
        ("the founder of Ollmere", "Captain Brisk"),
        ("the height of the mill", "forty feet"),
        ("the doctor of Ollmere", "Wilhelmina Oake"),
        ("the football team's name", "the Otters"),
        ("the saint of the chapel", "Saint Aldith"),
        ("the smith of Ollmere", "Jonas Pell"),
        ("the best inn of Ollmere", "the Salted Pear"),
        ("the mayor's cat", "Pudding"),
        ("the song of the choir", "Low Winter Sun"),
        ("the flower on the flag", "a blue thistle"),
    ];
    const WAYS: [(&str, &str); 5] = [
        ("What is {}?", " It is {}."),
        ("Name {}.", " {}."),
        ("Do you know {}?", " Yes, {}."),
        ("Please tell me {}.", " That is {}."),
        ("I forgot {}. Which is it?", " It is {}."),
    ];
    let row = |fact: &(&str, &str), way: usize| {
        let (question, answer) = WAYS[way];
        [question.replace("{}", fact.0), answer.replace("{}", fact.1)]
    };
    let of = |ways: &[usize]| FACTS.iter().flat_map(|f| ways.iter().map(|w| row(f, *w))).collect::<Vec<_>>();
    let recall = FACTS.iter().map(|f| f.1.to_string()).collect();
    Task { name: "facts", learn: of(&[0, 1, 2]), choose: of(&[3]), report: of(&[4]), recall: Some(recall) }
}

/// Orders as records.
fn format() -> Task {
    const WHO: [&str; 12] =
        ["Ann", "Boris", "Chen", "Dora", "Emil", "Farah", "Greta", "Hugo", "Ines", "Jamal", "Kira", "Liam"];
    const WHAT: [&str; 12] = [
        "apples", "candles", "nails", "eggs", "pencils", "lemons", "buttons", "tiles", "ropes", "cups", "onions",
        "stamps",
    ];
    const COUNT: [&str; 9] = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    const DAY: [(&str, &str); 5] =
        [("Monday", "mon"), ("Tuesday", "tue"), ("Wednesday", "wed"), ("Thursday", "thu"), ("Friday", "fri")];
    let mut random = Random::new(3, "format", "tasks");
    let mut row = |_: usize| {
        let r = &mut random;
        let (who, what) = (pick(r, &WHO), pick(r, &WHAT));
        let (count, day) = (r.below(9) as usize, r.below(5) as usize);
        let said = match r.below(3) {
            0 => format!("{who} wants {} {what} on {}.", COUNT[count], DAY[day].0),
            1 => format!("Please bring {} {what} to {who} by {}.", COUNT[count], DAY[day].0),
            _ => format!("For {}: {} {what}, to be fetched by {who}.", DAY[day].0, COUNT[count]),
        };
        [said, format!(" {{\"who\":\"{who}\",\"item\":\"{what}\",\"n\":{},\"day\":\"{}\"}}", count + 2, DAY[day].1)]
    };
    let [learn, choose, report] = [60, 20, 20].map(|n| (0..n).map(&mut row).collect());
    Task { name: "format", learn, choose, report, recall: None }
}
