//! Text for a terminal: without control characters, measured in columns, wrapped or shortened to fit.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `text` without control characters, so that nothing that comes from outside moves the cursor or colours the screen.
pub fn clean(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|c| {
            if c == '\n' || c == '\t' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// How many columns `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` in at most `room` columns: the middle gives way to a `~`, since names differ at their ends.
pub fn shortened(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let tail_room = room.saturating_sub(1) / 2;
    let head_room = room.saturating_sub(1) - tail_room;
    let head = taken(text.chars(), head_room);
    let tail: String = taken(text.chars().rev(), tail_room).chars().rev().collect();
    if room == 0 { String::new() } else { format!("{head}~{tail}") }
}

/// The first columns of `text`, at most `room`.
pub fn cut(text: &str, room: usize) -> String {
    taken(text.chars(), room)
}

fn taken(chars: impl Iterator<Item = char>, room: usize) -> String {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect()
}

/// `text` without the colours that this program puts in.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let plain = parts.next().unwrap_or_default().to_owned();
    parts.fold(plain, |plain, part| plain + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// `text` after `first`, wrapped between words at `columns`, further lines indented by `indent`; ends with a line break.
pub fn wrapped(first: &str, indent: &str, text: &str, columns: Option<usize>) -> String {
    let mut out = String::from(first);
    let mut used = width(&uncoloured(first));
    let mut fresh = true;
    for word in text.split(' ') {
        let room = columns.unwrap_or(usize::MAX).max(40);
        if !fresh && used + 1 + width(word) > room {
            out.push('\n');
            out.push_str(indent);
            used = width(indent);
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += width(word);
        fresh = false;
    }
    out.push('\n');
    out
}

/// Rows below headers, with the last column wrapped below itself, or on lines of its own where little room is left.
pub fn hanging(headers: &[&str], rows: &[Vec<String>], indent: &str, columns: Option<usize>) -> String {
    let fixed = headers.len().saturating_sub(1);
    let texts: Vec<Vec<String>> =
        rows.iter().map(|r| r.iter().map(|c| if c.is_empty() { "-".into() } else { clean(c) }).collect()).collect();
    let wide = |i: usize| texts.iter().filter_map(|r| r.get(i)).map(|c| width(c)).chain([width(headers[i])]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..fixed).map(wide).collect();
    let padded = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths).map(|(c, w)| format!("{c}{}  ", " ".repeat(w.saturating_sub(width(c)))));
        format!("{indent}{}", cells.collect::<String>())
    };
    let start = width(indent) + widths.iter().map(|w| w + 2).sum::<usize>();
    let below = columns.is_some_and(|c| c < start + 30);
    let mut out = format!("{}{}\n", padded(headers), headers.last().unwrap_or(&""));
    for row in &texts {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        let (last, first) = cells.split_last().map_or(("", &[][..]), |(last, first)| (*last, first));
        if below {
            let deeper = format!("{indent}    ");
            out.push_str(padded(first).trim_end());
            out.push('\n');
            out.push_str(&wrapped(&deeper, &deeper, last, columns));
        } else {
            out.push_str(&wrapped(&padded(first), &" ".repeat(start), last, columns));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\x07"), "a\u{fffd}[31mb c\u{fffd}");
    }

    #[test]
    fn a_long_name_keeps_both_its_ends() {
        assert_eq!(shortened("web-frontend-production-0001", 12), "web-fr~-0001");
        assert_eq!(shortened("short", 12), "short");
        assert!(width(&shortened("日本語日本語日本語", 7)) <= 7);
    }

    #[test]
    fn the_last_column_hangs_below_itself_or_goes_below_the_row() {
        let rows = [vec![
            "3m".into(),
            "HeartbeatMissed".into(),
            "the agent of r12-c has not renewed its lease for 3m12s; its VMs may well run on".into(),
        ]];
        insta::assert_snapshot!(hanging(&["LAST", "REASON", "MESSAGE"], &rows, "  ", Some(60)), @r"
          LAST  REASON           MESSAGE
          3m    HeartbeatMissed  the agent of r12-c has not renewed
                                 its lease for 3m12s; its VMs may
                                 well run on
        ");
        insta::assert_snapshot!(hanging(&["LAST", "REASON", "MESSAGE"], &rows, "  ", Some(45)), @r"
          LAST  REASON           MESSAGE
          3m    HeartbeatMissed
              the agent of r12-c has not renewed its
              lease for 3m12s; its VMs may well run
              on
        ");
    }

    #[test]
    fn wrapped_lines_fit_unless_one_word_is_longer() {
        let text = wrapped("  why   ", "        ", &"word ".repeat(40), Some(60));
        assert!(text.lines().all(|l| width(l) <= 60), "{text}");
        assert!(text.lines().skip(1).all(|l| l.starts_with("        w")), "{text}");
    }
}
