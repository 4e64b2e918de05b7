"""The text-to-speech session: pure state machines."""
