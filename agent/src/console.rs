//! Console logs: kept small while the VMM writes them, and read from their end on.
//!
//! A VMM opens its log for appending, so that cutting the file down to nothing is safe at any time: the next line begins it
//! anew. What was there is in `console.log.1`.

use crate::vmm::VmDir;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::{
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

/// How often a log is looked at that is followed.
const LOOK: Duration = Duration::from_millis(100);
/// How much is sent at once.
const CHUNK: usize = 64 << 10;

fn older(dir: &VmDir) -> PathBuf {
    dir.path().join("console.log.1")
}

/// Keeps a log and its older part together below a limit, once it has grown past half of it.
pub async fn trim(dir: &VmDir, limit: u64) -> io::Result<()> {
    let path = dir.console_log();
    let mut log = match File::options().read(true).write(true).open(&path).await {
        Ok(log) => log,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let (length, half) = (log.metadata().await?.len(), (limit / 2).max(1));
    if length <= half {
        return Ok(());
    }
    log.seek(SeekFrom::Start(length.saturating_sub(half))).await?;
    let mut kept = Vec::new();
    (&mut log).take(half).read_to_end(&mut kept).await?;
    let new = dir.path().join("console.log.new");
    let mut out = File::create(&new).await?;
    out.write_all(&kept).await?;
    out.flush().await?;
    tokio::fs::rename(&new, older(dir)).await?;
    // What the guest says between the read and this is lost; a guest that writes so fast loses most anyway.
    log.set_len(0).await
}

/// What a console has said: the last `tail_lines` of it, or all that is kept, and what comes if it is followed.
pub fn read(dir: VmDir, tail_lines: Option<u64>, follow: bool) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let past = stream::once(async move {
        let mut text = read_if_there(older(&dir)).await?;
        let newer = read_if_there(dir.console_log()).await?;
        let offset = newer.len() as u64;
        text.extend_from_slice(&newer);
        Ok::<_, io::Error>((dir, Bytes::from(last_lines(text, tail_lines)), offset))
    });
    past.flat_map(move |read| match read {
        Err(error) => stream::iter([Err(error)]).boxed(),
        Ok((dir, text, offset)) => {
            let now = stream::iter((!text.is_empty()).then_some(Ok(text)));
            if follow { now.chain(tail(dir, offset)).boxed() } else { now.boxed() }
        }
    })
}

/// What comes after an offset, for ever. A log that was cut down begins anew.
fn tail(dir: VmDir, offset: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let seen = cut(&dir);
    stream::unfold((dir, offset, seen), |(dir, mut offset, mut last)| async move {
        loop {
            // A new older part means that the log has been cut, or is about to be: it is looked at a moment later.
            let now = cut(&dir);
            if now != last {
                (last, offset) = (now, 0);
                tokio::time::sleep(LOOK).await;
            }
            match read_from(&dir, &mut offset).await {
                Ok(chunk) if chunk.is_empty() => tokio::time::sleep(LOOK).await,
                other => return Some((other, (dir, offset, last))),
            }
        }
    })
}

/// Which older part there is: it changes with every cut.
fn cut(dir: &VmDir) -> Option<(u64, i64, i64)> {
    std::fs::metadata(older(dir)).ok().map(|older| (older.ino(), older.mtime(), older.mtime_nsec()))
}

async fn read_from(dir: &VmDir, offset: &mut u64) -> io::Result<Bytes> {
    let mut log = match File::open(dir.console_log()).await {
        Ok(log) => log,
        // Not started yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Bytes::new()),
        Err(e) => return Err(e),
    };
    log.seek(SeekFrom::Start(*offset)).await?;
    let mut chunk = Vec::with_capacity(CHUNK);
    log.take(CHUNK as u64).read_to_end(&mut chunk).await?;
    *offset += chunk.len() as u64;
    Ok(chunk.into())
}

async fn read_if_there(path: PathBuf) -> io::Result<Vec<u8>> {
    match tokio::fs::read(path).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn last_lines(mut text: Vec<u8>, lines: Option<u64>) -> Vec<u8> {
    let Some(lines) = lines else { return text };
    let end = if text.ends_with(b"\n") { text.len() - 1 } else { text.len() };
    let mut wanted = lines;
    let start = text[..end].iter().rposition(|byte| {
        wanted -= u64::from(*byte == b'\n' && wanted > 0);
        *byte == b'\n' && wanted == 0
    });
    match (lines, start) {
        (0, _) => Vec::new(),
        (_, Some(start)) => text.split_off(start + 1),
        (_, None) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        let cases: [(&str, u64, &str); 6] =
            [("a\nb\nc\n", 2, "b\nc\n"), ("a\nb\nc", 1, "c"), ("a\n", 5, "a\n"), ("", 3, ""), ("a\nb\n", 0, ""), ("\n\n", 1, "\n")];
        for (text, lines, wanted) in cases {
            assert_eq!(last_lines(text.into(), Some(lines)), wanted.as_bytes(), "{text:?} {lines}");
        }
    }

    #[tokio::test]
    async fn a_log_is_kept_small_and_followed_across_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let vm = VmDir::new(dir.path());
        let mut guest = std::fs::OpenOptions::new().create(true).append(true).open(vm.console_log()).unwrap();
        writeln!(guest, "first").unwrap();
        let mut lines = Box::pin(read(vm.clone(), None, true));
        assert_eq!(lines.next().await.unwrap().unwrap(), "first\n");
        for n in 0..1000 {
            writeln!(guest, "line {n}").unwrap();
        }
        trim(&vm, 1000).await.unwrap();
        writeln!(guest, "after the cut").unwrap();
        let mut seen = String::new();
        while !seen.contains("after the cut") {
            seen += std::str::from_utf8(&lines.next().await.unwrap().unwrap()).unwrap();
        }
        let kept: u64 = [vm.console_log(), older(&vm)].iter().map(|p| std::fs::metadata(p).unwrap().len()).sum();
        assert!(kept <= 1000, "{kept}");
        let all: Vec<_> = read(vm, None, false).collect().await;
        let all = String::from_utf8(all.into_iter().flat_map(|chunk| chunk.unwrap()).collect()).unwrap();
        assert!(all.contains("line 999\nafter the cut\n"), "{all}");
    }
}
