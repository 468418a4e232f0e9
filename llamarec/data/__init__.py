"""Raw files in, user histories out: one file per source, one registry, one recipe."""
