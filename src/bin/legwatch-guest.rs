//! Init and agent in the guest, see [`legwatch::guest`].

fn main() -> std::process::ExitCode {
    legwatch::guest::main()
}
