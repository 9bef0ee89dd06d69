"""The capture: a child process that gathers in steps, and the parent that reads it."""
