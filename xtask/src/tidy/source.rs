//! Rust source taken apart just enough for the rules.
//!
//! Owns telling code from comments and literals, finding what is compiled for
//! tests only, and listing the paths code names. It is no compiler: macros
//! and unusual formatting may hide something from it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::TextFile;

/// One line of a Rust file.
#[derive(Debug, Default, Clone)]
pub(super) struct Line {
    /// The code, with comments removed and the inside of literals blanked.
    pub(super) code: String,
    /// The text of the comments.
    pub(super) comment: String,
    /// Whether it is compiled for tests only.
    pub(super) is_test: bool,
}

/// One Rust file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to the root.
    pub(super) path: PathBuf,
    /// Its lines; the first is line 1.
    pub(super) lines: Vec<Line>,
}

/// A path such as `std::time::Instant`, named in code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    /// Counted from 1.
    pub(super) line: usize,
    /// `["std", "time", "Instant"]`.
    pub(super) segments: Vec<String>,
}

/// Attributes whose item exists in tests only.
const TEST_ATTRIBUTES: &[&str] = &["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test", "#[test]", "#[tokio::test"];

impl Source {
    /// Takes apart every Rust file, and marks the files that only tests use.
    pub(super) fn read_all(files: &[TextFile]) -> Vec<Self> {
        let mut sources: Vec<Self> = files
            .iter()
            .filter(|file| file.has_extension("rs"))
            .map(|file| Self::parse(&file.path, &file.text))
            .collect();
        let test_modules: BTreeSet<PathBuf> = sources.iter().flat_map(Self::test_module_files).collect();
        for source in &mut sources {
            let is_test = test_modules
                .iter()
                .any(|module| source.path == *module || source.path.starts_with(module.with_extension("")));
            if is_test {
                source.lines.iter_mut().for_each(|line| line.is_test = true);
            }
        }
        sources
    }

    /// Takes one file apart.
    pub(super) fn parse(path: &Path, text: &str) -> Self {
        let mut lines = split(text);
        if path.components().any(|part| part.as_os_str() == "tests") {
            lines.iter_mut().for_each(|line| line.is_test = true);
        } else {
            mark_test_items(&mut lines);
        }
        Self { path: path.to_path_buf(), lines }
    }

    /// Every path of two or more segments, with `use` trees spelled out, and
    /// every lone identifier.
    pub(super) fn named_paths(&self) -> Vec<NamedPath> {
        let mut paths = Vec::new();
        let tokens = tokens(&self.lines);
        let mut index = 0;
        while index < tokens.len() {
            if tokens[index].is_word() {
                index = read_path(&tokens, index, &[], &mut paths);
            } else {
                index += 1;
            }
        }
        paths
    }

    /// The files of `#[cfg(test)] mod name;`.
    fn test_module_files(&self) -> Vec<PathBuf> {
        let stem = self.path.file_stem().unwrap_or_default();
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let folder = if ["lib", "main", "mod"].iter().any(|name| stem == *name) {
            parent.to_path_buf()
        } else {
            parent.join(stem)
        };
        self.lines
            .iter()
            .filter(|line| line.is_test)
            .filter_map(|line| {
                let code = line.code.trim().strip_suffix(';')?;
                let (_, name) = code.rsplit_once("mod ")?;
                Some(folder.join(format!("{name}.rs")))
            })
            .collect()
    }
}

/// What the character under the reader belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

fn split(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = Line::default();
    let mut state = State::Code;
    let characters: Vec<char> = text.chars().collect();
    let mut index = 0;
    while let Some(&character) = characters.get(index) {
        let next = characters.get(index + 1).copied();
        if character == '\n' {
            lines.push(std::mem::take(&mut line));
            if state == State::LineComment {
                state = State::Code;
            }
            index += 1;
            continue;
        }
        let mut taken = 1;
        match state {
            State::Code => match (character, next) {
                ('/', Some('/')) => state = State::LineComment,
                ('/', Some('*')) => state = State::BlockComment(1),
                ('"', _) => {
                    state = State::Text;
                    line.code.push('"');
                }
                ('r', Some('"' | '#')) if !ends_in_word(&line.code) => {
                    if let Some(hashes) = raw_text_hashes(&characters[index + 1..]) {
                        state = State::RawText(hashes);
                        taken = hashes + 2;
                    }
                    line.code.push(if taken > 1 { '"' } else { 'r' });
                }
                ('\'', _) => {
                    taken = char_literal_length(&characters[index..]);
                    line.code.push('\'');
                }
                _ => line.code.push(character),
            },
            State::LineComment => line.comment.push(character),
            State::BlockComment(depth) => match (character, next) {
                ('*', Some('/')) => {
                    taken = 2;
                    state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                }
                ('/', Some('*')) => {
                    taken = 2;
                    state = State::BlockComment(depth + 1);
                }
                _ => line.comment.push(character),
            },
            State::Text => match (character, next) {
                ('\\', Some(escaped)) if escaped != '\n' => taken = 2,
                ('"', _) => {
                    state = State::Code;
                    line.code.push('"');
                }
                _ => {}
            },
            State::RawText(hashes) => {
                let closing = &characters[index + 1..];
                if character == '"' && closing.iter().take_while(|c| **c == '#').count() >= hashes {
                    taken = 1 + hashes;
                    state = State::Code;
                    line.code.push('"');
                }
            }
        }
        index += taken;
    }
    lines.push(line);
    lines
}

fn ends_in_word(code: &str) -> bool {
    // `br"` and `cr"` open raw text, too; `for"` cannot occur.
    code.chars().next_back().is_some_and(|last| (last.is_alphanumeric() || last == '_') && !matches!(last, 'b' | 'c'))
}

/// How many `#` open raw text after its `r`, or `None` for a raw identifier.
fn raw_text_hashes(after: &[char]) -> Option<usize> {
    let hashes = after.iter().take_while(|c| **c == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

/// The length of a character literal, or 1 for the quote of a lifetime.
fn char_literal_length(from_quote: &[char]) -> usize {
    match from_quote.get(1) {
        Some('\\') => from_quote.iter().skip(3).position(|c| *c == '\'').map_or(1, |position| position + 4),
        Some(_) if from_quote.get(2) == Some(&'\'') => 3,
        _ => 1,
    }
}

fn mark_test_items(lines: &mut [Line]) {
    let mut index = 0;
    while index < lines.len() {
        let code = lines[index].code.trim_start();
        if !TEST_ATTRIBUTES.iter().any(|attribute| code.starts_with(attribute)) {
            index += 1;
            continue;
        }
        let end = item_end(lines, index);
        lines[index..=end].iter_mut().for_each(|line| line.is_test = true);
        index = end + 1;
    }
}

/// The line on which the item that follows an attribute ends.
fn item_end(lines: &[Line], start: usize) -> usize {
    let mut braces = 0_usize;
    // Brackets hide the `;` of `[u8; 4]` and of attributes.
    let mut brackets = 0_usize;
    for (index, line) in lines.iter().enumerate().skip(start) {
        for character in line.code.chars() {
            match character {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    if braces == 0 {
                        return index;
                    }
                }
                ';' if braces == 0 && brackets == 0 => return index,
                _ => {}
            }
        }
    }
    lines.len() - 1
}

#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
    }
}

/// Words, `::` and single punctuation marks of the code outside tests.
fn tokens(lines: &[Line]) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_test) {
        let mut rest = line.code.as_str();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                tokens.push(Token { line: index + 1, text: rest[..length].to_owned() });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// Reads one path or `use` tree and returns the index behind it.
fn read_path(tokens: &[Token], mut index: usize, prefix: &[String], paths: &mut Vec<NamedPath>) -> usize {
    let text = |index: usize| tokens.get(index).map(|token| token.text.as_str());
    let mut segments = prefix.to_vec();
    let line = tokens[index].line;
    loop {
        match tokens.get(index) {
            Some(token) if token.is_word() => segments.push(token.text.clone()),
            Some(token) if token.text == "{" && !segments.is_empty() => {
                return read_group(tokens, index + 1, &segments, paths);
            }
            _ => break,
        }
        index += 1;
        if text(index) != Some("::") {
            break;
        }
        index += 1;
    }
    paths.push(NamedPath { line, segments });
    index
}

fn read_group(tokens: &[Token], mut index: usize, prefix: &[String], paths: &mut Vec<NamedPath>) -> usize {
    while let Some(token) = tokens.get(index) {
        if token.text == "}" {
            return index + 1;
        }
        if token.is_word() {
            index = read_path(tokens, index, prefix, paths);
            // A new name after `as` is no path of its own.
            if tokens.get(index).is_some_and(|token| token.text == "as") {
                index += 2;
            }
        } else {
            index += 1;
        }
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        Source::parse(Path::new("core/src/shard.rs"), text)
    }

    fn paths(text: &str) -> Vec<String> {
        parse(text)
            .named_paths()
            .into_iter()
            .map(|path| path.segments.join("::"))
            .filter(|path| path.contains("::"))
            .collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let source =
            parse("let a = \"x // y\"; // why\n/* b /* c */ d */ e\nlet q = '\"'; f<'a>(r#\"g \" h\"#)\nb'\\'' z");
        let code: Vec<&str> = source.lines.iter().map(|line| line.code.as_str()).collect();
        assert_eq!(code[0], "let a = \"\"; ");
        assert_eq!(code[1].trim(), "e");
        assert_eq!(code[2], "let q = '; f<'a>(\"\")");
        assert!(code[3].ends_with(" z"));
        assert!(source.lines[0].comment.contains("why"));
    }

    #[test]
    fn use_trees_are_spelled_out() {
        assert_eq!(
            paths("use std::{net::{IpAddr as Ip, TcpStream}, fs}; let x = tokio::spawn(y);"),
            ["std::net::IpAddr", "std::net::TcpStream", "std::fs", "tokio::spawn"]
        );
        assert_eq!(paths("let x = Vec::<std::fs::File>::new();"), ["std::fs::File"]);
    }

    #[test]
    fn test_items_are_marked() {
        let source = parse("fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n");
        let marks: Vec<bool> = source.lines.iter().map(|line| line.is_test).collect();
        assert_eq!(marks, [false, true, true, true, true, false, false]);
    }

    #[test]
    fn a_file_that_only_tests_use_is_a_test() {
        let files = [
            TextFile::new("core/src/lib.rs", "#[cfg(test)]\nmod world;\n"),
            TextFile::new("core/src/world.rs", "fn a() {}"),
            TextFile::new("core/src/other.rs", "fn a() {}"),
        ];
        let sources = Source::read_all(&files);
        assert!(sources[1].lines[0].is_test);
        assert!(!sources[2].lines[0].is_test);
    }
}
