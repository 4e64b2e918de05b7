"""Sound formats: WAV in and out."""
