//! What the command line accepts.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rvisor_hosted::translator::LEAST_CODE_MEMORY;
use rvisor_instances::Paging;
use rvisor_instances::migration::Address;
use rvisor_machine::{MAX_HARTS, TranslationMode};

use crate::table;

/// Runs 64-bit RISC-V machines on this computer.
#[derive(Parser, Debug)]
#[command(name = "rvisor", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Set RVISOR_LOG=debug (or info, trace; per module as in RUST_LOG) to see what Rvisor does."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a fresh machine from an image: run a command in it, or use its console
    Run(Box<Run>),
    /// Boot a machine from a kernel, firmware or a bare program
    Boot(Box<Boot>),
    /// Get a built-in image: download its distribution's packages and build it here
    Pull(Pull),
    /// Build an image from a recipe
    Build(Build),
    /// List images
    Images(List),
    /// Remove images
    Rmi(Rmi),
    /// List machines
    Ps(Ps),
    /// Start machines that aren't running, each with its disk
    Start(Start),
    /// Ask machines to power off, and end those that don't
    Stop(Stop),
    /// End machines at once, without asking their guests
    Kill(Kill),
    /// Stop machines, then start them again
    Restart(Stop),
    /// Stop the harts of machines; they go on where they were with resume
    Pause {
        /// Machines to pause
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Let paused machines go on
    #[command(visible_alias = "unpause")]
    Resume {
        /// Machines to let go on
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Remove machines that aren't running, with their disks
    Rm(Rm),
    /// Give a machine another name
    Rename {
        /// Machine to rename
        machine: String,
        /// Its new name
        name: String,
    },
    /// Wait for machines to end, and print their exit codes
    Wait {
        /// Machines to wait for
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Say all that is known of machines, as JSON
    Inspect(Inspect),
    /// Show what a machine has said on its console, or its command on its standard streams
    Logs(Logs),
    /// Use a running machine's console
    Attach(Attach),
    /// Run a command in a running machine
    Exec(Exec),
    /// Copy files between a running machine and this host
    Cp(Cp),
    /// Show what running machines use: processor, memory, network, disks
    Stats(Stats),
    /// Show what happens to machines, while it happens
    Events(Events),
    /// Make, look at, check, resize and convert disks that no machine is using
    Disk {
        #[command(subcommand)]
        command: DiskCommand,
    },
    /// Networks on which machines see each other
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Make, list, remove and go back to snapshots of machines: memory, devices and disks of one moment
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Make a machine that begins as another is now, with an identity of its own
    Clone(CloneMachine),
    /// Write a machine to one file, with all that another host needs to go on with it
    Export {
        /// File to write; standard output if it isn't given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Machine to export; one that runs goes on meanwhile
        machine: String,
    },
    /// Make the machine that `export` has written
    Import {
        /// File to read; - is standard input
        file: PathBuf,
        /// Its name
        machine: String,
        /// Give it an identity of its own, because the exported one goes on too
        #[arg(long)]
        copy: bool,
        /// Don't start a machine that was running
        #[arg(long)]
        no_start: bool,
    },
    /// Move a running machine to another host, where `rvisor receive` waits for it; its guest goes on there
    Migrate(Migrate),
    /// Wait for a machine that `rvisor migrate` moves here from another host, and let it go on
    Receive(Receive),
    /// Forward ports of the host to a running machine
    Port {
        #[command(subcommand)]
        command: PortCommand,
    },
    /// Look into a running machine with gdb, which stops it
    Gdb(Gdb),
    /// Record what a running machine's harts do, for Perfetto; or tell one system call step by step
    Trace(Trace),
    /// Run a machine in the background (what `run -d` and `start` do this with)
    #[command(hide = true)]
    MachineProcess {
        /// The store's directory
        #[arg(long)]
        store: PathBuf,
        /// The machine arrives from elsewhere, and goes on when the word for that comes
        #[arg(long)]
        arriving: bool,
        /// The machine
        machine: String,
    },
    /// Run a builder VM (what `pull` and `build` do this with)
    #[command(hide = true)]
    BuilderProcess,
    /// Pack guests for the type-1 home into one file, and try it out
    Bundle {
        #[command(subcommand)]
        command: Bundle,
    },
    /// Print shell completions
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Write man pages
    Man {
        /// Directory to write them to
        directory: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct Run {
    /// Name of the machine, and its host name
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub size: Size,
    /// Give the guest only what the type-1 home has on any hardware, so that the machine can go on there: addresses of 39
    /// bits, and no optional extensions
    #[arg(long, conflicts_with_all = ["extensions", "mmu", "volumes"])]
    pub portable: bool,
    /// Let its harts use so much of the host's processors, all together: 0.5 is half of one
    #[arg(long, value_name = "N", value_parser = cpu_limit)]
    pub cpu_limit: Option<u32>,
    /// Leave it running in the background, and print its name
    #[arg(short, long)]
    pub detach: bool,
    /// Keep standard input connected, as it is without --detach anyway; for the habit of -it. With --detach nothing is
    /// connected: a command without a terminal finds the end of its input at once
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal; without a command, the console is one
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the machine and its disk when it ends
    #[arg(long)]
    pub rm: bool,
    /// Boot, even if there is a ready guest to begin as a copy of
    #[arg(long)]
    pub cold: bool,
    /// Environment variable for the command; without a value it is this process's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", requires = "command")]
    pub environment: Vec<String>,
    /// One more disk for the machine: empty, and removed with it
    #[arg(long = "disk", value_name = "size=SIZE", value_parser = scratch_disk)]
    pub disks: Vec<u64>,
    /// Directory of the guest in which the command runs; made if it isn't there
    #[arg(short, long, value_name = "DIRECTORY", requires = "command")]
    pub workdir: Option<String>,
    /// Share a directory or file of the host with the guest: it is there when the command starts
    #[arg(short, long = "volume", value_name = "HOST:GUEST[:ro]")]
    pub volumes: Vec<String>,
    /// Forward a port of the host to the guest, with an address and a protocol as in 0.0.0.0:5353:53/udp; IPv6
    /// addresses stand in brackets
    #[arg(short, long = "publish", value_name = "HOST:GUEST")]
    pub publish: Vec<String>,
    /// Network of the machine
    #[arg(long, value_enum, default_value_t = Network::User)]
    pub net: Network,
    /// Put it on a named network, on which machines see each other by name (see rvisor network), or on a tap device
    /// of the host; `user` and `none` are those of --net
    #[arg(long, value_name = "NAME|tap[=DEVICE]", conflicts_with = "net")]
    pub network: Option<String>,
    #[command(flatten)]
    pub engine: EngineOptions,
    #[command(flatten)]
    pub confinement: Confinement,
    #[command(flatten)]
    pub debugging: Debugging,
    #[command(flatten)]
    pub mirror: Mirror,
    /// Image to start from; a built-in one is pulled if it isn't there
    pub image: String,
    /// Command to run in the guest; without one, a login shell on the console
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Boot {
    /// Linux `Image`, started in S-mode; with --firmware, what the firmware starts
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "STRING", requires = "kernel")]
    pub append: Option<String>,
    /// Disk: a file, raw or qcow2, then ,ro for read-only and ,format=raw or ,format=qcow2 to skip detection
    #[arg(long = "disk", value_name = "FILE[,ro][,format=F]")]
    pub disks: Vec<String>,
    /// Directory to share over 9P: mount it in the guest with `mount -t 9p -o trans=virtio TAG DIRECTORY`
    #[arg(long = "share", value_name = "HOST:TAG[:ro]")]
    pub shares: Vec<String>,
    #[command(flatten)]
    pub size: Size,
    /// Network of the machine
    #[arg(long, value_enum, default_value_t = Network::User)]
    pub net: Network,
    /// Forward a port of the host to the guest, with an address and a protocol as in 0.0.0.0:5353:53/udp; IPv6
    /// addresses stand in brackets
    #[arg(short, long = "publish", value_name = "HOST:GUEST")]
    pub publish: Vec<String>,
    /// Firmware to start in M-mode: OpenSBI fw_dynamic or fw_jump, U-Boot (raw or ELF)
    #[arg(long, value_name = "FILE", conflicts_with = "bare")]
    pub firmware: Option<PathBuf>,
    /// Bare program to start in M-mode (ELF; ends through `tohost` or the test finisher)
    #[arg(long, value_name = "ELF", conflicts_with_all = ["kernel", "initrd", "append"])]
    pub bare: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineOptions,
    #[command(flatten)]
    pub confinement: Confinement,
    #[command(flatten)]
    pub debugging: Debugging,
    /// End the machine after this long; the exit code is then 124
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Write the device tree to a file and exit
    #[arg(long, value_name = "FILE")]
    pub dump_dtb: Option<PathBuf>,
    /// Treat a reboot of the guest as a power-off
    #[arg(long)]
    pub no_reboot: bool,
}

#[derive(Args, Debug)]
pub struct Debugging {
    /// Let gdb connect here: a PORT of the loopback, ADDRESS:PORT, or unix:PATH; port 0 chooses one
    #[arg(long, value_name = "WHERE")]
    pub gdb: Option<String>,
    /// Don't begin before gdb says so
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
}

#[derive(Args, Debug)]
pub struct Trace {
    /// File to write; MACHINE.trace.json if not given
    #[arg(short, long, value_name = "FILE", conflicts_with = "story")]
    pub output: Option<PathBuf>,
    /// End after this long; else with Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Record nothing else: traps, syscalls, sbi, interrupts, devices, tlb, waits, separated by commas
    #[arg(long, value_name = "KINDS", conflicts_with = "story")]
    pub only: Option<String>,
    /// Print the steps of one event in columns: application, guest OS, monitor, hardware
    #[arg(long, value_enum, value_name = "EVENT")]
    pub story: Option<StoryKind>,
    /// Machine to record
    pub machine: String,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoryKind {
    /// A system call of a program
    Syscall,
    /// An access whose translation isn't in the TLB
    TlbMiss,
}

impl StoryKind {
    /// As the machine's process knows it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Syscall => "syscall",
            Self::TlbMiss => "tlb-miss",
        }
    }
}

#[derive(Args, Debug)]
pub struct Gdb {
    /// Speak gdb's protocol on standard input and output, for gdb's `target remote | COMMAND`
    #[arg(long, conflicts_with_all = ["debugger", "arguments"])]
    pub stdio: bool,
    /// Debugger to start; else gdb-multiarch or riscv64-linux-gnu-gdb
    #[arg(long, value_name = "PROGRAM")]
    pub debugger: Option<PathBuf>,
    /// Machine to look into
    pub machine: String,
    /// Arguments for gdb: the file whose symbols it shall know, and others
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub enum Bundle {
    /// Pack kernels, initial RAM disks, command lines and sizes of guests into one file
    Build(BundleBuild),
    /// Make a disk whose ranges have what the guests' disks begin with
    Disk(BundleDisk),
    /// Start the type-1 home with a bundle, in a machine of this computer
    Run(Box<BundleRun>),
    /// Make a machine of a guest that was saved at the monitor's prompt, and start it where it was
    Extract(BundleExtract),
}

#[derive(Args, Debug)]
pub struct BundleBuild {
    /// Description of the guests (TOML)
    pub description: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Args, Debug)]
pub struct BundleDisk {
    /// Description of the guests (TOML)
    pub description: PathBuf,
    /// File to make, a raw disk
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Make it this large; else it ends with the last range
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<u64>,
}

#[derive(Args, Debug)]
pub struct BundleExtract {
    /// File that `rvisor bundle build` made
    pub bundle: PathBuf,
    /// Name of the guest
    pub guest: String,
    /// The disk that its state was saved on: a file, raw or qcow2, then ,format=raw or ,format=qcow2
    #[arg(long, value_name = "FILE[,format=F]")]
    pub disk: String,
    /// Write a file for `rvisor import`, instead of making a machine
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "no_start"])]
    pub output: Option<PathBuf>,
    /// Name of the machine; else the guest's
    #[arg(long)]
    pub name: Option<String>,
    /// Don't start it
    #[arg(long)]
    pub no_start: bool,
}

#[derive(Args, Debug)]
pub struct BundleRun {
    /// File that `rvisor bundle build` made
    pub bundle: PathBuf,
    /// What plays the hardware; on both, the engine is `vs` with --extensions h and `deprivileged` without
    #[arg(long, value_enum, default_value_t = BundleMachine::Rvisor)]
    pub machine: BundleMachine,
    /// Image of the type-1 home; else rvisor-metal.image beside this program or one directory up
    #[arg(long, value_name = "FILE")]
    pub monitor: Option<PathBuf>,
    /// Words for the monitor itself: sequences=off makes each privileged instruction of a guest trap by itself
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub append: String,
    /// The hardware's disk: a file, raw or qcow2, then ,ro for read-only and ,format=raw or ,format=qcow2
    #[arg(long = "disk", value_name = "FILE[,ro][,format=F]")]
    pub disks: Vec<String>,
    /// The hardware's network
    #[arg(long, value_enum, default_value_t = Network::User)]
    pub net: Network,
    /// Forward a port of this computer, with an address and a protocol as in 0.0.0.0:5353:53/udp; IPv6 addresses
    /// stand in brackets
    #[arg(short, long = "publish", value_name = "HOST:GUEST")]
    pub publish: Vec<String>,
    #[command(flatten)]
    pub size: Size,
    #[command(flatten)]
    pub engine: EngineOptions,
    #[command(flatten)]
    pub confinement: Confinement,
    /// End the machine after this long; the exit code is then 124
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BundleMachine {
    /// Rvisor itself
    Rvisor,
    /// QEMU 8 or later, which has to be installed; has the H extension only with --extensions h, as Rvisor's has
    Qemu,
}

#[derive(Args, Debug)]
pub struct Size {
    /// Number of harts
    #[arg(long, default_value = "1", value_name = "N", value_parser = harts)]
    pub cpus: NonZeroU32,
    /// Memory: bytes, or a number with K, M, G or T
    #[arg(short, long, default_value = "1G", value_name = "SIZE", value_parser = size)]
    pub memory: u64,
    /// Extensions of the instruction set that harts have only if asked for
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    pub extensions: Vec<Extension>,
    /// Largest virtual addresses that the harts translate; else sv39, or sv48 with more than 64 GiB of memory. Larger
    /// ones cost speed
    #[arg(long, value_enum, value_name = "MODE")]
    pub mmu: Option<Mmu>,
}

impl Size {
    /// Whether the harts have the hypervisor extension.
    pub fn hypervisor(&self) -> bool {
        self.extensions.contains(&Extension::H)
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mmu {
    /// Addresses of 39 bits in page tables of three levels
    Sv39,
    /// Of 48 bits in four, and those of 39
    Sv48,
    /// Of 57 bits in five, and the others
    Sv57,
}

impl Mmu {
    /// The same for a machine's description.
    pub fn paging(self) -> Paging {
        match self {
            Self::Sv39 => Paging::Sv39,
            Self::Sv48 => Paging::Sv48,
            Self::Sv57 => Paging::Sv57,
        }
    }

    /// The same for the machine.
    pub fn mode(self) -> TranslationMode {
        self.paging().mode()
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// The hypervisor extension: what runs on the harts can have virtual machines with hardware's help
    H,
}

#[derive(Args, Debug)]
pub struct Confinement {
    /// Don't confine the machine's process: a guest that breaks out of its machine can then do all that you can
    #[arg(long)]
    pub no_sandbox: bool,
}

#[derive(Args, Debug)]
pub struct EngineOptions {
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value_t = Engine::Translator)]
    pub engine: Engine,
    /// Say at the end on standard error where the translator's time went, and which code it was spent in
    #[arg(long)]
    pub profile: bool,
    /// Write all guest code that is translated, and what it is made into, to a file
    #[arg(long, value_name = "FILE")]
    pub dump_translation: Option<PathBuf>,
    /// When the translator's second tier translates code again, with more care
    #[arg(long, value_enum, default_value_t = Optimize::Hot, value_name = "WHEN")]
    pub optimize: Optimize,
    /// Directory in which translated code is kept for later runs; else translations in RVISOR_HOME or the user's
    /// cache directory
    #[arg(long, value_name = "DIRECTORY")]
    pub code_cache: Option<PathBuf>,
    /// Don't start from the translated code of earlier runs, and keep none of this one's
    #[arg(long, conflicts_with = "code_cache")]
    pub no_code_cache: bool,
    /// Memory for translated code; when it is full, all is thrown away and translated anew. 1M or more; 128M if not
    /// given
    #[arg(long, value_name = "SIZE", value_parser = code_memory)]
    pub code_memory: Option<usize>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Optimize {
    /// Never: the first tier only
    Never,
    /// When it proves to be executed often, on a thread of its own
    Hot,
    /// At once, all of it: slow, for debugging
    Always,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// Dynamic binary translation: the fast one
    Translator,
    /// The translator, all that it does compared with the interpreter as it goes; one hart
    Lockstep,
    /// The reference interpreter: slow, and simple
    Interpreter,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// The guest reaches the host's network through Rvisor, without privileges
    User,
    /// No network card
    None,
}

#[derive(Args, Debug)]
pub struct Mirror {
    /// Base address of the Debian mirror to use; else RVISOR_DEBIAN_MIRROR, else this system's apt sources
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

#[derive(Args, Debug)]
pub struct Pull {
    /// Image to get: debian or busybox
    pub image: String,
    /// Build it again even if it is there
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub confinement: Confinement,
    #[command(flatten)]
    pub mirror: Mirror,
}

#[derive(Args, Debug)]
pub struct Build {
    /// Recipe (TOML)
    pub recipe: PathBuf,
    /// Name of the image; else the recipe's file name
    #[arg(short, long)]
    pub tag: Option<String>,
    #[command(flatten)]
    pub confinement: Confinement,
    #[command(flatten)]
    pub mirror: Mirror,
}

#[derive(Subcommand, Debug)]
pub enum NetworkCommand {
    /// Make a network
    Create {
        /// Its addresses, 256 private ones as in 10.89.7.0/24; else some that no other network has
        #[arg(long, value_name = "PREFIX/24")]
        subnet: Option<String>,
        /// Let nothing lead out of it
        #[arg(long)]
        internal: bool,
        /// Its name
        name: String,
    },
    /// List networks
    Ls {
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Say all that is known of networks, as JSON
    Inspect {
        /// Networks to tell about
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Remove networks that no machine is on
    Rm {
        /// Networks to remove
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Make a snapshot of a machine, which goes on meanwhile if it runs
    Create {
        /// Compress its memory: it takes less room, and more time to make and to go back to
        #[arg(long)]
        compress: bool,
        /// Machine to save
        machine: String,
        /// Name of the snapshot; a number if it isn't given
        name: Option<String>,
    },
    /// List a machine's snapshots
    Ls {
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// Machine whose snapshots to list
        machine: String,
    },
    /// Remove snapshots of a machine
    Rm {
        /// Machine they are of
        machine: String,
        /// Snapshots to remove
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Go back to a snapshot; a machine that was running then goes on in the background
    Restore {
        /// End the machine first if it runs; what it was doing is lost
        #[arg(short, long)]
        force: bool,
        /// Don't start a machine that was running
        #[arg(long)]
        no_start: bool,
        /// Machine to take back
        machine: String,
        /// Snapshot to go back to; the latest if it isn't given
        name: Option<String>,
    },
}

#[derive(Args, Debug)]
pub struct CloneMachine {
    /// Begin as it was when this snapshot was made
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Don't start the clone of a machine that was running
    #[arg(long)]
    pub no_start: bool,
    /// Machine to copy; one that runs goes on meanwhile
    pub machine: String,
    /// Name of the clone
    pub name: String,
}

#[derive(Args, Debug)]
pub struct Migrate {
    /// Key of the target, as `rvisor receive` shows it there; else one that was seen at this address before
    #[arg(long, value_name = "sha256:…", value_parser = peer_key)]
    pub peer_key: Option<String>,
    /// For how many milliseconds the guest may stand still, if it can be kept to
    #[arg(long, default_value = "300", value_name = "MILLISECONDS")]
    pub max_downtime: u32,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Print the key of this host, for `rvisor receive --peer-key`, and do nothing
    #[arg(long, conflicts_with_all = ["machine", "target"])]
    pub show_key: bool,
    /// Machine to move
    #[arg(required_unless_present = "show_key")]
    pub machine: Option<String>,
    /// Where to: HOST:PORT or unix:PATH
    #[arg(required_unless_present = "show_key")]
    pub target: Option<Address>,
}

#[derive(Args, Debug)]
pub struct Receive {
    /// Where to listen: ADDRESS:PORT, with port 0 for one that is free, or unix:PATH
    #[arg(long, default_value = "0.0.0.0:0", value_name = "ADDRESS:PORT|unix:PATH")]
    pub listen: Address,
    /// What the machine is called here; as there if it isn't given
    #[arg(long)]
    pub name: Option<String>,
    /// Key of the source, as `rvisor migrate --show-key` prints it there; else one that was seen before. May be
    /// repeated
    #[arg(long, value_name = "sha256:…", value_parser = peer_key)]
    pub peer_key: Vec<String>,
    /// Most memory that the machine may have; all that this host has if it isn't given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<u64>,
    /// Forward none of its ports
    #[arg(long)]
    pub no_publish: bool,
    /// How to print the address and, in the end, the machine's name
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// A fingerprint.
fn peer_key(text: &str) -> Result<String, String> {
    let digest = text.strip_prefix("sha256:");
    let is_digest = |digest: &str| digest.len() == 64 && digest.bytes().all(|c| c.is_ascii_hexdigit());
    match digest.is_some_and(is_digest) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a key is sha256: and 64 hexadecimal digits".into()),
    }
}

#[derive(Subcommand, Debug)]
pub enum PortCommand {
    /// Forward ports, until the machine ends
    Add {
        /// Machine to forward to
        machine: String,
        /// Ports, with an address and a protocol as in 0.0.0.0:5353:53/udp; IPv6 addresses stand in brackets
        #[arg(required = true, value_name = "HOST:GUEST")]
        ports: Vec<String>,
    },
    /// List what is forwarded
    Ls {
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// Machine that it is forwarded to
        machine: String,
    },
    /// Forward ports no longer; connections that have been made stay
    Rm {
        /// Machine that they are forwarded to
        machine: String,
        /// Ports, as they were given
        #[arg(required = true, value_name = "HOST:GUEST")]
        ports: Vec<String>,
    },
}

#[derive(Subcommand, Debug)]
pub enum DiskCommand {
    /// Make a disk: empty, or a copy-on-write disk over another
    Create {
        /// How to store it
        #[arg(long = "disk-format", value_enum, default_value_t = DiskFormat::Qcow2, value_name = "FORMAT")]
        format: DiskFormat,
        /// Its size: bytes, or a number with K, M, G or T
        #[arg(long, value_parser = size)]
        size: Option<u64>,
        /// Disk whose content it shows; that must not change any more
        #[arg(long, value_name = "FILE")]
        backing: Option<PathBuf>,
        /// File to make
        disk: PathBuf,
    },
    /// Say what disks are
    Info {
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// Disks to look at
        #[arg(required = true)]
        disks: Vec<PathBuf>,
    },
    /// Change the size of a disk; the partitions on it are the guest's business
    Resize {
        /// Allow less: what is behind the new end is lost
        #[arg(long)]
        shrink: bool,
        /// Disk to resize
        disk: PathBuf,
        /// Its new size: bytes, or a number with K, M, G or T
        #[arg(value_parser = size)]
        size: u64,
    },
    /// Copy a disk into a new one, without backing files
    Convert {
        /// How to store the new one
        #[arg(long = "disk-format", value_enum, default_value_t = DiskFormat::Qcow2, value_name = "FORMAT")]
        format: DiskFormat,
        /// Disk to copy
        source: PathBuf,
        /// File to make
        target: PathBuf,
    },
    /// Read all of a disk, and see whether its tables are sound
    Check {
        /// Disk to check
        disk: PathBuf,
    },
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFormat {
    /// Sector by sector
    Raw,
    /// Copy-on-write, with its own tables
    Qcow2,
}

impl From<DiskFormat> for rvisor_hosted::disk::Format {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Raw => Self::Raw,
            DiskFormat::Qcow2 => Self::Qcow2,
        }
    }
}

#[derive(Args, Debug)]
pub struct Ps {
    /// Those that aren't running, too
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub list: List,
}

#[derive(Args, Debug)]
pub struct Start {
    /// Use the console of the machine, or show its command's output; its exit code is then this command's
    #[arg(short, long)]
    pub attach: bool,
    /// The same, for the habit of -ai: what is typed goes to the console anyway, or to the command's terminal
    #[arg(short, long)]
    pub interactive: bool,
    /// Boot it, even if it could go on from a snapshot
    #[arg(long)]
    pub cold: bool,
    /// Start a machine that was handed over to another host, because it doesn't run there
    #[arg(short, long)]
    pub force: bool,
    /// Machines to start
    #[arg(required = true)]
    pub machines: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Stop {
    /// How long the guest may take before the machine is ended without it
    #[arg(
        short,
        long = "time",
        visible_alias = "timeout",
        value_name = "SECONDS",
        default_value = "30",
        value_parser = seconds
    )]
    pub time: Duration,
    /// Machines to stop
    #[arg(required = true)]
    pub machines: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Kill {
    /// KILL ends them at once; TERM and INT ask their guests to power off, and wait for nothing
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    pub signal: Signal,
    /// Machines to end
    #[arg(required = true)]
    pub machines: Vec<String>,
}

/// What a signal means to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Its end.
    Kill,
    /// That its guest is asked to end it.
    Terminate,
}

#[derive(Args, Debug)]
pub struct Inspect {
    /// One field only, a line for each machine: its path, as in state.status or /state/status; `json` is all, as without
    #[arg(short, long, value_name = "PATH")]
    pub format: Option<String>,
    /// Machines to tell about
    #[arg(required = true)]
    pub machines: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Rm {
    /// End those that run first, without asking their guests; one that isn't there is no error
    #[arg(short, long)]
    pub force: bool,
    /// Machines to remove
    #[arg(required = true)]
    pub machines: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Logs {
    /// Go on until the machine ends
    #[arg(short, long)]
    pub follow: bool,
    /// The last lines only
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// What was said since then only: so many seconds ago, or 10m, 2h or 3d, or at a time as 2026-11-27T10:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    pub since: Option<u64>,
    /// What was said until then only
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    pub until: Option<u64>,
    /// When each line began, before it
    #[arg(short, long)]
    pub timestamps: bool,
    /// The console, even where the machine was made for a command
    #[arg(long)]
    pub console: bool,
    /// Machine to read from
    pub machine: String,
}

#[derive(Args, Debug)]
pub struct Attach {
    /// Listen only
    #[arg(long)]
    pub no_stdin: bool,
    /// Machine to use
    pub machine: String,
}

#[derive(Args, Debug)]
pub struct Exec {
    /// Let the command run on its own, and don't wait for it; what it says is lost
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    /// Run the command as this user of the guest, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give the command this command's standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Environment variable for the command; without a value it is this process's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub environment: Vec<String>,
    /// Directory in which the command runs
    #[arg(short, long, default_value = "/root", value_name = "DIRECTORY")]
    pub workdir: String,
    /// How long to wait for a guest that is still starting
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub wait: Duration,
    /// Machine to run it in
    pub machine: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Cp {
    /// Keep the numbers of owners and groups in the machine; else what is copied there belongs to root
    #[arg(short, long)]
    pub archive: bool,
    /// What to copy: PATH, or MACHINE:PATH, or - for a tar archive on standard input
    pub source: String,
    /// Where to: PATH, or MACHINE:PATH, or - for a tar archive on standard output
    pub target: String,
}

#[derive(Args, Debug)]
pub struct Stats {
    /// Once, and no more
    #[arg(long)]
    pub no_stream: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Machines to show; all that run if none is named
    pub machines: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Events {
    /// Begin with those since then: so many seconds ago, or 10m, 2h or 3d, or at a time as 2026-11-27T10:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    pub since: Option<u64>,
    /// End with those until then
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    pub until: Option<u64>,
    /// Don't wait for more
    #[arg(long)]
    pub no_stream: bool,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct List {
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A table for people
    Table,
    /// JSON for programs
    Json,
}

#[derive(Args, Debug)]
pub struct Rmi {
    /// Images to remove
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// Processors, as thousandths of one.
fn cpu_limit(text: &str) -> Result<u32, String> {
    let number: Option<f64> = text.parse().ok().filter(|number| (0.01..=1024.0).contains(number));
    number
        .map(|number| (number * 1000.0).round() as u32)
        .ok_or_else(|| "use a number from 0.01 on, as in 0.5".into())
}

/// Parses a number of harts.
fn harts(text: &str) -> Result<NonZeroU32, String> {
    text.parse::<NonZeroU32>()
        .ok()
        .filter(|harts| harts.get() as usize <= MAX_HARTS)
        .ok_or_else(|| format!("give a number of harts from 1 to {MAX_HARTS}"))
}

/// Parses a size such as `512M`.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("give bytes, or a number with K, M, G or T, such as 512M".into()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "give bytes, or a number with K, M, G or T, such as 512M".into())
}

/// Parses `size=SIZE`.
fn scratch_disk(text: &str) -> Result<u64, String> {
    let bytes = text.strip_prefix("size=").ok_or("write size=SIZE, such as size=8G")?;
    match size(bytes)? {
        bytes if bytes > 0 && bytes.is_multiple_of(512) => Ok(bytes),
        _ => Err("give a positive multiple of 512 bytes".into()),
    }
}

/// Parses a size of the memory for translated code.
fn code_memory(text: &str) -> Result<usize, String> {
    /// Jumps in translated code span no more.
    const MOST: u64 = 1 << 30;
    let size = size(text)?;
    match usize::try_from(size) {
        Ok(code) if code >= LEAST_CODE_MEMORY && size <= MOST => Ok(code),
        _ => Err("give 1M to 1G".into()),
    }
}

/// Parses a moment: how long it is ago, or a time stamp (RFC 3339). Returns milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    let ago = |age: Duration| table::now().saturating_sub(age.as_millis() as u64);
    table::parse_moment(text).or_else(|| age(text).map(ago)).ok_or_else(|| {
        "give seconds ago, or a number with m, h or d, such as 10m, or a time such as 2026-11-27T10:00:00Z".into()
    })
}

/// Parses an age: seconds, or numbers with `s`, `m`, `h` or `d`, such as `1h30m`.
fn age(text: &str) -> Option<Duration> {
    let part = |part: &str| {
        let (number, factor) = match part.chars().last()? {
            's' => (&part[..part.len() - 1], 1.0),
            'm' => (&part[..part.len() - 1], 60.0),
            'h' => (&part[..part.len() - 1], 3600.0),
            'd' => (&part[..part.len() - 1], 86400.0),
            _ => (part, 1.0),
        };
        number.parse::<f64>().ok().filter(|number| number.is_sign_positive()).map(|number| number * factor)
    };
    let seconds: f64 = text.split_inclusive(['s', 'm', 'h', 'd']).map(part).sum::<Option<_>>()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

/// Parses a signal, by name or number.
fn signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "KILL" | "9" => Ok(Signal::Kill),
        "TERM" | "15" | "INT" | "2" => Ok(Signal::Terminate),
        name => Err(format!(
            "a machine takes KILL, TERM and INT; a process in its guest takes others from `rvisor exec MACHINE kill -s {name} PID`"
        )),
    }
}

/// Parses a time limit in seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "give seconds, such as 60 or 0.5".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for wrong in ["", "M", "1.5G", "12X", "99999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ages_have_units() {
        let seconds = |text| age(text).map(|age| age.as_secs());
        for (text, told) in
            [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("1h30m", 5400)]
        {
            assert_eq!(seconds(text), Some(told), "{text}");
        }
        for wrong in ["", "m", "-1", "1w", "nan", "1h-5m", "10mm", "1 h"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn moments_are_ages_and_time_stamps() {
        assert_eq!(moment("2026-11-23T01:45:04.567Z"), Ok(1_795_398_304_567));
        let hour = table::now() - moment("1h").unwrap();
        assert!((3_590_000..=3_600_000).contains(&hour), "{hour}");
        assert!(moment("yesterday").unwrap_err().contains("such as 10m"));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!([signal("SIGKILL"), signal("9")], [Ok(Signal::Kill), Ok(Signal::Kill)]);
        assert_eq!([signal("term"), signal("2")], [Ok(Signal::Terminate), Ok(Signal::Terminate)]);
        assert!(signal("HUP").unwrap_err().contains("rvisor exec MACHINE kill -s HUP PID"));
    }

    #[test]
    fn memory_for_translated_code_has_bounds() {
        assert_eq!(code_memory("1M"), Ok(1 << 20));
        assert_eq!(code_memory("1G"), Ok(1 << 30));
        for wrong in ["0", "1023K", "2G", "16E"] {
            assert!(code_memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn command_after_the_dashes_is_taken_as_it_is() {
        let cli = Cli::parse_from(["rvisor", "run", "debian", "--", "ls", "--all", "-p"]);
        let Command::Run(run) = cli.command else { panic!("run was parsed as something else") };
        assert_eq!(run.command, ["ls", "--all", "-p"]);
    }
}
