//! Scripts that are run every time: what once failed, and what random scripts come to seldom.

/// Name and text.
pub const KEPT: &[(&str, &str)] = &[
    ("everything", include_str!("scripts/everything")),
    ("failed-connect", include_str!("scripts/failed-connect")),
    ("full", include_str!("scripts/full")),
    ("unconnected", include_str!("scripts/unconnected")),
    ("invisible", include_str!("scripts/invisible")),
    ("take-over", include_str!("scripts/take-over")),
    ("preexisting", include_str!("scripts/preexisting")),
    ("held", include_str!("scripts/held")),
    ("held-full", include_str!("scripts/held-full")),
    ("mptcp", include_str!("scripts/mptcp")),
    ("links", include_str!("scripts/links")),
    ("control-messages", include_str!("scripts/control-messages")),
    ("ending-netns", include_str!("scripts/ending-netns")),
    ("selectors", include_str!("scripts/selectors")),
    ("frontends", include_str!("scripts/frontends")),
    ("zero", include_str!("scripts/zero")),
    ("remedies", include_str!("scripts/remedies")),
    ("module", include_str!("scripts/module")),
];
