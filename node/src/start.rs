//! stub
pub fn run(_: &crate::cli::StartArgs) -> anyhow::Result<()> {
    Ok(())
}
