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

/// The folder of a run that begins. Unless it is kept, its drop undoes it: nothing stays of a run that could not begin.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whether it was made for the run.
    made: bool,
    kept: bool,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it stays, whatever happens.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // It was empty when it was taken, so all in it is ours. What can't be removed stays; the failure that led here has been told.
        for entry in std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
        {
            let _stays = std::fs::remove_file(entry.path());
        }
        if self.made {
            let _stays = std::fs::remove_dir(&self.path);
        }
    }
}

/// Whether a folder can be the output folder, without touching it.
///
/// # Errors
/// [`OutError`].
pub fn check(wish: &Path) -> Result<(), OutError> {
    look(wish).map(|_there| ())
}

/// Makes the folder, or takes an empty one. Without a wish: the first free `legwatch-run-NAME-N` in the current folder.
///
/// # Errors
/// [`OutError`]; nothing was written then.
pub fn prepare(wish: Option<&Path>, name: &str) -> Result<Folder, OutError> {
    let (path, made) = match wish {
        Some(path) => take(path)?,
        None => (fresh(name)?, true),
    };
    Ok(Folder {
        path,
        made,
        kept: false,
    })
}

/// Whether an empty folder is there.
fn look(path: &Path) -> Result<bool, OutError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(true),
            Some(_) => Err(OutError::NotEmpty(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(OutError::NotAFolder(path.to_owned()))
        }
        Err(source) => Err(OutError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The folder's absolute path, and whether it was made.
fn take(path: &Path) -> Result<(PathBuf, bool), OutError> {
    let io = |source| OutError::Io {
        path: path.to_owned(),
        source,
    };
    let there = look(path)?;
    if !there {
        std::fs::create_dir_all(path).map_err(io)?;
    }
    Ok((std::path::absolute(path).map_err(io)?, !there))
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
        let mut made = prepare(Some(&dir.path().join("new/deep")), "x").unwrap();
        made.keep();
        let path = made.path().to_owned();
        drop(made);
        assert!(path.is_absolute() && path.is_dir());
    }

    #[test]
    fn what_is_not_kept_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let (own, new) = (dir.path().join("own"), dir.path().join("new"));
        std::fs::create_dir(&own).unwrap();
        for path in [&own, &new] {
            let folder = prepare(Some(path), "x").unwrap();
            std::fs::write(folder.path().join("journal"), "half").unwrap();
        }
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 0);
        assert!(!new.exists());
    }
}
