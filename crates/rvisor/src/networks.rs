//! `rvisor network`.

use std::process::ExitCode;

use rvisor_images::Store;
use rvisor_instances::{ListedNetwork, Networks};

use crate::cli::{Format, NetworkCommand};
use crate::several::{self, each};
use crate::table;

/// Makes, lists, shows and removes named networks.
pub fn network(command: &NetworkCommand) -> anyhow::Result<ExitCode> {
    let networks = Networks::new(&std::path::absolute(Store::open_default()?.root())?);
    match command {
        NetworkCommand::Create { subnet, internal, name } => {
            networks.create(name, subnet.as_deref(), *internal)?;
            println!("{name}");
        }
        NetworkCommand::Ls { format } => list(&networks.list()?, *format)?,
        NetworkCommand::Inspect { networks: names } => {
            let mut told = Vec::new();
            let are_there = each(names, |name| {
                told.push(networks.look(name)?);
                Ok(())
            });
            println!("{}", serde_json::to_string_pretty(&told)?);
            return Ok(several::code(are_there));
        }
        NetworkCommand::Rm { networks: names } => {
            let is_done = each(names, |name| {
                networks.remove(name)?;
                println!("{name}");
                Ok(())
            });
            return Ok(several::code(is_done));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(networks: &[ListedNetwork], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(networks)?);
        return Ok(());
    }
    let rows = networks.iter().map(|network| {
        let machines: Vec<_> = network.machines.iter().map(|member| member.name.as_str()).collect();
        let reaches = if network.internal { "itself" } else { "the world" };
        [network.name.clone(), network.subnet.clone(), reaches.into(), machines.join(", ")]
    });
    table::print(["NAME", "SUBNET", "REACHES", "MACHINES"], rows);
    Ok(())
}
