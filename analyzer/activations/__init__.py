"""Hidden states of a model on real text: saved, read, and captured through `transformers`."""
