//! Memory of the process: what it has, from `/proc/self/status` (proc_pid_status(5)), and giving back what it does
//! not need.

/// Sizes in bytes; zero where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Private memory in use, not backed by files: what the heap and stacks occupy.
    pub allocated: u64,
    /// Address space of the heap and other private data.
    pub heap: u64,
    /// All memory in use, program text included.
    pub resident: u64,
}

/// The process's memory now.
pub fn read() -> Memory {
    std::fs::read_to_string("/proc/self/status").map(|text| parse(&text)).unwrap_or_default()
}

/// Gives the system back what was freed: the allocator keeps it for what may come, and nothing like it comes.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and holds the allocator's locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn parse(status: &str) -> Memory {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
            })
            .map_or(0, |kib| kib * 1024)
    };
    Memory { allocated: field("RssAnon"), heap: field("VmData"), resident: field("VmRSS") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "Name:\tx\nVmRSS:\t    2048 kB\nVmData:\t   16 kB\nRssAnon:\t    1024 kB\n";
        assert_eq!(parse(text), Memory { allocated: 1 << 20, heap: 16 << 10, resident: 2 << 20 });
        assert_eq!(parse("VmRSS: x kB\n"), Memory::default());
        assert!(read().resident > 0);
    }
}
