//! The link that a link-local address belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::excerpt;

/// Longest interface name, in bytes: `IFNAMSIZ` of linux/if.h without its final zero.
const MAX_BYTES: usize = 15;

/// A zone identifier (RFC 4007, section 11): the name of an interface, or its number, such as
/// `eth0` or `2`.
///
/// It means something only in one network namespace: two namespaces have an `eth0` each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone {
    // Zeros behind the name, so that derived comparisons are those of the text.
    bytes: [u8; MAX_BYTES],
}

impl Zone {
    /// Reads a zone: 1 to 15 visible ASCII characters, without those that an interface name cannot
    /// have or that mean something else in a backend (`/`, `:`, `%`, `@`, `[`, `]`, `?`, `#`).
    ///
    /// # Errors
    /// The text, quoted, if it is none. An interface with another name is named by its number.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%@[]?#".contains(&byte);
        let mut bytes = [0; MAX_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(name) if !text.is_empty() && text.bytes().all(allowed) && text != "." && text != ".." => {
                name.copy_from_slice(text.as_bytes());
                Ok(Self { bytes })
            }
            _ => Err(excerpt(text)),
        }
    }

    /// The text: an interface name or a number.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(MAX_BYTES);
        let name = self.bytes.get(..end).unwrap_or_default();
        // Only ASCII is taken in.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|text| {
            format!("{text} is no interface; write its name or number, such as \"eth0\" or \"2\"")
        })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_an_interface_can_be_called() {
        for name in ["eth0", "2", "lxc1a2b3c4d5e6f", "br-0.100", "a"] {
            let zone = Zone::read(name).unwrap();
            assert_eq!((zone.as_str(), zone.to_string()), (name, name.to_owned()));
        }
        for bad in ["", ".", "..", "a b", "eth0@if5", "a/b", "a:b", "a%b", "é", "abcdefghijklmnop", "a\0"] {
            assert_eq!(Zone::read(bad), Err(excerpt(bad)));
        }
        assert!(Zone::read("a").unwrap() < Zone::read("ab").unwrap());
    }
}
