"""The runner: sources through a builder and filters into files, in shards that survive being killed."""
