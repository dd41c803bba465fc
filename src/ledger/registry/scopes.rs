//! What an API key may do.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One thing a key may do. None implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Read,
    Write,
    /// Administration, such as the tenant's own keys.
    Admin,
}

/// What a key may do: one scope at least. By default read and write.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

/// Why a list of names is no [`Scopes`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopesError {
    #[error("must name one of read, write, admin at least")]
    Empty,
    /// Every name that is no scope, in the order given.
    #[error("must be of read, write, admin, which does not include {}", quoted(.names))]
    Unknown { names: Vec<String> },
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Admin => 4,
        }
    }
}

impl Scopes {
    /// Everything; what an operator's key usually has.
    pub const ALL: Self = Self(0b111);

    /// Names may repeat.
    ///
    /// # Errors
    ///
    /// [`ScopesError`] with every name that is no scope.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, ScopesError> {
        let mut bits = 0;
        let mut unknown = Vec::new();
        for name in names {
            match Scope::from_name(name) {
                Some(scope) => bits |= scope.bit(),
                None => unknown.push(name.to_owned()),
            }
        }
        if !unknown.is_empty() {
            return Err(ScopesError::Unknown { names: unknown });
        }
        if bits == 0 {
            return Err(ScopesError::Empty);
        }
        Ok(Self(bits))
    }

    pub fn allows(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Always in the same order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.allows(*scope))
    }
}

impl Default for Scopes {
    fn default() -> Self {
        Self(Scope::Read.bit() | Scope::Write.bit())
    }
}

/// Reads `read,write`.
impl FromStr for Scopes {
    type Err = ScopesError;

    fn from_str(text: &str) -> Result<Self, ScopesError> {
        if text.trim().is_empty() {
            return Err(ScopesError::Empty);
        }
        Self::from_names(text.split(',').map(str::trim))
    }
}

/// Writes `read,write`.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// A list of names.
impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

fn quoted(names: &[String]) -> String {
    // Escaped, because nobody has looked at these texts yet.
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_as_they_are_written() {
        let scopes: Scopes = " admin, read,read".parse().unwrap();

        assert_eq!(scopes.to_string(), "read,admin");
        assert_eq!(scopes.to_string().parse(), Ok(scopes));
        assert_eq!(
            serde_json::to_string(&scopes).unwrap(),
            r#"["read","admin"]"#
        );
        assert_eq!(Scopes::ALL.to_string(), "read,write,admin");
    }

    #[test]
    fn admin_does_not_imply_the_others() {
        let admin: Scopes = "admin".parse().unwrap();

        assert!(admin.allows(Scope::Admin));
        assert!(!admin.allows(Scope::Read) && !admin.allows(Scope::Write));
        assert!(!Scopes::default().allows(Scope::Admin));
    }

    #[test]
    fn every_name_that_is_no_scope_is_named() {
        let error = "read,Write,,delete\n2".parse::<Scopes>().unwrap_err();

        assert_eq!(
            error.to_string(),
            r#"must be of read, write, admin, which does not include "Write", "", "delete\n2""#
        );
        assert_eq!("".parse::<Scopes>(), Err(ScopesError::Empty));
        assert_eq!(Scopes::from_names([]), Err(ScopesError::Empty));
    }
}
