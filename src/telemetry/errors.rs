//! An error with everything that caused it, on one line.

use std::error::Error;
use std::fmt;

/// Displays an error and its sources, outermost first, joined by `: `.
///
/// Messages leave their source out, so a log line needs the whole chain. A source that
/// the message before it repeats at its end, as some libraries do, is not said twice.
#[derive(Debug, Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

/// Longest chain that is followed: an error that is its own source must not hang a log.
const SOURCES_MAX: usize = 16;

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;

        let sources = std::iter::successors(self.0.source(), |error| (*error).source());
        for source in sources.take(SOURCES_MAX) {
            let message = source.to_string();
            if !said.ends_with(&message) {
                write!(f, ": {message}")?;
            }
            said = message;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot append")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("commit failed: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Outer(Middle(std::io::Error::other("disk full")));

        assert_eq!(
            ErrorChain(&error).to_string(),
            "cannot append: commit failed: disk full"
        );
    }
}
