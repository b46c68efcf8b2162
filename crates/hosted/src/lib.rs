//! Rvisor's type-2 home: guest memory, files, networking, terminal and threads on a Linux host.
