//! Faults of files, memory and processes, and the list of them: what happens to a file in use, memory that is not there, two
//! runs in one folder, a folder from elsewhere, pipes in the place of files.

use crate::survive::Place;
use mynah::app::Lesson;
use mynah::bytes::Limits;
use mynah::bytes::map::{self, Io};
use mynah::train::data::Files;
use mynah::{Error, Mynah};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What happens to a file in use, and a word of what is said of it. Cutting a mapped file further than its last page would
/// end this process with a signal.
type Harm = (&'static str, fn(&Path));
const HARMS: [Harm; 4] = [
    ("cut short", |path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    }),
    ("written to", |path| {
        use std::io::Seek;
        let mut file = fs::File::options().write(true).open(path).unwrap();
        file.seek(std::io::SeekFrom::End(-4096)).unwrap();
        file.write_all(&[1; 64]).unwrap();
    }),
    ("written to", |path| fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap()),
    ("replaced", |path| map::replace(path, &fs::read(path).unwrap()).unwrap()),
];

/// Long enough for the clock of a file system.
fn tick() {
    std::thread::sleep(Duration::from_millis(30));
}

fn is_altered<T>(result: mynah::Result<T>, word: &str, name: &str, what: &str) {
    let Err(e) = result else { panic!("{what} goes on although its file was {word}") };
    assert!(matches!(e.inner(), Error::Altered { .. }), "{what}: {e}");
    assert!(e.to_string().contains(word) && e.to_string().contains(name), "{what}: {e}");
}

fn lesson(mynah: &Mynah) -> Lesson {
    mynah.lesson("lora").held_out(0.0).steps(9).context(32).batch(1).text(mynah::base::NOTES).unwrap()
}

#[test]
fn a_base_that_changes_in_use_ends_all_that_is_made_from_it() {
    let dir = tempfile::tempdir().unwrap();
    for (word, harm) in HARMS {
        for io in [Io::Map, Io::Read] {
            let path = dir.path().join("base.gguf");
            fs::write(&path, mynah::base::MODEL).unwrap();
            tick();
            let mynah = Mynah::load(&path, io).unwrap();
            let mut lesson = lesson(&mynah);
            lesson.next().unwrap().unwrap();
            let mut talk = mynah.generation().limit(4).talk().unwrap();
            talk.say("Tea?").unwrap().finish().unwrap();
            let early = lesson.to_bytes().unwrap();
            harm(&path);
            if io == Io::Read {
                // A copy survives whatever happens.
                lesson.next().unwrap().unwrap();
                lesson.to_bytes().unwrap();
                lesson.checkpoint().unwrap();
                talk.say("Rain?").unwrap().finish().unwrap();
                continue;
            }
            is_altered(lesson.next().unwrap(), word, "base.gguf", "a step");
            assert_eq!(lesson.ended(), Some(mynah::app::Ended::Failed));
            is_altered(lesson.to_bytes(), word, "base.gguf", "the file of what was learnt");
            is_altered(lesson.encode(), word, "base.gguf", "the same as it is");
            is_altered(lesson.checkpoint(), word, "base.gguf", "a checkpoint");
            is_altered(lesson.save(dir.path().join("out")), word, "base.gguf", "a save");
            assert!(!dir.path().join("out").exists());
            is_altered(talk.say("Rain?").and_then(|reply| reply.finish()), word, "base.gguf", "a conversation");
            is_altered(mynah.complete("Tea").and_then(|text| text.finish()), word, "base.gguf", "a completion");
            is_altered(mynah.embed(&["Tea"]), word, "base.gguf", "an embedding");
            // What was saved before is what it was, for who puts the base back.
            Mynah::embedded().unwrap().adapter(early).unwrap();
        }
    }
}

/// To move a file away, or to remove it, changes nothing of it.
#[cfg(unix)]
#[test]
fn a_base_that_is_moved_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.gguf");
    fs::write(&path, mynah::base::MODEL).unwrap();
    let mut lesson = lesson(&Mynah::open(&path).unwrap());
    fs::rename(&path, dir.path().join("moved.gguf")).unwrap();
    lesson.next().unwrap().unwrap();
    fs::remove_file(dir.path().join("moved.gguf")).unwrap();
    lesson.next().unwrap().unwrap();
    lesson.to_bytes().unwrap();
}

#[test]
fn data_that_change_while_they_are_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    for (word, harm) in HARMS {
        fs::write(&path, mynah::base::NOTES.repeat(4)).unwrap();
        tick();
        let files = Files::open(&path, &Limits::DEFAULT).unwrap();
        harm(&path);
        let setup = Mynah::embedded().unwrap().lesson("lora").context(32);
        is_altered(setup.read_files(&files), word, "notes.txt", "data");
    }
    // A folder of many files holds none of them open.
    let many = dir.path().join("many");
    fs::create_dir(&many).unwrap();
    (0..1500).for_each(|i| fs::write(many.join(format!("{i}.txt")), "Rain.").unwrap());
    assert_eq!(Files::open(&many, &Limits::DEFAULT).unwrap().list.len(), 1500);
}

/// What another program has put in the place of an adapter that learns is not written over.
#[test]
fn an_adapter_that_another_wrote_stays() {
    use mynah::app::{Feedback, LearnSettings};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.mynah");
    let mut talk = Mynah::embedded().unwrap().generation().limit(8).talk().unwrap();
    let mut feedback = Feedback::open(&mut talk, &path, &mynah::adapter::Spec::new("lora")).unwrap();
    talk.say("Tell me a story about a bear.").unwrap().finish().unwrap();
    feedback.better(&mut talk, "A bear slept.").unwrap();
    let settings = LearnSettings { passes: 1, own: 0, ..LearnSettings::default() };
    let mut learning = feedback.learn(&talk, &settings).unwrap();
    learning.by_ref().for_each(|event| _ = event.unwrap());
    let learnt = learning.finish().unwrap();
    fs::write(&path, "theirs").unwrap();
    is_altered(feedback.keep(&learnt), "written to", "mine.mynah", "what was learnt");
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    fs::remove_file(&path).unwrap();
    feedback.keep(&learnt).unwrap();
    assert!(path.exists());
}

#[test]
fn a_download_in_progress_is_called_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.gguf");
    fs::write(&path, &mynah::base::MODEL[..700_000]).unwrap();
    let e = Mynah::open(&path).err().unwrap().to_string();
    let whole = format!("incomplete: 0.7 of 1.0 MB (700000 of {} bytes)", mynah::base::MODEL.len());
    assert!(e.contains("base.gguf") && e.contains(&whole), "{e}");
}

/// Waits until a file has lines, while a process runs.
fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while fs::metadata(path).map_or(0, |meta| meta.len()) == 0 {
        assert!(
            child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60),
            "no {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into()
}

const TRAIN: &str = "train -d notes.txt --ctx 64 --batch 2 --held-out 0";

/// The signal of a cut mapping becomes a message with the file's name, and a copy in memory survives.
#[cfg(target_os = "linux")]
#[test]
fn a_base_that_is_cut_under_the_command_is_named() {
    for io in ["map", "read"] {
        let place = Place::new();
        let mut child = place.start(&format!("{TRAIN} -m base.gguf --io {io} --steps 60 -o out --log log"));
        wait_for(&place.path("log"), &mut child);
        fs::File::options().write(true).open(place.path("base.gguf")).unwrap().set_len(4096).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = said(&out);
        if io == "read" {
            assert_eq!(out.status.code(), Some(0), "{text}");
            assert!(place.path("out").exists());
            continue;
        }
        assert_eq!(out.status.code(), Some(1), "{:?}: {text}", out.status);
        assert!(text.contains("base.gguf: the file was cut short") && text.contains("--io read"), "{text}");
        assert!(!place.path("out").exists() && !text.contains("saved out"), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn two_runs_in_one_folder_know_of_each_other() {
    let place = Place::new();
    let line = format!("{TRAIN} -m base.gguf -o out --checkpoints saved --save-every 1 --steps 4000");
    let mut child = place.start(&line);
    wait_for(&place.path("saved/checkpoint-1.mynah"), &mut child);
    let text = place.says("train --resume saved", 1);
    let whose = format!("another run uses it, process {}", child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(text.contains("saved") && text.contains(&whose), "{text}");
    // The lock of a dead process holds nobody up, and a link in its place leads nowhere.
    place.says("train --resume saved --max-steps 1", 0);
    fs::remove_file(place.path("saved/lock")).unwrap();
    fs::write(place.path("mine"), "").unwrap();
    std::os::unix::fs::symlink(place.path("mine"), place.path("saved/lock")).unwrap();
    assert!(place.says("train --resume saved --max-steps 1", 1).contains("lock"));
    assert_eq!(place.read("mine"), b"");
}

/// A folder of checkpoints may come from somebody else, with the names of this person's files in it.
#[test]
fn a_resumed_run_writes_over_no_file_that_only_the_checkpoint_names() {
    let place = Place::new();
    fs::create_dir(place.path("far")).unwrap();
    let (out, log) = (place.path("far/out"), place.path("far/log"));
    let line = format!("{TRAIN} -m base.gguf --steps 4 --force --checkpoints saved --max-steps 2");
    place.says(&format!("{line} -o {} --log {}", out.display(), log.display()), 0);
    // What is an adapter, and a log, may be written again.
    place.says("train --resume saved --max-steps 1", 0);
    let (adapter, lines) = (fs::read(&out).unwrap(), fs::read(&log).unwrap());
    for (path, good, word) in [(&out, &adapter, "no adapter"), (&log, &lines, "no log")] {
        fs::write(path, "my letters").unwrap();
        let text = place.says("train --resume saved --max-steps 1", 2);
        assert!(text.contains(word) && text.contains(path.to_str().unwrap()), "{text}");
        assert_eq!(fs::read(path).unwrap(), b"my letters");
        fs::remove_file(path).unwrap();
        assert!(place.says("train --resume saved --max-steps 1", 2).contains("elsewhere"));
        assert!(!path.exists());
        fs::write(path, good).unwrap();
    }
    // Whoever says so on the command line means it.
    fs::write(&out, "my letters").unwrap();
    place.says(&format!("train --resume saved -o {} --max-steps 1", out.display()), 0);
    assert!(fs::read(&out).unwrap() != b"my letters");
}

/// Command lines with the name of a pipe at their end, and whether it is read as standard input is.
#[cfg(unix)]
const PIPES: [&str; 23] = [
    "run -p a -m",
    "run -p a -a",
    "chat -m",
    "chat -a",
    "chat --learn -a",
    "train -d notes.txt -o out -m",
    "train -o out -d",
    "train -d notes.txt -o",
    "train -d notes.txt -o out --init",
    "train -d notes.txt -o out -a",
    "train -d notes.txt -o out --steps 1 --log",
    "train -d notes.txt -o out --steps 1 --checkpoints",
    "train -d notes.txt -o out --layers last --steps 1 --activation-cache",
    "train --resume",
    "plan -m",
    "plan -m base.gguf -d",
    "eval -d",
    "eval --stride llama -d",
    "embed -d",
    "data look",
    "inspect",
    "bench -m",
    "logits -p a -m",
];

#[cfg(unix)]
#[test]
fn no_command_waits_for_a_pipe() {
    let place = Place::new();
    let fifo = |name: &str| assert!(Command::new("mkfifo").arg(place.path(name)).status().unwrap().success());
    fifo("pipe");
    // A folder whose lock is a pipe, and an adapter whose marks are.
    fs::create_dir(place.path("locked")).unwrap();
    fifo("locked/lock");
    place.says(&format!("{TRAIN} -m base.gguf --steps 1 -o mine"), 0);
    fifo("mine.feedback.jsonl");
    let all = PIPES.iter().map(|line| format!("{line} pipe"));
    let more =
        ["train -d notes.txt -o out --checkpoints locked --save-every 1", "chat --learn -a mine"].map(String::from);
    let children: Vec<(String, Child)> = all.chain(more).map(|line| (line.clone(), place.start(&line))).collect();
    for (line, mut child) in children {
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("{line} hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let out = child.wait_with_output().unwrap();
        let text = said(&out);
        assert!(matches!(out.status.code(), Some(1 | 2)), "{line}: {:?} {text}", out.status);
        assert!(["pipe", "lock", "feedback"].iter().any(|name| text.contains(name)), "{line}: {text}");
    }
}

/// Command lines that take memory, by name.
#[cfg(target_os = "linux")]
const HUNGRY: [(&str, &str); 9] = [
    ("run", "run -p Rain -n 4 --threads 2"),
    ("run from a file", "run -m base.gguf -p Rain -n 4 --threads 2"),
    ("run from a copy", "run -m base.gguf --io read -p Rain -n 4 --threads 2"),
    ("train lora", "train -d notes.txt --ctx 64 --steps 2 --force -o out --threads 2"),
    ("train full", "train -d notes.txt --ctx 64 --steps 1 --method full --force -o full --threads 2"),
    ("eval", "eval -d notes.txt --ctx 64 --threads 2"),
    ("chat from a pipe", "chat -n 4 --threads 2"),
    ("inspect", "inspect base.gguf"),
    ("embed", "embed -p Rain --threads 2"),
];

#[cfg(target_os = "linux")]
fn within(place: &Place, line: &str, kib: u64) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -c 0; ulimit -v {kib}; exec \"$0\" {line}"), env!("CARGO_BIN_EXE_mynah")])
        .current_dir(place.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    _ = child.stdin.take().unwrap().write_all(b"Good evening.\n");
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "{line} hangs in {kib} KiB");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().unwrap()
}

/// Less and less memory, down to where not even the version is told: every end is a success or an error that says so.
/// `MYNAH_MEMORY_STEP=4` takes steps of 4 MiB.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_not_there_ends_in_an_error() {
    let place = Place::new();
    let step = std::env::var("MYNAH_MEMORY_STEP").map_or(16, |step| step.parse::<u64>().unwrap()) << 10;
    // The shell itself must start.
    let starts = |kib: &u64| within(&place, "--version", *kib).status.success();
    let least = (4 << 10..1 << 20).step_by(4 << 10).find(starts).unwrap();
    for (name, line) in HUNGRY {
        let (mut kib, mut good, mut errors) = (least, 0, 0);
        while good < 3 {
            assert!(kib < 1 << 21, "{name} does not fit in 2 GiB");
            _ = fs::remove_dir_all(place.path("out.checkpoints"));
            _ = fs::remove_dir_all(place.path("full.checkpoints"));
            let out = within(&place, line, kib);
            let text = said(&out);
            match out.status.code() {
                Some(0) => good += 1,
                Some(1) => (good, errors) = (0, errors + 1),
                _ => panic!("{name} in {kib} KiB: {:?} {text}", out.status),
            }
            let fault = text.contains("memory allocation of") || text.contains("panicked");
            let told = out.status.success() || text.contains("mynah: ");
            assert!(told && !fault, "{name} in {kib} KiB: {text}");
            kib += step;
        }
        eprintln!("{name}: {errors} errors from {} MiB on, success from {} MiB", least >> 10, (kib - 3 * step) >> 10);
    }
}

/// Threads that there is no room for are left out, and the result is the same.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_start_are_left_out() {
    let place = Place::new();
    let line = |threads| format!("run -p Rain -n 4 --temp 0 --threads {threads}");
    let one = place.says(&line(1), 0);
    assert!(!one.is_empty());
    let (few, many) = (within(&place, &line(1), 1 << 20), within(&place, &line(512), 100 << 10));
    assert!(many.status.success() && many.stdout == few.stdout, "{}", said(&many));
}

/// A fault of the list, and what becomes of it.
enum Fate {
    /// Tests that show it.
    Tested(&'static [&'static str]),
    /// Why it does not concern this program.
    Apart(&'static str),
}
use Fate::{Apart, Tested};

/// The faults of crashes, disks and memory, and those of the command, by their numbers in the list.
const FAULTS: &[(&str, &str, Fate)] = &[
    (
        "G1",
        "kill at every write call",
        Tested(&[
            "a_fault_at_any_call_leaves_the_old_or_the_new_file",
            "a_fault_at_any_call_loses_no_checkpoint",
            "a_killed_process_goes_on_and_ends_with_the_same_bytes",
        ]),
    ),
    (
        "G2",
        "power loss, torn writes",
        Tested(&["nothing_is_named_before_it_is_on_the_disk", "a_fault_at_any_call_loses_no_checkpoint"]),
    ),
    ("G3", "ENOSPC, EDQUOT, EIO, EROFS, EACCES, EMFILE", Tested(&["what_the_system_says_reaches_the_caller"])),
    ("G4", "short calls, EINTR", Tested(&["interrupted_and_short_calls_are_made_again"])),
    ("G5", "fsync fails once", Tested(&["a_fault_at_any_call_leaves_the_old_or_the_new_file"])),
    (
        "G6",
        "rename fails, target is a folder or read-only",
        Tested(&[
            "a_fault_at_any_call_leaves_the_old_or_the_new_file",
            "errors_carry_the_path",
            "replacing_keeps_permissions_and_leaves_nothing_behind",
        ]),
    ),
    (
        "G7",
        "leavings of the dead, two runs in one folder",
        Tested(&["leavings_of_the_dead_are_removed", "two_runs_in_one_folder_know_of_each_other"]),
    ),
    ("G8", "checkpoint folder deleted", Tested(&["a_checkpoint_folder_that_goes_is_no_end"])),
    (
        "G9",
        "newest checkpoint damaged",
        Tested(&["the_newest_two_and_the_best_are_kept", "pauses_damage_and_repeated_options_change_nothing"]),
    ),
    ("G10", "all checkpoints damaged", Tested(&["the_newest_two_and_the_best_are_kept"])),
    (
        "G11",
        "base cut, written to, replaced",
        Tested(&[
            "a_base_that_changes_in_use_ends_all_that_is_made_from_it",
            "a_base_that_is_cut_under_the_command_is_named",
        ]),
    ),
    (
        "G12",
        "base is a pipe, a device, a folder, a loop",
        Tested(&[
            "pipes_devices_and_loops_are_refused_without_waiting",
            "nothing_opens_a_pipe_or_a_device",
            "no_command_waits_for_a_pipe",
        ]),
    ),
    ("G13", "a download in progress", Tested(&["a_download_in_progress_is_called_incomplete"])),
    ("G14", "memory that is not given", Tested(&["memory_that_is_not_there_ends_in_an_error"])),
    ("G15", "a budget that the plan exceeds", Tested(&["a_bound_is_kept_or_refused_with_ways_out"])),
    ("G16", "a budget that shrinks", Apart("no host tells of it; a run can be paused after any step")),
    ("G17", "deep recursion, small stacks", Tested(&["deep_and_long_texts_end"])),
    ("G18", "a worker panics", Tested(&["a_panic_reaches_the_caller_and_the_pool_lives_on"])),
    ("G19", "threads that cannot start", Tested(&["threads_that_cannot_start_are_left_out"])),
    ("G20", "cancelled at any unit of work", Tested(&["an_interrupt_saves_and_says_how_to_go_on"])),
    (
        "G21",
        "cancelled twice, and after the end",
        Tested(&["a_second_interrupt_ends_at_once_and_leaves_the_last_checkpoint"]),
    ),
    ("G22", "suspended for hours", Apart("the library has no clock, and the command takes times from a monotonic one")),
    (
        "G23",
        "the disk is full at the last save",
        Tested(&[
            "a_disk_that_is_full_at_any_byte_leaves_the_old_file",
            "a_result_that_cannot_be_written_is_in_a_checkpoint",
        ]),
    ),
    (
        "G24",
        "a save over the adapter in use",
        Tested(&[
            "a_run_that_began_from_an_adapter_goes_on_without_it",
            "a_killed_process_goes_on_and_ends_with_the_same_bytes",
        ]),
    ),
    ("G25", "no home folder", Apart("nothing is read or written there")),
    ("G26", "files over 4 GiB on 32 bits", Tested(&["counts_are_bounded_by_what_follows"])),
    ("I9", "names and prompts that forge messages", Tested(&["errors_carry_the_path"])),
    (
        "I12",
        "Ctrl-C once and twice",
        Tested(&[
            "an_interrupt_saves_and_says_how_to_go_on",
            "a_second_interrupt_ends_at_once_and_leaves_the_last_checkpoint",
        ]),
    ),
    (
        "I13",
        "closed input, closed and full output",
        Tested(&["output_that_cannot_be_written_is_a_failure", "streams_that_are_closed_hurt_nothing"]),
    ),
    ("I14", "a configuration file with unknown keys", Apart("the command has none")),
    ("I15", "an environment that is not UTF-8", Tested(&["an_odd_environment_hurts_nothing"])),
    ("I16", "decimal commas", Tested(&["an_odd_environment_hurts_nothing"])),
    ("I17", "a read-only file system", Tested(&["a_folder_that_takes_no_file_is_told_before_any_work"])),
    (
        "I18",
        "files of another user",
        Tested(&["what_the_system_says_reaches_the_caller", "a_folder_that_takes_no_file_is_told_before_any_work"]),
    ),
];

#[test]
fn every_fault_of_the_list_has_its_tests() {
    fn texts(folder: PathBuf, out: &mut String) {
        for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            match entry.is_dir() {
                true => texts(entry, out),
                false if entry.extension().is_some_and(|e| e == "rs") => *out += &fs::read_to_string(entry).unwrap(),
                false => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    ["src", "tests/suite"].iter().for_each(|folder| texts(root.join(folder), &mut all));
    let (mut tested, mut apart) = (0, 0);
    for (number, fault, fate) in FAULTS {
        match fate {
            Tested(names) => {
                tested += 1;
                for name in *names {
                    assert!(all.contains(&format!("fn {name}(")), "{number}, {fault}: there is no test {name}");
                }
            }
            Apart(why) => {
                apart += 1;
                assert!(!why.is_empty(), "{number}, {fault}");
            }
        }
    }
    assert!((1..=26).all(|n| FAULTS.iter().any(|(number, ..)| *number == format!("G{n}"))));
    eprintln!("{} entries: {tested} with tests, {apart} that do not apply", FAULTS.len());
}

#[test]
fn a_checkpoint_folder_that_goes_is_no_end() {
    let place = Place::new();
    let mut child =
        place.start(&format!("{TRAIN} -m base.gguf -o out --checkpoints saved --save-every 1 --steps 40 --log log"));
    wait_for(&place.path("saved/checkpoint-1.mynah"), &mut child);
    fs::rename(place.path("saved"), place.path("gone")).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(place.path("out").exists(), "what was learnt is saved: {}", said(&out));
    assert!(said(&out).contains("no checkpoint of step"), "{}", said(&out));
}

#[cfg(unix)]
#[test]
fn streams_that_are_closed_hurt_nothing() {
    let place = Place::new();
    for (streams, line) in
        [("<&-", "chat -n 2"), ("<&-", "run -p a -n 2"), ("2>&-", "run -p a -n 2"), ("<&- >&- 2>&-", "run -p a -n 2")]
    {
        let run = format!("COLUMNS=1 exec \"$0\" {line} {streams}");
        let status =
            Command::new("sh").args(["-c", &run, env!("CARGO_BIN_EXE_mynah")]).current_dir(place.path(".")).output();
        let code = status.unwrap().status.code();
        assert!(matches!(code, Some(0..=2 | 141)), "{line} {streams}: {code:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_odd_environment_hurts_nothing() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    for (name, value) in [
        ("MYNAH_BACKEND", odd),
        ("LANG", odd),
        ("COLUMNS", odd),
        ("LC_ALL", "de_DE.UTF-8".as_ref()),
        ("TERM", odd),
        ("HOME", "".as_ref()),
        ("NO_COLOR", "1".as_ref()),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        let out = command
            .args("run -p a -n 2 --temp 0.5 --json".split(' '))
            .env(name, value)
            .current_dir(place.path("."))
            .output();
        let out = out.unwrap();
        let refused =
            name == "MYNAH_BACKEND" && matches!(out.status.code(), Some(1 | 2)) && said(&out).contains("mynah: ");
        assert!(out.status.success() || refused, "{name}: {:?} {}", out.status, said(&out));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_file_is_told_before_any_work() {
    let place = Place::new();
    // The kernel's own folder takes no file from anybody.
    for out in ["/proc/out", "/proc/self/out", "nowhere/out", "/sys/out"] {
        let text = place.says(&format!("{TRAIN} -m base.gguf --steps 1 -o {out}"), 1);
        let folder = out.rsplit_once('/').unwrap().0;
        assert!(text.contains(folder) && !text.contains("step 1"), "{out}: {text}");
    }
}
