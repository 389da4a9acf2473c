//! The lines of the matrix.

use std::path::PathBuf;

/// One try, and what it must come to.
#[derive(Debug, Clone)]
pub struct Row {
    /// Where it stands, counted from 1.
    pub line: usize,
    /// `publish`, `subscribe`, `receive`, `retained`, `will`, `respond` or `connect`.
    pub tried: String,
    pub who: String,
    /// A topic, a filter or a client identifier.
    pub subject: String,
    /// What else belongs to it: options, or a second topic.
    pub with: String,
    pub expected: String,
}

impl Row {
    pub fn qos(&self) -> u8 {
        self.with.split(',').find_map(|option| option.strip_prefix("qos=")?.parse().ok()).unwrap_or(0)
    }

    pub fn has(&self, option: &str) -> bool {
        self.with.split(',').any(|given| given == option)
    }
}

/// The path of a file of the matrix.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/matrix").join(name)
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(path("matrix.tsv")).unwrap();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let rows: Vec<Row> = lines.map(|(at, line)| row(at + 1, line)).collect();
    assert!(rows.len() > 500, "{} lines: the matrix was cut", rows.len());
    rows
}

fn row(line: usize, text: &str) -> Row {
    let cells: Vec<String> = text.split('\t').map(written_out).collect();
    let [tried, who, subject, with, expected] = <[String; 5]>::try_from(cells).expect("five cells");
    let subject = if subject == "\"\"" { String::new() } else { subject };
    Row { line, tried, who, subject, with, expected }
}

/// With each `{x*9}` written out.
fn written_out(cell: &str) -> String {
    let Some((before, rest)) = cell.split_once('{') else { return cell.to_owned() };
    let repeated = rest.split_once('}').and_then(|(inside, after)| {
        let (text, times) = inside.rsplit_once('*')?;
        Some((text.repeat(times.parse().ok()?), after))
    });
    match repeated {
        Some((repeated, after)) => format!("{before}{repeated}{}", written_out(after)),
        None => cell.to_owned(),
    }
}
