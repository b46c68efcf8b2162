//! `rvisor network`.

use std::process::ExitCode;

use rvisor_images::Store;
use rvisor_instances::{ListedNetwork, Networks};

use crate::cli::{Format, NetworkCommand};
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
            let told = names.iter().map(|name| networks.look(name)).collect::<Result<Vec<_>, _>>()?;
            println!("{}", serde_json::to_string_pretty(&told)?);
        }
        NetworkCommand::Rm { networks: names } => {
            for name in names {
                networks.remove(name)?;
                println!("{name}");
            }
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
