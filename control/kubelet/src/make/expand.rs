//! `$(NAME)` in commands, arguments and values. Source: the API's documentation of
//! Container.command: an unknown name stays as it is written, `$$` is one `$`.

/// Replaces every reference that `lookup` knows.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "" => Some("empty".to_owned()),
            _ => None,
        };
        assert_eq!(expand(text, lookup), expected, "{text}");
    }

    #[test]
    fn references_are_replaced_once_and_unknown_ones_stay() {
        check("plain", "plain");
        check("$(A)-$(A)", "1-1");
        check("$(B)", "$(A)");
        check("$(C) $(A)", "$(C) 1");
        check("$()", "empty");
    }

    #[test]
    fn a_doubled_dollar_is_one_dollar_and_shields_the_reference() {
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$$$$", "$$");
    }

    #[test]
    fn what_is_no_reference_stays() {
        check("$A ${A} $", "$A ${A} $");
        check("$(A", "$(A");
        check("a$(", "a$(");
    }
}
