//! libbpf's own messages: to `tracing`, and the last warnings kept for the error they belong to.

use std::sync::Mutex;
use std::sync::Once;

use libbpf_rs::PrintLevel;

/// Bytes of warnings that are kept: the cause is at the end of a verifier log.
const KEEP: usize = 4096;

static WARNINGS: Mutex<String> = Mutex::new(String::new());

fn print(level: PrintLevel, message: String) {
    let message = message.trim_end();
    match level {
        PrintLevel::Debug => tracing::trace!(target: "libbpf", "{message}"),
        PrintLevel::Info => tracing::debug!(target: "libbpf", "{message}"),
        PrintLevel::Warn => {
            tracing::debug!(target: "libbpf", "{message}");
            if let Ok(mut kept) = WARNINGS.lock() {
                kept.push_str(message);
                kept.push('\n');
                let excess = kept.len().saturating_sub(KEEP);
                let cut = (excess..kept.len()).find(|&i| kept.is_char_boundary(i)).unwrap_or(0);
                kept.drain(..cut);
            }
        }
    }
}

/// Routes libbpf's messages here; once per process.
pub fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Debug, print)));
    });
}

/// Takes the warnings since the last call.
#[must_use]
pub fn take_warnings() -> Option<String> {
    let mut kept = WARNINGS.lock().ok()?;
    (!kept.is_empty()).then(|| std::mem::take(&mut *kept))
}
