//! Images that are built for tests, and kept in the user's store.

use std::fs;
use std::sync::Mutex;

use rvisor_images::{Error, Manifest, Name, NewImage, Store};

use super::book::Page;
use super::{LIMIT, finish, rvisor};

/// Puts an image `old` of a few bytes into a store: what happens to others must leave it alone.
pub fn add_old(store: &Store) -> Manifest {
    let draft = store.draft().expect("a draft");
    let file = |name: &str| {
        let path = draft.path().join(name);
        fs::write(&path, name).expect("a file");
        path
    };
    let image = NewImage { kernel: file("kernel"), run_initrd: file("initrd"), ..NewImage::default() };
    store.add(&Name::parse("old").expect("a name"), &image).expect("an image").manifest
}

/// Debian with a C compiler, make and git, by the recipe in the book's "Recipes for projects".
pub const WITH_COMPILER: &str = "test-build";

/// Builds [`WITH_COMPILER`] if it isn't there.
pub fn with_compiler() -> &'static str {
    build_by_the_book(WITH_COMPILER, "`make check` of a C project")
}

/// Debian with cargo, by the same page, and built if it isn't there: a quarter of an hour.
pub fn with_cargo() -> &'static str {
    build_by_the_book("test-cargo", "`cargo build` in the guest")
}

/// Builds an image by the recipe in a section of the book's "Recipes for projects".
fn build_by_the_book(name: &'static str, section: &str) -> &'static str {
    build(name, Page::open("recipes-for-projects.md").code(section, "toml")[0])
}

/// Builds an image if there is none of that name, or the one that there is has another recipe.
fn build(name: &'static str, text: &str) -> &'static str {
    // Tests of one program that need the same image at the same time build it once.
    static BUILDS: Mutex<()> = Mutex::new(());
    let _alone = BUILDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let recipe = rvisor_images::digest(text.as_bytes());
    match Store::open_default().expect("a store").get(name) {
        Ok(image) if image.manifest.recipe == recipe => return name,
        Ok(_) | Err(Error::NoImage(_)) => {}
        Err(error) => panic!("{error}"),
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("recipe.toml");
    fs::write(&file, text).expect("a recipe");
    let words = ["build", "--tag", name, file.to_str().expect("text")];
    finish(&mut rvisor(words), b"", 9 * LIMIT).assert(0, &format!("{name}\n"));
    name
}
