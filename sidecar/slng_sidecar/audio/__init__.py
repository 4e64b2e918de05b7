"""Audio formats: WAV, compressed formats, sample rates and sample formats."""
