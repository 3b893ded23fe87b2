//! The folder of a run: fresh or empty, never anybody's data.

use std::io;
use std::path::{Path, PathBuf};

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OutError {
    /// Something is in it.
    #[error("output folder {} is not empty; name a new one, or remove what is in it", .0.display())]
    NotEmpty(PathBuf),
    /// It is a file.
    #[error("output folder {} is not a folder; name a new one", .0.display())]
    NotAFolder(PathBuf),
    /// It can't be made or read.
    #[error("output folder {} can't be used", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the folder, or takes an empty one. Without a wish: the first free `legwatch-run-NAME-N` in the current folder.
///
/// # Errors
/// [`OutError`]; nothing was written then.
pub fn prepare(wish: Option<&Path>, name: &str) -> Result<PathBuf, OutError> {
    match wish {
        Some(path) => take(path),
        None => fresh(name),
    }
}

fn take(path: &Path) -> Result<PathBuf, OutError> {
    let io = |source| OutError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(OutError::NotEmpty(path.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(io)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(OutError::NotAFolder(path.to_owned()));
        }
        Err(error) => return Err(io(error)),
    }
    std::path::absolute(path).map_err(io)
}

fn fresh(name: &str) -> Result<PathBuf, OutError> {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    for number in 1..100_000_u32 {
        let path = PathBuf::from(format!("legwatch-run-{name}-{number}"));
        match std::fs::create_dir(&path) {
            Ok(()) => {
                return std::path::absolute(&path).map_err(|source| OutError::Io { path, source });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(OutError::Io { path, source }),
        }
    }
    Err(OutError::NotEmpty(PathBuf::from(format!(
        "legwatch-run-{name}-*"
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("keep"), "me").unwrap();
        assert!(matches!(
            prepare(Some(dir.path()), "x"),
            Err(OutError::NotEmpty(_))
        ));
        assert!(matches!(
            prepare(Some(&dir.path().join("keep")), "x"),
            Err(OutError::NotAFolder(_))
        ));
        let made = prepare(Some(&dir.path().join("new/deep")), "x").unwrap();
        assert!(made.is_absolute() && made.is_dir());
    }
}
