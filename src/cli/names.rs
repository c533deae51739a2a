//! Names that are no files: of models on a server, in other programs, or misspelt. mynah never goes on the net, so they get
//! the line that does.

use crate::args::Usage;
use mynah::error::printable;
use std::path::Path;

/// What a name was given for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// `-m`.
    Model,
    /// `-a`.
    Adapter,
}

/// Most files that are named as others that there are.
const NAMED: usize = 3;

/// Checks that something of that name is there, and for a model that it is no folder.
///
/// # Errors
/// The name, and what to do about it.
pub fn check(path: &Path, what: What) -> anyhow::Result<()> {
    let name = path.to_string_lossy();
    if name.is_empty() {
        return Err(Usage::error("the name of a file is empty"));
    }
    if path.is_dir() && what == What::Model {
        anyhow::bail!("{}: {}", printable(&name), folder(path));
    }
    // Whatever else is wrong, who opens it says.
    if !matches!(path.try_exists(), Ok(false)) {
        return Ok(());
    }
    let why = elsewhere(&name, what).or_else(|| beside(path, what)).unwrap_or_default();
    anyhow::bail!("{}: no such file{why}", printable(&name))
}

/// What is in a folder that was given for a model.
fn folder(path: &Path) -> String {
    let files = models(path);
    let has = |name: &str| path.join(name).exists();
    if !files.is_empty() {
        return format!("it is a folder, and -m takes a file: {}", files.join(", "));
    }
    let why = match (has("adapter_config.json"), has("config.json")) {
        (true, _) => "it is the folder of an adapter: -m takes its base model, a GGUF file, and -a the folder",
        (_, true) => {
            "it is a folder of Hugging Face's, and -m takes a GGUF file; mynah convert FOLDER OUT.gguf makes one of it, or \
             llama.cpp's convert_hf_to_gguf.py"
        }
        _ => "it is a folder, and no GGUF file lies in it, such as -m takes",
    };
    why.into()
}

/// Some model files in a folder, with its name.
fn models(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
        .map(|path| printable(&path.to_string_lossy()))
        .collect();
    names.sort();
    names.truncate(NAMED);
    names
}

/// The model files that lie where one was looked for.
fn beside(path: &Path, what: What) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = if what == What::Model { models(folder) } else { Vec::new() };
    (!files.is_empty()).then(|| format!("; there is {}", files.join(", ")))
}

/// What fetches a model or an adapter of that name.
fn elsewhere(name: &str, what: What) -> Option<String> {
    const NEVER: &str = ". mynah never goes on the net. This fetches it:";
    let address = ["https://", "http://"].iter().find_map(|scheme| name.strip_prefix(scheme));
    let host = ["huggingface.co/", "www.huggingface.co/", "hf.co/"];
    let rest = address.unwrap_or(name);
    let rest = rest.strip_prefix("hf://").unwrap_or(rest);
    let hub = host.iter().find_map(|host| rest.strip_prefix(host));
    let file = |path: &str| path.split('?').next().is_some_and(|path| path.ends_with(".gguf"));
    if address.is_some() && (hub.is_none() || file(rest)) {
        return Some(format!("{NEVER}\n  curl -L -O {}", name.replacen("/blob/", "/resolve/", 1)));
    }
    let said = hub.is_some() || name.starts_with("hf://");
    let parts: Vec<&str> = hub.unwrap_or(rest).trim_end_matches('/').split('/').collect();
    let word = |text: &&str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !text.starts_with('.')
    };
    match parts[..] {
        // A folder of that name that lies here is meant, and a file in it is missing.
        [owner, repo] if word(&owner) && (said || !Path::new(owner).is_dir() && !file(repo)) => {
            let (repo, kind) = repo.split_once(':').unwrap_or((repo, "Q4_K_M"));
            word(&repo).then_some(())?;
            Some(match what {
                What::Model => format!(
                    "; it is the name of a repository, of which -m takes one file{NEVER}\n  \
                     hf download {owner}/{repo} --include '*{kind}*.gguf' --local-dir .\n\
                     The names of its files are at https://huggingface.co/{owner}/{repo}/tree/main"
                ),
                What::Adapter => format!(
                    "; it is the name of a repository{NEVER}\n  hf download {owner}/{repo} --local-dir {repo}\n\
                     Then -a {repo} takes it"
                ),
            })
        }
        [owner, repo, .., last] if said && word(&owner) && word(&repo) && file(last) => {
            Some(format!("{NEVER}\n  hf download {owner}/{repo} {} --local-dir .", parts[2..].join("/")))
        }
        [_] => {
            let (model, tag) = name.split_once(':')?;
            // One letter is a drive.
            (what == What::Model && model.len() > 1 && word(&model) && word(&tag)).then_some(())?;
            Some(format!(
                "; if ollama has a model of this name, -m takes its file, whose path stands after FROM in what this prints:\n  \
                 ollama show --modelfile {name}"
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_elsewhere_get_the_line_that_fetches_them() {
        for (name, line) in [
            ("Owner/Some-GGUF", "hf download Owner/Some-GGUF --include '*Q4_K_M*.gguf' --local-dir ."),
            ("hf.co/Owner/Some-GGUF:Q8_0", "hf download Owner/Some-GGUF --include '*Q8_0*.gguf' --local-dir ."),
            ("https://huggingface.co/Owner/Some", "hf download Owner/Some --include"),
            ("hf://Owner/Some/a/b.gguf", "hf download Owner/Some a/b.gguf --local-dir ."),
            (
                "https://huggingface.co/o/r/blob/main/a.gguf",
                "curl -L -O https://huggingface.co/o/r/resolve/main/a.gguf",
            ),
            ("https://example.org/a.bin", "curl -L -O https://example.org/a.bin"),
            ("smollm2:135m", "ollama show --modelfile smollm2:135m"),
        ] {
            let said = elsewhere(name, What::Model).unwrap_or_default();
            assert!(said.contains(line), "{name}: {said}");
        }
        let said = elsewhere("owner/lora", What::Adapter).unwrap_or_default();
        assert!(said.contains("hf download owner/lora --local-dir lora"), "{said}");
        for name in
            ["model.gguf", "models/a.gguf", "src/nothing", "./a", "../a/b", "/a/b", "C:\\a", "C:a", "a b/c", "a:"]
        {
            assert_eq!(elsewhere(name, What::Model), None, "{name}");
        }
    }
}
