"""From the records to words: what they mean, and how it is told. Pure."""
