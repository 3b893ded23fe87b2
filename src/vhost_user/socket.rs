//! Where a leg listens.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Bytes that a socket's path may have: what fits `sockaddr_un` with its terminator.
const PATH_BYTES_MAX: usize = 107;

/// Why a socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than the system allows.
    #[error(
        "socket path {path} has {bytes} bytes, and {PATH_BYTES_MAX} are the most; use a shorter folder"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Somebody listens there.
    #[error("socket {path} is taken: another program listens on it")]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} exists and is no socket")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("making the socket {path}")]
    Make {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, for the owner alone (0600). A socket on which nobody listens any more is replaced.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn listen(path: &Path) -> Result<Socket, SocketError> {
        let path = path.to_owned();
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            return Err(SocketError::TooLong { path, bytes });
        }
        match path.symlink_metadata() {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketError::NoSocket { path });
            }
            Ok(_) => match UnixStream::connect(&path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    if let Err(source) = std::fs::remove_file(&path) {
                        return Err(SocketError::Make { path, source });
                    }
                }
                Ok(_) | Err(_) => return Err(SocketError::Taken { path }),
            },
            Err(_) => {}
        }
        let listener = match UnixListener::bind(&path) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(SocketError::Taken { path });
            }
            Err(source) => return Err(SocketError::Make { path, source }),
        };
        let socket = Socket { listener, path };
        let failed = |source| SocketError::Make {
            path: socket.path.clone(),
            source,
        };
        std::fs::set_permissions(&socket.path, Permissions::from_mode(0o600)).map_err(failed)?;
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it listens with; it does not block.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _gone = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked_and_stale_sockets_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let first = Socket::listen(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(
            Socket::listen(&path),
            Err(SocketError::Taken { .. })
        ));
        // A listener that died without removing its file.
        drop(first);
        drop(UnixListener::bind(&path).unwrap());
        let again = Socket::listen(&path).unwrap();
        drop(again);
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(
            Socket::listen(&path),
            Err(SocketError::NoSocket { .. })
        ));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(
            Socket::listen(&long),
            Err(SocketError::TooLong { .. })
        ));
    }
}
