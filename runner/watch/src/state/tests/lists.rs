//! What lists and broken watches say, and what they do not.

use super::*;

#[test]
fn the_first_list_decides_nothing() {
    let mut story = Story::new(Policy::default());
    assert!(!story.state.settled());
    story.relist(0, &[("s1", "d/dns", &["udp://10.1.0.1:53 dns FFF", B])]);
    assert!(!story.state.settled(), "the list may have been made while slices were rewritten");
    assert_eq!(story.state.next_due(), Some(ms(1_000)));
    story.until(1_000);
    assert!(story.state.settled());
    // A backend that is in no slice for a moment is among the living.
    story.put(1_100, "s1", "d/dns", &[]);
    assert_eq!(story.state.living().count(), 2);
    story.put(1_150, "s1", "d/dns", &["udp://10.1.0.1:53 dns FFF", B]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
    story.nothing();
}

#[test]
fn a_list_after_an_hour_away_is_a_reconcile_of_what_was_known() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B]), ("s2", "d/web", &[WEB])]);
    let hour = 3_600_000;
    story.at(1_000, Change::Lost(Kind::Slices)).until(hour);
    story.relist(hour, &[("s9", "d/dns", &[B]), ("s10", "d/new", &["udp://10.1.0.9:53"])]);
    story.until(hour + 999);
    assert_eq!(story.decided, Vec::<String>::new());
    assert_eq!(story.end(), [format!("{hour}: {WEB} all destroy"), format!("{hour}: {A} all destroy")]);
}

#[test]
fn a_list_that_is_not_complete_says_nothing() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B])]);
    story.at(10, Change::Lost(Kind::Slices));
    for at in [100, 200, 300] {
        story.at(at, Change::ListBegun(Kind::Slices));
        story.at(at, Change::Listed("s1".into(), slice_of(Some("d/dns"), &[B])));
    }
    story.until(50_000);
    assert_eq!(story.decided, Vec::<String>::new());
    assert_eq!(story.state.living().count(), 2);
    // What the unfinished ones have named is not part of the one that is complete.
    story.at(50_000, Change::ListBegun(Kind::Slices));
    story.at(50_001, Change::Listed("s2".into(), slice_of(Some("d/dns"), &[A])));
    story.at(50_002, Change::ListComplete(Kind::Slices));
    assert_eq!(story.end(), [format!("50002: {B} all destroy")]);
}

#[test]
fn a_list_that_changes_while_it_is_sent() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A]), ("s2", "d/dns", &[B])]);
    story.at(10, Change::ListBegun(Kind::Slices));
    story.at(10, Change::Listed("s1".into(), slice_of(Some("d/dns"), &[A])));
    story.at(10, Change::Listed("s2".into(), slice_of(Some("d/dns"), &[B])));
    story.at(20, Change::Unlisted(Kind::Slices, "s1".into()));
    story.at(30, Change::ListComplete(Kind::Slices));
    assert_eq!(story.end(), [format!("30: {A} all destroy")]);
}

#[test]
fn a_list_of_the_same_is_no_change() {
    let slices: &[(&str, &str, &[&str])] = &[("s1", "d/dns", &[A, B]), ("s2", "d/web", &[WEB])];
    let mut story = Story::standard(slices);
    for at in 1..100 {
        story.at(at * 10, Change::Lost(Kind::Slices)).relist(at * 10 + 5, slices);
    }
    story.nothing();
    assert_eq!(story.state.counts(), Counts { lists: 100, ..Counts::default() });
}

#[test]
fn what_settles_while_the_watch_is_broken_is_not_decided() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B])]);
    story.put(5_000, "s1", "d/dns", &[B]).at(5_010, Change::Lost(Kind::Slices));
    assert_eq!(story.state.next_due(), None);
    story.until(60_000);
    assert_eq!(story.decided, Vec::<String>::new());
    // It goes on where it broke, and the address turns up 500 ms later.
    story.at(60_000, Change::Resumed(Kind::Slices));
    assert_eq!(story.state.next_due(), Some(ms(61_000)));
    story.put(60_500, "s2", "d/dns", &[A]).nothing();
    // Once more, and it stays away.
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B])]);
    story.put(5_000, "s1", "d/dns", &[B]).at(5_010, Change::Lost(Kind::Slices));
    story.at(60_000, Change::Resumed(Kind::Slices)).until(60_999);
    assert_eq!(story.decided, Vec::<String>::new());
    assert_eq!(story.end(), [format!("60000: {A} all destroy")]);
}
