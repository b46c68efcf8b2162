//! The system calls that a machine's process may make once the machine is ready: this table, and nothing else.
//!
//! How to add one is said in `CONTRIBUTING.md`, "The sandbox". What isn't here fails with `EPERM`, and what no honest
//! code of ours would ever try ([`NEVER`]) ends the process.

use libc as c;

/// What only some machines need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Connections to the world.
    Network,
    /// Directories shared with the guest.
    Shares,
}

/// For which arguments a call is allowed.
#[derive(Clone, Copy)]
pub(super) enum When {
    /// All.
    Always,
    /// This argument is one of these values (its low 32 bits).
    OneOf(u8, &'static [u64]),
    /// This argument has these bits, and not those.
    Flags { argument: u8, set: u64, clear: u64 },
    /// This argument is this process.
    OwnProcess(u8),
}

/// Calls that are allowed, and what for.
pub(super) struct Group {
    pub need: Option<Need>,
    pub calls: &'static [(c::c_long, When)],
}

use When::{Always, Flags, OneOf, OwnProcess};

/// A memory protection that lets code run.
const EXECUTABLE: u64 = c::PROT_EXEC as u64;
/// Flags that make another namespace.
const NAMESPACES: u64 = (c::CLONE_NEWNS
    | c::CLONE_NEWCGROUP
    | c::CLONE_NEWUTS
    | c::CLONE_NEWIPC
    | c::CLONE_NEWUSER
    | c::CLONE_NEWPID
    | c::CLONE_NEWNET) as u64;

/// Terminals (not `TIOCSTI`, which types for the user), sockets, copies of files that share their blocks, and block
/// devices as disks.
#[allow(clippy::unnecessary_cast, reason = "the C library's type differs between hosts")]
const REQUESTS: &[u64] = &[
    c::TCGETS,
    c::TCSETS,
    c::TCSETSW,
    c::TCSETSF,
    c::TCGETS2,
    c::TCSETS2,
    c::TCSETSW2,
    c::TCSETSF2,
    c::TIOCGWINSZ,
    c::FIONBIO,
    c::FIONREAD,
    0x4004_9409, // FICLONE
    0x4020_940d, // FICLONERANGE
    0x1268,      // BLKSSZGET
    0x1277,      // BLKDISCARD
    0x127f,      // BLKZEROOUT
    0x8008_1272, // BLKGETSIZE64
];

/// Names of threads and of memory, and what the kernel told the program at its start; nothing that changes rights.
const PROCESS_OPTIONS: &[u64] =
    &[c::PR_SET_NAME as u64, c::PR_GET_NAME as u64, c::PR_SET_VMA as u64, 0x4155_5856 /* PR_GET_AUXV */];

pub(super) const ALLOWED: &[Group] = &[
    // Threads: made, named, scheduled, ended. No processes.
    Group {
        need: None,
        calls: &[
            (
                c::SYS_clone,
                Flags { argument: 0, set: (c::CLONE_THREAD | c::CLONE_VM) as u64, clear: NAMESPACES },
            ),
            (c::SYS_set_robust_list, Always),
            (c::SYS_rseq, Always),
            (c::SYS_gettid, Always),
            (c::SYS_getpid, Always),
            (c::SYS_futex, Always),
            (c::SYS_sched_yield, Always),
            (c::SYS_sched_getaffinity, Always),
            (c::SYS_getcpu, Always),
            (c::SYS_membarrier, Always),
            (c::SYS_prctl, OneOf(0, PROCESS_OPTIONS)),
            (c::SYS_exit, Always),
            (c::SYS_exit_group, Always),
        ],
    },
    // Memory. Code memory is there already; no more of it is made.
    Group {
        need: None,
        calls: &[
            (c::SYS_brk, Always),
            (c::SYS_mmap, Flags { argument: 2, set: 0, clear: EXECUTABLE }),
            (c::SYS_mprotect, Flags { argument: 2, set: 0, clear: EXECUTABLE }),
            (c::SYS_mremap, Always),
            (c::SYS_munmap, Always),
            (c::SYS_madvise, Always),
            (c::SYS_mincore, Always),
            (c::SYS_msync, Always),
            (c::SYS_memfd_create, Always),
        ],
    },
    // Signals, to itself only.
    Group {
        need: None,
        calls: &[
            (c::SYS_rt_sigaction, Always),
            (c::SYS_rt_sigprocmask, Always),
            (c::SYS_rt_sigreturn, Always),
            (c::SYS_sigaltstack, Always),
            (c::SYS_restart_syscall, Always),
            (c::SYS_kill, OwnProcess(0)),
            (c::SYS_tgkill, OwnProcess(0)),
        ],
    },
    // Time, random numbers, and what the process is and has used.
    Group {
        need: None,
        calls: &[
            (c::SYS_clock_gettime, Always),
            (c::SYS_clock_getres, Always),
            (c::SYS_clock_nanosleep, Always),
            (c::SYS_nanosleep, Always),
            (c::SYS_gettimeofday, Always),
            (c::SYS_getrandom, Always),
            (c::SYS_getrusage, Always),
            // Looking at limits; not setting them.
            (c::SYS_prlimit64, OneOf(2, &[0])),
            (c::SYS_getuid, Always),
            (c::SYS_geteuid, Always),
            (c::SYS_getgid, Always),
            (c::SYS_getegid, Always),
            (c::SYS_uname, Always),
            (c::SYS_sysinfo, Always),
        ],
    },
    // Files: which ones is Landlock's business.
    Group {
        need: None,
        calls: &[
            (c::SYS_openat, Always),
            (c::SYS_close, Always),
            (c::SYS_close_range, Always),
            (c::SYS_read, Always),
            (c::SYS_write, Always),
            (c::SYS_readv, Always),
            (c::SYS_writev, Always),
            (c::SYS_pread64, Always),
            (c::SYS_pwrite64, Always),
            (c::SYS_preadv, Always),
            (c::SYS_pwritev, Always),
            (c::SYS_preadv2, Always),
            (c::SYS_pwritev2, Always),
            (c::SYS_lseek, Always),
            (c::SYS_fallocate, Always),
            (c::SYS_ftruncate, Always),
            (c::SYS_fsync, Always),
            (c::SYS_fdatasync, Always),
            (c::SYS_sync_file_range, Always),
            (c::SYS_copy_file_range, Always),
            (c::SYS_sendfile, Always),
            (c::SYS_fcntl, Always),
            (c::SYS_flock, Always),
            (c::SYS_fstat, Always),
            (c::SYS_newfstatat, Always),
            (c::SYS_statx, Always),
            (c::SYS_fstatfs, Always),
            (c::SYS_statfs, Always),
            (c::SYS_faccessat, Always),
            (c::SYS_faccessat2, Always),
            (c::SYS_readlinkat, Always),
            (c::SYS_getdents64, Always),
            (c::SYS_mkdirat, Always),
            (c::SYS_unlinkat, Always),
            (c::SYS_renameat, Always),
            (c::SYS_renameat2, Always),
            (c::SYS_utimensat, Always),
            (c::SYS_umask, Always),
            (c::SYS_getcwd, Always),
            (c::SYS_dup, Always),
            (c::SYS_dup3, Always),
            (c::SYS_ioctl, OneOf(1, REQUESTS)),
        ],
    },
    // What a guest may do besides in a shared directory.
    Group {
        need: Some(Need::Shares),
        calls: &[
            (c::SYS_linkat, Always),
            (c::SYS_symlinkat, Always),
            (c::SYS_mknodat, Always),
            (c::SYS_fchmodat, Always),
        ],
    },
    // The older names of some of these.
    #[cfg(target_arch = "x86_64")]
    Group {
        need: None,
        calls: &[
            (c::SYS_open, Always),
            (c::SYS_stat, Always),
            (c::SYS_lstat, Always),
            (c::SYS_access, Always),
            (c::SYS_readlink, Always),
            (c::SYS_mkdir, Always),
            (c::SYS_rmdir, Always),
            (c::SYS_unlink, Always),
            (c::SYS_rename, Always),
            (c::SYS_dup2, Always),
            (c::SYS_poll, Always),
            (c::SYS_epoll_wait, Always),
            (c::SYS_time, Always),
        ],
    },
    // Waiting.
    Group {
        need: None,
        calls: &[
            (c::SYS_ppoll, Always),
            (c::SYS_pselect6, Always),
            (c::SYS_epoll_create1, Always),
            (c::SYS_epoll_ctl, Always),
            (c::SYS_epoll_pwait, Always),
            (c::SYS_epoll_pwait2, Always),
            (c::SYS_eventfd2, Always),
            (c::SYS_pipe2, Always),
            (c::SYS_timerfd_create, Always),
            (c::SYS_timerfd_settime, Always),
        ],
    },
    // The control socket, and other sockets that are there. Descriptors may be passed over them.
    Group {
        need: None,
        calls: &[
            (c::SYS_accept4, Always),
            (c::SYS_recvfrom, Always),
            (c::SYS_recvmsg, Always),
            (c::SYS_recvmmsg, Always),
            (c::SYS_sendto, Always),
            (c::SYS_sendmsg, Always),
            (c::SYS_sendmmsg, Always),
            (c::SYS_shutdown, Always),
            (c::SYS_getsockname, Always),
            (c::SYS_getpeername, Always),
            (c::SYS_getsockopt, Always),
            (c::SYS_setsockopt, Always),
        ],
    },
    // New ones, to the Internet only: no Unix sockets, over which other machines and the user's programs could be
    // asked to do what this process may not.
    Group {
        need: Some(Need::Network),
        calls: &[
            (c::SYS_socket, OneOf(0, &[c::AF_INET as u64, c::AF_INET6 as u64])),
            (c::SYS_bind, Always),
            (c::SYS_connect, Always),
            (c::SYS_listen, Always),
        ],
    },
];

/// What ends the process: nothing of ours does this, so somebody else must be at work in it.
pub(super) const NEVER: &[c::c_long] = &[
    c::SYS_execve,
    c::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    c::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    c::SYS_vfork,
    c::SYS_process_vm_readv,
    c::SYS_process_vm_writev,
    c::SYS_pidfd_getfd,
    c::SYS_bpf,
    c::SYS_perf_event_open,
    c::SYS_userfaultfd,
    c::SYS_io_uring_setup,
    c::SYS_keyctl,
    c::SYS_add_key,
    c::SYS_request_key,
    c::SYS_mount,
    c::SYS_umount2,
    c::SYS_pivot_root,
    c::SYS_chroot,
    c::SYS_unshare,
    c::SYS_setns,
    c::SYS_init_module,
    c::SYS_finit_module,
    c::SYS_kexec_load,
    c::SYS_open_by_handle_at,
];

/// What has to look like an old kernel, because the C library then uses a call that can be looked into.
pub(super) const UNKNOWN: &[c::c_long] = &[c::SYS_clone3];
