//! Where settings come from: flags, then the environment, then the file, then defaults.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::{Arg, ArgMatches, Command};
use secrecy::{ExposeSecret, SecretString};
use toml::de::{DeTable, DeValue};

use super::faults::{Fault, Origin, Problem, unknown_key};
use super::settings::{ALL, CONFIG_FILE, DefaultValue, Setting, Weight};

/// The settings given as flags: one flag for each, valid before and after a subcommand.
///
/// Flatten it into the top of a `clap` command line. Values are read as text here and
/// judged by [`Config::load`](super::Config::load) together with those from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct ConfigArgs {
    /// By environment name, which no argument of a subcommand can have. Secret,
    /// because a key or a password may be among them.
    given: BTreeMap<&'static str, SecretString>,
}

impl ConfigArgs {
    /// Sets a flag by the setting's key, as if it had stood on the command line.
    /// A key that is no setting changes nothing.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        if let Some(setting) = flags().find(|setting| setting.key == key) {
            self.given.insert(setting.env, SecretString::from(value));
        }
        self
    }

    fn get(&self, setting: &Setting) -> Option<&str> {
        self.given.get(setting.env).map(ExposeSecret::expose_secret)
    }
}

fn flags() -> impl Iterator<Item = &'static Setting> {
    std::iter::once(&CONFIG_FILE).chain(ALL.iter().copied())
}

impl clap::Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        command.args(flags().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = flags().filter_map(|setting| {
            let value = matches.try_get_one::<SecretString>(setting.env).ok()??;
            Some((setting.env, value.clone()))
        });
        self.given.extend(given);
        Ok(())
    }
}

fn argument(setting: &'static Setting) -> Arg {
    Arg::new(setting.env)
        .long(setting.flag)
        .value_name(setting.placeholder)
        .help(help_text(setting))
        .help_heading("Settings")
        .hide_short_help(setting.weight == Weight::Tuning)
        .value_parser(|text: &str| Ok::<_, Infallible>(SecretString::from(text)))
        .global(true)
}

fn help_text(setting: &Setting) -> StyledStr {
    let names = format!("[env: {}]", setting.env);
    match setting.default {
        DefaultValue::Unset => format!("{} {names}", setting.help),
        DefaultValue::Text(default) | DefaultValue::Derived(default) => {
            format!("{} [default: {default}] {names}", setting.help)
        }
    }
    .into()
}

/// The most a configuration file may hold. A path to something else entirely, such
/// as a device, must not fill the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A value as somebody wrote it.
struct Given {
    text: SecretString,
    origin: Origin,
}

/// All sources, and the faults met so far.
pub(super) struct Sources<'a> {
    args: &'a ConfigArgs,
    env: &'a BTreeMap<String, String>,
    file: BTreeMap<&'static str, (SecretString, Origin)>,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Sources<'a> {
    /// Reads the file, if one is named. Its faults are kept like all others.
    pub(super) fn open(args: &'a ConfigArgs, env: &'a BTreeMap<String, String>) -> Self {
        let mut sources = Self {
            args,
            env,
            file: BTreeMap::new(),
            faults: Vec::new(),
        };
        if let Some(given) = sources.given(&CONFIG_FILE) {
            sources.read_file(Path::new(given.text.expose_secret()), &given.origin);
        }
        sources
    }

    /// The value of a setting, or its default. `fallback` stands in after a fault and
    /// is never used, because a fault stops the start.
    pub(super) fn required<T>(
        &mut self,
        setting: &Setting,
        fallback: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        if let Some(value) = self.optional(setting, &parse) {
            return value;
        }
        parse(setting.default.text()).unwrap_or(fallback)
    }

    /// The value of a setting, if it is set and valid.
    ///
    /// `parse` answers what would be valid, to continue "expected …".
    pub(super) fn optional<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.given(setting)?;
        match parse(given.text.expose_secret()) {
            Ok(value) => Some(value),
            Err(expected) => {
                let value = given.text.expose_secret();
                self.faults.push(Fault {
                    problem: invalid(setting.is_secret(), value, expected),
                    origin: given.origin,
                });
                None
            }
        }
    }

    /// Adds a fault about a setting, whether or not somebody set it.
    pub(super) fn fault(&mut self, setting: &Setting, sentence: String) {
        let origin = match self.given(setting) {
            Some(given) => given.origin,
            None => Origin::Nowhere(setting.env.to_owned()),
        };
        self.faults.push(Fault {
            origin,
            problem: Problem::Other(sentence),
        });
    }

    pub(super) fn is_given(&self, setting: &Setting) -> bool {
        self.given(setting).is_some()
    }

    fn given(&self, setting: &Setting) -> Option<Given> {
        if let Some(text) = self.args.get(setting) {
            return Some(Given {
                text: SecretString::from(text),
                origin: Origin::Flag(format!("--{}", setting.flag)),
            });
        }
        if let Some(text) = self.env.get(setting.env) {
            return Some(Given {
                text: SecretString::from(text.as_str()),
                origin: Origin::Environment(setting.env.to_owned()),
            });
        }
        let (text, origin) = self.file.get(setting.key)?.clone();
        Some(Given { text, origin })
    }

    fn read_file(&mut self, path: &Path, named_by: &Origin) {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) => {
                self.faults.push(Fault {
                    origin: named_by.clone(),
                    problem: Problem::Other(format!("cannot read `{}`: {error}", path.display())),
                });
                return;
            }
        };
        let place = |offset: usize, key: &str| Origin::File {
            path: path.to_owned(),
            line: line_at(&text, offset),
            key: key.to_owned(),
        };

        let (table, errors) = DeTable::parse_recoverable(&text);
        // `message` alone: the error's own display quotes the line, which may hold the key.
        self.faults.extend(errors.iter().map(|error| Fault {
            origin: place(error.span().map_or(0, |span| span.start), ""),
            problem: Problem::Other(format!("not valid TOML: {}", error.message())),
        }));

        for (key, value) in table.get_ref() {
            let origin = place(key.span().start, key.get_ref());
            let known = ALL.iter().find(|setting| setting.key == key.get_ref());
            match (known, scalar(value.get_ref())) {
                (None, _) => self.faults.push(unknown_key(origin, key.get_ref())),
                (Some(setting), Some(text)) => {
                    self.file.insert(setting.key, (text, origin));
                }
                (Some(_), None) => self.faults.push(Fault {
                    origin,
                    problem: Problem::Other("expected a string or a whole number".to_owned()),
                }),
            }
        }
    }
}

/// An invalid value is shown, unless it is a secret or looks as if it held a login.
pub(super) fn invalid(is_secret: bool, value: &str, expected: String) -> Problem {
    let shown = (!is_secret && !value.contains('@')).then(|| value.to_owned());

    Problem::Invalid {
        value: shown,
        expected,
    }
}

/// Text of a string or an integer; every parser reads text, whatever the source.
fn scalar(value: &DeValue<'_>) -> Option<SecretString> {
    match value {
        DeValue::String(text) => Some(SecretString::from(text.as_ref())),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(SecretString::from(number.to_string()))
        }
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

/// Reads a small text file whole.
pub(super) fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};

    let mut text = String::new();
    let mut file = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(text)
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());

    before.split(|byte| *byte == b'\n').count()
}

/// The variables of this process that settings can come from.
///
/// Bytes that are not UTF-8 are replaced, so the parser of that setting refuses them.
pub fn process_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(name, value)| {
            let name = name.to_string_lossy().into_owned();
            (name, value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| name.starts_with("LEDGER_") || name.starts_with("OTEL_"))
        .collect()
}

/// A path somebody gave.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains(['\0', char::REPLACEMENT_CHARACTER]) {
        return Err("a path".to_owned());
    }
    Ok(PathBuf::from(text))
}
