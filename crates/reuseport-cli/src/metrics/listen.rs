//! Where metrics are served: a TCP address or a Unix socket.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use crate::error::Failure;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        // Without an address, no other host is let in.
        let port = text.strip_prefix(':').unwrap_or(text);
        let loopback =
            || port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        text.parse().ok().or_else(loopback).map(Self::Tcp).ok_or_else(|| {
            format!("`{text}` is no address: write 127.0.0.1:PORT, [::1]:PORT, :PORT or unix:PATH")
        })
    }
}

/// What listens. Dropping it removes the Unix socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket in the file system, removed at the end.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have removed it.
        let _ = fs::remove_file(&self.0);
    }
}

/// The owner and the group may connect.
const MODE: u32 = 0o660;

impl Listener {
    /// Listens at an address.
    ///
    /// # Errors
    ///
    /// If another process listens there, or it cannot be had.
    pub(crate) fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(address) => {
                let bound = TcpListener::bind(address)
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
                bound.map(Self::Tcp).map_err(|error| refused(&address.to_string(), &error))
            }
            Address::Unix(path) => {
                let bound = remove_stale(path).and_then(|()| {
                    let listener = UnixListener::bind(path)?;
                    let file = SocketFile(path.clone());
                    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
                    listener.set_nonblocking(true)?;
                    Ok(Self::Unix(listener, file))
                });
                bound.map_err(|error| refused(&format!("unix:{}", path.display()), &error))
            }
        }
    }

    /// Where it is, as a client writes it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(
                |_| "http://".to_owned(),
                |address| format!("http://{address}/metrics"),
            ),
            Self::Unix(_, SocketFile(path)) => format!("unix:{}, path /metrics", path.display()),
        }
    }
}

/// Removes a socket at which no process listens any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?.file_type().is_socket(),
    };
    if !is_socket {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn refused(address: &str, error: &io::Error) -> anyhow::Error {
    let failed = |why: &str| format!("cannot serve metrics at {address}: {why}");
    match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(
            failed("another process listens there"),
            "`ss -lxtnp` names it; choose another address",
        ),
        io::ErrorKind::AddrNotAvailable => Failure::new(
            failed("no device of this network namespace has this address"),
            "`ip address` lists them",
        ),
        _ => Failure::new(failed(&error.to_string()), "choose another address"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_is_written_out_lets_other_hosts_in() {
        let tcp = |text: &str| match text.parse().unwrap() {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => panic!("{path:?}"),
        };
        assert_eq!(tcp(":9400"), "127.0.0.1:9400");
        assert_eq!(tcp("9400"), "127.0.0.1:9400");
        assert_eq!(tcp("[::1]:9400"), "[::1]:9400");
        assert_eq!(tcp("0.0.0.0:9400"), "0.0.0.0:9400");
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for wrong in ["", ":", "unix:", "localhost", "::1", "127.0.0.1", ":65536"] {
            assert!(wrong.parse::<Address>().unwrap_err().contains("is no address"), "{wrong}");
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let error = Listener::bind(&address).unwrap_err().to_string();
        assert!(error.ends_with("another process listens there"), "{error}");
        // As after a kill: the file stays, and nothing listens.
        let Listener::Unix(listener, file) = first else { panic!() };
        drop(listener);
        std::mem::forget(file);
        drop(Listener::bind(&address).unwrap());
        assert!(!path.exists(), "it is removed at the end");

        fs::write(&path, "text").unwrap();
        let error = Listener::bind(&address).unwrap_err().to_string();
        assert!(error.ends_with("there is a file that is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }
}
