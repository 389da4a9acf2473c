//! Owns the files a run leaves behind. Never decides an outcome.

pub mod html;
pub mod junit;

/// Escapes text for HTML and XML, and drops the control characters that XML cannot hold.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(each),
            _ if each.is_control() || matches!(each, '\u{FFFE}' | '\u{FFFF}') => out.push('\u{FFFD}'),
            _ => out.push(each),
        }
    }
    out
}
