"""Make datasets: files in, records of `ecomap.schema` and frames out. Never imports torch."""
