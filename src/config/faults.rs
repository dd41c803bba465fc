//! What is wrong with the settings, all of it at once, in words for an operator.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::settings::{ALL, CONFIG_FILE};

/// The settings can't be used. Displays every fault, one a line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", Report(.faults))]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

/// One setting that stops the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub origin: Origin,
    pub problem: Problem,
}

/// Where a value came from, with the name it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// With its dashes.
    Flag(String),
    Environment(String),
    File {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Empty where the fault is not about one key.
        key: String,
    },
    /// Nobody set it, and that is the fault.
    Nowhere(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The value is not one of the valid ones.
    Invalid {
        /// `None` where the value may be a secret.
        value: Option<String>,
        /// Continues "expected …".
        expected: String,
    },
    /// Nothing goes by this name.
    Unknown {
        /// The name that was probably meant.
        suggestion: Option<&'static str>,
        /// Why the name may be there although nobody wrote it.
        hint: Option<&'static str>,
    },
    /// Anything else, as a sentence without its full stop.
    Other(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.problem)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File { path, line, key } if key.is_empty() => {
                write!(f, "{}:{line}", path.display())
            }
            Self::File { path, line, key } => write!(f, "{}:{line}, {key}", path.display()),
            Self::Nowhere(name) => write!(f, "{name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { value, expected } => {
                match value {
                    Some(value) => write!(f, "`{value}` is not valid")?,
                    None => write!(f, "the value (not shown) is not valid")?,
                }
                write!(f, "; expected {expected}")
            }
            Self::Unknown { suggestion, hint } => {
                write!(f, "there is no such setting")?;
                if let Some(name) = suggestion {
                    write!(f, "; did you mean {name}?")?;
                }
                if let Some(hint) = hint {
                    write!(f, " ({hint})")?;
                }
                Ok(())
            }
            Self::Other(sentence) => write!(f, "{sentence}"),
        }
    }
}

struct Report<'a>(&'a [Fault]);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "1 setting needs attention:")?,
            count => write!(f, "{count} settings need attention:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Faults for every variable that begins with `LEDGER_` and is no setting.
///
/// A misspelt setting would otherwise be ignored without a word.
pub(super) fn unknown_variables(env: &BTreeMap<String, String>) -> impl Iterator<Item = Fault> {
    env.keys()
        .filter(|name| name.starts_with("LEDGER_") && !is_variable(name))
        .map(|name| Fault {
            origin: Origin::Environment(name.clone()),
            problem: Problem::Unknown {
                suggestion: nearest(name, |setting| setting.env),
                hint: kubernetes_hint(name),
            },
        })
}

/// The fault of a key in the file that is no setting.
pub(super) fn unknown_key(origin: Origin, key: &str) -> Fault {
    // People copy names from the environment; say what the name is in a file.
    let folded = key.to_lowercase().replace('-', "_");
    let plain = folded.strip_prefix("ledger_").unwrap_or(&folded);

    Fault {
        origin,
        problem: Problem::Unknown {
            suggestion: nearest(plain, |setting| setting.key),
            hint: None,
        },
    }
}

fn is_variable(name: &str) -> bool {
    name == CONFIG_FILE.env || ALL.iter().any(|setting| setting.env == name)
}

/// Kubernetes puts `LEDGER_PORT` and the like into every pod beside a Service that
/// is named `ledger`. The operator who meets that never wrote those names.
fn kubernetes_hint(name: &str) -> Option<&'static str> {
    let is_service_link = name.starts_with("LEDGER_SERVICE_") || name.starts_with("LEDGER_PORT");

    is_service_link.then_some(
        "Kubernetes sets it for a Service named `ledger`; rename the Service or set \
         `enableServiceLinks: false`",
    )
}

/// The setting whose name is fewest edits away, if that is few enough to be a slip.
fn nearest(
    name: &str,
    name_of: impl Fn(&super::settings::Setting) -> &'static str,
) -> Option<&'static str> {
    // Past a third of the word it is another word.
    let slip_max = (name.trim_start_matches("LEDGER_").len() / 3).clamp(1, 4);

    ALL.iter()
        .copied()
        .chain([&CONFIG_FILE])
        .map(name_of)
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= slip_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, with a swap of neighbours counted as one edit.
fn edit_distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();

    for row in 1..=left.len() {
        let mut current = vec![row];
        for column in 1..=right.len() {
            let same = left[row - 1] == right[column - 1];
            let replace = above[column - 1] + usize::from(!same);
            let mut best = replace.min(above[column] + 1).min(current[column - 1] + 1);
            let swapped = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if swapped {
                best = best.min(before[column - 2] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }

    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(names: &[&str]) -> Vec<String> {
        let env = names
            .iter()
            .map(|name| ((*name).to_owned(), "secret".to_owned()))
            .collect();
        unknown_variables(&env)
            .map(|fault| fault.to_string())
            .collect()
    }

    #[test]
    fn a_misspelt_variable_is_named_with_the_likely_meant_one_and_without_its_value() {
        assert_eq!(
            unknown(&["LEDGER_DATABSE_URL"]),
            [
                "environment variable LEDGER_DATABSE_URL: there is no such setting; did you mean \
              LEDGER_DATABASE_URL?"
            ]
        );
        assert_eq!(
            unknown(&["LEDGER_LISTNE"]),
            [
                "environment variable LEDGER_LISTNE: there is no such setting; did you mean \
              LEDGER_LISTEN?"
            ]
        );
    }

    #[test]
    fn a_name_like_no_other_gets_no_suggestion() {
        assert_eq!(
            unknown(&["LEDGER_COLOUR_SCHEME"]),
            ["environment variable LEDGER_COLOUR_SCHEME: there is no such setting"]
        );
    }

    #[test]
    fn variables_of_others_and_known_ones_are_left_alone() {
        assert!(unknown(&["PATH", "LEDGERS", "LEDGER_CONFIG", "LEDGER_LISTEN"]).is_empty());
    }

    #[test]
    fn service_links_of_kubernetes_are_explained() {
        let told = unknown(&["LEDGER_SERVICE_HOST", "LEDGER_PORT_8080_TCP"]);

        assert!(told.iter().all(|line| line.contains("enableServiceLinks")));
    }

    #[test]
    fn a_key_written_as_in_the_environment_is_recognised() {
        let origin = Origin::Nowhere("file".to_owned());

        assert_eq!(
            unknown_key(origin, "LEDGER_LOG-FORMAT").to_string(),
            "file: there is no such setting; did you mean log_format?"
        );
    }

    #[test]
    fn edits_are_counted_with_swaps_as_one() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("listne", "listen"), 1);
        assert_eq!(edit_distance("same", "same"), 0);
    }
}
