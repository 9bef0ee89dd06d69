"""Evidence that outlives its pod: each incident as one file, sent to an address of the user's."""
