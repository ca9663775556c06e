"""Settings of every process, from environment variables and a TOML file."""
