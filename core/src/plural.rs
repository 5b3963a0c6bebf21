//! Numbers that agree with their nouns.

/// The first for one thing, the second for any other number.
pub const fn plural<'a>(n: u64, one: &'a str, several: &'a str) -> &'a str {
    if n == 1 { one } else { several }
}

/// A number of things that take an s when they are several: `1 socket`, `2 sockets`.
pub fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", plural(n, "", "s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_several() {
        for (n, text) in [(0, "0 sockets"), (1, "1 socket"), (2, "2 sockets"), (1_000, "1000 sockets")] {
            assert_eq!(counted(n, "socket"), text);
        }
        assert_eq!([0, 1, 2].map(|n| plural(n, "is", "are")), ["are", "is", "are"]);
    }
}
