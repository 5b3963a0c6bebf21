//! Which sockets have their connects counted, and are nobody else's to count.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sockets of an index whose connects are counted, by cookie: each for one only, as another one would begin its count
/// anew, and end it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched(Arc<Mutex<HashSet<u64>>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those that nobody has; returns them, and the others.
    pub(crate) fn take(&self, cookies: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let mut all = self.lock();
        cookies.iter().partition(|cookie| all.insert(**cookie))
    }

    /// Others may take them.
    pub(crate) fn give_back(&self, cookies: &[u64]) {
        let mut all = self.lock();
        for cookie in cookies {
            all.remove(cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_the_other_does_not_get() {
        let (first, second) = (Watched::default(), Watched::default());
        assert_eq!(first.take(&[1, 2]), (vec![1, 2], vec![]));
        let same = first.clone();
        assert_eq!(same.take(&[2, 3]), (vec![3], vec![2]));
        first.give_back(&[2]);
        assert_eq!(same.take(&[1, 2]), (vec![2], vec![1]));
        assert_eq!(second.take(&[1]), (vec![1], vec![]));
    }
}
