//! Commands about images, and about the command line itself; and that the book has all commands.

mod common;

use std::fs;
use std::path::Path;

use common::{LIMIT, finish, rvisor};
use rvisor_images::Store;

#[track_caller]
fn told(words: &[&str]) -> String {
    let ended = finish(&mut rvisor(words.iter().copied()), b"", LIMIT);
    assert_eq!(ended.status.code(), Some(0), "{words:?}: {}", ended.stderr);
    ended.text()
}

/// The commands below `words`, with all of their words; `words` itself if there are none.
fn commands(words: &[String]) -> Vec<Vec<String>> {
    let question: Vec<_> = words.iter().map(String::as_str).chain(["--help"]).collect();
    let help = told(&question);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| {
        // Further lines of a description stand further to the right.
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    let below: Vec<_> = names.flat_map(|name| commands(&[words, &[name]].concat())).collect();
    if below.is_empty() { vec![words.to_vec()] } else { below }
}

/// The long options of a command.
fn options(command: &[String]) -> Vec<String> {
    let question: Vec<_> = command.iter().map(String::as_str).chain(["--help"]).collect();
    let help = told(&question);
    let listed = help.lines().skip_while(|line| *line != "Options:").skip(1);
    let options = listed.filter_map(|line| {
        // Descriptions stand further to the right.
        let line = line.strip_prefix("  ").filter(|line| !line.starts_with("       "))?;
        let name = line.trim_start().split([' ', ',']).find(|word| word.starts_with("--"))?;
        (!["--help", "--version"].contains(&name)).then(|| name.to_owned())
    });
    options.collect()
}

/// Whether a text has a word that isn't a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

#[test]
fn words_are_found_whole() {
    assert!(has_word("`rvisor rm`", "rvisor rm") && has_word("--all, -a", "--all"));
    assert!(!has_word("rvisor rmi x", "rvisor rm") && !has_word("--all-of-it ---all", "--all"));
}

#[test]
fn book_has_every_command_with_its_options() {
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src")).expect("the book");
    let pages = pages.flatten().map(|entry| fs::read_to_string(entry.path()).expect("a page"));
    let pages: Vec<String> = pages.collect();
    let all = commands(&[]);
    assert!(all.len() > 40 && all.contains(&vec!["snapshot".into(), "restore".into()]), "{all:?}");
    let (mut missing, mut count) = (Vec::new(), 0);
    for command in &all {
        let words = command.join(" ");
        let names = [format!("rvisor {words}"), format!("`{words}")];
        let about: Vec<_> =
            pages.iter().filter(|page| names.iter().any(|name| has_word(page, name))).collect();
        if about.is_empty() {
            missing.push(words.clone());
        }
        for option in options(command) {
            count += 1;
            if !about.iter().any(|page| has_word(page, &option)) {
                missing.push(format!("{words} {option}"));
            }
        }
    }
    assert!(count > 100, "{count} options");
    assert!(missing.is_empty(), "no page of the book has {missing:#?}");
}

#[test]
fn completions_and_man_pages_have_every_command() {
    let all = commands(&[]);
    for shell in ["bash", "zsh", "fish"] {
        let completions = told(&["completions", shell]);
        for word in all.iter().flatten() {
            assert!(completions.contains(word.as_str()), "{shell}: {word}");
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("man1");
    told(&["man", place.to_str().expect("text")]);
    for command in all {
        let page = place.join(format!("rvisor-{}.1", command.join("-")));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(text.contains(".SH SYNOPSIS"), "{text}");
    }
}

#[test]
fn image_is_built_listed_run_and_removed() {
    let home = tempfile::tempdir().expect("a directory");
    // Packages that are there already needn't come again.
    let cache = Store::open_default().expect("a store").cache();
    fs::create_dir(home.path().join("cache")).expect("a directory");
    std::os::unix::fs::symlink(cache, home.path().join("cache/sha256")).expect("a link");
    let recipe = home.path().join("small.toml");
    let text =
        "description = \"a small one\"\nbase = \"busybox:trixie\"\nhostname = \"tiny\"\nmemory = \"128M\"\n";
    fs::write(&recipe, text).expect("a recipe");
    let there = |words: &[&str]| {
        let ended = finish(rvisor(words.iter().copied()).env("RVISOR_HOME", home.path()), b"", LIMIT);
        assert_eq!(ended.status.code(), Some(0), "{words:?}: {}", ended.stderr);
        ended.text()
    };
    let recipe = recipe.to_str().expect("text");
    assert_eq!(there(&["build", recipe]), "small\n");
    assert_eq!(there(&["build", "--tag", "other:one", recipe]), "other:one\n");
    assert_eq!(there(&["images", "--quiet"]), "other:one\nsmall\n");
    let listed: serde_json::Value =
        serde_json::from_str(&there(&["images", "--format", "json"])).expect("a list");
    let described = listed[1]["description"].as_str().expect("a text");
    assert!(described.starts_with("a small one"), "{described}");
    assert!(there(&["images"]).lines().any(|line| line.starts_with("small ") && line.contains("MiB")));
    assert_eq!(there(&["run", "--rm", "--cold", "small", "--", "uname", "-m"]), "riscv64\n");
    assert_eq!(there(&["rmi", "other:one"]), "other:one\n");
    assert_eq!(there(&["images", "--quiet"]), "small\n");
    assert_eq!(there(&["rmi", "small"]), "small\n");
    assert_eq!(fs::read_dir(home.path().join("blobs/sha256")).expect("a directory").count(), 0);
}
