//! The pages of `docs/recipes/` as tests and benches follow them: [`Page`] reads one, a [`Scene`] is where its scripts
//! run.

mod page;
mod scene;

pub use page::{Page, SECTIONS, Section, directory};
pub use scene::{Scene, Site};

/// A cluster of PostgreSQL for the pgbouncers of their recipe.
pub const POSTGRES: &str = "\
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
as() { setpriv --reuid=postgres --regid=postgres --init-groups \"$@\"; }
as initdb --auth=trust --no-sync -D cluster >initdb.log
as postgres -D cluster -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off >postgres.log 2>&1 &
";

/// Where that is.
pub const POSTGRES_ADDRESS: &str = "127.0.0.1:5432";
