"""The speech-to-text session: pure state machines."""
