//! `legwatch new NAME`: a commented scenario to start from.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::NewArgs;
use crate::failure::Failure;

/// The scenario, with `NAME` for its name.
const TEXT: &str = include_str!("../vm/new.toml");

/// Why none is written.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// No name for a scenario.
    #[error(
        "`{0}` is no name for a scenario; use small letters, digits and dashes, such as slow-leg"
    )]
    Name(String),
    /// The file is there, or can't be made.
    #[error("{} can't be written: {why}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The scenario's text.
///
/// # Errors
/// [`NewError::Name`].
pub fn text(name: &str) -> Result<String, NewError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins || name.len() > 60 || !name.chars().all(good) {
        return Err(NewError::Name(name.to_owned()));
    }
    Ok(TEXT.replace("NAME", name))
}

/// Writes it to NAME.toml in the current folder.
///
/// # Errors
/// [`Failure`]; a file that is there is left alone.
pub fn write(args: &NewArgs) -> Result<u8, Failure> {
    let text = text(&args.name).map_err(Failure::user)?;
    let path = PathBuf::from(format!("{}.toml", args.name));
    let refused = |error: std::io::Error| {
        let why = if error.kind() == std::io::ErrorKind::AlreadyExists {
            "it is there already; give another name".to_owned()
        } else {
            error.to_string()
        };
        Failure::user(NewError::Write {
            path: path.clone(),
            why,
        })
    };
    std::fs::File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(refused)?;
    eprintln!(
        "legwatch: wrote {0}; try it: legwatch run {0} --kernel debian:6.12",
        path.display()
    );
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_new_scenario_makes_sense() {
        let scenario = Scenario::parse(&text("slow-leg").unwrap(), Path::new("x")).unwrap();
        assert_eq!(scenario.name, "slow-leg");
        assert!(!scenario.boots[0].steps.is_empty());
        for bad in ["", "A", "a/b", "a b", "-a", "../x", "é"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}
