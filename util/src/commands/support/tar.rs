//! A `tar` archive of small text files: the POSIX ustar header, nothing more.

const BLOCK: usize = 512;

/// The archive of `(name, content)`; names of at most 99 ASCII bytes.
pub fn archive(files: &[(String, String)], unix_seconds: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        out.extend_from_slice(&header(name, content.len(), unix_seconds));
        out.extend_from_slice(content.as_bytes());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks end it.
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn header(name: &str, bytes: usize, unix_seconds: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        let text = text.as_bytes();
        header[at..at + text.len()].copy_from_slice(text);
    };
    let name: String = name.chars().take(99).collect();
    put(0, &name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{bytes:011o}\0"));
    put(136, &format!("{unix_seconds:011o}\0"));
    // The checksum counts its own field as blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_blocks_names_sizes_and_an_end() {
        let tar = archive(
            &[
                ("a/b.txt".into(), "hello".into()),
                ("c".into(), String::new()),
            ],
            1,
        );
        assert_eq!(tar.len(), 512 + 512 + 512 + 1024);
        assert_eq!(&tar[..7], b"a/b.txt");
        assert_eq!(&tar[124..135], b"00000000005");
        assert_eq!(&tar[257..262], b"ustar");
        assert_eq!(&tar[512..517], b"hello");
        assert!(tar[1536..].iter().all(|byte| *byte == 0));
    }
}
