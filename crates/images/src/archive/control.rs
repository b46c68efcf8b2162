//! Debian control files: stanzas of fields (Debian Policy, chapter 5 "Control files and their fields").

/// One stanza, as the text it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Stanza<'a>(&'a str);

/// The stanzas of a control file, in order.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['\n', '\r']);
        if rest.is_empty() {
            return None;
        }
        let end = rest.find("\n\n").map_or(rest.len(), |at| at + 1);
        let (stanza, tail) = rest.split_at(end);
        rest = tail;
        Some(Stanza(stanza))
    })
}

impl<'a> Stanza<'a> {
    /// Name and value of each field; a value of several lines keeps its line breaks.
    pub fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let end = field_end(rest);
                let (field, tail) = rest.split_at(end);
                rest = tail;
                if let Some((name, value)) = field.split_once(':')
                    && !name.starts_with(['#', ' ', '\t'])
                {
                    return Some((name, value.trim()));
                }
            }
            None
        })
    }

    /// The value of a field, by its name in any case.
    pub fn field(self, name: &str) -> Option<&'a str> {
        self.fields().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The stanza's own text, without the blank line after it.
    pub fn text(self) -> &'a str {
        self.0.trim_end()
    }
}

/// The length of the first field with its continuation lines.
fn field_end(text: &str) -> usize {
    let mut end = 0;
    loop {
        end = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
        if !text[end..].starts_with([' ', '\t']) {
            return end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_and_fields_are_split() {
        let text = "\nPackage: a\nDescription: one\n two\n three\nSize: 5\n\n\nPackage: b\n";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].field("description"), Some("one\n two\n three"));
        assert_eq!(all[0].field("Size"), Some("5"));
        assert_eq!(all[1].field("Package"), Some("b"));
        assert_eq!(all[1].field("Size"), None);
    }

    #[test]
    fn lines_without_colon_and_comments_are_skipped() {
        let stanza = stanzas("garbage\n# note: x\nA: 1").next().unwrap();
        assert_eq!(stanza.fields().collect::<Vec<_>>(), [("A", "1")]);
    }
}
