//! Prints the JSON Schema of `.onramp.toml`: `cargo run -p workers --example onramp_schema > docs/onramp.schema.json`.

fn main() -> std::io::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(workers::repo_config::json_schema().as_bytes())
}
