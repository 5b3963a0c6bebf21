//! Numbers as people read them, and nouns that agree with them.

/// The first for one thing, the second for any other number.
pub const fn plural<'a>(n: u64, one: &'a str, several: &'a str) -> &'a str {
    if n == 1 { one } else { several }
}

/// A number of things that take an s when they are several: `1 socket`, `2 sockets`.
pub fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", plural(n, "", "s"))
}

/// A number with its thousands apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (n, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn one_thing_is_not_several() {
        for (n, text) in [(0, "0 sockets"), (1, "1 socket"), (2, "2 sockets"), (1_000, "1000 sockets")] {
            assert_eq!(counted(n, "socket"), text);
        }
        assert_eq!([0, 1, 2].map(|n| plural(n, "is", "are")), ["are", "is", "are"]);
    }
}
