"""The way to SLNG: dialling, one connection's life, and what its failures mean."""
