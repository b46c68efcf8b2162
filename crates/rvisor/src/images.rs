//! `rvisor pull`, `build`, `images` and `rmi`.

use std::process::ExitCode;

use anyhow::Context;
use rvisor_images::progress::for_standard_error;
use rvisor_images::{Error, Image, Name, Options, Recipe, Store};
use rvisor_instances::Machines;

use crate::builder::LocalBuilder;
use crate::cli::{Build, Confinement, Format, List, Mirror, Pull, Rmi};
use crate::several::{self, each};
use crate::table;

/// `rvisor pull`.
pub fn pull(options: &Pull) -> anyhow::Result<ExitCode> {
    let store = Store::open_default()?;
    let found = if options.force { None } else { find(&store, &options.image)? };
    let image = match found {
        Some(image) => image,
        None => {
            fetch(&store, &options.image, &options.mirror, options.force, &builder(&options.confinement))?
        }
    };
    println!("{}", image.name);
    Ok(ExitCode::SUCCESS)
}

/// `rvisor build`.
pub fn build(options: &Build) -> anyhow::Result<ExitCode> {
    let store = Store::open_default()?;
    let recipe = Recipe::read(&options.recipe)?;
    let name = match &options.tag {
        Some(name) => name.clone(),
        None => {
            let stem = options.recipe.file_stem().and_then(|stem| stem.to_str());
            stem.context("the recipe's file name can't be an image's name; give one with --tag")?.to_owned()
        }
    };
    let image = rvisor_images::build(
        &store,
        &Name::parse(&name)?,
        &recipe,
        &build_options(&options.mirror, false),
        &builder(&options.confinement),
        &*for_standard_error(),
    )?;
    println!("{}", image.name);
    Ok(ExitCode::SUCCESS)
}

/// `rvisor images`.
pub fn list(options: &List) -> anyhow::Result<ExitCode> {
    let images = Store::open_default()?.list()?;
    let size = |image: &Image| image.manifest.blobs().map(|blob| blob.size).sum::<u64>();
    match options.format {
        _ if options.quiet => images.iter().for_each(|image| println!("{}", image.name)),
        Format::Json => {
            let rows: Vec<_> = images
                .iter()
                .map(|image| {
                    serde_json::json!({
                        "name": image.name.to_string(),
                        "description": image.manifest.description,
                        "created": image.manifest.created,
                        "size": size(image),
                    })
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Format::Table => {
            let rows = images.iter().map(|image| {
                [
                    image.name.to_string(),
                    table::age(image.manifest.created),
                    table::size(size(image)),
                    image.manifest.description.clone(),
                ]
            });
            table::print(["IMAGE", "CREATED", "SIZE", "DESCRIPTION"], rows);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `rvisor rmi`.
pub fn remove(options: &Rmi) -> anyhow::Result<ExitCode> {
    let store = Store::open_default()?;
    let is_done = each(&options.images, |image| {
        store.remove(image)?;
        println!("{image}");
        Ok(())
    });
    Machines::new(&std::path::absolute(store.root())?).tidy_ready_points();
    Ok(several::code(is_done))
}

/// The image of that name, if it is there. One that is damaged is the user's to remove: it may not be a built-in one.
pub fn find(store: &Store, name: &str) -> anyhow::Result<Option<Image>> {
    match store.get(name) {
        Err(Error::NoImage(_)) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// Pulls a built-in image.
pub fn fetch(
    store: &Store,
    name: &str,
    mirror: &Mirror,
    refresh: bool,
    builder: &LocalBuilder,
) -> anyhow::Result<Image> {
    let progress = for_standard_error();
    Ok(rvisor_images::pull(store, name, &build_options(mirror, refresh), builder, &*progress)?)
}

/// What runs builder VMs.
pub fn builder(options: &Confinement) -> LocalBuilder {
    LocalBuilder { unconfined: options.no_sandbox }
}

fn build_options(mirror: &Mirror, refresh: bool) -> Options {
    Options { mirror: mirror.mirror.clone(), refresh, ..Options::default() }
}
